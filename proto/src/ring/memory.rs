//! The memory of one ring as the algorithm sees it.
//!
//! Contract: constructed once over memory that stays valid, and whose geometry was checked, for as
//! long as the backing lives. Loads and stores go through atomics or through `copy.rs`; nothing
//! ever makes a slice over payload that another process may be writing.

#![allow(unsafe_code)]

use super::copy;
use super::site;
use crate::layout::{
    ClaimLine, CounterLines, Geometry, RESTARTS, RestartLines, RestartRecord, Slot, StateLine,
    WriteLine,
};
use crate::seq::ClaimEnd;
use crate::sync::{AtomicU64, Ordering, load_acquire, weakened};
use std::any::Any;
use std::ptr::NonNull;

/// Header lines, slots and payload of one ring, with the owner that keeps them mapped.
pub struct RingMemory {
    geometry: Geometry,
    access: Access,
    claim: NonNull<ClaimLine>,
    write: NonNull<WriteLine>,
    state: NonNull<StateLine>,
    counters: NonNull<CounterLines>,
    restarts: NonNull<RestartLines>,
    slots: NonNull<[Slot]>,
    payload: NonNull<[AtomicU64]>,
    // Invariant: dropping it is what unmaps or frees all of the above; nothing else may.
    _backing: Box<dyn Any + Send + Sync>,
}

// SAFETY: all shared state behind the pointers is atomics, or payload touched only through
// `copy.rs`, whose racing reads are validated before use; the backing is Send + Sync itself.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

/// Who may touch the payload of a ring from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A read-only mapping: readers.
    ReadOnly,
    /// The publisher's mapping: the publisher alone. Readers of the same process attach like any
    /// other and get a mapping of their own.
    Publisher,
    /// Memory of this process alone: readers beside the publisher, so all payload is moved by
    /// `copy.rs`.
    Heap,
}

/// The pointers a builder hands over; see [`RingMemory::from_parts`].
pub(crate) struct Parts {
    pub claim: NonNull<ClaimLine>,
    pub write: NonNull<WriteLine>,
    pub state: NonNull<StateLine>,
    pub counters: NonNull<CounterLines>,
    pub restarts: NonNull<RestartLines>,
    pub slots: NonNull<[Slot]>,
    pub payload: NonNull<[AtomicU64]>,
}

/// What [`RingMemory::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// CLOCK_MONOTONIC ns.
    pub publish_time: u64,
    /// Payload bytes of all datagrams before it.
    pub bytes_before: u64,
}

