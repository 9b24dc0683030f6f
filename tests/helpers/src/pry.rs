//! Every way to write to, shorten, seal or lock what a reader receives, and the kernel's answer to
//! each.
//!
//! Contract: nothing changes, even if an attempt succeeds: bytes are written as they were, and
//! holes are made where there are zeros.

#![allow(unsafe_code)]

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};

const PAGE: usize = 4096;

/// An attempt, and the kernel's answer.
pub type Attempt = (&'static str, Result<(), Errno>);

/// The answer that a user other than the broker's must get. `None`: it is allowed, and the reader
/// harms only itself.
pub const REFUSED: &[(&str, Option<Errno>)] = &[
    ("ring: map writable", Some(Errno::ACCESS)),
    ("ring: mprotect a read-only mapping", Some(Errno::ACCESS)),
    ("ring: madvise pages away", Some(Errno::ACCESS)),
    ("ring: write", Some(Errno::BADF)),
    ("ring: truncate", Some(Errno::INVAL)),
    ("ring: punch a hole", Some(Errno::BADF)),
    ("ring: add seals", Some(Errno::PERM)),
    ("ring: chmod", Some(Errno::PERM)),
    ("ring: take a lease", Some(Errno::ACCESS)),
    ("ring: take a write lock", Some(Errno::BADF)),
    ("ring: reopen through /proc/self/fd", Some(Errno::ACCESS)),
    ("page: map writable", None),
    ("page: truncate", Some(Errno::PERM)),
    ("page: grow", Some(Errno::PERM)),
    ("page: punch a hole", None),
    ("page: add seals", Some(Errno::PERM)),
    ("page: chmod", Some(Errno::PERM)),
    ("page: reopen through /proc/self/fd", Some(Errno::ACCESS)),
    ("wake: write", Some(Errno::INVAL)),
    ("wake: read", Some(Errno::INVAL)),
    ("wake: truncate", Some(Errno::INVAL)),
    ("wake: map writable", Some(Errno::NODEV)),
    ("sleep request: truncate", Some(Errno::INVAL)),
    ("sleep request: map writable", Some(Errno::NODEV)),
    ("statistics: map writable", Some(Errno::PERM)),
    ("statistics: write", Some(Errno::PERM)),
    ("statistics: truncate", Some(Errno::PERM)),
    ("statistics: punch a hole", Some(Errno::PERM)),
    ("statistics: add seals", Some(Errno::PERM)),
    ("statistics: reopen through /proc/self/fd", Some(Errno::ACCESS)),
];

/// Attempts whose answer is not the one in [`REFUSED`].
pub fn unexpected(tried: &[Attempt]) -> Vec<String> {
    let expected = |way: &str| {
        REFUSED.iter().find(|(known, _)| *known == way).expect("every attempt is in the list").1
    };
    let wrong = tried.iter().filter(|(way, answer)| answer.err() != expected(way));
    wrong.map(|(way, answer)| format!("{way}: {answer:?} instead of {:?}", expected(way))).collect()
}

/// Tries everything with what attaching returns: ring, page, wake fd and sleep request.
pub fn try_attachment([ring, page, wake, sleep_request]: [&OwnedFd; 4]) -> Vec<Attempt> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let size = |fd| rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size as u64);
    // The last bytes of the header, and of the second page of a reader: reserved, zero.
    let mut bytes = [0; 8];
    vec![
        ("ring: map writable", map(ring, true).map(unmap)),
        ("ring: mprotect a read-only mapping", on_mapping(ring, make_writable)),
        ("ring: madvise pages away", on_mapping(ring, remove)),
        ("ring: write", rustix::io::write(ring, b"x").map(drop)),
        ("ring: truncate", rustix::fs::ftruncate(ring, 0)),
        ("ring: punch a hole", rustix::fs::fallocate(ring, hole, PAGE as u64 - 8, 8)),
        ("ring: add seals", rustix::fs::fcntl_add_seals(ring, SealFlags::SHRINK)),
        ("ring: chmod", rustix::fs::fchmod(ring, Mode::RUSR | Mode::WUSR)),
        ("ring: take a lease", lease(ring)),
        ("ring: take a write lock", lock(ring, libc::F_WRLCK)),
        ("ring: reopen through /proc/self/fd", reopen(ring).map(drop)),
        ("page: map writable", map(page, true).map(unmap)),
        ("page: truncate", rustix::fs::ftruncate(page, 0)),
        ("page: grow", rustix::fs::ftruncate(page, size(page) * 2)),
        ("page: punch a hole", rustix::fs::fallocate(page, hole, 2 * PAGE as u64 - 8, 8)),
        ("page: add seals", rustix::fs::fcntl_add_seals(page, SealFlags::WRITE)),
        ("page: chmod", rustix::fs::fchmod(page, Mode::RUSR | Mode::WUSR)),
        ("page: reopen through /proc/self/fd", reopen(page).map(drop)),
        ("wake: write", rustix::io::write(wake, &[1; 8]).map(drop)),
        ("wake: read", rustix::io::read(wake, &mut bytes).map(drop)),
        ("wake: truncate", rustix::fs::ftruncate(wake, 0)),
        ("wake: map writable", map(wake, true).map(unmap)),
        ("sleep request: truncate", rustix::fs::ftruncate(sleep_request, 0)),
        ("sleep request: map writable", map(sleep_request, true).map(unmap)),
    ]
}

