//! The control socket of a stream.

use ringweir_proto::os::fork::ClosedInChild;
use ringweir_proto::os::made_file::MadeFile;
use ringweir_proto::os::{OsError, socket, socket_file};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The control socket. Removed when dropped, if this process made it.
pub(super) struct Listener {
    /// A child would keep the socket open, and clients would wait for an answer.
    _in_child: ClosedInChild,
    fd: OwnedFd,
    path: PathBuf,
    made: Option<MadeFile>,
}

impl Listener {
    /// A socket that the service manager opened: it stays when the stream ends.
    pub(super) fn passed(fd: OwnedFd, path: PathBuf) -> Self {
        let Ok((fd, in_child)) = ClosedInChild::make(|| Ok::<_, Infallible>(fd));
        Self { _in_child: in_child, fd, path, made: None }
    }

    /// Makes the socket. The caller holds the stream's lock, so a socket that is still there was
    /// left by a broker that died; or the lock file was removed under a broker that lives, which
    /// keeps its socket.
    pub(super) fn create(path: PathBuf, mode: u32, gid: Option<u32>) -> anyhow::Result<Self> {
        let shown = path.display();
        match rustix::fs::lstat(&path) {
            Ok(stat)
                if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::Socket =>
            {
                let live = socket_file::answers(&path)
                    .map_err(OsError::at(format_args!("cannot connect to {shown}")))?;
                anyhow::ensure!(
                    !live,
                    "a process listens at {shown}, though the stream's lock was free: probably a \
                    broker whose lock file was removed; end it first (see `ss -xlp`), or choose \
                    another --name or --run-dir"
                );
                rustix::fs::unlink(&path)
                    .map_err(OsError::at(format_args!("cannot remove stale {shown}")))?;
            }
            Ok(_) => {
                anyhow::bail!("{shown} is in the way and is not a socket: remove it")
            }
            Err(_) => {}
        }
        let mut made = None;
        let (fd, in_child) = ClosedInChild::make(|| {
            let (fd, file) = socket::listen(&path, mode, gid)?;
            made = Some(file);
            Ok::<_, OsError>(fd)
        })?;
        Ok(Self { _in_child: in_child, fd, path, made })
    }

    /// Leaves the socket's file when dropped.
    pub(super) fn stay(&mut self) {
        if let Some(made) = self.made.take() {
            std::mem::forget(made);
        }
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
        self.made.iter().for_each(MadeFile::remove);
    }
}
