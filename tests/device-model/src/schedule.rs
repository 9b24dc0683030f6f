//! When the next datagram is made, on a machine that may wake the model late.
//!
//! Contract: the long-run rate is that of [`RateLimiter`]. A model that woke late catches up, but
//! no faster than a device could be off: between two bursts there is at least 9/10 of their regular
//! pause. So a FIFO overflows because it was drained too late, and not because a program that had
//! overslept filled it too fast. The account has how late the model was: that is the jitter of this
//! machine.

use ringweir_cli::quantity::Rate;
use ringweir_pattern::rate_limiter::RateLimiter;

/// Decides when datagrams are made.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: Option<Rate>,
    burst: u32,
    /// Whether it catches up at once.
    strict: bool,
    limiter: RateLimiter,
    /// Not before this, whatever the schedule says.
    earliest: u64,
    /// When the current burst began, and how many of its datagrams are still to be made.
    current_burst: Option<(u64, u32)>,
    late_max: u64,
    late_last: u64,
    late_often: u64,
    forgiven: u64,
}

/// No rate: each datagram follows when the one before was taken, after a pause that sweeps evenly
/// from nothing to the longest. So datagrams arrive at every point of a consumer's way to sleep,
/// from when it finds its FIFO empty.
#[derive(Clone, Debug)]
pub struct Chase {
    longest: u64,
    nth: u64,
}

impl Chase {
    /// Pauses below `longest` ns.
    pub fn new(longest: u64) -> Self {
        Self { longest, nth: 0 }
    }

    /// The next pause, ns: multiples of the golden ratio, whose fractions are spread evenly however
    /// many there are.
    pub fn pause(&mut self) -> u64 {
        self.nth += 1;
        let fraction = self.nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(fraction) * u128::from(self.longest)) >> 64) as u64
    }
}

/// Lateness that is counted, in ns.
const LATE: u64 = 1_000_000;

impl Schedule {
    /// The schedule of `rate` in bursts of `burst`; with `strict` it catches up at once.
    pub fn new(rate: Option<Rate>, burst: u32, strict: bool) -> Self {
        let (limiter, burst) = (RateLimiter::new(rate, burst), burst.max(1));
        Self {
            rate,
            burst,
            strict,
            limiter,
            earliest: 0,
            current_burst: None,
            late_max: 0,
            late_last: 0,
            late_often: 0,
            forgiven: 0,
        }
    }

    /// Whether a datagram is due at `now` (ns, monotonic). Each one that is made must be accounted
    /// for with [`spend`](Self::spend).
    pub fn due(&mut self, now: u64) -> bool {
        if self.current_burst.is_some() {
            return true;
        }
        if now < self.earliest || !self.limiter.due(now) {
            return false;
        }
        if self.rate.is_some() {
            let late = now - self.limiter.ready_at();
            self.late_max = self.late_max.max(late);
            // While it catches up it is late all the time, but it fell behind only once.
            self.late_often += u64::from(late > self.late_last + LATE);
            self.late_last = late;
        }
        self.current_burst = Some((now, self.burst));
        true
    }

    /// Accounts for a datagram of `len` payload bytes.
    pub fn spend(&mut self, len: usize) {
        let before = self.limiter.ready_at();
        self.limiter.spend(len);
        match self.current_burst {
            Some((began, left)) if left > 1 => self.current_burst = Some((began, left - 1)),
            Some((began, _)) => {
                self.current_burst = None;
                let pause = self.limiter.ready_at() - before;
                if !self.strict {
                    self.earliest = began.saturating_add(pause - pause / 10);
                }
            }
            None => {}
        }
    }

    /// When the next datagram is due.
    pub fn ready_at(&self) -> u64 {
        if self.current_burst.is_some() { 0 } else { self.limiter.ready_at().max(self.earliest) }
    }

    /// Starts the schedule again at the next look: it does not make up for datagrams that were not
    /// made meanwhile.
    pub fn restart(&mut self) {
        self.forgiven += self.limiter.forgiven_ns();
        self.limiter = RateLimiter::new(self.rate, self.burst);
        (self.earliest, self.current_burst, self.late_last) = (0, None, 0);
    }

    /// The latest that a burst was made behind its time, in ns.
    pub fn late_max(&self) -> u64 {
        self.late_max
    }

    /// How often it fell behind by more than 1 ms.
    pub fn late_often(&self) -> u64 {
        self.late_often
    }

    /// Time given up because it was behind by more than a second, in ns.
    pub fn forgiven(&self) -> u64 {
        self.forgiven + self.limiter.forgiven_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When datagrams are made if the schedule is asked every 10 us, except while it oversleeps.
    fn made(schedule: &mut Schedule, oversleeps: std::ops::Range<u64>, until: u64) -> Vec<u64> {
        let looks = (1_000_000..until).step_by(10_000).filter(|now| !oversleeps.contains(now));
        looks
            .flat_map(|now| {
                std::iter::from_fn(|| schedule.due(now).then(|| schedule.spend(1)).map(|()| now))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn schedule(burst: u32, strict: bool) -> Schedule {
        Schedule::new(Some(Rate::Datagrams(1000.0)), burst, strict)
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_late_model_catches_up_without_a_flood() {
        let mut late = schedule(1, false);
        let times = made(&mut late, 100_000_000..140_000_000, SECOND);
        let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 900_000), "{:?}", gaps.iter().min());
        // The rate is kept: 40 datagrams are made up for, at 900 us instead of 1000.
        assert_eq!(times.len(), 999);
        assert!(gaps.iter().filter(|gap| **gap < 950_000).count() >= 390);
        assert!((39_000_000..41_000_000).contains(&late.late_max()), "{}", late.late_max());
        assert_eq!(late.late_often(), 1);
        // Controls: without oversleeping the pause is kept; a strict schedule floods.
        let mut well = schedule(1, false);
        let times = made(&mut well, 0..0, SECOND);
        assert!(times.windows(2).all(|w| w[1] - w[0] >= 990_000));
        assert_eq!((times.len(), well.late_often()), (999, 0));
        let times = made(&mut schedule(1, true), 100_000_000..140_000_000, SECOND);
        assert_eq!((times.len(), times.iter().filter(|t| **t == 140_000_000).count()), (999, 41));
    }

    #[test]
    fn a_burst_is_made_at_once_and_the_pause_follows() {
        let times = made(&mut schedule(10, false), 100_000_000..140_000_000, SECOND);
        assert_eq!(times.len(), 1000);
        for burst in times.chunks(10) {
            assert_eq!(burst[0], burst[9]);
        }
        assert!(
            times.chunks(10).zip(times.chunks(10).skip(1)).all(|(a, b)| b[0] - a[0] >= 9_000_000)
        );
    }

    #[test]
    fn chase_pauses_are_spread_evenly() {
        let mut chase = Chase::new(2000);
        let mut often = [0; 20];
        (0..10_000).for_each(|_| often[chase.pause() as usize / 100] += 1);
        assert!(often.iter().all(|n| (495..=505).contains(n)), "{often:?}");
        assert_eq!(Chase::new(0).pause(), 0);
    }

    #[test]
    fn without_a_rate_it_is_always_due() {
        let mut schedule = Schedule::new(None, 1, false);
        for _ in 0..100 {
            assert!(schedule.due(5));
            schedule.spend(100);
        }
        assert_eq!((schedule.ready_at(), schedule.late_max()), (5, 0));
    }
}
