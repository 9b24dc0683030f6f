//! Replies to peers.
//!
//! Contract: never blocks. A peer that cannot take its reply has disconnected, or does not read.

use crate::stream::log::Refused;
use crate::stream::running::Stream;
use ringweir_proto::control::{Reason, Reply};
use ringweir_proto::os::socket;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Sends a reply. False if the peer cannot take it.
pub(super) fn reply(fd: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) -> bool {
    socket::send(fd, &reply.encode(), fds).is_ok()
}

/// Sends a refusal.
pub(super) fn refuse(fd: &OwnedFd, reason: Reason, text: &str) {
    reply(fd, &Reply::refuse(reason, text), &[]);
}

/// Sends a refusal, counts it, and remembers it for the log of `stream`.
pub(super) fn refuse_logged(
    stream: &mut Stream,
    fd: &OwnedFd,
    reason: Reason,
    peer: Refused,
    text: String,
) {
    refuse(fd, reason, &text);
    stream.log().refused(peer, text);
}

/// Cuts a text so that a reply with it fits into a message.
pub(super) fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(text.len().min(700))].into()
}
