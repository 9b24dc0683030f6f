//! The publisher: claim, fill in place, commit, flush.
//!
//! Contract: there is exactly one per ring and generation. It never waits and never reads anything
//! that a reader can write. It announces on the claim line what it will overwrite *before* it does
//! so (I2). It claims a segment at a time, so publishing a datagram normally writes no shared line
//! except its own slot. The write cursor moves once per [`flush`].
//!
//! [`flush`]: Publisher::flush

#![allow(unsafe_code)]

#[cfg(not(ringweir_loom))]
use super::copy::Payload;
use super::crash::{self, Point};
use super::loss::Layer;
#[cfg(not(ringweir_loom))]
use super::memory::Access;
use super::memory::RingMemory;
use super::site;
use super::writable::WritableRing;
use crate::layout::{align8, flags};
use crate::seq::ClaimEnd;
use crate::stats::PumpCounter;
use crate::sync::Ordering;
#[cfg(ringweir_loom)]
use crate::sync::weakened;
use std::sync::Arc;

/// A claim is longer than the largest span of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a claim of {asked} bytes: this ring gives at most {most} at once")]
pub struct SpanTooLong {
    /// The requested length in bytes.
    pub asked: usize,
    /// [`crate::layout::Geometry::max_span`].
    pub most: usize,
}

/// What a source knows about a datagram besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// Length before it was cut; 0 = not cut.
    pub original_len: u32,
    /// Channel; 0 if the source has only one.
    pub channel: u16,
    /// When the source saw it: CLOCK_REALTIME ns, 0 = unknown.
    pub source_time: u64,
    /// When the broker took it from the source: CLOCK_MONOTONIC ns.
    pub publish_time: u64,
}

/// The writing end of a ring.
pub struct Publisher {
    pub(super) memory: Arc<RingMemory>,
    /// The geometry's capacity.
    pub(super) capacity: u64,
    /// The geometry's largest span.
    pub(super) max_span: u64,
    /// Seq of the next commit. Invariant: `flushed <= next <= claim_seq` whenever a slot is
    /// written.
    pub(super) next: u64,
    pub(super) flushed: u64,
    /// Where the current span begins, as virtual position and as offset into the payload.
    /// Invariant: `span_offset + span_len <= capacity`.
    pub(super) span_pos: u64,
    pub(super) span_offset: u64,
    pub(super) span_len: u64,
    /// Bytes of the span that commits have used up, a multiple of 8.
    pub(super) used: u64,
    /// Copy of the claim line. Invariant: never behind what is being written.
    pub(super) claim_seq: u64,
    pub(super) claim_pos: u64,
    pub(super) bytes: u64,
    /// Losses before the ring, modulo 2^32, and the flags that describe the latest of them.
    pub(super) upstream: u32,
    pub(super) upstream_flags: u16,
    /// As in [`crate::layout::StateLine::source`].
    pub(super) source: u64,
    /// Datagrams that earlier restarts cost, modulo 2^32.
    pub(super) restart_lost: u32,
    /// How far lossless readers let the claim line move ([`super::LosslessGate`]).
    pub(super) limit: ClaimEnd,
}

/// Claimed ring memory, to be filled and then committed: exclusive to the publisher, contiguous,
/// 8-aligned.
pub struct Claim<'p> {
    publisher: &'p mut Publisher,
}

impl Publisher {
    /// The writing end of an empty ring.
    pub fn new(ring: WritableRing) -> Self {
        let memory = ring.into_memory();
        let (capacity, max_span) = (memory.geometry().capacity(), memory.geometry().max_span());
        Self {
            memory,
            capacity,
            max_span,
            next: 0,
            flushed: 0,
            span_pos: 0,
            span_offset: 0,
            span_len: 0,
            used: 0,
            claim_seq: 0,
            claim_pos: 0,
            bytes: 0,
            upstream: 0,
            upstream_flags: 0,
            source: 0,
            restart_lost: 0,
            limit: ClaimEnd { seq: u64::MAX, pos: u64::MAX },
        }
    }

    /// The ring.
    pub fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    /// Seq of the next commit.
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Number of commits since the last flush.
    #[inline(always)]
    pub fn unflushed(&self) -> u64 {
        self.next - self.flushed
    }

