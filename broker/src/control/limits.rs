//! How much one user may use of the control thread, of descriptors and of memory.
//!
//! Contract: limits are per uid, because a user can start any number of processes. A person can
//! also be any number of users (`os/users.rs`), so uids that may be one person share a larger
//! limit: half of what there is. For root and the broker's own user only the overall limits apply:
//! they could stop the broker anyway. A peer over a limit gets a refusal, which costs an accept and
//! a send.

use ringweir_proto::os::users;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a peer may take to send its request.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Most connections that are still handshaking, in all and per user. Beyond that, the user's oldest
/// one is closed.
pub const HANDSHAKING_MOST: usize = 256;
pub const HANDSHAKING_PER_USER: usize = 32;
/// Most connections that wait until their answer is read, in all and per user. Beyond that, one of
/// the user's is closed.
pub const ANSWERED_MOST: usize = 512;
pub const ANSWERED_PER_USER: usize = 128;
/// Most connections of viewers, in all and per user.
pub const VIEWERS_MOST: usize = 512;
pub const VIEWERS_PER_USER: usize = 64;
/// Connections of one user in a row, and per second after that.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 200.0;
/// Answers that one user may leave unread in closed connections in a row, and per second after
/// that.
const UNREAD: f64 = 64.0;
const UNREAD_PER_SECOND: f64 = 1.0 / 60.0;
/// As many times more for a range of uids together.
const RANGE_TIMES: f64 = 4.0;

/// The most of `all` that uids may have together that may be one person.
pub const fn share_of_person(all: usize) -> usize {
    all / 2
}

/// How much more a broker of many streams allows, for each stream but the first: a tool that shows
/// all of them connects to each.
pub const VIEWERS_MORE: usize = 8;
pub const VIEWERS_MORE_PER_USER: usize = 2;
const MORE_PER_SECOND: f64 = 2.0;

/// Most descriptors of connections that are not readers, for so many streams.
pub fn descriptors(streams: usize) -> u64 {
    let viewers = VIEWERS_MOST + VIEWERS_MORE * streams.saturating_sub(1);
    (HANDSHAKING_MOST + ANSWERED_MOST + viewers) as u64
}

/// Limits how often users do something: each so many times in a row, and so many per second after
/// that; ranges of uids as many times more together.
struct Rates {
    burst: f64,
    per_second: f64,
    buckets: HashMap<Who, Bucket>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    Range(u32),
}

impl Who {
    /// Those whose limits hold for this user.
    fn of(uid: u32) -> impl Iterator<Item = Self> {
        users::range_of(uid).map(Self::Range).into_iter().chain([Self::User(uid)])
    }

    fn times(self) -> f64 {
        if matches!(self, Self::User(_)) { 1.0 } else { RANGE_TIMES }
    }
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    fn new(burst: f64, per_second: f64) -> Self {
        Self { burst, per_second, buckets: HashMap::new() }
    }

    fn left(&self, who: Who, now: Instant) -> f64 {
        let full = self.burst * who.times();
        self.buckets.get(&who).map_or(full, |bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + since * self.per_second * who.times()).min(full)
        })
    }

    /// Whether `uid` may do it. The error is whose limit is reached.
    fn check(&self, uid: u32, now: Instant) -> Result<(), Who> {
        Who::of(uid).find(|who| self.left(*who, now) < 1.0).map_or(Ok(()), Err)
    }

    /// Counts that it did.
    fn count(&mut self, uid: u32, now: Instant) {
        for who in Who::of(uid) {
            let left = (self.left(who, now) - 1.0).max(0.0);
            let at = self.buckets.get(&who).map_or(now, |bucket| bucket.at.max(now));
            self.buckets.insert(who, Bucket { left, at });
        }
    }

    /// Forgets users who have not done it for a while.
    fn tidy(&mut self, now: Instant) {
        let (burst, per_second) = (self.burst, self.per_second);
        self.buckets.retain(|who, bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            bucket.left + since * per_second * who.times() < burst * who.times()
        });
    }
}

/// Limits how often users connect.
pub struct ConnectRates(Rates);

impl Default for ConnectRates {
    fn default() -> Self {
        Self(Rates::new(BURST, PER_SECOND))
    }
}

impl ConnectRates {
    /// The broker has so many streams.
    pub fn set_streams(&mut self, streams: usize) {
        self.0.per_second = PER_SECOND + MORE_PER_SECOND * streams.saturating_sub(1) as f64;
        self.0.burst = self.0.per_second * (BURST / PER_SECOND);
    }

    /// Counts a connection of `uid`. The error is the text for a peer that may not be served.
    pub fn admit(&mut self, uid: u32, now: Instant) -> Result<(), String> {
        self.0.check(uid, now).map_err(|who| {
            let whose = if matches!(who, Who::User(_)) { "" } else { "the range of uids around " };
            format!(
                "{whose}uid {uid} connects more than {} times per second: wait a moment",
                self.0.per_second * who.times()
            )
        })?;
        self.0.count(uid, now);
        Ok(())
    }

    /// Forgets users who have not connected for a while.
    pub fn tidy(&mut self, now: Instant) {
        self.0.tidy(now);
    }
}

/// Limits how many answers users leave unread. A peer can keep its end of a closed connection with
/// the answer in it, for which the broker pays.
pub struct UnreadAnswers(Rates);

impl Default for UnreadAnswers {
    fn default() -> Self {
        Self(Rates::new(UNREAD, UNREAD_PER_SECOND))
    }
}

impl UnreadAnswers {
    /// Whether `uid` gets answers.
    pub fn may_answer(&self, uid: u32, now: Instant) -> bool {
        self.0.check(uid, now).is_ok()
    }

    /// Counts an answer that was not read when its connection was closed.
    pub fn count(&mut self, uid: u32, now: Instant) {
        self.0.count(uid, now);
    }

    /// Forgets users who have read their answers for a while.
    pub fn tidy(&mut self, now: Instant) {
        self.0.tidy(now);
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
        assert_eq!(rates.0.buckets.len(), 1, "a quiet user is forgotten");
        rates.tidy(start + Duration::from_secs(60));
        assert!(rates.0.buckets.is_empty());
        assert_eq!(served(&mut rates, 7, Duration::from_secs(60), 2000), 1000);
    }

    /// One tool after the other that shows all of 300 streams, every second. Control: a broker of
    /// one stream does not allow as much.
    #[test]
    fn a_user_may_show_all_streams_of_a_large_broker() {
        let start = Instant::now();
        let refused = |streams: usize| {
            let mut rates = ConnectRates::default();
            rates.set_streams(streams);
            (0..60)
                .flat_map(|second| [Duration::from_secs(second); 300])
                .filter(|at| rates.admit(7, start + *at).is_err())
                .count()
        };
        assert_eq!(refused(300), 0);
        assert!(refused(1) > 0);
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
    /// Controls: another user gets answers, and the same one again later.
    #[test]
    fn a_user_who_leaves_its_answers_unread_gets_no_more() {
        let (mut unread, start) = (UnreadAnswers::default(), Instant::now());
        let mut answered = 0;
        while unread.may_answer(7, start) && answered < 1000 {
            unread.count(7, start);
            answered += 1;
        }
        assert_eq!(answered, 64);
        assert!(unread.may_answer(8, start), "control");
        unread.count(7, start);
        assert!(!unread.may_answer(7, start + Duration::from_secs(59)));
        assert!(unread.may_answer(7, start + Duration::from_secs(61)), "control");
        unread.tidy(start + Duration::from_secs(64 * 60 + 1));
        assert!(unread.0.buckets.is_empty());
    }
}
