//! When the datagrams of a recording are due.
//!
//! Contract: the pauses are those between the recorded timestamps. A delay is made up for, because
//! each time is counted from the ones before. If the timestamps jump, because the clock was set
//! while the recording was made, the replay continues: a pause is never longer than the limit, and
//! a step back in time is none.

use ringweir_cli::quantity::Span;
use std::fmt;
use std::time::Duration;

/// The longest pause, unless another is given.
pub(in crate::source) const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Timestamps of several interfaces may go back by less than this: their datagrams are due at once.
const DISORDER_NS: u64 = 1_000_000_000;

/// The speed at which a recorded stream is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::source) enum Pace {
    /// As fast as the ring takes datagrams.
    #[default]
    Max,
    /// With the pauses between the recorded timestamps, up to this limit.
    Original(Duration),
}

/// Timestamps that are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    /// A pause longer than the limit, both in ns.
    Forward(u64, u64),
    /// A step back, in ns.
    Back(u64),
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |ns| Span(Duration::from_nanos(ns));
        match *self {
            Self::Forward(pause, limit) => write!(
                f,
                "its timestamps jump forward by {}: played as a pause of {} (max-pause=)",
                span(pause),
                span(limit)
            ),
            Self::Back(by) => {
                write!(f, "its timestamps jump back by {}: played on without a pause", span(by))
            }
        }
    }
}

/// The times at which datagrams are due.
pub(super) struct Schedule {
    longest_pause: u64,
    /// The latest timestamp, and when its datagram was due (CLOCK_MONOTONIC ns).
    latest: Option<(u64, u64)>,
}

impl Schedule {
    pub(super) fn new(longest_pause: Duration) -> Self {
        let longest_pause = u64::try_from(longest_pause.as_nanos()).unwrap_or(u64::MAX);
        Self { longest_pause, latest: None }
    }

    /// When the datagram with this timestamp is due, at the moment `now`.
    pub(super) fn due(&mut self, time: u64, now: u64) -> (u64, Option<Jump>) {
        let (latest, due) = *self.latest.get_or_insert((time, now));
        let (pause, back) = (time.saturating_sub(latest), latest.saturating_sub(time));
        if back > 0 && back < DISORDER_NS {
            return (due, None);
        }
        let jump = match (pause, back) {
            (_, 1..) => Some(Jump::Back(back)),
            _ if pause > self.longest_pause => Some(Jump::Forward(pause, self.longest_pause)),
            _ => None,
        };
        let due = due.saturating_add(pause.min(self.longest_pause));
        self.latest = Some((time, due));
        (due, jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn dues(times: &[u64]) -> Vec<u64> {
        let mut schedule = Schedule::new(Duration::from_secs(10));
        times.iter().map(|time| schedule.due(*time, 100 * S).0 / S).collect()
    }

    /// Controls: pauses up to the limit, and datagrams that are only out of order, are followed.
    #[test]
    fn a_clock_that_was_set_neither_stops_nor_rushes_the_replay() {
        let today = 1_700_000_000;
        let forward = [60, 61, today, today + 1, today + 11].map(|t| t * S);
        assert_eq!(dues(&forward), [100, 101, 111, 112, 122]);
        let back = [today, today + 1, 60, 62, 63].map(|t| t * S);
        assert_eq!(dues(&back), [100, 101, 101, 103, 104]);
        assert_eq!(dues(&[5 * S, 7 * S, 7 * S - 1, 8 * S]), [100, 102, 102, 103]);

        let mut schedule = Schedule::new(Duration::from_secs(10));
        schedule.due(S, 0);
        assert_eq!(schedule.due(12 * S, 0), (10 * S, Some(Jump::Forward(11 * S, 10 * S))));
        assert_eq!(schedule.due(2 * S, 0), (10 * S, Some(Jump::Back(10 * S))));
        assert_eq!(schedule.due(3 * S, 0), (11 * S, None));
        assert_eq!(schedule.due(u64::MAX, 0).0, 21 * S);
    }
}
