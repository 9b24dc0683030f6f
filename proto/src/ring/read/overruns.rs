//! How a lapped reader recovers: it finds where to resume and reports what it lost.
//!
//! Contract: the work is bounded and done by the reader. What is reported as lost is really
//! overwritten, and the count is exact (I3, I4).

use super::{Corrupt, Resume, RingReader, is_stamp_of};
use crate::ring::site;
use crate::ring::{Cause, Gap};
use crate::sync::{Ordering, weakened};

/// Number of searches within one lap before a reader gives up the rest and goes to the write
/// cursor. This keeps a step bounded.
const LAP_ATTEMPTS: u32 = 64;

impl RingReader {
    /// Distinguishes damage from a lap: a slot below the write cursor that has not been claimed
    /// again must still belong to its seq.
    #[cold]
    pub(super) fn damaged(&self, seq: u64) -> Result<(), Corrupt> {
        let stamp = self.memory.slot(seq).stamp.load(Ordering::Relaxed);
        // P2, as in `intact`; partner: the publisher's CLAIM_FENCE.
        site::VALIDATE_FENCE.fence_acquire();
        if !is_stamp_of(stamp, seq)
            && self.memory.claimed().slot_is_valid(self.memory.geometry(), seq)
        {
            return Err(Corrupt { seq, what: "a slot below the write cursor is not its own" });
        }
        Ok(())
    }

    #[cold]
    pub(super) fn went_back(&self) -> Corrupt {
        Corrupt { seq: self.seq, what: "the write cursor went back" }
    }

    /// First seq whose slot and payload are both still valid; the write cursor if there is none.
    /// This refreshes `cached`.
    ///
    /// Slots hold their virtual position, which grows with seq, so this is a binary search of at
    /// most 26 probes. The lapped reader pays for it, and the publisher needs no checkpoints.
    pub(super) fn oldest(&mut self) -> u64 {
        self.refresh();
        let claimed = self.memory.claimed();
        let geometry = self.memory.geometry();
        let (mut low, mut high) = (claimed.first_slot(geometry).min(self.cached), self.cached);
        while low < high {
            let middle = low + (high - low) / 2;
            let pos = self.memory.slot(middle).pos.load(Ordering::Relaxed);
            if claimed.payload_is_valid(geometry, pos) { high = middle } else { low = middle + 1 }
        }
        low
    }

    fn distance(first: u64, at: u64) -> u64 {
        at - first - u64::from(weakened(site::LAP_MISCOUNTED))
    }

    /// Skips what was overwritten, counts it and reports it.
    #[cold]
    pub(super) fn lap(&mut self) -> Result<Gap, Corrupt> {
        let first = self.seq;
        self.damaged(first)?;
        let mut attempts = 0;
        let (at, found) = loop {
            let oldest = self.oldest();
            if self.cached <= first {
                return Err(self.went_back());
            }
            let at = match self.resume {
                Resume::Oldest => oldest + (self.cached - oldest) / 8,
                Resume::Newest => self.cached.saturating_sub(1).max(oldest),
            };
            // `first`, which is below the cursor, is overwritten: resume after it, whatever the
            // search found.
            let at = at.max(first + 1);
            if at >= self.cached {
                break (self.cached, None);
            }
            if let Some(found) = self.describe(at) {
                break (at, Some(self.checked(found)?));
            }
            // Lapped again during this search. If that happens again and again, nothing of what was
            // found is left, and the gap may as well reach up to the cursor.
            self.damaged(at)?;
            attempts += 1;
            if attempts == LAP_ATTEMPTS {
                break (self.cached, None);
            }
        };
        let count = Self::distance(first, at);
        let bytes = found.and_then(|d| d.bytes_before.checked_sub(self.bytes?));
        let gap = Gap {
            first,
            count,
            bytes,
            time: found.map_or(0, |d| d.publish_time),
            cause: Cause::Lapped,
        };
        self.seq = at;
        self.bytes = found.map(|d| d.bytes_before);
        self.upstream_stale = true;
        self.account.lost = self.account.lost.saturating_add(count);
        self.account.bytes_lost = self.account.bytes_lost.saturating_add(bytes.unwrap_or(0));
        self.account.gaps += 1;
        self.account.lag_max = self.account.lag_max.max(self.cached - first);
        self.account.last_gap = Some(gap);
        Ok(gap)
    }
}