    /// Claims `len` contiguous bytes after the last commit. Their old content is lost to readers
    /// from now on. Claiming the same length again without a commit in between returns the same
    /// memory with its content, so that a datagram can be filled in several steps. 0 is allowed.
    #[inline]
    pub fn claim(&mut self, len: usize) -> Result<Claim<'_>, SpanTooLong> {
        // The largest span is a multiple of 8, so what fits before rounding up fits after it.
        if len as u64 > self.max_span {
            return Err(SpanTooLong { asked: len, most: self.max_span as usize });
        }
        let need = align8(len as u64);
        self.span_pos += self.used;
        self.span_offset += self.used;
        self.used = 0;
        // A datagram never wraps: skip the tail of the area when it is too short.
        let tail = self.capacity - self.span_offset;
        if need > tail {
            self.span_pos += tail;
            self.span_offset = 0;
        } else if tail == 0 {
            self.span_offset = 0;
        }
        self.span_len = need;
        let end = self.span_pos + need;
        if end > self.claim_pos {
            self.extend_claim(self.claim_seq, end);
        }
        Ok(Claim { publisher: self })
    }

    /// Announces that slots below `seq` and positions below `pos` may be overwritten, and a segment
    /// more, but no further than lossless readers allow. This is the cold path, taken 16 times per
    /// lap.
    #[cold]
    fn extend_claim(&mut self, seq: u64, pos: u64) {
        let geometry = self.memory.geometry();
        debug_assert!(self.may_claim(seq, pos), "claimed without asking whether it fits");
        if seq > self.claim_seq {
            self.claim_seq = seq.max((self.claim_seq + geometry.claim_slots()).min(self.limit.seq));
        }
        if pos > self.claim_pos {
            self.claim_pos = pos.max((self.claim_pos + geometry.claim_bytes()).min(self.limit.pos));
        }
        #[cfg(ringweir_loom)]
        if weakened(site::CLAIM_LATE) {
            return;
        }
        self.announce_claim();
    }

    fn announce_claim(&self) {
        let line = self.memory.claim_line();
        line.seq.store(self.claim_seq, Ordering::Relaxed);
        crash::at(Point::K1);
        line.pos.store(self.claim_pos, Ordering::Relaxed);
        // P2: all later stores to slots and payload are ordered after the claim; partner: the
        // reader's VALIDATE_FENCE between its loads of them and its re-check of the claim.
        site::CLAIM_FENCE.fence_release();
        crash::at(Point::K2);
    }

    /// Commits `len` bytes at `offset` of the current claim as the next datagram. Readers see it
    /// after [`Self::flush`].
    ///
    /// # Panics
    /// If `offset` is not a multiple of 8 or overlaps an earlier commit, if `offset + len` is past
    /// the claim, or if `len` is over the largest datagram. That is a bug in the source's code, not
    /// bad input.
    #[inline]
    pub fn commit(&mut self, offset: usize, len: usize, meta: Meta) {
        let (offset, len64) = (offset as u64, len as u64);
        assert!(
            offset.is_multiple_of(8)
                && (self.used..=self.span_len).contains(&offset)
                && len64 <= self.span_len - offset
                && len64 <= self.memory.geometry().max_datagram(),
            "commit outside its claim"
        );
        let seq = self.next;
        if seq >= self.claim_seq {
            self.extend_claim(seq + 1, self.claim_pos);
        }
        let cut = if u64::from(meta.original_len) > len64 { flags::TRUNCATED } else { 0 };
        let original = if cut == 0 { len64 } else { u64::from(meta.original_len) };
        let tags = u64::from(meta.channel) | u64::from(cut) << 16 | self.upstream_tags();
        crash::at(Point::K4);
        let slot = self.memory.slot(seq);
        slot.stamp.store(seq + 1, Ordering::Relaxed);
        slot.pos.store(self.span_pos + offset, Ordering::Relaxed);
        slot.offset.store(self.span_offset + offset, Ordering::Relaxed);
        crash::at(Point::K5);
        slot.lengths.store(len64 | original << 32, Ordering::Relaxed);
        slot.tags.store(tags, Ordering::Relaxed);
        slot.source_time.store(meta.source_time, Ordering::Relaxed);
        slot.publish_time.store(meta.publish_time, Ordering::Relaxed);
        slot.bytes_before.store(self.bytes, Ordering::Relaxed);
        // Losses before the next datagram count as exact again. The other flags stay, for readers
        // that are lapped over this one.
        self.upstream_flags &= !flags::LOSS_UNKNOWN;
        self.used = offset + align8(len64);
        self.bytes += len64;
        self.next = seq + 1;
        #[cfg(ringweir_loom)]
        if weakened(site::CLAIM_LATE) {
            self.announce_claim();
        }
        crash::at(Point::K6);
    }

    /// Makes all commits so far visible to readers. It wakes no reader: [`super::WakeGate`] decides
    /// that.
    #[inline]
    pub fn flush(&mut self) {
        // P1: slots and payload written before this are visible to a thread that loads the cursor
        // with Acquire (COMMIT_LOAD).
        site::COMMIT_STORE.store_release(&self.memory.write_line().seq, self.next);
        crash::at(Point::K7);
        self.flushed = self.next;
        self.set(PumpCounter::Published, self.next);
        self.set(PumpCounter::PublishedBytes, self.bytes);
        crash::at(Point::K8);
    }

    /// Publishes one datagram: copies it in and flushes.
    pub fn publish(&mut self, bytes: &[u8], meta: Meta) -> Result<u64, SpanTooLong> {
        let most = self.memory.geometry().max_datagram() as usize;
        if bytes.len() > most {
            return Err(SpanTooLong { asked: bytes.len(), most });
        }
        self.claim(bytes.len())?.write(0, bytes);
        self.commit(0, bytes.len(), meta);
        self.flush();
        Ok(self.next - 1)
    }

    /// Reports to readers, with the next datagram, that `count` datagrams were lost before they
    /// reached the ring. `exact` is false if the layer only knows that it lost something.
    pub fn lost_upstream(&mut self, layer: Layer, count: u64, exact: bool) {
        self.upstream = self.upstream.wrapping_add(count as u32);
        let unknown = if exact { 0 } else { flags::LOSS_UNKNOWN | flags::LOSS_EVER_UNKNOWN };
        self.upstream_flags &= !(flags::LAYER_MASK << flags::LAYER_SHIFT);
        self.upstream_flags |= (layer as u16) << flags::LAYER_SHIFT | unknown;
        self.add(layer.counter(), count);
        crash::at(Point::K10);
    }

    /// Records how many of its own numbers the source's consumer has accounted for, modulo 2^32.
    /// All of them must be committed or reported as lost by now. With it, an adopter of this ring
    /// knows exactly what was taken from the source and never published. `None`: it is no longer
    /// known.
    pub fn set_position(&mut self, position: Option<u32>) {
        let reported =
            (self.next as u32).wrapping_add(self.upstream).wrapping_add(self.restart_lost);
        let word =
            position.map_or(0, |position| 1 << 63 | u64::from(position.wrapping_sub(reported)));
        self.memory.state_line().position.store(word, Ordering::Relaxed);
    }

    /// The source's device went away. Readers learn where in the stream, once they have read up to
    /// there.
    pub fn source_gone(&mut self) {
        if self.source & 1 == 0 {
            self.source += 1;
            self.add(PumpCounter::SourceGone, 1);
            self.show_source();
        }
    }

    /// The device is back, and datagrams will come again.
    pub fn source_back(&mut self) {
        if self.source & 1 == 1 {
            self.source += 1;
            self.show_source();
        }
    }

    fn show_source(&mut self) {
        self.flush();
        // P11: a thread that sees the word also sees every earlier datagram; partner: the reader's
        // GONE_LOAD.
        site::GONE_STORE.store_release(&self.memory.state_line().source, self.source);
    }

    fn upstream_tags(&self) -> u64 {
        let gone = self.source.div_ceil(2) << flags::GONE_SHIFT & 0xffff;
        gone << 16 | u64::from(self.upstream_flags) << 16 | u64::from(self.upstream) << 32
    }

    /// Marks the stream as ended. Readers drain the remaining datagrams, then get the losses after
    /// them, and then the end.
    pub fn end(&mut self) {
        self.flush();
        self.memory.state_line().upstream.store(self.upstream_tags(), Ordering::Relaxed);
        // P4: a thread that sees the mark also sees the final write cursor; partner: the reader's
        // END_LOAD.
        site::END_STORE.store_release(&self.memory.state_line().ended, 1);
    }

    /// Adds to a counter. The publisher is its only writer, so this is a plain add without a locked
    /// instruction.
    #[inline]
    pub fn add(&self, counter: PumpCounter, n: u64) {
        let cell = &self.memory.counters().count[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a counter.
    #[inline]
    pub fn set(&self, counter: PumpCounter, value: u64) {
        self.memory.counters().count[counter as usize].store(value, Ordering::Relaxed);
    }
}

impl Claim<'_> {
    /// Number of bytes claimed: the requested length, rounded up to 8.
    pub fn len(&self) -> usize {
        self.publisher.span_len as usize
    }

    /// Whether nothing was claimed.
    pub fn is_empty(&self) -> bool {
        self.publisher.span_len == 0
    }

    /// Copies `bytes` to `at`, a multiple of 8.
    ///
    /// # Panics
    /// If it does not fit the claim.
    #[inline]
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at.checked_add(bytes.len());
        assert!(
            end.is_some_and(|end| end as u64 <= self.publisher.span_len),
            "write outside its claim"
        );
        let (payload, to) =
            (self.publisher.memory.payload(), self.publisher.span_offset as usize + at);
        if crash::SEAM {
            let (first, second) = bytes.split_at((bytes.len() / 2) & !7);
            payload.copy_in(to, first);
            crash::at(Point::K3);
            payload.copy_in(to + first.len(), second);
        } else {
            payload.copy_in(to, bytes);
        }
    }

    /// The claimed memory itself, so that `read(2)` and similar calls make the only copy.
    ///
    /// In a mapped ring these are the bytes that readers see. The exclusive borrow is sound: no
    /// other code in this process reads the publisher's mapping ([`super::RingReader::new`] refuses
    /// it), and readers, which have separate mappings, discard what they read while it was claimed
    /// (I2). A ring on the heap has readers of the same memory; there the bytes are a copy, which
    /// is written back when the result is dropped.
    #[cfg(not(ringweir_loom))]
    #[inline]
    pub fn bytes(&mut self) -> ClaimBytes<'_> {
        let len = self.publisher.span_len as usize;
        let offset = self.publisher.span_offset as usize;
        let memory = &self.publisher.memory;
        #[cfg_attr(not(feature = "crash"), allow(unused_mut))]
        let mut bytes = if memory.access() == Access::Publisher {
            let start = memory.payload().at(offset, len);
            // SAFETY: `at` checked the range. This is the publisher's own mapping. No other code in
            // this process reads its payload (`RingReader::new` refuses it), and `self` borrows the
            // only publisher exclusively. The memory was zeroed when it was created.
            ClaimBytes(Lent::InPlace(unsafe { std::slice::from_raw_parts_mut(start, len) }))
        } else {
            ClaimBytes(Lent::copied(memory.payload(), offset, len))
        };
        #[cfg(feature = "crash")]
        crash::at_after(Point::K3, || {
            bytes[..len.div_ceil(2)].fill(0xa5);
            bytes.write_back();
        });
        bytes
    }
}