/// Takes every lock of the ring that a reader can take; some only after the broker is dead. They
/// are not released.
pub fn take_locks(ring: &OwnedFd) {
    let _held_by_the_broker = lock(ring, libc::F_RDLCK);
    let _held = rustix::fs::flock(ring, FlockOperation::NonBlockingLockExclusive);
}

/// Tries everything with the statistics area.
pub fn try_statistics(stats: &OwnedFd) -> Vec<Attempt> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    vec![
        ("statistics: map writable", map(stats, true).map(unmap)),
        ("statistics: write", rustix::io::write(stats, b"x").map(drop)),
        ("statistics: truncate", rustix::fs::ftruncate(stats, 0)),
        ("statistics: punch a hole", rustix::fs::fallocate(stats, hole, 0, 8)),
        ("statistics: add seals", rustix::fs::fcntl_add_seals(stats, SealFlags::WRITE)),
        ("statistics: reopen through /proc/self/fd", reopen(stats).map(drop)),
    ]
}

/// Maps the first page of `fd`.
pub fn map(fd: &OwnedFd, writable: bool) -> Result<*mut c_void, Errno> {
    let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    // SAFETY: a new mapping at an address of the kernel's choice; nothing is read or written
    // through it.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, protection, MapFlags::SHARED, fd, 0) }
}

/// Opens the file of `fd` again, for writing.
pub fn reopen(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), OFlags::RDWR, Mode::empty())
}

fn unmap(at: *mut c_void) {
    // SAFETY: a mapping of one page that was made by `map` and is not used elsewhere.
    let _gone = unsafe { rustix::mm::munmap(at, PAGE) };
}

fn on_mapping(fd: &OwnedFd, act: fn(*mut c_void) -> Result<(), Errno>) -> Result<(), Errno> {
    let at = map(fd, false)?;
    let answer = act(at);
    unmap(at);
    answer
}

fn make_writable(at: *mut c_void) -> Result<(), Errno> {
    // SAFETY: our own mapping of one page, through which nothing is accessed.
    unsafe { rustix::mm::mprotect(at, PAGE, MprotectFlags::READ | MprotectFlags::WRITE) }
}

fn remove(at: *mut c_void) -> Result<(), Errno> {
    // SAFETY: our own mapping of one page, through which nothing is accessed.
    unsafe { rustix::mm::madvise(at, PAGE, Advice::LinuxRemove) }
}

/// Takes a lease, which would delay the next process that opens the ring.
fn lease(fd: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: no pointers.
    answer(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) })?;
    // SAFETY: no pointers. The lease is given back: otherwise, opening the ring again would send a
    // signal to this very process.
    answer(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) })
}

fn lock(fd: &OwnedFd, kind: i32) -> Result<(), Errno> {
    let mut whole =
        libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the struct lives through the call, and the kernel writes at most that.
    answer(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw mut whole) })
}

fn answer(rc: i32) -> Result<(), Errno> {
    if rc == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
