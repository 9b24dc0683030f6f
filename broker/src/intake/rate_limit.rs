//! Limits the log lines of a stream.

use super::notice::Notice;
use std::time::Instant;

/// Lines in a row, and lines per second after that.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 5.0;

/// Passes a limited number of lines, and counts the others.
pub struct RateLimit {
    left: f64,
    at: Instant,
    hidden: u64,
}

impl RateLimit {
    /// With a whole burst left.
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now, hidden: 0 }
    }

    /// Whether another line may be logged.
    pub fn pass(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }

    /// The notice, if it may be logged. It includes the number of notices hidden before it.
    pub fn pass_notice(&mut self, mut notice: Notice, now: Instant) -> Option<Notice> {
        notice.add_hidden(std::mem::take(&mut self.hidden));
        if self.pass(now) {
            return Some(notice);
        }
        self.hidden = notice.hidden() + 1;
        None
    }

    /// Takes the number of hidden notices that no line has reported yet.
    pub fn take_hidden(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown and hidden lines add up. Control: as many lines as the limit allows all pass.
    #[test]
    fn every_line_of_a_flood_is_shown_or_counted() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::new(start);
        let passed = |rate_limit: &mut RateLimit, count: u64, at: u64| {
            let now = start + std::time::Duration::from_secs(at);
            let notices = (0..count).filter_map(|i| rate_limit.pass_notice(Notice::new(i), now));
            notices.map(|n| (1, n.hidden())).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        };
        assert_eq!(passed(&mut rate_limit, 50, 0), (50, 0), "control");
        assert_eq!(passed(&mut rate_limit, 1000, 0), (0, 0));
        assert_eq!(passed(&mut rate_limit, 100, 2), (10, 1000));
        assert_eq!((rate_limit.take_hidden(), rate_limit.take_hidden()), (90, 0));
    }
}
