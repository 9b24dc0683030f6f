//! What a service manager and the broker say to each other: descriptors that were opened before the
//! start, and news of the state.
//!
//! Contract: systemd's protocols (sd_notify(3), sd_listen_fds(3)), spoken by whoever speaks them;
//! without their variables in the environment nothing happens. The way to the manager is opened
//! while there are rights to, and news that cannot be delivered is dropped: the stream does not
//! depend on it.

use crate::store::Store;
use ringweir_proto::os::OsError;
use ringweir_proto::os::clock;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First descriptor that is passed.
const FIRST: i32 = 3;

/// The service manager's ear.
#[derive(Default)]
pub struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    /// Whether it keeps descriptors for the next of us.
    keeps: bool,
    /// How often it wants to hear that we live, and when it hears it next.
    watchdog: Option<(Duration, Instant)>,
}

impl Manager {
    /// Whoever `NOTIFY_SOCKET` names.
    ///
    /// # Errors
    /// If it cannot be reached: then it would wait in vain.
    pub fn find() -> anyhow::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            match name.as_bytes().split_first() {
                Some((b'@', rest)) => {
                    socket.connect_addr(&SocketAddr::from_abstract_name(rest)?)?
                }
                _ => socket.connect(&name)?,
            }
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket =
            connect().map_err(OsError::io(format_args!("NOTIFY_SOCKET={}", name.display())))?;
        let number = |key| std::env::var(key).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // Twice as often as it is wanted.
        let every = number("WATCHDOG_USEC")
            .filter(|usec| ours && *usec > 0)
            .map(|usec| Duration::from_micros(usec) / 2);
        let keeps = number("FDSTORE").is_some_and(|most| most > 0);
        Ok(Self {
            socket: Some(socket.into()),
            keeps,
            watchdog: every.map(|every| (every, Instant::now())),
        })
    }

    /// The way to it, if it keeps descriptors.
    pub fn keeps(&self) -> Option<Arc<UnixDatagram>> {
        self.socket.clone().filter(|_| self.keeps)
    }

    /// Says something: lines of `KEY=value`.
    pub fn say(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // A manager that does not listen misses it.
            let _missed = socket.send(state.as_bytes());
        }
    }

    /// Ready, or ready again, and what for in words.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// What it was told to do again has begun.
    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_ns() / 1000));
    }

    /// Says that we live, when that is due.
    pub fn alive(&mut self, now: Instant) {
        let due = self
            .watchdog
            .as_mut()
            .filter(|(_, at)| now >= *at)
            .map(|(every, at)| *at = now + *every);
        if due.is_some() {
            self.say("WATCHDOG=1");
        }
    }
}

/// Control sockets that were opened by somebody else, for us to accept on.
#[derive(Debug, Default)]
pub struct Passed(Vec<Socket>);

/// What the manager's store gives back: names and rings.
pub type Rings = Vec<(String, OwnedFd)>;

#[derive(Debug)]
struct Socket {
    /// As `FileDescriptorName=` says, or empty.
    name: String,
    path: Option<PathBuf>,
    fd: OwnedFd,
}

impl Passed {
    /// Takes what `LISTEN_FDS` names. Once, at the very start, before anything else is opened.
    ///
    /// # Errors
    /// If one of them is neither a ring out of the store nor a listening unix socket of sequenced
    /// packets.
    pub fn take() -> anyhow::Result<(Self, Rings)> {
        let number = |key| std::env::var(key).ok()?.parse::<i32>().ok();
        if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
            return Ok(<(Self, Rings)>::default());
        }
        let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 4096);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(String::from);
        let (mut sockets, mut rings) = (Vec::new(), Rings::new());
        for raw in FIRST..FIRST + count {
            // SAFETY: whoever set LISTEN_FDS for this very process has handed this descriptor over,
            // and nobody else here owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            let name = names.next().unwrap_or_default();
            if Store::is_ours(&name, &fd) {
                rings.push((name, fd));
                continue;
            }
            sockets.push(
                Socket::check(fd, name)
                    .map_err(|e| anyhow::anyhow!("passed descriptor {raw}: {e}"))?,
            );
        }
        Ok((Self(sockets), rings))
    }

    /// The socket for stream `name`: the one of that name, else the one at `path`.
    pub fn claim(&mut self, name: &str, path: &Path) -> Option<OwnedFd> {
        let named = self.0.iter().position(|s| s.name == name);
        let found =
            named.or_else(|| self.0.iter().position(|s| s.path.as_deref() == Some(path)))?;
        Some(self.0.swap_remove(found).fd)
    }

    /// Those that nobody wanted, in words.
    pub fn unclaimed(&self) -> Vec<String> {
        let shown = |s: &Socket| match &s.path {
            Some(path) => path.display().to_string(),
            None => s.name.clone(),
        };
        self.0.iter().map(shown).collect()
    }
}

/// Whether this is a socket.
pub fn is_socket(fd: impl AsFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

impl Socket {
    fn check(fd: OwnedFd, name: String) -> Result<Self, String> {
        let failed = |e: Errno| e.to_string();
        let kind = sockopt::socket_type(&fd).map_err(failed)?;
        let unix = sockopt::socket_domain(&fd).map_err(failed)? == AddressFamily::UNIX;
        if !unix
            || kind != SocketType::SEQPACKET
            || !sockopt::socket_acceptconn(&fd).map_err(failed)?
        {
            return Err(
                "is no listening unix socket of sequenced packets: use ListenSequentialPacket="
                    .into(),
            );
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(failed)?;
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
    fn a_socket_goes_to_the_stream_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let make = |file: &str, name: &str| {
            let fd =
                ringweir_proto::os::socket::listen(&dir.path().join(file), 0o600, None).unwrap();
            Socket::check(fd, name.into()).unwrap()
        };
        let mut passed = Passed(vec![make("a.sock", "ringd.socket"), make("x.sock", "b")]);
        assert!(passed.claim("b", &dir.path().join("b.sock")).is_some(), "by its name");
        assert!(passed.claim("c", &dir.path().join("c.sock")).is_none());
        assert!(passed.unclaimed()[0].ends_with("a.sock"));
        assert!(passed.claim("a", &dir.path().join("a.sock")).is_some(), "by its place");
        assert!(passed.claim("a", &dir.path().join("a.sock")).is_none(), "once");
        let stream = std::os::unix::net::UnixListener::bind(dir.path().join("stream")).unwrap();
        assert!(
            Socket::check(stream.into(), String::new())
                .unwrap_err()
                .contains("ListenSequentialPacket=")
        );
    }

    #[test]
    fn nobody_is_told_anything_unless_somebody_asks() {
        let mut manager = Manager::default();
        manager.ready("x");
        manager.alive(Instant::now());
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let watchdog = Some((Duration::from_secs(1), now));
        let mut manager = Manager { socket: Some(ours.into()), keeps: false, watchdog };
        let heard = || {
            let mut room = [0; 64];
            theirs.recv(&mut room).ok().map(|n| String::from_utf8_lossy(&room[..n]).into_owned())
        };
        manager.alive(now);
        manager.alive(now + Duration::from_millis(500));
        assert_eq!(
            (heard().as_deref(), heard()),
            (Some("WATCHDOG=1"), None),
            "not before it is due again"
        );
        manager.alive(now + Duration::from_secs(1));
        manager.ready("2 streams");
        assert_eq!(
            (heard().as_deref(), heard().as_deref()),
            (Some("WATCHDOG=1"), Some("READY=1\nSTATUS=2 streams"))
        );
    }
}
