//! How much one user may use of the control thread, of descriptors and of memory.
//!
//! Contract: limits are per uid, because a user can start any number of processes. For root and the
//! broker's own user only the overall limits apply: they could stop the broker anyway. A peer over
//! a limit gets a refusal, which costs an accept and a send.

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

/// Most descriptors of connections that are not readers.
pub const DESCRIPTORS: u64 = (HANDSHAKING_MOST + VIEWERS_MOST) as u64;

/// Limits how often users connect.
#[derive(Default)]
pub struct ConnectRates {
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

impl ConnectRates {
    /// Counts a connection of `uid`. The error is the text for a peer that may not be served.
    pub fn admit(&mut self, uid: u32, now: Instant) -> Result<(), String> {
        let bucket = self.users.entry(uid).or_insert(Bucket { left: BURST, at: now });
        bucket.fill(now);
        if bucket.left < 1.0 {
            return Err(format!(
                "uid {uid} connects more than {PER_SECOND} times per second: wait a moment"
            ));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Forgets users who have not connected for a while.
    pub fn tidy(&mut self, now: Instant) {
        self.users.retain(|_, bucket| {
            bucket.fill(now);
            bucket.left < BURST
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
        assert_eq!(rates.users.len(), 1, "a quiet user is forgotten");
        rates.tidy(start + Duration::from_secs(60));
        assert!(rates.users.is_empty());
        assert_eq!(served(&mut rates, 7, Duration::from_secs(60), 2000), 1000);
    }
}
