//! The open connections of the control thread.
//!
//! Contract: their number is bounded, in all and per user, by [`super::limits`].

use super::limits::{
    ANSWERED_MOST, ANSWERED_PER_USER, HANDSHAKE, HANDSHAKING_MOST, HANDSHAKING_PER_USER,
    VIEWERS_MORE, VIEWERS_MORE_PER_USER, VIEWERS_MOST, VIEWERS_PER_USER, share_of_person,
};
use crate::stream::log::Refused;
use ringweir_proto::os::fork::ClosedInChild;
use ringweir_proto::os::{socket, users};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// An accepted connection.
pub(super) type Accepted = (OwnedFd, ClosedInChild);

/// One connection.
pub(super) struct Connection {
    /// A child would keep it open, and its reader would not notice this process's death.
    _in_child: ClosedInChild,
    pub(super) fd: OwnedFd,
    /// Index of its stream.
    pub(super) stream: usize,
    pub(super) peer: Refused,
    pub(super) role: Role,
}

impl Connection {
    /// A connection to the stream with this index.
    pub(super) fn new(accepted: Accepted, stream: usize, peer: Refused, role: Role) -> Self {
        let (fd, in_child) = accepted;
        Self { _in_child: in_child, fd, stream, peer, role }
    }

    /// One that was answered when it was accepted.
    pub(super) fn answered(accepted: Accepted, stream: usize, peer: Refused, now: Instant) -> Self {
        Self::new(accepted, stream, peer, Role::Answered(now + HANDSHAKE))
    }
}

/// The role of a connection.
pub(super) enum Role {
    /// It has not sent its request yet. If none comes, it is closed at this moment.
    Handshaking(Instant),
    /// The reader with this index.
    Reader(u32),
    /// It views statistics.
    Viewer,
    /// It was answered for the last time, and is closed once its peer has closed it, or has read
    /// that by this moment: so the answers that are not read are counted.
    Answered(Instant),
}

impl Role {
    /// When to look at it, unless its peer does something.
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Handshaking(until) | Self::Answered(until) => Some(*until),
            Self::Reader(_) | Self::Viewer => None,
        }
    }
}

/// All connections, by number.
#[derive(Default)]
pub(super) struct Connections {
    all: HashMap<u64, Connection>,
    next: u64,
}

/// Whether another connection of a user may be added.
pub(super) enum Room {
    /// Yes.
    Free,
    /// Yes, if this one of the same user is closed.
    Instead(u64),
    /// No.
    None,
}

impl Connections {
    /// The number that the next connection gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// Adds a connection under [`Self::next_number`].
    pub(super) fn add(&mut self, connection: Connection) {
        self.all.insert(self.next, connection);
        self.next += 1;
    }

    pub(super) fn get(&self, n: u64) -> Option<&Connection> {
        self.all.get(&n)
    }

    pub(super) fn get_mut(&mut self, n: u64) -> Option<&mut Connection> {
        self.all.get_mut(&n)
    }

    pub(super) fn remove(&mut self, n: u64) -> Option<Connection> {
        self.all.remove(&n)
    }

    /// Closes all connections of a stream.
    pub(super) fn remove_stream(&mut self, stream: usize) {
        self.all.retain(|_, c| c.stream != stream);
    }

    /// The connection of reader `index` of a stream.
    pub(super) fn of_reader(&self, stream: usize, index: u32) -> Option<u64> {
        let matches =
            |c: &Connection| c.stream == stream && matches!(c.role, Role::Reader(i) if i == index);
        self.all.iter().find(|(_, c)| matches(c)).map(|(n, _)| *n)
    }

    /// Connections whose peer has taken too long.
    pub(super) fn late(&self, now: Instant) -> Vec<u64> {
        let late = |c: &Connection| c.role.until().is_some_and(|until| now >= until);
        self.all.iter().filter(|(_, c)| late(c)).map(|(n, _)| *n).collect()
    }

    /// Whether one more connection of user `uid` may start a handshake. If the user has many, its
    /// oldest one is closed instead: a working client has sent its request by now.
    pub(super) fn room_for(&self, uid: u32) -> Room {
        let is_of_role = |role: &Role| matches!(role, Role::Handshaking(_));
        self.room(uid, [HANDSHAKING_PER_USER, HANDSHAKING_MOST], is_of_role, |_| false)
    }

    /// Whether one more connection of user `uid` that was answered may wait until that is read. If
    /// the user has many, one that was read is closed instead, else its oldest one.
    pub(super) fn room_for_answered(&self, uid: u32) -> Room {
        let is_of_role = |role: &Role| matches!(role, Role::Answered(_));
        let rank = |c: &Connection| socket::has_unread(&c.fd);
        self.room(uid, [ANSWERED_PER_USER, ANSWERED_MOST], is_of_role, rank)
    }

    /// Room among those of a role; of the user's, the one with the lowest rank goes first.
    fn room(
        &self,
        uid: u32,
        [per_user, most]: [usize; 2],
        is_of_role: fn(&Role) -> bool,
        rank: fn(&Connection) -> bool,
    ) -> Room {
        let of_role = || self.all.iter().filter(|(_, c)| is_of_role(&c.role));
        // An account of its own first, so that a user is not made room for by another.
        for (belongs, most) in [
            ((|a, b| a == b) as fn(u32, u32) -> bool, per_user),
            (users::may_be_one_person, share_of_person(most)),
        ] {
            let theirs = || of_role().filter(|(_, c)| belongs(c.peer.uid, uid));
            if theirs().count() >= most
                && let Some((oldest, _)) = theirs().min_by_key(|(n, c)| (rank(c), **n))
            {
                return Room::Instead(*oldest);
            }
        }
        if of_role().count() < most { Room::Free } else { Room::None }
    }

    /// Whether one more connection of user `uid` may view statistics of a broker of so many
    /// streams. The error is the text for the peer.
    pub(super) fn check_viewers(
        &self,
        uid: u32,
        is_unlimited: bool,
        streams: usize,
    ) -> Result<(), String> {
        let viewers = || self.all.values().filter(|c| matches!(c.role, Role::Viewer));
        let (all, theirs) = (viewers().count(), viewers().filter(|c| c.peer.uid == uid).count());
        let near = viewers().filter(|c| users::may_be_one_person(c.peer.uid, uid)).count();
        let more = streams.saturating_sub(1);
        let most = VIEWERS_MOST + VIEWERS_MORE * more;
        let most_of_one = VIEWERS_PER_USER + VIEWERS_MORE_PER_USER * more;
        let is_over = theirs >= most_of_one || near >= share_of_person(most);
        if all >= most || !is_unlimited && is_over {
            return Err(format!(
                "{all} connections view statistics already, {theirs} of them of uid {uid}, {near} \
                of uids around it: end some"
            ));
        }
        Ok(())
    }
}
