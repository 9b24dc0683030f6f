//! The latency histogram: which bucket a time belongs to, how a reader counts into its
//! [`LatencyBlock`], and how to evaluate the counts.
//!
//! Contract: log-linear. Each time below 8 ns has its own bucket, and every octave above has eight.
//! So the upper end of a bucket is at most 12.5 % above a sample in it and never below it. The last
//! bucket holds everything from 2^48 ns (78 h) on. A block has one writer and any number of
//! viewers, and all accesses are relaxed: a viewer may see a sample in one word and not yet in
//! another. A reader may write anything into its block, so nothing here overflows or indexes out of
//! range.

use crate::layout::{LATENCY_BUCKETS, LatencyBlock};
use crate::sync::{AtomicU64, Ordering};

/// A reader samples the first datagram that was published at least this many nanoseconds after its
/// last sample.
pub const SAMPLE_EVERY_NS: u64 = 1_000_000;

const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;

/// Bucket of a time in ns.
pub const fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let octave = 63 - ns.leading_zeros();
    let place = ((octave - SUB_BITS) as u64 + 1) * SUB + ((ns >> (octave - SUB_BITS)) & (SUB - 1));
    if place < LATENCY_BUCKETS as u64 { place as usize } else { LATENCY_BUCKETS - 1 }
}

/// The shortest time in ns above bucket `place`; `u64::MAX` for the last one.
pub const fn above(place: usize) -> u64 {
    let next = place as u64 + 1;
    if place + 1 >= LATENCY_BUCKETS {
        return u64::MAX;
    }
    if next < 2 * SUB { next } else { (SUB + next % SUB) << (next / SUB - 1) }
}

impl LatencyBlock {
    /// Counts one sample. Only the process that owns the block may call this: it is a load and a
    /// store, not an atomic addition.
    pub fn count(&self, ns: u64) {
        let add = |word: &AtomicU64, more: u64| {
            word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&self.buckets[bucket(ns)], 1);
        add(&self.sum_ns, ns);
        self.max_ns.store(self.max_ns.load(Ordering::Relaxed).max(ns), Ordering::Relaxed);
    }
}

