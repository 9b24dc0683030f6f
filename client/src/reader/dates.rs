//! Dates of publish times.
//!
//! Contract: a date follows the clock of this machine as it stands now: publish times count from
//! the start of the machine, and the distance from there to 1970 is read here, not by the broker
//! when it started. While nobody sets the clock, the distance stays the same to the nanosecond, so
//! that dates keep their distances.

use ringweir_proto::os::clock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A smaller change is how exactly two clocks can be read, one after the other.
const STEP_NS: u64 = 1_000_000;

/// The distance between the two clocks.
#[derive(Debug)]
pub(super) struct Dates(AtomicU64);

impl Dates {
    pub(super) fn now() -> Self {
        Self(AtomicU64::new(distance()))
    }

    /// What to add to a publish time.
    pub(super) fn offset(&self) -> u64 {
        let (kept, now) = (self.0.load(Ordering::Relaxed), distance());
        if now.wrapping_sub(kept).cast_signed().unsigned_abs() < STEP_NS {
            return kept;
        }
        self.0.store(now, Ordering::Relaxed);
        now
    }
}

/// CLOCK_REALTIME minus CLOCK_MONOTONIC, of the closest of a few readings: this thread may lose its
/// processor between the two.
fn distance() -> u64 {
    let read = || {
        let (before, date) = (clock::monotonic_ns(), clock::realtime_ns());
        (clock::monotonic_ns() - before, date.wrapping_sub(before))
    };
    let (mut closest, mut distance) = read();
    for _ in 0..4 {
        if closest < STEP_NS / 10 {
            break;
        }
        let (apart, again) = read();
        if apart < closest {
            (closest, distance) = (apart, again);
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control: a clock that was set.
    #[test]
    fn dates_keep_their_distances_until_the_clock_is_set() {
        let dates = Dates::now();
        let offset = dates.offset();
        assert!((0..1000).all(|_| dates.offset() == offset));
        // As if it had been set by a year.
        let year = 365 * 86_400 * 1_000_000_000;
        dates.0.store(offset - year, Ordering::Relaxed);
        assert!(dates.offset().abs_diff(offset) < STEP_NS);
    }
}
