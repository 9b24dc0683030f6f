//! A rate limiter without a clock: it says when the next datagram is due, so that the long-run rate
//! is right.
//!
//! Contract: [`RateLimiter`] decides only by the caller's nanoseconds. It never allocates, fails or
//! overflows. It does not matter how late or how often it is asked: the long-run rate stays the
//! same, up to a documented backlog.

use ringweir_cli::quantity::Rate;

/// The longest delay that a [`RateLimiter`] makes up for completely, in ns: one second.
pub const MAX_BACKLOG_NS: u64 = 1_000_000_000;

/// Decides when the next datagram is due.
///
/// Datagrams become due in bursts of a fixed number, a whole burst at once. A pause follows, as
/// long as the burst takes at the rate. A late caller catches up: the schedule depends on what was
/// spent and not on when the caller asked. So the long-run rate is right after any delay of up to
/// [`MAX_BACKLOG_NS`] (or one burst, if that takes longer). A longer delay is not made up for, and
/// counted in [`forgiven_ns`](Self::forgiven_ns): a generator that was stopped for an hour does not
/// then flood the stream with the data of an hour.
///
/// The clock begins at the first [`due`](Self::due). No time overflows: a schedule beyond
/// `u64::MAX` ns stays there.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    /// Without a rate every datagram is due.
    unlimited: bool,
    per_datagram_ns: f64,
    per_byte_ns: f64,
    burst: u32,
    /// Datagrams of the current burst that have been sent.
    spent: u32,
    started: bool,
    /// When the current burst was or will be due: whole ns, and the fraction.
    at_ns: u64,
    part_ns: f64,
    /// The cost of the current burst so far, and the whole cost of the burst before.
    cost_ns: f64,
    last_cost_ns: u64,
    forgiven_ns: u64,
}

impl RateLimiter {
    /// A rate limiter for `rate` (`None`: without any pause), with `burst` datagrams at once (0
    /// counts as 1).
    ///
    /// If the rate is not above zero, no datagram is due after the first burst.
    pub fn new(rate: Option<Rate>, burst: u32) -> Self {
        // This limit keeps every product below finite: 1e18 ns per byte times 2^64 bytes.
        let cost = |per_s: f64| {
            if per_s > 0.0 { (1e9 / per_s).min(1e18) } else { 1e18 }
        };
        let (per_datagram_ns, per_byte_ns) = match rate {
            None => (0.0, 0.0),
            Some(Rate::Datagrams(x)) => (cost(x), 0.0),
            Some(Rate::Bytes(x)) => (0.0, cost(x)),
        };
        RateLimiter {
            unlimited: rate.is_none(),
            per_datagram_ns,
            per_byte_ns,
            burst: burst.max(1),
            spent: 0,
            started: false,
            at_ns: 0,
            part_ns: 0.0,
            cost_ns: 0.0,
            last_cost_ns: 0,
            forgiven_ns: 0,
        }
    }

    /// Whether a datagram may be sent at `now_ns`, by any monotonic clock. The caller must then
    /// [`spend`](Self::spend) it.
    #[inline]
    pub fn due(&mut self, now_ns: u64) -> bool {
        if now_ns < self.at_ns {
            return false;
        }
        if !self.started {
            self.started = true;
            self.at_ns = now_ns;
        }
        if self.unlimited {
            return true;
        }
        let backlog = MAX_BACKLOG_NS.max(self.last_cost_ns);
        let late = now_ns - self.at_ns;
        if late > backlog {
            self.forgiven_ns = self.forgiven_ns.saturating_add(late - backlog);
            self.at_ns = now_ns - backlog;
        }
        true
    }

    /// The time from which a datagram is due, by the clock given to [`due`](Self::due). In the past
    /// if one is due now.
    #[inline]
    pub fn ready_at(&self) -> u64 {
        self.at_ns
    }

    /// Accounts for one datagram of `len` bytes that was sent.
    #[inline]
    pub fn spend(&mut self, len: usize) {
        if self.unlimited {
            return;
        }
        self.cost_ns += self.per_datagram_ns + self.per_byte_ns * len as f64;
        self.spent += 1;
        if self.spent < self.burst {
            return;
        }
        // The fraction is carried over, so that 976 per second are not rounded to one per 1 024 590
        // ns. Float to integer conversions saturate.
        let step = self.part_ns + self.cost_ns;
        let whole = step as u64;
        self.part_ns = (step - whole as f64).clamp(0.0, 1.0);
        self.at_ns = self.at_ns.saturating_add(whole);
        self.last_cost_ns = whole;
        self.cost_ns = 0.0;
        self.spent = 0;
    }

