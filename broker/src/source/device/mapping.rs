//! Maps device memory, after checking it.

#![allow(unsafe_code)]

use crate::source::contract::SourceError;
use memmap2::{Advice, MmapOptions};
use ringweir_device::DeviceMemory;
use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

/// Maps `len` bytes of `fd` from `offset` on.
pub(super) fn map(
    fd: impl AsFd,
    offset: u64,
    len: usize,
    path: &str,
) -> Result<DeviceMemory, SourceError> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    let mapped = MmapOptions::new().offset(offset).len(len).populate().map_raw(raw);
    let mapped = mapped.map_err(|e| SourceError(format!("{path}: mapping {len} bytes: {e}")))?;
    // A program's spawner must not hold the device. An error: the kernel is too old.
    let _in_children = mapped.advise(Advice::DontFork);
    let start = NonNull::new(mapped.as_mut_ptr()).expect("a mapping is not at 0");
    // SAFETY: `start` is a page boundary, where `len` bytes are mapped for reading and writing. The
    // mapping moves into the `DeviceMemory` as its backing and lasts as long. Nothing else here
    // uses the address.
    unsafe { DeviceMemory::over(start, len, Box::new(mapped)) }
        .map_err(|e| SourceError(format!("{path}: {e}")))
}

/// Refuses a file that another user can truncate: the next access to it would kill the broker.
pub(super) fn only_ours(path: &str, stat: &Stat) -> Result<(), SourceError> {
    let us = rustix::process::geteuid().as_raw();
    if (stat.st_uid != us && stat.st_uid != 0) || stat.st_mode & 0o022 != 0 {
        return Err(SourceError(format!(
            "{path} can be truncated by other users while it is mapped: it must belong to this \
            user or root, with mode 0600"
        )));
    }
    Ok(())
}

/// Locks the device for this process, because the kernel would let several processes open it.
pub(super) fn lock(fd: &OwnedFd, path: &str) -> Result<(), SourceError> {
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        Errno::WOULDBLOCK => SourceError(format!(
            "{path} is locked: another broker drains it; attach readers to that one (ringctl ls)"
        )),
        e => SourceError(format!("{path}: flock: {e}")),
    })
}