impl RingMemory {
    /// # Safety
    /// Every pointer in `parts` is aligned and valid for reads for as long as `backing` lives, and
    /// for writes too unless `access` is [`Access::ReadOnly`]. `slots` has `geometry.depth()`
    /// entries and `payload` `geometry.capacity() / 8`.
    pub(crate) unsafe fn from_parts(
        geometry: Geometry,
        access: Access,
        parts: Parts,
        backing: Box<dyn Any + Send + Sync>,
    ) -> Self {
        let Parts { claim, write, state, counters, restarts, slots, payload } = parts;
        Self {
            geometry,
            access,
            claim,
            write,
            state,
            counters,
            restarts,
            slots,
            payload,
            _backing: backing,
        }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Sizes, as validated.
    #[inline(always)]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline(always)]
    pub(super) fn claim_line(&self) -> &ClaimLine {
        // SAFETY: valid and aligned while the backing lives (from_parts).
        unsafe { self.claim.as_ref() }
    }

    #[inline(always)]
    pub(super) fn write_line(&self) -> &WriteLine {
        // SAFETY: valid and aligned while the backing lives (from_parts).
        unsafe { self.write.as_ref() }
    }

    #[inline(always)]
    pub(super) fn state_line(&self) -> &StateLine {
        // SAFETY: valid and aligned while the backing lives (from_parts).
        unsafe { self.state.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn counters(&self) -> &CounterLines {
        // SAFETY: valid and aligned while the backing lives (from_parts).
        unsafe { self.counters.as_ref() }
    }

    /// Where the record of the restart that began `generation` is, if it is there at all.
    pub(super) fn restart(&self, generation: u64) -> &RestartRecord {
        // SAFETY: valid and aligned while the backing lives (from_parts).
        let lines = unsafe { self.restarts.as_ref() };
        &lines.record[(generation % RESTARTS as u64) as usize]
    }

    /// The slot of `seq`.
    #[inline(always)]
    pub(super) fn slot(&self, seq: u64) -> &Slot {
        let index = (seq & (self.geometry.depth() - 1)) as usize;
        // SAFETY: valid and aligned while the backing lives (from_parts); the index is below depth,
        // a power of two.
        unsafe { &self.slots.as_ref()[index] }
    }

    /// The payload area as the words that `copy.rs` moves.
    #[inline(always)]
    pub(super) fn payload(&self) -> copy::Payload<'_> {
        // SAFETY: `capacity / 8` words, valid while the backing lives (from_parts), which the
        // result borrows.
        unsafe { copy::Payload::new(self.payload) }
    }

    /// The claim line as it stands. Relaxed: the caller's fence gives it meaning.
    #[inline(always)]
    pub(super) fn claimed(&self) -> ClaimEnd {
        let line = self.claim_line();
        ClaimEnd { seq: line.seq.load(Ordering::Relaxed), pos: line.pos.load(Ordering::Relaxed) }
    }

    /// The claim line, for statistics: how much of the ring is history.
    pub fn claimed_now(&self) -> ClaimEnd {
        self.claimed()
    }

    /// The write cursor: every seq below it is committed. For statistics and wake decisions; a
    /// reader keeps its own copy.
    #[inline(always)]
    pub fn write_cursor(&self) -> u64 {
        load_acquire(&self.write_line().seq)
    }

    /// Publish time and bytes before `seq`, if it is committed and still there: for statistics.
    pub fn look(&self, seq: u64) -> Option<Looked> {
        if seq >= self.write_cursor() {
            return None;
        }
        let slot = self.slot(seq);
        let looked = Looked {
            publish_time: slot.publish_time.load(Ordering::Relaxed),
            bytes_before: slot.bytes_before.load(Ordering::Relaxed),
        };
        let pos = slot.pos.load(Ordering::Relaxed);
        // P2, as for a reader.
        site::VALIDATE_FENCE.fence_acquire();
        self.is_valid(seq, pos).then_some(looked)
    }

    /// Whether the claim line, as it stands, leaves the datagram `seq` at `pos` (I3). It means
    /// something only behind a fence (P2).
    #[inline(always)]
    pub(super) fn is_valid(&self, seq: u64, pos: u64) -> bool {
        let claimed = self.claimed();
        weakened(site::VALIDATE_SKIPPED)
            || (claimed.slot_is_valid(&self.geometry, seq)
                && claimed.payload_is_valid(&self.geometry, pos))
    }

    /// Whether the stream has ended: the write cursor read after this is the last one.
    pub fn has_ended(&self) -> bool {
        load_acquire(&self.state_line().ended) != 0
    }

    /// [`StateLine::source`]: whether the device behind the source is there.
    pub fn source_word(&self) -> u64 {
        self.state_line().source.load(Ordering::Relaxed)
    }

    /// [`StateLine::position`], if it is known.
    pub(super) fn position(&self) -> Option<u32> {
        let word = self.state_line().position.load(Ordering::Relaxed);
        (word >> 63 != 0).then_some(word as u32)
    }

    /// A counter of the pump, for statistics.
    pub fn counter(&self, counter: crate::stats::PumpCounter) -> u64 {
        self.counters().count[counter as usize].load(Ordering::Relaxed)
    }

    /// Life of the ring, from 1.
    pub fn generation(&self) -> u64 {
        self.state_line().generation.load(Ordering::Relaxed)
    }
}