    /// The time by which the stream is behind its rate, in ns, because the caller was late by more
    /// than the allowed backlog.
    pub fn forgiven_ns(&self) -> u64 {
        self.forgiven_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `limiter` from `from` to `to` ns, and asks every `step` ns. Returns how many datagrams
    /// of `len` bytes were sent.
    fn run(limiter: &mut RateLimiter, from: u64, to: u64, step: u64, len: usize) -> u64 {
        let mut went = 0;
        for now in (from..to).step_by(step as usize) {
            while limiter.due(now) {
                limiter.spend(len);
                went += 1;
            }
        }
        went
    }

    #[test]
    fn the_long_run_rate_is_exact_however_rarely_it_is_asked() {
        for step in [1_000, 1_024_590, 7_000_003, 900_000_000] {
            let mut limiter = RateLimiter::new(Some(Rate::Datagrams(976.0)), 1);
            let went = run(&mut limiter, 5_000, 5_000 + 100_000_000_000, step, 64);
            // Datagrams that become due after the last step are not counted: at most those of one
            // step.
            let unseen = step * 976 / 1_000_000_000 + 1;
            assert!((97_600 - unseen..=97_601).contains(&went), "{went} with steps of {step}");
            assert_eq!(limiter.forgiven_ns(), 0);
        }
    }

    #[test]
    fn bytes_are_limited_by_length() {
        let mut limiter = RateLimiter::new(Some(Rate::Bytes(350e6)), 1);
        let went = run(&mut limiter, 0, 10_000_000_000, 100_000, 256 << 10);
        assert!((13_350..=13_352).contains(&went), "{went}"); // 3.5e9 / 262144 = 13351.4
    }

    #[test]
    fn a_burst_is_due_at_once_and_a_pause_follows() {
        let mut limiter = RateLimiter::new(Some(Rate::Datagrams(1000.0)), 10);
        let mut times = Vec::new();
        for now in (0..30_000_000).step_by(100_000) {
            while limiter.due(now) {
                limiter.spend(64);
                times.push(now);
            }
        }
        assert_eq!(times, [[0; 10], [10_000_000; 10], [20_000_000; 10]].concat());
        assert_eq!(limiter.ready_at(), 30_000_000);
    }

    #[test]
    fn a_long_delay_is_made_up_for_up_to_the_cap() {
        let mut limiter = RateLimiter::new(Some(Rate::Datagrams(1000.0)), 1);
        assert_eq!(run(&mut limiter, 0, 1, 1, 64), 1);
        // Half a second late: everything is made up for.
        assert_eq!(run(&mut limiter, 500_000_000, 500_000_001, 1, 64), 500);
        assert_eq!(limiter.forgiven_ns(), 0);
        // An hour late: the data of one second, and the one that is due now. The rest is counted.
        let hour = 3_600_000_000_000;
        assert_eq!(run(&mut limiter, hour, hour + 1, 1, 64), 1001);
        assert_eq!(limiter.forgiven_ns(), hour - 501_000_000 - MAX_BACKLOG_NS);
        assert!(!limiter.due(hour));
    }

    #[test]
    fn a_pause_longer_than_the_cap_is_kept() {
        // One in ten seconds, asked each time 9.9 s late.
        let mut limiter = RateLimiter::new(Some(Rate::Datagrams(0.1)), 1);
        assert_eq!(run(&mut limiter, 0, 1, 1, 64), 1);
        for n in 1..=50_u64 {
            let now = n * 10_000_000_000 + 9_900_000_000;
            assert_eq!(run(&mut limiter, now, now + 1, 1, 64), 1, "{n}");
        }
        assert_eq!(limiter.forgiven_ns(), 0);
    }

    #[test]
    fn without_a_rate_everything_is_due() {
        let mut limiter = RateLimiter::new(None, 1);
        for now in [7, 7, 8, 3_600_000_000_000, u64::MAX] {
            assert!(limiter.due(now));
            limiter.spend(usize::MAX);
        }
        assert_eq!((limiter.ready_at(), limiter.forgiven_ns()), (7, 0));
    }

    #[test]
    fn nothing_overflows() {
        for rate in [0.0, -1.0, f64::NAN, 5e-324, f64::INFINITY, 1e300] {
            for rate in [Rate::Bytes(rate), Rate::Datagrams(rate)] {
                let mut limiter = RateLimiter::new(Some(rate), 2);
                for now in [0, 1, u64::MAX - 1, u64::MAX, 3] {
                    for _ in 0..5 {
                        if limiter.due(now) {
                            limiter.spend(usize::MAX);
                        }
                    }
                }
            }
        }
        let mut stopped = RateLimiter::new(Some(Rate::Datagrams(0.0)), 1);
        assert_eq!(run(&mut stopped, 0, 1_000_000_000, 1_000_000, 64), 1);
    }
}