/// Claimed memory, to be filled; see [`Claim::bytes`].
#[cfg(not(ringweir_loom))]
pub struct ClaimBytes<'c>(Lent<'c>);

#[cfg(not(ringweir_loom))]
enum Lent<'c> {
    InPlace(&'c mut [u8]),
    Copied { payload: Payload<'c>, offset: usize, bytes: Vec<u8> },
}

#[cfg(not(ringweir_loom))]
impl<'c> Lent<'c> {
    #[cold]
    fn copied(payload: Payload<'c>, offset: usize, len: usize) -> Self {
        let mut bytes = vec![0; len];
        payload.copy_out(offset, &mut bytes);
        Lent::Copied { payload, offset, bytes }
    }
}

#[cfg(not(ringweir_loom))]
impl ClaimBytes<'_> {
    fn write_back(&mut self) {
        if let Lent::Copied { payload, offset, bytes } = &self.0 {
            payload.copy_in(*offset, bytes);
        }
    }
}

#[cfg(not(ringweir_loom))]
impl std::ops::Deref for ClaimBytes<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Lent::InPlace(bytes) => bytes,
            Lent::Copied { bytes, .. } => bytes,
        }
    }
}

#[cfg(not(ringweir_loom))]
impl std::ops::DerefMut for ClaimBytes<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Lent::InPlace(bytes) => bytes,
            Lent::Copied { bytes, .. } => bytes,
        }
    }
}

#[cfg(not(ringweir_loom))]
impl Drop for ClaimBytes<'_> {
    #[inline]
    fn drop(&mut self) {
        self.write_back();
    }
}
