//! Sealed memfds: memory without a name, which no process can shorten.
//!
//! Contract: a memfd has mode 0600 from the start. It is allocated and mapped, then sealed against
//! shrinking, growing and further seals; the caller may add more seals. The seals hold for every
//! process that receives the fd, whatever its user.

use super::OsError;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// Creates a memfd of `bytes` bytes, maps it writable and seals it. `name` appears only in /proc.
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

/// Creates an empty memfd without seals.
pub fn open(name: &str, pages: MemfdFlags) -> Result<OwnedFd, OsError> {
    let fd =
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages)
            .map_err(OsError::at(format_args!("memfd_create {name}")))?;
    // The kernel creates a memfd with mode 0777. Without this, another user who received the fd
    // could open it again for writing.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
        .map_err(OsError::at(format_args!("fchmod {name}")))?;
    Ok(fd)
}

/// Allocates the memory now: a hole that cannot be filled later would raise SIGBUS in the middle of
/// a datagram.
pub fn allocate(fd: &OwnedFd, name: &str, bytes: usize) -> Result<(), OsError> {
    rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, bytes as u64)
        .map_err(|errno| cannot_allocate(&format!("no room for {bytes} bytes of {name}"), errno))
}

/// What went wrong, and for a limit that the message of the kernel does not name, which.
pub(super) fn cannot_allocate(what: &str, errno: Errno) -> OsError {
    use rustix::process::{Resource, getrlimit};
    let limit = match (errno, getrlimit(Resource::Fsize).current) {
        (Errno::FBIG, Some(limit)) => format!(
            " (files may have {limit} bytes here, and shared memory counts as one: raise ulimit -f \
            or LimitFSIZE=)"
        ),
        _ => String::new(),
    };
    OsError { what: format!("{what}{limit}"), errno }
}

/// Seals it for good. Existing writable mappings stay writable.
pub fn seal(fd: &OwnedFd, name: &str, seals: SealFlags) -> Result<(), OsError> {
    rustix::fs::fcntl_add_seals(fd, seals | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(OsError::at(format_args!("seal {name}")))
}

/// Checks that `fd`, received from another process, is a memfd that no process can shorten or grow,
/// and that it also has the seals `more`. Only then can it be mapped without the risk of SIGBUS.
pub fn check(fd: impl AsFd, what: &str, more: SealFlags) -> Result<(), OsError> {
    let needed = more | SealFlags::SHRINK | SealFlags::GROW;
    let found = rustix::fs::fcntl_get_seals(&fd)
        .map_err(OsError::at(format_args!("{what}: is no memfd (F_GET_SEALS)")))?;
    if found.contains(needed) {
        return Ok(());
    }
    Err(OsError {
        what: format!(
            "{what}: its seals are {:#x}, expected at least {:#x}: its size could change while it \
             is mapped",
            found.bits(),
            needed.bits()
        ),
        errno: Errno::PERM,
    })
}

/// [`check`] for a ring, which may also be a named object. A named object cannot be sealed: its
/// only seal is the one against further seals. Its mode alone protects it.
pub fn check_if_memfd(fd: impl AsFd, what: &str) -> Result<(), OsError> {
    match rustix::fs::fcntl_get_seals(&fd) {
        Err(_) => Ok(()),
        Ok(seals) if seals == SealFlags::SEAL => Ok(()),
        Ok(_) => check(fd, what, SealFlags::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control: with all its seals it passes.
    #[test]
    fn a_memfd_that_can_be_shortened_is_refused() {
        let fd = open("unsealed", MemfdFlags::empty()).unwrap();
        allocate(&fd, "unsealed", 4096).unwrap();
        let error = check(&fd, "reader page", SealFlags::empty()).unwrap_err().to_string();
        assert!(error.contains("reader page: its seals are 0x0"), "{error}");
        assert!(check_if_memfd(&fd, "ring").is_err());
        seal(&fd, "unsealed", SealFlags::empty()).unwrap();
        check(&fd, "reader page", SealFlags::empty()).unwrap();
        check_if_memfd(&fd, "ring").unwrap();
        assert!(check(&fd, "statistics area", SealFlags::FUTURE_WRITE).is_err());
    }

    #[test]
    fn a_file_is_refused_where_a_memfd_is_expected() {
        let file = tempfile::tempfile().unwrap();
        assert!(check(&file, "reader page", SealFlags::empty()).is_err());
    }
}
