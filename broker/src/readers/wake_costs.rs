//! What wakes may cost. A reader can make each of its wakes walk hundreds of thousands of entries,
//! by polling its wake descriptor that often, and the thread that wakes it pays for the walk.
//!
//! Contract: only wakes of [`SLOW_WAKE_NS`] or more are charged. The slow wakes of one user take at
//! most one part in [`SHARE_OF_USER`] of a processor, and all together one in [`SHARE_OF_ALL`]; a
//! wake that is not due yet waits, and no other reader waits for it. A user stays known for a
//! while, so that attaching again gains nothing. Memory is bounded.

use crate::wake::slow_wake::SLOW_WAKE_NS;
use ringweir_proto::os::users;

/// The parts in which a processor is divided, as above.
const SHARE_OF_USER: u64 = 100;
const SHARE_OF_ALL: u64 = 20;
/// How long a user is known after its last slow wake.
const REMEMBERED_NS: u64 = 60_000_000_000;
/// Most users that are known.
const USERS: usize = 64;

/// The slow wakes of one stream.
#[derive(Debug, Default)]
pub(super) struct WakeCosts {
    users: Vec<User>,
    not_before: u64,
}

#[derive(Debug)]
struct User {
    uid: u32,
    not_before: u64,
    known_until: u64,
}

impl WakeCosts {
    /// Whether a reader of this user was slow to wake not long ago.
    pub(super) fn is_known(&self, uid: u32, now: u64) -> bool {
        let is_theirs = |user: &User| users::may_be_one_person(user.uid, uid);
        self.users.iter().any(|user| is_theirs(user) && now < user.known_until)
    }

    /// When a slow reader of this user may be woken next, by the monotonic clock.
    pub(super) fn not_before(&self, uid: u32) -> u64 {
        let theirs = self.users.iter().find(|user| user.uid == uid);
        theirs.map_or(0, |user| user.not_before).max(self.not_before)
    }

    /// Charges a wake that took `cost` of processor time and ended `now`. Returns whether the user
    /// was not known before.
    pub(super) fn charge(&mut self, uid: u32, cost: u64, now: u64) -> bool {
        if cost < SLOW_WAKE_NS {
            return false;
        }
        let is_new = !self.is_known(uid, now);
        let pause = |share: u64| now.saturating_add(cost.saturating_mul(share - 1));
        let user = User {
            uid,
            not_before: pause(SHARE_OF_USER),
            known_until: pause(SHARE_OF_USER).saturating_add(REMEMBERED_NS),
        };
        self.not_before = pause(SHARE_OF_ALL);
        if let Some(known) = self.users.iter_mut().find(|known| known.uid == uid) {
            *known = user;
        } else if self.users.len() < USERS {
            self.users.push(user);
        } else if let Some(first) = self.users.iter_mut().min_by_key(|user| user.known_until) {
            *first = user;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Controls: quick wakes cost nothing, and another user waits for its share only.
    #[test]
    fn a_user_gets_its_share_of_slow_wakes() {
        let (mut costs, mut woken, mut now) = (WakeCosts::default(), 0, 0);
        assert!(!costs.charge(7, SLOW_WAKE_NS - 1, 0) && !costs.is_known(7, 0), "control");
        while now < 100_000 * MS {
            now = now.max(costs.not_before(7)) + 20 * MS;
            assert_eq!(costs.charge(7, 20 * MS, now), woken == 0, "new once");
            woken += 1;
        }
        assert_eq!(woken, 1 + 100_000 / (20 * 100), "the first, and 20 ms each of 100 s");
        assert_eq!(costs.not_before(8), now + 19 * 20 * MS, "another user: the share of all");
        assert!(costs.is_known(7, now) && !costs.is_known(8, now));
        assert!(!costs.is_known(7, now + 99 * 20 * MS + REMEMBERED_NS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut costs = WakeCosts::default();
        (0..10_000).for_each(|uid| assert!(costs.charge(uid, MS, u64::from(uid))));
        assert!(costs.charge(70_000, MS, 0) && costs.is_known(70_001, 0), "of one range");
        assert_eq!(costs.users.len(), USERS);
        assert!(costs.is_known(9999, 10_000), "the newest stay");
        costs.charge(1, u64::MAX, u64::MAX);
    }
}
