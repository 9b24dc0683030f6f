//! The memory of one ring as the algorithm sees it.
//!
//! Contract: a [`RingMemory`] is constructed over memory of a checked geometry, which stays valid
//! as long as the backing lives. All loads and stores use atomics or `copy.rs`. No code ever makes
//! a slice over payload that another process may be writing.

#![allow(unsafe_code)]

use super::copy;
use super::link_type::LinkType;
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
    // Invariant: dropping it unmaps or frees all of the above, and nothing else does.
    _backing: Box<dyn Any + Send + Sync>,
}

// SAFETY: all shared state behind the pointers is atomics, or payload that is accessed only through
// `copy.rs`, whose racing reads are validated before use. The backing is Send + Sync itself.
unsafe impl Send for RingMemory {}
// SAFETY: as for Send: shared references reach only atomics, and payload through `copy.rs`.
unsafe impl Sync for RingMemory {}

/// Which code of this process may access the payload of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A read-only mapping: readers.
    ReadOnly,
    /// The publisher's mapping: only the publisher. Readers in the same process attach like any
    /// other and get a separate mapping.
    Publisher,
    /// Private memory of this process, shared by publisher and readers. All payload is moved by
    /// `copy.rs`.
    Heap,
}

/// The pointers for [`RingMemory::from_parts`].
pub(crate) struct Parts {
    pub claim: NonNull<ClaimLine>,
    pub write: NonNull<WriteLine>,
    pub state: NonNull<StateLine>,
    pub counters: NonNull<CounterLines>,
    pub restarts: NonNull<RestartLines>,
    pub slots: NonNull<[Slot]>,
    pub payload: NonNull<[AtomicU64]>,
}

/// The result of [`RingMemory::look`].
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

    /// The validated sizes.
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

    /// The place for the record of the restart that began `generation`. It may hold another record.
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

    /// The payload area, for `copy.rs`.
    #[inline(always)]
    pub(super) fn payload(&self) -> copy::Payload<'_> {
        // SAFETY: `capacity / 8` words, valid while the backing lives (from_parts), which the
        // result borrows.
        unsafe { copy::Payload::new(self.payload) }
    }

    /// The claim line now. The loads are relaxed; the caller's fence orders them.
    #[inline(always)]
    pub(super) fn claimed(&self) -> ClaimEnd {
        let line = self.claim_line();
        ClaimEnd { seq: line.seq.load(Ordering::Relaxed), pos: line.pos.load(Ordering::Relaxed) }
    }

    /// The claim line, for statistics.
    pub fn claimed_now(&self) -> ClaimEnd {
        self.claimed()
    }

    /// The write cursor: every seq below it is committed. For statistics and wake decisions; a
    /// reader caches its own copy.
    #[inline(always)]
    pub fn write_cursor(&self) -> u64 {
        load_acquire(&self.write_line().seq)
    }

    /// Publish time of `seq` and the bytes before it, if it is committed and still there; for
    /// statistics.
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
        // P2, as in a reader: the claim line is loaded after the slot; partner: the publisher's
        // CLAIM_FENCE.
        site::VALIDATE_FENCE.fence_acquire();
        self.is_valid(seq, pos).then_some(looked)
    }

    /// Whether the current claim line leaves the datagram `seq` at `pos` valid (I3). The result is
    /// meaningful only after a fence (P2).
    #[inline(always)]
    pub(super) fn is_valid(&self, seq: u64, pos: u64) -> bool {
        let claimed = self.claimed();
        weakened(site::VALIDATE_SKIPPED)
            || (claimed.slot_is_valid(&self.geometry, seq)
                && claimed.payload_is_valid(&self.geometry, pos))
    }

    /// Whether the stream has ended. If so, a write cursor loaded after this is the final one.
    pub fn has_ended(&self) -> bool {
        load_acquire(&self.state_line().ended) != 0
    }

    /// [`StateLine::source`]: whether the source's device is present.
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

    /// What the datagrams are in a capture.
    pub fn link_type(&self) -> LinkType {
        LinkType::from_word(self.counter(crate::stats::PumpCounter::LinkType))
    }

    /// Generation of the ring, from 1.
    pub fn generation(&self) -> u64 {
        self.state_line().generation.load(Ordering::Relaxed)
    }
}
