//! How much one user may take of the control thread, of descriptors and of memory.
//!
//! Contract: a user is a uid, since processes multiply at will. Root and the broker's own user are
//! only held to what there is in all: they could stop the broker anyway. Whoever is over a limit is
//! told, and costs an accept and a send.

use super::{Control, Role};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a peer may take to say what it wants.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that have not said what they want yet, in all, and of one user. Beyond, the oldest
/// of that user makes room.
pub const HANDSHAKING_MOST: usize = 256;
pub const HANDSHAKING_PER_USER: usize = 32;
/// Connections that look at statistics, in all, and of one user.
pub const VIEWERS_MOST: usize = 512;
pub const VIEWERS_PER_USER: usize = 64;
/// Connections of one user in a row, and a second after that.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 200.0;

/// Descriptors that connections take beside readers.
pub const DESCRIPTORS: u64 = (HANDSHAKING_MOST + VIEWERS_MOST) as u64;

/// How often users connect.
#[derive(Default)]
pub struct Rates {
    users: HashMap<u32, Bucket>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
    }
}

impl Rates {
    /// Counts a connection of `uid`; whether it may be served.
    pub fn admit(&mut self, uid: u32, now: Instant) -> Result<(), String> {
        let bucket = self.users.entry(uid).or_insert(Bucket { left: BURST, at: now });
        bucket.fill(now);
        if bucket.left < 1.0 {
            return Err(format!(
                "uid {uid} connects more than {PER_SECOND} times a second: wait a moment"
            ));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Forgets users who have been quiet.
    pub fn tidy(&mut self, now: Instant) {
        self.users.retain(|_, bucket| {
            bucket.fill(now);
            bucket.left < BURST
        });
    }
}

impl Control {
    /// Whether one more may come and say nothing. Of a user who has many of that kind the oldest is
    /// hung up on: one that means it has said what it wants by now.
    pub(super) fn make_room(&mut self, uid: u32) -> bool {
        let handshaking =
            || self.connections.iter().filter(|(_, c)| matches!(c.what, Role::Handshaking(_)));
        let theirs = handshaking().filter(|(_, c)| c.who.uid == uid);
        if theirs.clone().count() >= HANDSHAKING_PER_USER
            && let Some(oldest) = theirs.map(|(n, _)| *n).min()
        {
            self.complain(oldest, "it connected and said nothing, many times over");
            self.hang_up(oldest);
            return true;
        }
        handshaking().count() < HANDSHAKING_MOST
    }

    /// Whether one more of user `uid` may look at statistics; if not, what to tell it.
    pub(super) fn check_viewers(&self, uid: u32, is_master: bool) -> Result<(), String> {
        let viewers = || self.connections.values().filter(|c| matches!(c.what, Role::Viewer));
        let (all, theirs) = (viewers().count(), viewers().filter(|c| c.who.uid == uid).count());
        if all >= VIEWERS_MOST || !is_master && theirs >= VIEWERS_PER_USER {
            return Err(format!(
                "{all} connections look at statistics already, {theirs} of them of uid {uid}: end \
                some"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_floods_is_slowed_down_and_nobody_else() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let served = |rates: &mut Rates, uid, at: Duration, tries: u32| {
            (0..tries).filter(|_| rates.admit(uid, start + at).is_ok()).count()
        };
        assert_eq!(served(&mut rates, 7, Duration::ZERO, 5000), 1000);
        let refused = rates.admit(7, start).unwrap_err();
        assert!(refused.contains("uid 7") && refused.contains("200 times a second"), "{refused}");
        assert_eq!(served(&mut rates, 8, Duration::ZERO, 10), 10, "another user notices nothing");
        assert_eq!(served(&mut rates, 7, Duration::from_secs(1), 5000), 200);
        // A clock that seems to go back gives nothing.
        assert_eq!(served(&mut rates, 7, Duration::ZERO, 10), 0);
        rates.tidy(start + Duration::from_secs(2));
        assert_eq!(rates.users.len(), 1, "who was quiet is forgotten");
        rates.tidy(start + Duration::from_secs(60));
        assert!(rates.users.is_empty());
        assert_eq!(served(&mut rates, 7, Duration::from_secs(60), 2000), 1000);
    }
}
