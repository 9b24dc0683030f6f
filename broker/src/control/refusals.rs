//! Whom the control thread refused or hung up on, and why: told to the peer, counted, and named in
//! the log.
//!
//! Contract: the newest refusal of a user stands for all of it since the last look, since whoever
//! is refused can ask again at will; one that does so without end hides nobody else. Memory is
//! bounded, and so are lines ([`crate::notice::RateLimit`]).

use super::refuse;
use crate::stream::Stream;
use ringweir_proto::control::Reason;
use ringweir_proto::os::socket::Peer;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Users who are kept from one look to the next.
const USERS: usize = 16;

/// Who was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its process; for showing.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// That peer.
pub fn who(peer: &Peer) -> Refused {
    Refused { pid: peer.pid, uid: peer.uid }
}

/// Refusals since the last look.
#[derive(Debug, Default)]
pub struct Refusals(Vec<(Refused, String)>);

impl Refusals {
    fn note(&mut self, who: Refused, text: String) {
        if let Some(known) = self.0.iter_mut().find(|(known, _)| known.uid == who.uid) {
            *known = (who, text);
        } else if self.0.len() < USERS {
            self.0.push((who, text));
        }
    }
}

impl Stream {
    /// Refuses a peer, counts it and keeps the words for the log.
    pub(super) fn refuse(&mut self, fd: &OwnedFd, reason: Reason, who: Refused, text: String) {
        refuse(fd, reason, &text);
        self.note_refusal(who, text);
    }

    /// Counts a peer that is refused without an answer.
    pub(super) fn note_refusal(&mut self, who: Refused, text: String) {
        self.refused += 1;
        self.refusals.note(who, text);
    }
}

/// Logs who was refused, thinned.
pub(super) fn say(stream: &mut Stream, now: Instant) {
    for (Refused { pid, uid }, text) in std::mem::take(&mut stream.refusals).0 {
        if stream.rate_limit.pass(now) {
            let (name, refused) = (&stream.config.name, stream.refused);
            tracing::warn!(
                "{name}: refused pid {pid} (uid {uid}): {text} ({refused} refused so far)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_hides_no_other_and_nobody_fills_memory() {
        let mut refusals = Refusals::default();
        refusals.note(Refused { pid: 1, uid: 7 }, "quiet".into());
        for pid in 0..1000 {
            refusals.note(Refused { pid, uid: 8 }, format!("loud {pid}"));
        }
        let quiet = (Refused { pid: 1, uid: 7 }, "quiet".to_string());
        assert_eq!(refusals.0, [quiet, (Refused { pid: 999, uid: 8 }, "loud 999".into())]);
        (0..1000).for_each(|uid| refusals.note(Refused { pid: 1, uid }, String::new()));
        assert_eq!(refusals.0.len(), USERS);
    }
}
