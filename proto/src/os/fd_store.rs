//! A memfd that a service manager stores, so that the ring in it outlives its broker (`DESIGN.md`
//! §7, §8).
//!
//! Contract: no process can shorten it. It is not sealed against writing, since the next broker has
//! to map it writable. Instead, readers get a descriptor that is opened read-only. Where the memfd
//! can be made immutable, no process can open it for writing again, not even one of its owner.

use super::backing::{Backing, Pages, huge_bytes, lock_pages};
use super::{OsError, users};
use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, FileType, IFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// The type that `statfs` reports for a file system of reserved huge pages.
const HUGETLBFS: i64 = 0x9584_58f6;

/// Opens the read-only descriptor for readers and tries to make the ring immutable. The ring must
/// be complete except for its content. Returns the descriptor, and whether the ring is immutable.
pub(super) fn shut(fd: &OwnedFd) -> Result<(OwnedFd, Result<(), Errno>), OsError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let read_only = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(OsError::at(format_args!("cannot open {path} read-only")))?;
    let flags = rustix::fs::ioctl_getflags(fd);
    Ok((
        read_only,
        flags.and_then(|flags| rustix::fs::ioctl_setflags(fd, flags | IFlags::IMMUTABLE)),
    ))
}

/// Adopts a stored ring. It must be as a broker leaves one: of this user, private, of exactly
/// `bytes` bytes, with the right seals.
pub(super) fn adopt(fd: OwnedFd, bytes: u64) -> Result<Backing, String> {
    let failed = |e: Errno| e.to_string();
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is no memory at all".into());
    }
    if !users::is_me(stat.st_uid) {
        return Err(users::why_not_mine(stat.st_uid));
    }
    if stat.st_mode & 0o777 != 0o600 {
        return Err(format!("it has mode {:04o} in place of 0600", stat.st_mode & 0o777));
    }
    if u64::try_from(stat.st_size) != Ok(bytes) {
        return Err(format!("it has {} bytes, and this stream takes {bytes}", stat.st_size));
    }
    // A file has no seals, and a named object only the one against further seals. The kernel itself
    // may have added F_SEAL_EXEC, so that seal is ignored.
    let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| "it is no memfd".to_string())?;
    if seals - SealFlags::from_bits_retain(libc::F_SEAL_EXEC as u32)
        != SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
    {
        return Err(format!(
            "its seals are not those of a ring that is kept ({:#x})",
            seals.bits()
        ));
    }
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
    let already =
        rustix::fs::ioctl_getflags(&fd).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE));
    if !already {
        // A process that could write the ring may have punched holes in it. A hole that cannot be
        // filled later would raise SIGBUS in the middle of a datagram.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes).map_err(failed)?;
    }
    let (read_only, immutable) = shut(&fd).map_err(|e| e.to_string())?;
    let map = MmapOptions::new()
        .len(bytes as usize)
        .populate()
        .map_raw(&fd)
        .map_err(|e| e.to_string())?;
    let reserved = rustix::fs::fstatfs(&fd).is_ok_and(|s| s.f_type == HUGETLBFS);
    let pages = match huge_bytes(&map) {
        _ if reserved => Pages::Reserved,
        0 => Pages::Small,
        huge => Pages::Transparent(huge),
    };
    let (locked, immutable) = (lock_pages(&map), if already { Ok(()) } else { immutable });
    // The service manager keeps its own descriptor; this one is closed.
    Ok(Backing {
        map,
        read_only,
        pages,
        declined: Vec::new(),
        locked,
        name: None,
        stored: None,
        immutable,
    })
}
