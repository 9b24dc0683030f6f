//! Socket options of both kinds of unix socket, and what both need to remove at the end.

use crate::process::sandbox::needs::{Needs, directory_of};
use crate::source::contract::SourceError;
use crate::source::socket::set_option;
use ringweir_proto::os::socket;
use ringweir_proto::os::socket_file::SocketFile;
use std::os::fd::BorrowedFd;

/// Room for the control messages of a datagram: one timestamp, and no file descriptors.
pub(super) const CONTROL_LEN: usize = 32;

/// What happens to file descriptors that a sender attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descriptors {
    /// The kernel refuses them to the sender.
    Refused,
    /// The pump's thread closes them.
    ClosedHere,
}

impl Descriptors {
    /// For the start message.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Refused => "",
            Self::ClosedHere => {
                "; admit only trusted senders: before Linux 6.16 a sender that attaches file \
                descriptors can delay the pump"
            }
        }
    }
}

/// Has the kernel timestamp each datagram, and refuse file descriptors if it can.
pub(super) fn prepare(fd: BorrowedFd<'_>) -> Result<Descriptors, SourceError> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
        .map_err(|e| SourceError(format!("SO_TIMESTAMPNS: {e}")))?;
    Ok(if socket::refuse_descriptors(fd) { Descriptors::Refused } else { Descriptors::ClosedHere })
}

/// The socket's file is removed with the source.
pub(super) fn to_remove(file: &SocketFile) -> Needs {
    Needs { remove: vec![directory_of(file.path())], ..Needs::default() }
}
