//! Finds readers whose wake takes the pump too long.
//!
//! Contract: measured in processor time, so it does not matter whether the pump is interrupted
//! during a wake. One wake in [`MEASURED`] is measured.

/// A wake is slow if it takes this much processor time; a normal one takes a tenth of it.
pub const SLOW_WAKE_NS: u64 = 25_000;
/// One that takes this much needs no second.
pub const VERY_SLOW_WAKE_NS: u64 = 1_000_000;
/// One inline wake in this many is measured.
const MEASURED: u32 = 16;
/// Slow wakes of one reader in a row, among the measured ones, before it counts as slow.
pub const IN_A_ROW: u32 = 3;

/// The detector of one pump.
#[derive(Default)]
pub struct SlowWakeDetector {
    wakes: u32,
    index: u32,
    in_a_row: u32,
}

impl SlowWakeDetector {
    /// Counts an inline wake. Returns whether to measure it.
    pub fn count_wake(&mut self) -> bool {
        self.wakes = self.wakes.wrapping_add(1);
        self.wakes.is_multiple_of(MEASURED)
    }

    /// Records that the measured wake of reader `index` took `ns`. Returns whether the reader has
    /// been slow too often.
    pub fn record(&mut self, index: u32, ns: u64) -> bool {
        let again = ns >= SLOW_WAKE_NS && (self.in_a_row == 0 || self.index == index);
        (self.index, self.in_a_row) =
            (index, if again { self.in_a_row + 1 } else { (ns >= SLOW_WAKE_NS).into() });
        let found = self.in_a_row >= IN_A_ROW || ns >= VERY_SLOW_WAKE_NS;
        if found {
            self.in_a_row = 0;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_slow_after_several_slow_wakes_in_a_row() {
        let mut detector = SlowWakeDetector::default();
        assert_eq!((1..=2 * MEASURED).filter(|_| detector.count_wake()).count(), 2);
        let found = |took: &[(u32, u64)]| {
            let mut detector = SlowWakeDetector::default();
            took.iter().filter(|(index, ns)| detector.record(*index, *ns)).count()
        };
        let (slow, quick) = (SLOW_WAKE_NS, SLOW_WAKE_NS - 1);
        assert_eq!(found(&[(1, slow), (1, slow), (1, slow)]), 1);
        assert_eq!(found(&[(1, slow), (1, quick), (1, slow), (1, slow)]), 0);
        assert_eq!(
            found(&[(1, slow), (1, slow), (2, slow), (2, slow), (1, slow)]),
            0,
            "another reader in between"
        );
        assert_eq!(found(&[(1, slow), (2, slow), (2, slow), (2, slow)]), 1);
        assert_eq!(found(&[(1, quick), (1, VERY_SLOW_WAKE_NS)]), 1, "at once");
    }
}
