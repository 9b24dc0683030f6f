//! The file that `bind` made for a unix socket.
//!
//! Contract: the owner of the directory can put another file in its place at any moment, even while
//! it is made. So everything is done through a descriptor of it that was checked: it is a socket of
//! this process's user and has one name. Such a socket that was moved here from elsewhere would
//! pass; nobody but this user and those who own its directory can do that, and the worst is that
//! the wrong socket gets this mode.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The file of a bound socket.
#[derive(Debug)]
pub struct MadeFile {
    path: PathBuf,
    /// An O_PATH descriptor.
    file: OwnedFd,
}

impl MadeFile {
    /// Binds `fd` to `path`. The file is created with `mode`, as far as the umask allows, so its
    /// permissions are never too wide.
    pub(super) fn bind(
        fd: &OwnedFd,
        path: &Path,
        address: &SocketAddrUnix,
        mode: u32,
    ) -> Result<Self, Errno> {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
        rustix::net::bind(fd, address)?;
        Self::at(path)
    }

    /// The socket at `path`, if it is one of this user.
    fn at(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket
            || stat.st_uid != rustix::process::geteuid().as_raw()
            || stat.st_nlink != 1
        {
            // It was replaced since the bind.
            return Err(Errno::STALE);
        }
        Ok(Self { path: path.into(), file })
    }

    /// Sets group and mode.
    pub(super) fn set(&self, mode: u32, gid: Option<u32>) -> Result<(), Errno> {
        if let Some(gid) = gid {
            let group = Some(rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&self.file, "", None, group, AtFlags::EMPTY_PATH)?;
        }
        // Restores the bits that the umask removed.
        if rustix::fs::fstat(&self.file)?.st_mode & 0o7777 != mode {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless it is gone or another file has its place: that one belongs to somebody
    /// else.
    pub fn remove(&self) {
        let id = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let (ours, there) = (rustix::fs::fstat(&self.file), rustix::fs::lstat(&self.path));
        if let (Ok(ours), Ok(there)) = (ours, there)
            && id(ours) == id(there)
        {
            // If it cannot be removed, the next bind finds it dead.
            let _gone = rustix::fs::unlink(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType};

    /// Whatever stands in for the file that was bound, nothing else gets its mode or its group.
    /// Control: the file that is there gets both.
    #[test]
    fn only_the_file_that_was_made_gets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("a.sock"), dir.path().join("secret"));
        std::fs::write(&secret, "").unwrap();
        let mode = |path: &Path| rustix::fs::lstat(path).unwrap().st_mode & 0o777;
        rustix::fs::chmod(&secret, Mode::RUSR).unwrap();
        let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        let bind = || {
            let address = SocketAddrUnix::new(&path).unwrap();
            MadeFile::bind(&socket().unwrap(), &path, &address, 0o600).unwrap()
        };
        let made = bind();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        made.set(0o666, None).unwrap();
        made.remove();
        assert_eq!(mode(&secret), 0o400);
        assert!(rustix::fs::lstat(&path).is_ok(), "the link is somebody else's");
        assert_eq!(MadeFile::at(&path).unwrap_err(), Errno::STALE, "replaced before it was opened");
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&secret, &path).unwrap();
        assert_eq!(MadeFile::at(&path).unwrap_err(), Errno::STALE);
        std::fs::remove_file(&path).unwrap();
        let made = bind();
        std::fs::hard_link(&path, dir.path().join("b.sock")).unwrap();
        assert_eq!(MadeFile::at(&path).unwrap_err(), Errno::STALE, "two names");
        std::fs::remove_file(dir.path().join("b.sock")).unwrap();
        made.set(0o662, None).unwrap();
        assert_eq!(mode(&path), 0o662, "control");
        made.remove();
        assert!(!path.exists(), "control");
    }
}
