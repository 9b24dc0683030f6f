//! Errors of this library. Each message names the value that was wrong and says what to do.

use ringweir_proto::control::{self, DecodeError};
use ringweir_proto::layout::IdentityError;
use ringweir_proto::os::OsError;
use ringweir_proto::os::object::ObjectError;
use ringweir_proto::os::paths::BadName;
use ringweir_proto::ring::Corrupt;
use std::io;
use std::path::PathBuf;

/// Errors of this library. Loss is not one of them: it is data ([`crate::Gap`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No stream of that name is in the run directories.
    #[error("no stream {name:?}; running: {}", shown(.running))]
    #[non_exhaustive]
    StreamNotFound {
        /// The name that was asked for.
        name: String,
        /// The streams that are there.
        running: Vec<String>,
    },
    /// The stream's socket is there, but no broker listens on it.
    #[error("stream {name:?}: no broker answers at {} (it died, or was stopped): start ringd \
        again", .path.display())]
    #[non_exhaustive]
    NotRunning {
        /// Stream.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// This user may not connect: the mode of the socket or of its directory forbids it.
    #[error("stream {name:?}: not allowed to connect to {}: {}", .path.display(), advice(.path))]
    #[non_exhaustive]
    NoAccess {
        /// Stream.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// The broker refused.
    #[error("stream {name:?} refused: {text}")]
    #[non_exhaustive]
    Refused {
        /// Stream.
        name: String,
        /// For programs.
        reason: Reason,
        /// For people. Characters that could take over a terminal are replaced.
        text: String,
    },
    /// The broker did not answer in time: it accepted the connection, or still has it in its queue.
    #[error("stream {name:?}: the broker does not answer: it is stopped, or still busy starting")]
    #[non_exhaustive]
    NoAnswer {
        /// Stream.
        name: String,
    },
    /// The broker closed the connection without an answer.
    #[error("stream {name:?}: the broker closed the connection without an answer")]
    #[non_exhaustive]
    HungUp {
        /// Stream.
        name: String,
    },
    /// The broker's answer, or what it handed over, makes no sense.
    #[error("stream {name:?}: unexpected answer from the broker: {what}")]
    #[non_exhaustive]
    Unexpected {
        /// Stream.
        name: String,
        /// What came.
        what: String,
    },
    /// The broker is of another release than this library.
    #[error("stream {name:?}: {what}")]
    #[non_exhaustive]
    OtherRelease {
        /// Stream.
        name: String,
        /// Which versions differ.
        what: String,
    },
    /// No stream can have this name.
    #[error("{rule}")]
    #[non_exhaustive]
    BadName {
        /// The name that was asked for.
        name: String,
        /// The name, and the rule for names.
        rule: String,
    },
    /// This reader was attached by another process, of which this one is a child: after `fork()`
    /// the reader stays with the parent. Attach again in the child.
    #[error(
        "stream {name:?}: this reader belongs to process {parent}, which forked this one: attach \
        anew in the child"
    )]
    #[non_exhaustive]
    Forked {
        /// Stream.
        name: String,
        /// The process that attached.
        parent: u32,
    },
    /// A call to the kernel failed.
    #[error("{what}: {source}")]
    #[non_exhaustive]
    System {
        /// What was attempted, with the value.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The ring contradicts itself: its memory was damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// What lets a user connect to the socket at `path`: its directory must be open, and its own mode.
fn advice(path: &std::path::Path) -> String {
    use rustix::fs::{Access, access};
    match path.parent().filter(|dir| access(*dir, Access::EXEC_OK).is_err()) {
        Some(dir) => format!(
            "its directory {} is closed to this user: chmod o+x, or let ringd make its directory",
            dir.display()
        ),
        None => "join the socket's group, or ask for --socket-mode or --group on ringd".to_string(),
    }
}

/// Why a broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// This process's user and groups are not on the stream's list.
    NotAllowed,
    /// All reader indices are taken.
    Full,
    /// The broker did not understand the request.
    Malformed,
    /// The broker is of another release.
    Version,
    /// The broker ran out of a resource, or this user has too many connections.
    Resources,
    /// The reader that was named is not, or no longer, attached.
    NoSuchReader,
    /// The broker was started without a file of streams, or the file is invalid; nothing was
    /// changed.
    File,
}

impl From<control::Reason> for Reason {
    fn from(reason: control::Reason) -> Self {
        match reason {
            control::Reason::NotAllowed => Reason::NotAllowed,
            control::Reason::Full => Reason::Full,
            control::Reason::Malformed => Reason::Malformed,
            control::Reason::Version => Reason::Version,
            control::Reason::Resources => Reason::Resources,
            control::Reason::NoSuchReader => Reason::NoSuchReader,
            control::Reason::File => Reason::File,
        }
    }
}

impl Error {
    /// A system call failed while attempting `what`.
    pub(crate) fn system(what: impl Into<String>, errno: rustix::io::Errno) -> Self {
        Error::System { what: what.into(), source: errno.into() }
    }

    /// The broker's message cannot be decoded.
    pub(crate) fn undecodable(name: &str, error: DecodeError) -> Self {
        let (name, what) = (name.to_string(), error.to_string());
        match error {
            DecodeError::Version { .. } => Error::OtherRelease { name, what },
            _ => Error::Unexpected { name, what },
        }
    }

    /// The object that the broker handed over is not a readable ring.
    pub(crate) fn unreadable(name: &str, error: ObjectError) -> Self {
        let (name, what) = (name.to_string(), error.to_string());
        match error {
            ObjectError::Os(e) => e.into(),
            ObjectError::Identity(IdentityError::Version { .. }) => {
                Error::OtherRelease { name, what }
            }
            _ => Error::Unexpected { name, what },
        }
    }
}

impl From<OsError> for Error {
    fn from(OsError { what, errno }: OsError) -> Self {
        Error::system(what, errno)
    }
}

impl From<BadName> for Error {
    fn from(error: BadName) -> Self {
        Error::BadName { rule: error.to_string(), name: error.0 }
    }
}

/// Names in the message about a stream that does not exist.
const NAMES_SHOWN: usize = 20;

fn shown(running: &[String]) -> String {
    let first = &running[..running.len().min(NAMES_SHOWN)];
    match running.len() - first.len() {
        0 if first.is_empty() => "none".into(),
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_streams_that_are_there_and_not_hundreds() {
        let running = |n: usize| (0..n).map(|i| format!("s{i}")).collect::<Vec<_>>();
        assert_eq!(shown(&running(0)), "none");
        assert_eq!(shown(&running(2)), "s0, s1");
        assert!(shown(&running(20)).ends_with("s18, s19"));
        assert!(shown(&running(300)).ends_with("s18, s19 and 280 more"));
    }
}
