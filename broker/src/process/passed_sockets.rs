//! Sockets that the service manager opened, and rings that it stored, for this process (systemd's
//! sd_listen_fds protocol).
//!
//! Contract: descriptors are taken once, at the very start, by the numbers that the environment
//! gives. Without `LISTEN_FDS` for this process there are none.

#![allow(unsafe_code)]

use super::fd_store::FdStore;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Number of the first passed descriptor.
const FIRST: i32 = 3;

/// Listening control sockets that the service manager opened for the streams.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<PassedSocket>);

/// Rings out of the manager's fd store, with their names.
pub type StoredRings = Vec<(String, OwnedFd)>;

#[derive(Debug)]
struct PassedSocket {
    /// The name in `FileDescriptorName=`, or empty.
    name: String,
    path: Option<PathBuf>,
    fd: OwnedFd,
}

impl PassedSockets {
    /// Takes the descriptors that `LISTEN_FDS` names. Call it once, before anything is opened.
    ///
    /// # Errors
    /// If one of them is neither a stored ring nor a listening unix socket of sequenced packets.
    pub fn take() -> anyhow::Result<(Self, StoredRings)> {
        let number = |key| std::env::var(key).ok()?.parse::<i32>().ok();
        if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
            return Ok(<(Self, StoredRings)>::default());
        }
        let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 4096);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(String::from);
        let (mut sockets, mut rings) = (Vec::new(), StoredRings::new());
        for raw in FIRST..FIRST + count {
            // `OwnedFd` needs an open descriptor; a wrong LISTEN_FDS must not become one that is
            // opened later under the same number.
            // SAFETY: F_GETFD takes a number, open or not, and follows no pointer.
            if unsafe { libc::fcntl(raw, libc::F_GETFD) } == -1 {
                anyhow::bail!("LISTEN_FDS={count}, but descriptor {raw} is not open");
            }
            // SAFETY: the descriptor is open (checked above), LISTEN_PID names this process, so it
            // was passed to us, and nothing has been opened before this runs, so nothing else here
            // owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            let name = names.next().unwrap_or_default();
            if FdStore::is_ring(&name, &fd) {
                rings.push((name, fd));
                continue;
            }
            sockets.push(
                PassedSocket::check(fd, name)
                    .map_err(|e| anyhow::anyhow!("passed descriptor {raw}: {e}"))?,
            );
        }
        Ok((Self(sockets), rings))
    }

    /// The socket for stream `name`: the one of that name, else the one bound to `path`.
    pub fn claim(&mut self, name: &str, path: &Path) -> Option<OwnedFd> {
        let named = self.0.iter().position(|s| s.name == name);
        let found =
            named.or_else(|| self.0.iter().position(|s| s.path.as_deref() == Some(path)))?;
        Some(self.0.swap_remove(found).fd)
    }

    /// The sockets that no stream claimed, by path or name.
    pub fn unclaimed(&self) -> Vec<String> {
        let shown = |s: &PassedSocket| match &s.path {
            Some(path) => path.display().to_string(),
            None => s.name.clone(),
        };
        self.0.iter().map(shown).collect()
    }
}

impl PassedSocket {
    fn check(fd: OwnedFd, name: String) -> Result<Self, String> {
        let failed = |e: Errno| e.to_string();
        let kind = sockopt::socket_type(&fd).map_err(failed)?;
        let unix = sockopt::socket_domain(&fd).map_err(failed)? == AddressFamily::UNIX;
        if !unix
            || kind != SocketType::SEQPACKET
            || !sockopt::socket_acceptconn(&fd).map_err(failed)?
        {
            return Err(
                "not a listening unix socket of sequenced packets: use ListenSequentialPacket="
                    .into(),
            );
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(failed)?;
        ringweir_proto::os::socket::refuse_descriptors(&fd);
        let bound = rustix::net::getsockname(&fd)
            .ok()
            .and_then(|bound| SocketAddrUnix::try_from(bound).ok());
        let path = bound.and_then(|bound| bound.path_bytes().map(<[u8]>::to_vec));
        Ok(Self { name, path: path.map(|p| std::ffi::OsString::from_vec(p).into()), fd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_socket_goes_to_its_stream_once() {
        let dir = tempfile::tempdir().unwrap();
        let make = |file: &str, name: &str| {
            let fd =
                ringweir_proto::os::socket::listen(&dir.path().join(file), 0o600, None).unwrap().0;
            PassedSocket::check(fd, name.into()).unwrap()
        };
        let mut passed = PassedSockets(vec![make("a.sock", "ringd.socket"), make("x.sock", "b")]);
        assert!(passed.claim("b", &dir.path().join("b.sock")).is_some(), "by its name");
        assert!(passed.claim("c", &dir.path().join("c.sock")).is_none());
        assert!(passed.unclaimed()[0].ends_with("a.sock"));
        assert!(passed.claim("a", &dir.path().join("a.sock")).is_some(), "by its path");
        assert!(passed.claim("a", &dir.path().join("a.sock")).is_none(), "once");
        let stream = std::os::unix::net::UnixListener::bind(dir.path().join("stream")).unwrap();
        assert!(
            PassedSocket::check(stream.into(), String::new())
                .unwrap_err()
                .contains("ListenSequentialPacket=")
        );
    }
}
