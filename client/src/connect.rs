//! Finding a stream and talking to its broker: name → socket → answer with fds, everything checked
//! before it is used.

use crate::Error;
use crate::view::streams;
use ringweir_proto::control::{Reply, Request};
use ringweir_proto::os::socket::Packet;
use ringweir_proto::os::{paths, socket};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// An open control socket.
#[derive(Debug)]
pub(crate) struct Connection {
    pub fd: OwnedFd,
    pub name: String,
}

impl Connection {
    /// Connects to the stream `name`: a stream name, or the path of a control socket.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = locate(name)?;
        let fd = socket::connect(&path).map_err(|e| match e.errno {
            Errno::CONNREFUSED | Errno::NOENT => Error::NotRunning { name: name.into(), path },
            Errno::ACCESS | Errno::PERM => Error::NoAccess { name: name.into(), path },
            Errno::AGAIN => Error::NoAnswer { name: name.into() },
            _ => e.into(),
        })?;
        Ok(Self { fd, name: name.into() })
    }

    /// One question, one answer, with exactly `fds` fds if it is not a refusal.
    pub fn ask(&self, request: &Request, fds: usize) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let gone = |errno: Errno| match errno {
            Errno::PIPE | Errno::CONNRESET => Error::HungUp { name: self.name.clone() },
            Errno::AGAIN => Error::NoAnswer { name: self.name.clone() },
            errno => Error::system(format!("control socket of stream {:?}", self.name), errno),
        };
        // A broker that refuses at once may have closed already: its answer is still there to be
        // read.
        let sent = socket::send(&self.fd, &request.encode(), &[]);
        let mut reset = false;
        let Packet { bytes, fds: received } = loop {
            match socket::receive(&self.fd) {
                Err(Errno::INTR) => {}
                // It closed with our question unread: the kernel says so once, and then gives the
                // answer.
                Err(Errno::CONNRESET) if !reset => reset = true,
                other => break other.map_err(gone)?,
            }
        };
        if bytes.is_empty() {
            sent.map_err(gone)?;
            return Err(Error::HungUp { name: self.name.clone() });
        }
        match Reply::decode(&bytes).map_err(|e| Error::undecodable(&self.name, e))? {
            Reply::Refused(refusal) => Err(Error::Refused {
                name: self.name.clone(),
                reason: refusal.reason.into(),
                text: refusal.text,
            }),
            _ if received.len() != fds => Err(Error::Unexpected {
                name: self.name.clone(),
                what: format!("{} file descriptors, expected {fds}", received.len()),
            }),
            reply => Ok((reply, received)),
        }
    }

    pub fn unexpected(&self, reply: &Reply) -> Error {
        Error::Unexpected { name: self.name.clone(), what: format!("{reply:?}") }
    }

    /// Whether the broker has hung up. Never blocks.
    pub fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// A socket in a directory we may not search counts as there: connecting then says what is wrong.
fn exists(path: &Path) -> bool {
    !matches!(rustix::fs::lstat(path), Err(Errno::NOENT | Errno::NOTDIR))
        && (path.parent().is_some_and(|dir| !matches!(rustix::fs::stat(dir), Err(Errno::ACCESS))))
}
