//! How a reader passes from one generation of a ring to the next.
//!
//! Contract: a restart is reported once, from the record that its adopter left, when the cursor is
//! exactly where the new generation began (I9).

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
        // P12: a thread that sees a generation also sees its record; partner: the adopter's
        // RESTART_STORE. This load comes after that of the cursor, so that no datagram is seen
        // before its generation.
        site::RESTART_LOAD.load_acquire(&self.memory.state_line().generation)
    }

    /// I9: nothing beyond the end of this reader's generation is read before the restart is
    /// reported.
    #[cold]
    pub(super) fn stop_at_boundary(&mut self) {
        if !weakened(site::BOUNDARY_IGNORED) {
            // Without a record the ring is damaged, which the next step reports.
            self.cached =
                self.cached.min(self.next_record().map_or(self.seq, |record| record.first));
        }
    }

    /// The record of the generation after this reader's. After more restarts than the ring
    /// remembers, it is the oldest remembered one.
    fn next_record(&self) -> Option<Record> {
        loop {
            let newest = self.newest_generation();
            // One less than `RESTARTS`: the next adopter may just be overwriting the oldest record.
            let generation =
                self.generation.saturating_add(1).max(newest.saturating_sub(RESTARTS as u64 - 2));
            let record = self.memory.restart(generation);
            let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
            let own = load(&record.generation) == generation;
            let (first, lost, inexact) =
                (load(&record.first), load(&record.lost), load(&record.inexact));
            // Like P2: if an adopter had begun to overwrite this record, the load below would see
            // the generation before that adopter's; partner: that adopter's CLAIM_FENCE.
            site::VALIDATE_FENCE.fence_acquire();
            if self.newest_generation() == newest {
                return own.then_some(Record { generation, first, lost, inexact });
            }
        }
    }

    /// Finds the generation in which `seq`, where this reader begins, is or will be published.
    pub(super) fn find_generation(&mut self) {
        let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
        let newest = self.generation;
        for generation in (1..=newest).rev().take(RESTARTS - 1) {
            let record = self.memory.restart(generation);
            self.generation = generation;
            if load(&record.generation) != generation {
                // The ring was created in this generation.
                (self.restart_lost, self.restart_inexact) = (0, 0);
                break;
            }
            (self.restart_lost, self.restart_inexact) = (load(&record.lost), load(&record.inexact));
            if load(&record.first) <= self.seq {
                break;
            }
        }
        self.generation_ended |= self.generation != newest;
        if self.generation_ended {
            self.stop_at_boundary();
        }
    }

    /// The restart that this reader has reached, if any.
    #[cold]
    pub(super) fn restarted(&mut self) -> Result<Option<Restarted>, Corrupt> {
        let corrupt = |what| Err(Corrupt { seq: self.seq, what });
        let Some(Record { generation, first, lost, inexact }) = self.next_record() else {
            return corrupt("a restart without a record");
        };
        if first > self.seq {
            return Ok(None);
        }
        if first < self.seq || lost < self.restart_lost {
            return corrupt("a restart that contradicts those before it");
        }
        let (lost_now, exact) = (lost - self.restart_lost, inexact == self.restart_inexact);
        let reported = Restarted { generation, first, lost: lost_now, exact };
        if !weakened(site::RESTART_TWICE) {
            (self.generation, self.restart_lost, self.restart_inexact) =
                (generation, lost, inexact);
        }
        self.account.restarts += 1;
        self.account.restart_lost = self.account.restart_lost.saturating_add(reported.lost);
        Ok(Some(reported))
    }
}
