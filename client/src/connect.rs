//! Finding a stream and talking to its broker: name → socket → answer with fds, everything checked
//! before it is used.

use crate::Error;
use crate::view::streams;
use ringweir_proto::control::{Reply, Request};
use ringweir_proto::os::fork::Socket;
use ringweir_proto::os::socket::Packet;
use ringweir_proto::os::{paths, socket};
use ringweir_proto::printable::printable;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// An open control socket.
#[derive(Debug)]
pub(crate) struct Connection {
    pub fd: Socket,
    pub name: String,
}

/// Whether calls on a connection wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For [`socket::ANSWER`] at most.
    Yes,
    /// Never.
    No,
}

impl Connection {
    /// Connects to the stream `name`: a stream name, or the path of a control socket.
    pub fn open(name: &str, waits: Waits) -> Result<Self, Error> {
        let path = locate(name)?;
        let shown = path.display();
        let address = SocketAddrUnix::new(&path)
            .map_err(|e| Error::system(format!("socket path {shown} (at most 107 bytes)"), e))?;
        let fd = Socket::new(|| {
            let flags = match waits {
                Waits::Yes => SocketFlags::CLOEXEC,
                Waits::No => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            };
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        })
        .map_err(|e| Error::system("socket(AF_UNIX, SOCK_SEQPACKET)", e))?;
        if waits == Waits::Yes {
            socket::answer_within(&fd, socket::ANSWER)?;
        }
        rustix::net::connect(&fd, &address).map_err(|errno| match errno {
            Errno::CONNREFUSED | Errno::NOENT => {
                Error::NotRunning { name: name.into(), path: path.clone() }
            }
            Errno::ACCESS | Errno::PERM => {
                Error::NoAccess { name: name.into(), path: path.clone() }
            }
            // The broker's queue of connections is full, and it accepts none of them.
            Errno::AGAIN => Error::NoAnswer { name: name.into() },
            _ => Error::system(format!("connect {shown}"), errno),
        })?;
        Ok(Self { fd, name: name.into() })
    }

    /// Sends the request. A failure is ignored here and reported by [`Self::answer`]: a broker that
    /// refuses at once may have closed the connection already, and its answer can still be read.
    pub fn send(&self, request: &Request) {
        let _gone = socket::send(&self.fd, &request.encode(), &[]);
    }

    /// Receives the answer to the request, with exactly `fds` fds. A refusal becomes
    /// [`Error::Refused`].
    ///
    /// # Errors
    /// Also [`Error::NoAnswer`] if there is none yet.
    pub fn answer(&self, fds: usize) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let mut reset = false;
        let Packet { bytes, fds: received } = loop {
            match socket::receive(&self.fd) {
                Err(Errno::INTR) => {}
                // The broker closed the connection with our request unread: the kernel reports that
                // once, and then gives the answer.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Ok(packet) => break packet,
                Err(errno) => return Err(self.failed(errno)),
            }
        };
        if bytes.is_empty() {
            return Err(Error::HungUp { name: self.name.clone() });
        }
        match Reply::decode(&bytes).map_err(|e| Error::undecodable(&self.name, e))? {
            Reply::Refused(refusal) => Err(Error::Refused {
                name: self.name.clone(),
                reason: refusal.reason.into(),
                text: printable(&refusal.text),
            }),
            _ if received.len() != fds => Err(Error::Unexpected {
                name: self.name.clone(),
                what: format!("{} file descriptors, expected {fds}", received.len()),
            }),
            reply => Ok((reply, received)),
        }
    }

    fn failed(&self, errno: Errno) -> Error {
        let name = self.name.clone();
        match errno {
            Errno::PIPE | Errno::CONNRESET => Error::HungUp { name },
            Errno::AGAIN => Error::NoAnswer { name },
            errno => Error::system(format!("control socket of stream {name:?}"), errno),
        }
    }

    /// Sends a request and receives its answer.
    pub fn ask(&self, request: &Request, fds: usize) -> Result<(Reply, Vec<OwnedFd>), Error> {
        self.send(request);
        self.answer(fds)
    }

    /// [`Error::Forked`] in a child of the process that connected.
    pub fn same_process(&self) -> Result<(), Error> {
        match self.fd.parent() {
            None => Ok(()),
            Some(parent) => Err(Error::Forked { name: self.name.clone(), parent }),
        }
    }

    pub fn unexpected(&self, reply: &Reply) -> Error {
        Error::Unexpected { name: self.name.clone(), what: format!("{reply:?}") }
    }

    /// Whether the broker has hung up, or this is a child of the process that connected. Never
    /// blocks.
    pub fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        if self.fd.parent().is_some() {
            return true;
        }
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }
}

fn locate(name: &str) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(Path::new(name).into());
    }
    paths::check_name(name)?;
    let found = paths::search_dirs()
        .into_iter()
        .map(|dir| paths::socket_path(&dir, name))
        .find(|path| exists(path));
    found.ok_or_else(|| Error::StreamNotFound {
        name: name.into(),
        running: streams().into_iter().map(|(name, _)| name).collect(),
    })
}

/// A socket in a directory that we may not search counts as existing: connecting then reports what
/// is wrong.
fn exists(path: &Path) -> bool {
    !matches!(rustix::fs::lstat(path), Err(Errno::NOENT | Errno::NOTDIR))
        && (path.parent().is_some_and(|dir| !matches!(rustix::fs::stat(dir), Err(Errno::ACCESS))))
}
