//! The file of a unix socket that other processes send to or connect to. It is created with its
//! mode, replaces only a dead socket, and is removed by the process that created it.
//!
//! Contract: if the path holds something other than a socket, or a socket on which a process
//! listens, the error names it and it is left alone.

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why a socket could not be bound; the text is for the person who typed the path.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(String);

/// A bound socket and its file.
#[derive(Debug)]
pub struct SocketFile {
    /// The socket: close-on-exec, non-blocking.
    pub fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file we made.
    id: (u64, u64),
}

impl SocketFile {
    /// Binds a socket of `kind` to `path` with the permissions `mode`.
    ///
    /// # Errors
    /// If the path cannot be used; the text names the path.
    pub fn bind(path: &str, kind: SocketType, mode: u32) -> Result<Self, BindError> {
        let failed = |step: &str, e: Errno| BindError(format!("{step} {path}: {e}"));
        let address = SocketAddrUnix::new(path).map_err(|_| {
            BindError(format!("{path:?} is no path of a socket: it has 1 to 107 bytes"))
        })?;
        let new = || {
            rustix::net::socket_with(
                AddressFamily::UNIX,
                kind,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )
        };
        let fd = new().map_err(|e| failed("socket", e))?;
        let mode = Mode::from_raw_mode(mode);
        // The file gets the socket's mode when it is created, so its permissions are never too
        // wide.
        rustix::fs::fchmod(&fd, mode).map_err(|e| failed("mode of", e))?;
        if let Err(e) = rustix::net::bind(&fd, &address) {
            if e != Errno::ADDRINUSE {
                return Err(match e {
                    Errno::NOENT => BindError(format!("{path}: its directory does not exist")),
                    Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                        BindError(format!("{path}: {e}: this user may not make a file there"))
                    }
                    e => failed("binding", e),
                });
            }
            let stat = rustix::fs::lstat(path).map_err(|e| failed("looking at", e))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                return Err(BindError(format!(
                    "{path} is in the way and is not a socket: remove it, or name another"
                )));
            }
            let probe = new().map_err(|e| failed("socket", e))?;
            if rustix::net::connect(&probe, &address) != Err(Errno::CONNREFUSED) {
                return Err(BindError(format!(
                    "{path} is in use by another process (see `ss -xap`)"
                )));
            }
            // No process listens: a killed process left it.
            rustix::fs::unlink(path).map_err(|e| failed("removing the dead socket", e))?;
            rustix::net::bind(&fd, &address).map_err(|e| failed("binding", e))?;
        }
        let stat = rustix::fs::lstat(path).map_err(|e| failed("looking at", e))?;
        let file = Self { fd, path: path.into(), id: (stat.st_dev, stat.st_ino) };
        // Restores the bits that the umask removed.
        rustix::fs::chmod(path, mode).map_err(|e| failed("mode of", e))?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if rustix::fs::lstat(&self.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id) {
            // It may be removed already. If it cannot be removed, the next bind finds it dead.
            let _gone = rustix::fs::unlink(&self.path);
        }
    }
}
