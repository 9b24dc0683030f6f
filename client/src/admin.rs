//! Administration of a stream, for root and the user that its broker runs as: detaching a reader,
//! and making the broker reload its configuration file.

use crate::Error;
use crate::connect::{Connection, Waits};
use ringweir_proto::control::{DetachRequest, Reply, Request};
use ringweir_proto::os::socket;
use std::time::Duration;

pub use ringweir_proto::control::{Outcome, Reloaded, StreamChange};

/// Time limit of [`reload`]: creating a ring of gigabytes takes seconds.
pub const RELOAD: Duration = Duration::from_secs(120);

/// Detaches a reader of stream `name`. Its next [`crate::Reader::next`] returns
/// [`crate::End::Detached`]. If it never makes that call it keeps its mapping and can still read
/// the ring, but it has no reader index any more and is not woken. `index` and `attached_realtime`
/// are the reader's figures in a [`crate::view::stats::Snapshot`]. Both are needed, so that a
/// reader that got the same index meanwhile is not detached instead.
///
/// # Errors
/// As [`crate::Options::attach`]; [`Error::Refused`] if this process is neither root nor the
/// broker's own user, or if the reader is not attached any more.
pub fn detach(name: &str, index: u32, attached_realtime: u64) -> Result<(), Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    match connection.ask(&Request::Detach(DetachRequest { index, attached_realtime }), 0)?.0 {
        Reply::Detached => Ok(()),
        other => Err(connection.unexpected(&other)),
    }
}

/// Makes the broker of stream `name` reload its configuration file: streams are added and removed,
/// and the other streams are not disturbed. Returns when that is done. Creating new rings takes
/// time, so this may take up to [`RELOAD`].
///
/// # Errors
/// As [`crate::Options::attach`]; [`Error::Refused`] if this process is neither root nor the
/// broker's own user, if the broker has no file, or if the file is invalid; then nothing was
/// changed.
pub fn reload(name: &str) -> Result<Reloaded, Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    socket::answer_within(&connection.fd, RELOAD)?;
    match connection.ask(&Request::Reload, 0)?.0 {
        Reply::Reloaded(reloaded) => Ok(reloaded),
        other => Err(connection.unexpected(&other)),
    }
}
