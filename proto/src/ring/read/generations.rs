//! The lives of a ring, as its reader passes from one to the next.
//!
//! Contract: a restart is told once, with the cursor exactly where the new life began (I9), by the
//! record that its adopter left.

use super::{Corrupt, RingReader};
use crate::layout::RESTARTS;
use crate::ring::Restarted;
use crate::ring::site;
use crate::sync::{Ordering, weakened};

/// A restart as the ring records it: sums over all restarts up to it.
struct Record {
    generation: u64,
    first: u64,
    lost: u64,
    inexact: u64,
}

impl RingReader {
    #[inline(always)]
    pub(super) fn newest_generation(&self) -> u64 {
        // P12: a thread that sees a generation sees its record; partner: the adopter's
        // RESTART_STORE. Behind the load of the cursor, so that no datagram is seen before its
        // generation.
        site::RESTART_LOAD.load_acquire(&self.memory.state_line().generation)
    }

    /// I9: nothing beyond the end of this reader's generation before that was told.
    #[cold]
    pub(super) fn stop_at_boundary(&mut self) {
        if !weakened(site::BOUNDARY_IGNORED) {
            // Without a record the ring is damaged, which the next step says.
            self.cached = self.cached.min(self.next_life().map_or(self.seq, |record| record.first));
        }
    }

    /// How the generation after this reader's began, in sums; after more restarts than are
    /// remembered, the oldest that is.
    fn next_life(&self) -> Option<Record> {
        loop {
            let newest = self.newest_generation();
            // One record more may just be being overwritten by who adopts the ring again.
            let generation =
                self.generation.saturating_add(1).max(newest.saturating_sub(RESTARTS as u64 - 2));
            let record = self.memory.restart(generation);
            let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
            let own = load(&record.generation) == generation;
            let (first, lost, inexact) =
                (load(&record.first), load(&record.lost), load(&record.inexact));
            // As P2: had an adopter begun to overwrite this record, the generation it follows would
            // be seen.
            site::VALIDATE_FENCE.fence_acquire();
            if self.newest_generation() == newest {
                return own.then_some(Record { generation, first, lost, inexact });
            }
        }
    }

    /// In which life `seq`, where this reader begins, is or will be published.
    pub(super) fn find_generation(&mut self) {
        let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
        let newest = self.generation;
        for generation in (1..=newest).rev().take(RESTARTS - 1) {
            let record = self.memory.restart(generation);
            self.generation = generation;
            if load(&record.generation) != generation {
                // The ring was made in this one.
                (self.restart_lost, self.restart_inexact) = (0, 0);
                break;
            }
            (self.restart_lost, self.restart_inexact) = (load(&record.lost), load(&record.inexact));
            if load(&record.first) <= self.seq {
                break;
            }
        }
        self.outlived |= self.generation != newest;
        if self.outlived {
            self.stop_at_boundary();
        }
    }

    /// The restart that this reader has come to, if it has.
    #[cold]
    pub(super) fn restarted(&mut self) -> Result<Option<Restarted>, Corrupt> {
        let corrupt = |what| Err(Corrupt { seq: self.seq, what });
        let Some(Record { generation, first, lost, inexact }) = self.next_life() else {
            return corrupt("a restart without a record");
        };
        if first > self.seq {
            return Ok(None);
        }
        if first < self.seq || lost < self.restart_lost {
            return corrupt("a restart that contradicts those before it");
        }
        let (lost_now, exact) = (lost - self.restart_lost, inexact == self.restart_inexact);
        let told = Restarted { generation, first, lost: lost_now, exact };
        if !weakened(site::RESTART_TWICE) {
            (self.generation, self.restart_lost, self.restart_inexact) =
                (generation, lost, inexact);
        }
        self.account.restarts += 1;
        self.account.restart_lost = self.account.restart_lost.saturating_add(told.lost);
        Ok(Some(told))
    }
}
