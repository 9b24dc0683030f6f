//! How much one user may use of the control thread, of descriptors and of memory.
//!
//! Contract: limits are per uid, because a user can start any number of processes. A person can also
//! be any number of users (`os/users.rs`), so uids that may be one person share a larger limit: half
//! of what there is. For root and the broker's own user only the overall limits apply: they could
//! stop the broker anyway. A peer over a limit gets a refusal, which costs an accept and a send.

use ringweir_proto::os::users;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a peer may take to send its request.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Most connections that are still handshaking, in all and per user. Beyond that, the user's oldest
/// one is closed.
pub const HANDSHAKING_MOST: usize = 256;
pub const HANDSHAKING_PER_USER: usize = 32;
/// Most connections of viewers, in all and per user.
pub const VIEWERS_MOST: usize = 512;
pub const VIEWERS_PER_USER: usize = 64;
/// Connections of one user in a row, and per second after that.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 200.0;
/// As many times more for a range of uids together.
const RANGE_TIMES: f64 = 4.0;

/// The most of `all` that uids may have together that may be one person.
pub const fn share_of_person(all: usize) -> usize {
    all / 2
}

/// Most descriptors of connections that are not readers.
pub const DESCRIPTORS: u64 = (HANDSHAKING_MOST + VIEWERS_MOST) as u64;

/// Limits how often users connect.
#[derive(Default)]
pub struct ConnectRates {
    buckets: HashMap<Who, Bucket>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    Range(u32),
}

impl Who {
    fn times(self) -> f64 {
        if matches!(self, Self::User(_)) { 1.0 } else { RANGE_TIMES }
    }
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant, times: f64) {
        let more = now.duration_since(self.at).as_secs_f64() * PER_SECOND * times;
        self.left = (self.left + more).min(BURST * times);
        self.at = now;
    }
}

impl ConnectRates {
    /// Counts a connection of `uid`. The error is the text for a peer that may not be served.
    pub fn admit(&mut self, uid: u32, now: Instant) -> Result<(), String> {
        let range = users::range_of(uid).map(Who::Range);
        for who in range.into_iter().chain([Who::User(uid)]) {
            let times = who.times();
            let full = Bucket { left: BURST * times, at: now };
            let bucket = self.buckets.entry(who).or_insert(full);
            bucket.fill(now, times);
            if bucket.left < 1.0 {
                let whose = if times > 1.0 { "the range of uids around " } else { "" };
                return Err(format!(
                    "{whose}uid {uid} connects more than {} times per second: wait a moment",
                    PER_SECOND * times
                ));
            }
            bucket.left -= 1.0;
        }
        Ok(())
    }

    /// Forgets users who have not connected for a while.
    pub fn tidy(&mut self, now: Instant) {
        self.buckets.retain(|who, bucket| {
            bucket.fill(now, who.times());
            bucket.left < BURST * who.times()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flooding_user_is_refused_and_others_are_not() {
        let (mut rates, start) = (ConnectRates::default(), Instant::now());
        let served = |rates: &mut ConnectRates, uid, at: Duration, tries: u32| {
            (0..tries).filter(|_| rates.admit(uid, start + at).is_ok()).count()
        };
        assert_eq!(served(&mut rates, 7, Duration::ZERO, 5000), 1000);
        let refused = rates.admit(7, start).unwrap_err();
        assert!(refused.contains("uid 7") && refused.contains("200 times per second"), "{refused}");
        assert_eq!(served(&mut rates, 8, Duration::ZERO, 10), 10, "another user is not affected");
        assert_eq!(served(&mut rates, 7, Duration::from_secs(1), 5000), 200);
        // A clock that seems to go back adds nothing.
        assert_eq!(served(&mut rates, 7, Duration::ZERO, 10), 0);
        rates.tidy(start + Duration::from_secs(2));
        assert_eq!(rates.buckets.len(), 1, "a quiet user is forgotten");
        rates.tidy(start + Duration::from_secs(60));
        assert!(rates.buckets.is_empty());
        assert_eq!(served(&mut rates, 7, Duration::from_secs(60), 2000), 1000);
    }
    /// Control: accounts have no limit together.
    #[test]
    fn a_range_of_uids_has_a_limit_together() {
        let (mut rates, start) = (ConnectRates::default(), Instant::now());
        let mut served = |uids: std::ops::Range<u32>| {
            uids.map(|uid| (0..100).filter(|_| rates.admit(uid, start).is_ok()).count())
                .sum::<usize>()
        };
        assert_eq!(served(1000..1100), 100 * 100, "control");
        assert_eq!(served(131_072..131_172), 4000);
        let refused = rates.admit(131_172, start).unwrap_err();
        assert!(refused.contains("range of uids around uid 131172"), "{refused}");
        assert_eq!(rates.admit(4_000_000, start), Ok(()), "another range");
    }
}
