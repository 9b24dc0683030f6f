//! The file of a unix socket that other processes send to or connect to. It is created with its
//! mode, replaces only a dead socket, and is removed by the process that created it.
//!
//! Contract: if the path holds something other than a socket, or a socket on which a process
//! listens, the error names it and it is left alone.

use super::made_file::MadeFile;
use super::socket;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Why a socket could not be bound; the text is for the person who typed the path.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(String);

/// A bound socket and its file.
#[derive(Debug)]
pub struct SocketFile {
    /// The socket: close-on-exec, non-blocking.
    pub fd: OwnedFd,
    made: MadeFile,
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
        socket::refuse_descriptors(&fd);
        let made = MadeFile::bind(&fd, Path::new(path), &address, mode).or_else(|e| {
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
            MadeFile::bind(&fd, Path::new(path), &address, mode).map_err(|e| failed("binding", e))
        })?;
        let file = Self { fd, made };
        file.made.set(mode, None).map_err(|e| failed("mode of", e))?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.made.path()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.made.remove();
    }
}

/// Whether a process listens at the socket `path`, which may be of any kind. `Err`: it cannot be
/// found out.
pub fn answers(path: &Path) -> Result<bool, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&probe, &address) {
        // A full queue, and a socket of another type, belong to a process too.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control: without a listener nobody answers.
    #[test]
    fn a_listener_answers_whatever_its_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        assert_eq!(answers(&path), Ok(false));
        for kind in [SocketType::SEQPACKET, SocketType::STREAM] {
            let file = SocketFile::bind(path.to_str().unwrap(), kind, 0o600).unwrap();
            rustix::net::listen(&file.fd, 1).unwrap();
            assert_eq!(answers(&path), Ok(true));
            rustix::fs::rename(&path, dir.path().join("kept")).unwrap();
            drop(file);
            rustix::fs::rename(dir.path().join("kept"), &path).unwrap();
            assert_eq!(answers(&path), Ok(false), "control");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
