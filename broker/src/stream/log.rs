//! The log of one stream: notices of its pump, and refused peers.
//!
//! Contract: lines are rate limited, and memory is bounded. A refused peer can ask again as often
//! as it likes, so the newest refusal of a user stands for all refusals of that user since the last
//! lines. One user who asks without end does not hide another.

use crate::intake::notice::NoticeReceiver;
use crate::intake::rate_limit::RateLimit;
use ringweir_proto::os::socket::Peer;
use ringweir_proto::os::users;
use std::fmt::Display;
use std::time::Instant;

/// Most users whose refusals are remembered from one log to the next.
const USERS: usize = 16;

/// A peer that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its process; for display only.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

impl From<&Peer> for Refused {
    fn from(peer: &Peer) -> Self {
        Self { pid: peer.pid, uid: peer.uid }
    }
}

/// Refusals since the last log.
#[derive(Debug, Default)]
struct Refusals(Vec<(Refused, String)>);

impl Refusals {
    fn add(&mut self, peer: Refused, text: String) {
        let is_theirs = |other: &Refused| users::may_be_one_person(other.uid, peer.uid);
        if let Some(known) = self.0.iter_mut().find(|(known, _)| is_theirs(known)) {
            *known = (peer, text);
        } else if self.0.len() < USERS {
            self.0.push((peer, text));
        }
    }
}

/// The log of one stream.
pub struct StreamLog {
    name: String,
    rate_limit: RateLimit,
    notices: NoticeReceiver,
    refused: u64,
    refusals: Refusals,
}

impl StreamLog {
    /// The log of stream `name`, whose pump sends `notices`.
    pub fn new(name: String, notices: NoticeReceiver) -> Self {
        let (rate_limit, refusals) = (RateLimit::new(Instant::now()), Refusals::default());
        Self { name, rate_limit, notices, refused: 0, refusals }
    }

    /// Logs a warning, unless there were too many.
    pub fn warn(&mut self, text: impl Display, now: Instant) {
        if self.rate_limit.pass(now) {
            tracing::warn!("{}: {text}", self.name);
        }
    }

    /// Logs the notices of the pump.
    pub fn log_notices(&mut self, now: Instant) {
        while let Ok(notice) = self.notices.pop() {
            if let Some(notice) = self.rate_limit.pass_notice(notice, now) {
                tracing::warn!("{}: {notice}", self.name);
            }
        }
    }

    /// Logs how many notices the rate limit has hidden since the last line.
    pub fn log_hidden(&mut self) {
        let hidden = self.rate_limit.take_hidden();
        if hidden > 0 {
            tracing::warn!("{}: {hidden} more notices were not shown", self.name);
        }
    }

    /// Counts a refused peer, and remembers the reason for the log.
    pub fn refused(&mut self, peer: Refused, text: String) {
        self.refused += 1;
        self.refusals.add(peer, text);
    }

    /// How many peers were refused.
    pub fn refused_count(&self) -> u64 {
        self.refused
    }

    /// Logs the peers refused since the last call.
    pub fn log_refusals(&mut self, now: Instant) {
        for (Refused { pid, uid }, text) in std::mem::take(&mut self.refusals).0 {
            let refused = self.refused;
            let line =
                format_args!("refused pid {pid} (uid {uid}): {text} ({refused} refused so far)");
            self.warn(line, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_hides_no_other_and_memory_is_bounded() {
        let mut refusals = Refusals::default();
        refusals.add(Refused { pid: 1, uid: 7 }, "quiet".into());
        for pid in 0..1000 {
            refusals.add(Refused { pid, uid: 8 }, format!("loud {pid}"));
        }
        let quiet = (Refused { pid: 1, uid: 7 }, "quiet".to_string());
        assert_eq!(refusals.0, [quiet, (Refused { pid: 999, uid: 8 }, "loud 999".into())]);
        (0..1000)
            .for_each(|uid| refusals.add(Refused { pid: 1, uid: 100_000 + uid }, "many".into()));
        assert_eq!(refusals.0.len(), 3, "uids that may be one person");
        (0..1000).for_each(|uid| refusals.add(Refused { pid: 1, uid }, String::new()));
        assert_eq!(refusals.0.len(), USERS);
    }
}
