//! A memfd that a service manager keeps, so that the ring in it outlives its broker (`DESIGN.md`
//! §7, §8).
//!
//! Contract: nobody can make it shorter. It is not sealed against writing, since the next broker
//! has to map it: readers are handed a descriptor opened read-only, and where it can be made
//! immutable nobody opens it for writing again, its owner included.

use super::OsError;
use super::backing::{Backing, Pages, huge_bytes, lock_pages};
use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, FileType, IFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// What a file system of reserved huge pages calls itself.
const HUGETLBFS: i64 = 0x9584_58f6;

/// The descriptor for readers of a ring that is complete but for its content, and whether the ring
/// could be made immutable.
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

/// A ring that was passed on, if it is as we leave one: ours, private, of exactly `bytes` bytes,
/// sealed as ours are.
pub(super) fn adopt(fd: OwnedFd, bytes: u64) -> Result<Backing, String> {
    let failed = |e: Errno| e.to_string();
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is no memory at all".into());
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to uid {}", stat.st_uid));
    }
    if stat.st_mode & 0o777 != 0o600 {
        return Err(format!("it has mode {:04o} in place of 0600", stat.st_mode & 0o777));
    }
    if u64::try_from(stat.st_size) != Ok(bytes) {
        return Err(format!("it has {} bytes, and this stream takes {bytes}", stat.st_size));
    }
    // A file has none, and a named object is sealed against seals alone. What may be executed a
    // kernel may seal by itself.
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
        // A process that could write it may have made holes in it, and a hole without room would be
        // SIGBUS in flight.
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
    // What the manager has it keeps; this descriptor goes.
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
