//! The control socket of a stream.

use ringweir_proto::os::{OsError, socket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The control socket. Removed when dropped, if this process made it.
pub(super) struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    ours: bool,
}

impl Listener {
    /// A socket that the service manager opened: it stays when the stream ends.
    pub(super) fn passed(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path, ours: false }
    }

    /// Makes the socket. The caller holds the stream's lock, so a socket that is still there was
    /// left by a broker that died.
    pub(super) fn create(path: PathBuf, mode: u32, gid: Option<u32>) -> anyhow::Result<Self> {
        match rustix::fs::lstat(&path) {
            Ok(stat)
                if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::Socket =>
            {
                rustix::fs::unlink(&path)
                    .map_err(OsError::at(format_args!("cannot remove stale {}", path.display())))?;
            }
            Ok(_) => {
                anyhow::bail!("{} is in the way and is not a socket: remove it", path.display())
            }
            Err(_) => {}
        }
        let fd = socket::listen(&path, mode, gid).inspect_err(|_| {
            // Bound but not usable: leave nothing behind.
            let _gone = rustix::fs::unlink(&path);
        })?;
        Ok(Self { fd, path, ours: true })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.ours {
            let _gone = rustix::fs::unlink(&self.path);
        }
    }
}
