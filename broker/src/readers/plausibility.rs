//! What the sampler remembers of a reader from one sample to the next, and whether the words in the
//! reader's page can be true.
//!
//! Contract: only the control thread writes here. A reader found to be implausible stays so.

use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::stats::IMPLAUSIBLE;
use ringweir_proto::sync::{AtomicU64, Ordering};

/// What is remembered of one reader.
#[derive(Debug, Default)]
pub struct Observed {
    /// Largest lag seen, in bytes and ns.
    pub lag_bytes: HighWater,
    pub lag_ns: HighWater,
    /// The datagram at which its cursor last was, and when that was published: shows how long a
    /// lapped reader has not moved.
    cursor: AtomicU64,
    published: AtomicU64,
    /// The furthest its cursor has been.
    furthest: AtomicU64,
    /// Index into [`IMPLAUSIBLE`]; 0: nothing was found.
    implausible: AtomicU64,
}

/// A mark that only goes up.
#[derive(Debug, Default)]
pub struct HighWater(AtomicU64);

impl HighWater {
    /// Raises the mark to `level` if it is lower, and returns it.
    pub fn raise(&self, level: u64) -> u64 {
        self.0.fetch_max(level, Ordering::Relaxed).max(level)
    }
}

/// The words of a reader's page that are checked.
#[derive(Clone, Copy)]
pub struct PageClaim {
    /// Its read cursor.
    pub cursor: u64,
    /// Delivered and lost together. Both only grow, so two loads one after the other never exceed
    /// what there was.
    pub counted: u64,
}

impl PageClaim {
    /// Reads the words once.
    pub fn read(page: &ReaderPage) -> Self {
        // Acquire: the caller loads the write cursor after these words, so it gets at least the
        // value that an honest reader saw before it stored them. Partner: the Release store of
        // `read_seq` in `gate::release`; the other words are stored relaxed.
        let word = |word: &AtomicU64| word.load(Ordering::Acquire);
        let block = page.block();
        let counted = word(&block.delivered).saturating_add(word(&block.lost));
        Self { cursor: word(&block.read_seq), counted }
    }
}

impl Observed {
    /// Index into [`IMPLAUSIBLE`] of what was found; 0: nothing.
    pub fn implausible(&self) -> u64 {
        self.implausible.load(Ordering::Relaxed)
    }

    /// Checks the reader's claim against the write cursor. Returns a text for the first
    /// contradiction found.
    pub fn check(&self, claim: PageClaim, write: u64) -> Option<&'static str> {
        let furthest = self.furthest.fetch_max(claim.cursor, Ordering::Relaxed);
        let found = match claim {
            PageClaim { cursor, .. } if cursor > write => 1,
            PageClaim { cursor, .. } if cursor < furthest => 2,
            PageClaim { counted, .. } if counted > write => 3,
            _ => return None,
        };
        if self.implausible() != 0 {
            return None;
        }
        self.implausible.store(found, Ordering::Relaxed);
        Some(IMPLAUSIBLE[found as usize])
    }

    /// Age of the datagram at `cursor`, published at `published` if it is still in the ring. If it
    /// was overwritten, the age is known from an earlier sample; if it was never seen, it is at
    /// least `history`, the age of the oldest datagram.
    pub fn lag_ns(
        &self,
        cursor: u64,
        published: Option<u64>,
        lapped: bool,
        now: u64,
        history: u64,
    ) -> u64 {
        if let Some(published) = published {
            self.cursor.store(cursor, Ordering::Relaxed);
            self.published.store(published, Ordering::Relaxed);
            return now.saturating_sub(published);
        }
        if !lapped {
            return 0;
        }
        let seen = self.published.load(Ordering::Relaxed);
        let known = seen != 0 && self.cursor.load(Ordering::Relaxed) == cursor;
        if known { now.saturating_sub(seen) } else { history }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_lapped_reader_is_the_age_of_what_it_missed() {
        let seen = Observed::default();
        assert_eq!(
            seen.lag_ns(7, None, true, 9000, 300),
            300,
            "never seen: at least as old as the oldest"
        );
        assert_eq!(seen.lag_ns(7, Some(8000), false, 9000, 300), 1000);
        assert_eq!(seen.lag_ns(7, None, true, 20_000, 300), 12_000, "seen before it was lost");
        assert_eq!(seen.lag_ns(8, None, true, 20_000, 300), 300, "another datagram");
        assert_eq!(seen.lag_ns(8, None, false, 20_000, 300), 0, "nothing to read");
    }

    /// A contradiction is found whatever follows, and reported once. Control: claims at the limits
    /// of what is possible are accepted.
    #[test]
    fn contradictions_are_found_and_possible_claims_are_accepted() {
        let checked = |claims: &[(u64, u64)]| {
            let seen = Observed::default();
            let reported: Vec<_> = claims
                .iter()
                .filter_map(|c| seen.check(PageClaim { cursor: c.0, counted: c.1 }, 500))
                .collect();
            (seen.implausible(), reported)
        };
        assert_eq!(checked(&[(0, 0), (300, 200), (300, 300), (500, 500)]), (0, vec![]));
        for (found, claims) in [
            (1, [(501, 0), (u64::MAX, 0)]),
            (2, [(300, 0), (299, 0)]),
            (3, [(7, 501), (6, 0)]),
            (3, [(7, u64::MAX), (900, 0)]),
        ] {
            assert_eq!(checked(&claims), (found, vec![IMPLAUSIBLE[found as usize]]), "{claims:?}");
        }
    }

    #[test]
    fn a_high_water_mark_only_rises() {
        let mark = HighWater::default();
        assert_eq!([3, 9, 4].map(|level| mark.raise(level)), [3, 9, 9]);
    }
}