/// The counts of one reader, since it attached or between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Sum of all samples, ns.
    pub sum_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; LATENCY_BUCKETS], sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Copies a block, reading each word once.
    pub fn of(block: &LatencyBlock) -> Self {
        Self {
            counts: block.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect(),
            sum_ns: block.sum_ns.load(Ordering::Relaxed),
            max_ns: block.max_ns.load(Ordering::Relaxed),
        }
    }

    /// Builds it from the buckets that are not empty. Buckets that do not exist are ignored.
    pub fn from_occupied(
        occupied: impl IntoIterator<Item = (u16, u64)>,
        sum_ns: u64,
        max_ns: u64,
    ) -> Self {
        let mut histogram = Self { sum_ns, max_ns, ..Self::default() };
        for (place, count) in occupied {
            if let Some(bucket) = histogram.counts.get_mut(usize::from(place)) {
                *bucket = count;
            }
        }
        histogram
    }

    /// The buckets that are not empty: number and count.
    pub fn occupied(&self) -> impl Iterator<Item = (u16, u64)> {
        self.counts.iter().zip(0..).filter(|(n, _)| **n > 0).map(|(n, place)| (place, *n))
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Number of samples below `ns`, which should be the end of a bucket, such as a power of two.
    pub fn below(&self, ns: u64) -> u64 {
        let within = self.counts.iter().enumerate().take_while(|(place, _)| above(*place) <= ns);
        within.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The time in ns that `share` (0 to 1) of the samples do not exceed. It is the upper end of a
    /// bucket, so at most 12.5 % too high, and never above the longest sample. `None` without
    /// samples.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let samples = self.samples();
        let rank = ((samples as f64 * share).ceil() as u64).clamp(1, samples.max(1));
        let mut seen = 0u64;
        let place = self.counts.iter().position(|n| {
            seen = seen.saturating_add(*n);
            seen >= rank
        })?;
        Some((above(place) - 1).min(self.max_ns))
    }

    /// What was added since `before`, a snapshot of the same reader. Its longest sample is known
    /// only to the precision of its bucket.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let counts: Vec<u64> =
            self.counts.iter().zip(&before.counts).map(|(n, b)| n.saturating_sub(*b)).collect();
        let longest = counts.iter().rposition(|n| *n > 0).map_or(0, |place| above(place) - 1);
        Histogram {
            counts,
            sum_ns: self.sum_ns.wrapping_sub(before.sum_ns),
            max_ns: longest.min(self.max_ns),
        }
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block() -> Box<LatencyBlock> {
        Box::new(LatencyBlock {
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
            reserved: [0; 14],
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    #[test]
    fn buckets_follow_each_other_without_a_hole() {
        let mut lowest = 0;
        for place in 0..LATENCY_BUCKETS {
            assert_eq!(bucket(lowest), place, "{lowest} ns");
            assert_eq!(bucket(above(place) - 1), place, "{place}");
            assert!(
                above(place) - lowest <= (lowest / 8).max(1) || place + 1 == LATENCY_BUCKETS,
                "wider than an eighth"
            );
            lowest = above(place);
        }
        assert_eq!((bucket(u64::MAX), bucket(1 << 48)), (LATENCY_BUCKETS - 1, LATENCY_BUCKETS - 1));
        assert_eq!(bucket((1 << 48) - 1), LATENCY_BUCKETS - 1);
        assert_eq!(above(LATENCY_BUCKETS - 2), 15 << 44);
    }

    #[test]
    fn quantiles_of_known_samples() {
        let block = block();
        assert_eq!(Histogram::of(&block).quantile(0.5), None);
        (1..=1000).for_each(|us| block.count(us * 1000));
        let h = Histogram::of(&block);
        assert_eq!((h.samples(), h.sum_ns, h.max_ns), (1000, 500_500_000, 1_000_000));
        for (share, exact) in
            [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000), (0.001, 1000), (0.0, 1000)]
        {
            let reported = h.quantile(share).unwrap();
            assert!((exact..=exact + exact / 8).contains(&reported), "{share}: {reported}");
        }
        assert_eq!(h.quantile(1.0), Some(1_000_000), "never over the longest");
        assert_eq!(h.below(1 << 17), 131, "131.072 us ends a bucket");
        assert_eq!(h.below(u64::MAX), 1000);
    }

    #[test]
    fn intervals_between_two_samples() {
        let block = block();
        block.count(5_000_000);
        let before = Histogram::of(&block);
        (0..9).for_each(|_| block.count(100));
        let h = Histogram::of(&block).since(&before);
        assert_eq!((h.samples(), h.sum_ns), (9, 900));
        assert_eq!((h.quantile(0.5), h.max_ns), (Some(103), 103), "the old longest is over");
        assert_eq!(Histogram::from_occupied(h.occupied(), 900, 103), h);
    }

    proptest! {
        /// A reader may write anything into its block.
        #[test]
        fn garbage_does_no_harm(
            words in prop::collection::vec(any::<u64>(), 8),
            indexes in prop::collection::vec(any::<u16>(), 8),
        ) {
            let block = block();
            for (index, word) in indexes.iter().zip(&words) {
                let bucket = &block.buckets[usize::from(*index) % LATENCY_BUCKETS];
                bucket.store(*word, Ordering::Relaxed);
            }
            block.max_ns.store(words[0], Ordering::Relaxed);
            block.sum_ns.store(words[1], Ordering::Relaxed);
            block.count(words[2]);
            let h = Histogram::of(&block);
            let occupied = indexes.into_iter().zip(words.iter().copied());
            let again = Histogram::from_occupied(occupied, words[3], words[4]);
            for h in [&h, &again, &h.since(&again), &again.since(&h)] {
                for share in [0.0, 0.5, 0.999, 1.0] {
                    let _any = h.quantile(share);
                }
                prop_assert!(h.below(1 << 20) <= h.samples());
            }
        }
    }
}
