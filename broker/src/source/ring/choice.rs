//! Which datagrams of the other stream are taken.
//!
//! Contract: decides without a clock: a rate follows the publish times of the other stream, so a
//! source that has fallen behind takes the same datagrams as one that has not.

use super::spec::{Spec, Take};

/// Datagrams of one batch have one publish time, so a rate is kept over this time.
const BURST_NS: f64 = 10_000_000.0;

/// The choice of datagrams.
pub(super) struct Choice {
    channels: Vec<u16>,
    decimation: Decimation,
}

enum Decimation {
    None,
    /// Every so many; how many of each channel are to be left out before the next.
    Every(u32, Box<[u32]>),
    /// ns from one to the next, and when the next is due.
    Rate(f64, f64),
}

impl Choice {
    pub(super) fn new(spec: &Spec) -> Self {
        let decimation = match spec.take {
            Take::All => Decimation::None,
            Take::Every(number) => Decimation::Every(number, vec![0; 1 << 16].into()),
            Take::PerSecond(rate) => Decimation::Rate(1e9 / rate, f64::MIN),
        };
        Self { channels: spec.channels.clone(), decimation }
    }

    /// Whether to take a datagram of `channel` that was published at this time.
    #[inline]
    pub(super) fn takes(&mut self, channel: u16, publish_time: u64) -> bool {
        if !self.channels.is_empty() && !self.channels.contains(&channel) {
            return false;
        }
        match &mut self.decimation {
            Decimation::None => true,
            Decimation::Every(number, left) => {
                let left = &mut left[usize::from(channel)];
                let takes = *left == 0;
                *left = if takes { *number - 1 } else { *left - 1 };
                takes
            }
            Decimation::Rate(pause, due) => {
                let time = publish_time as f64;
                let takes = time >= *due;
                if takes {
                    *due = (*due + *pause).max(time - BURST_NS.max(*pause) + *pause);
                }
                takes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::parse;
    use super::*;

    fn choice(options: &str) -> Choice {
        Choice::new(&parse(&format!("x{options}")).unwrap())
    }

    #[test]
    fn every_kth_is_counted_for_each_channel() {
        let mut choice = choice(",every=3,channel=1+2");
        let taken: Vec<_> = (0..36)
            .map(|n| (n / 4, n % 4))
            .filter(|(n, channel)| choice.takes(*channel, u64::from(*n)))
            .collect();
        assert_eq!(taken, [(0, 1), (0, 2), (3, 1), (3, 2), (6, 1), (6, 2)]);
    }

    /// So many per second, in batches of any size, and no more after a pause. Control: without a
    /// rate all are taken.
    #[test]
    fn a_rate_is_kept_over_time() {
        for batch in [1, 64, 1000] {
            for (options, wanted) in [(",rate=900/s", 9000), (",rate=10/s", 100), ("", 1_000_000)] {
                let mut choice = choice(options);
                // 100 000 per second for 10 s.
                let time = |n: u64| 1_000_000_000 + n / batch * batch * 10_000;
                let taken = (0..1_000_000).filter(|n| choice.takes(0, time(*n))).count() as i64;
                assert!((taken - wanted).abs() <= wanted / 100 + 1, "{batch} {options} {taken}");
                let hour = 3_600_000_000_000;
                let later = (0..1000).filter(|_| choice.takes(0, hour)).count();
                assert!(later <= 10 || options.is_empty(), "{batch} {options} {later}");
            }
        }
    }
}
