//! For those who may administer a stream (root and the user its broker runs as): taking a reader's
//! index back, and having a broker read its file again.

use crate::Error;
use crate::connect::{Connection, Waits};
use ringweir_proto::control::{DetachRequest, Reply, Request};
use ringweir_proto::os::socket;
use std::time::Duration;

pub use ringweir_proto::control::{Outcome, Reloaded, StreamChange};

/// How long a broker may take to read its file again: a ring of gigabytes takes seconds.
pub const RELOAD: Duration = Duration::from_secs(120);

/// Takes the place of a reader of stream `name` back. It is told so, and ends with
/// [`crate::End::Detached`]; if it does not listen it keeps a mapping it can read from, but neither
/// place nor wake-ups. `index` and `attached_realtime` are its figures in a
/// [`crate::view::stats::Snapshot`], both, so that nobody else is hit who got the place meanwhile.
///
/// # Errors
/// As [`crate::Options::attach`]; [`Error::Refused`] if this is neither root nor the broker's own
/// user, or the reader is gone.
pub fn detach(name: &str, index: u32, attached_realtime: u64) -> Result<(), Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    match connection.ask(&Request::Detach(DetachRequest { index, attached_realtime }), 0)?.0 {
        Reply::Detached => Ok(()),
        other => Err(connection.unexpected(&other)),
    }
}

/// Has the broker of stream `name` read its file again: streams come and go, the others do not
/// notice. Answers when it is done, which takes as long as new rings take to be made, up to
/// [`RELOAD`].
///
/// # Errors
/// As [`crate::Options::attach`]; [`Error::Refused`] if this is neither root nor the broker's own
/// user, the broker has no file, or the file is not sound, and then nothing was changed.
pub fn reload(name: &str) -> Result<Reloaded, Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    socket::answer_within(&connection.fd, RELOAD)?;
    match connection.ask(&Request::Reload, 0)?.0 {
        Reply::Reloaded(reloaded) => Ok(reloaded),
        other => Err(connection.unexpected(&other)),
    }
}
