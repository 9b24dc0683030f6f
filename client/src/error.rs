//! What can go wrong on the way to a stream, said so that the reader of the message knows what to
//! do.

use ringweir_proto::control::{DecodeError, Reason};
use ringweir_proto::os::OsError;
use ringweir_proto::os::object::ObjectError;
use ringweir_proto::os::paths::BadName;
use ringweir_proto::ring::Corrupt;
use std::path::PathBuf;

/// Errors of this library. Loss is not one of them: it is data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing of that name in the run directories.
    #[error("no stream {name:?}; running: {}", shown(.running))]
    StreamNotFound {
        /// What was asked for.
        name: String,
        /// What there is.
        running: Vec<String>,
    },
    /// A socket is there, but its broker is not.
    #[error("stream {name:?}: no broker answers at {} (it died, or was stopped): start ringd \
        again", .path.display())]
    NotRunning {
        /// Stream.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// The socket's mode or directory does not let this user in.
    #[error("stream {name:?}: not allowed to connect to {}: join the socket's group, or ask for \
        --socket-mode or --group on ringd", .path.display())]
    NoAccess {
        /// Stream.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// The broker said no.
    #[error("stream {name:?} refused: {text}")]
    Refused {
        /// Stream.
        name: String,
        /// For programs.
        reason: Reason,
        /// For people.
        text: String,
    },
    /// The broker is there but says nothing.
    #[error("stream {name:?}: the broker does not answer: it is stopped, or still busy starting")]
    NoAnswer {
        /// Stream.
        name: String,
    },
    /// The broker hung up without an answer.
    #[error("stream {name:?}: the broker closed the connection without an answer")]
    HungUp {
        /// Stream.
        name: String,
    },
    /// The broker sent something else than was asked for.
    #[error("stream {name:?}: unexpected answer from the broker: {what}")]
    Unexpected {
        /// Stream.
        name: String,
        /// What came.
        what: String,
    },
    /// Impossible name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The answer does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What was handed over is not a ring that can be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A call to the kernel failed.
    #[error(transparent)]
    Os(#[from] OsError),
    /// The ring contradicts itself.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

fn shown(running: &[String]) -> String {
    if running.is_empty() { "none".into() } else { running.join(", ") }
}
