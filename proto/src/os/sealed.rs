//! Memory without a name that nobody can make shorter: sealed memfds.
//!
//! Contract: born 0600, all room allocated and mapped, then sealed against shrinking, growing and
//! further seals; what else is sealed is the caller's word. Whoever is handed the fd gets those
//! seals with it, of whatever user.

use super::OsError;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use std::os::fd::OwnedFd;

/// Makes `bytes` bytes called `name` (in /proc only), maps them writable, and seals them.
pub fn create(
    name: &str,
    bytes: usize,
    seals: SealFlags,
    pages: MemfdFlags,
) -> Result<(OwnedFd, MmapRaw), OsError> {
    let fd = open(name, pages)?;
    allocate(&fd, name, bytes)?;
    let map = MmapOptions::new()
        .len(bytes)
        .populate()
        .map_raw(&fd)
        .map_err(OsError::io(format_args!("mmap {name}")))?;
    seal(&fd, name, seals)?;
    Ok((fd, map))
}

/// An empty one, still to be sealed.
pub fn open(name: &str, pages: MemfdFlags) -> Result<OwnedFd, OsError> {
    let fd =
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages)
            .map_err(OsError::at(format_args!("memfd_create {name}")))?;
    // A memfd is born 0777: without this, another user who was handed it could open it again for
    // writing.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
        .map_err(OsError::at(format_args!("fchmod {name}")))?;
    Ok(fd)
}

/// Takes the room now: a hole found full later would be SIGBUS in the middle of a datagram.
pub fn allocate(fd: &OwnedFd, name: &str, bytes: usize) -> Result<(), OsError> {
    rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, bytes as u64)
        .map_err(OsError::at(format_args!("no room for {bytes} bytes of {name}")))
}

/// Seals it for good. A mapping that is writable already stays so.
pub fn seal(fd: &OwnedFd, name: &str, seals: SealFlags) -> Result<(), OsError> {
    rustix::fs::fcntl_add_seals(fd, seals | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(OsError::at(format_args!("seal {name}")))
}
