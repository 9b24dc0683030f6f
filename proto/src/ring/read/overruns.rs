//! What a reader does that was lapped: find where to go on, and say what is gone.
//!
//! Contract: bounded work, on the reader's own time; what is told as lost is gone, and counted to
//! the datagram (I3, I4).

use super::{Corrupt, Resume, RingReader, is_stamp_of};
use crate::ring::site;
use crate::ring::{Cause, Gap};
use crate::sync::{Ordering, weakened};

/// Searches within one lap before a reader gives up what is left and goes to the write cursor:
/// keeps a step bounded.
const LAP_ATTEMPTS: u32 = 64;

impl RingReader {
    /// Tells damage from a lap: a slot below the write cursor that was never claimed again is its
    /// own.
    #[cold]
    pub(super) fn damaged(&self, seq: u64) -> Result<(), Corrupt> {
        let stamp = self.memory.slot(seq).stamp.load(Ordering::Relaxed);
        // P2, as in `intact`.
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

    /// First seq whose slot and payload are both still there; the write cursor if none is. Leaves
    /// `cached` fresh.
    ///
    /// Slots hold their virtual position, which grows with seq, so this is a binary search: at most
    /// 26 probes, on the lapped reader's time, and the publisher keeps no checkpoints for it.
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

    /// Passes over what is gone, counts it and says so.
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
            // `first`, below the cursor, is gone: whatever the search says, go on behind it.
            let at = at.max(first + 1);
            if at >= self.cached {
                break (self.cached, None);
            }
            if let Some(found) = self.describe(at) {
                break (at, Some(self.checked(found)?));
            }
            // Lapped again within this search. Where that goes on and on, nothing of what was found
            // is left: the gap may as well reach up to the cursor.
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
