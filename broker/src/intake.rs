//! What a source sees of the ring: claimed memory to fill, and the books to keep.
//!
//! Contract: wraps the one [`Publisher`] of a stream. Commits collect into a batch that the pump
//! flushes after each round of [`crate::source::Source::fill`]; a round ends when
//! [`Intake::has_room`] is false, so a flood of input cannot keep readers waiting. Nothing here
//! allocates; a fault's text goes into a preallocated queue that the control thread logs.

use crate::notice::{Notice, Notices};
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::ring::{Claim, Layer, Meta, Publisher, SpanTooLong};
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;
use std::fmt::Display;
use std::sync::Arc;

/// Commits a batch holds at most; never more than a quarter of the slots, or the first of it would
/// be gone before it is seen.
const BATCH_MOST: u64 = 64;

/// What a source knows of a datagram beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Length before it was cut; 0 = not cut.
    pub original_len: u32,
    /// Channel, 0 where there is one only.
    pub channel: u16,
    /// When the source saw it: CLOCK_REALTIME ns, 0 = unknown.
    pub source_time: u64,
}

/// The intake of one stream.
pub struct Intake {
    publisher: Publisher,
    notices: Notices,
    now: u64,
    batch_bytes: u64,
    /// 0 while lossless readers are waited for, so that the hot path asks nothing more than ever.
    batch_most: u64,
    full_batch: u64,
    batch_bytes_most: u64,
    longest: usize,
    /// Somebody has to be woken although nothing was committed.
    news: bool,
    drain_gaps: Arc<LatencyBlock>,
}

impl Intake {
    /// An intake into `publisher`'s ring.
    pub fn new(publisher: Publisher, notices: Notices) -> Self {
        let geometry = publisher.memory().geometry();
        let (batch_most, batch_bytes_most) =
            (BATCH_MOST.min(geometry.depth() / 4).max(1), geometry.claim_bytes());
        // A character device is asked for a byte more than a datagram can have.
        let longest = (geometry.max_datagram() + 1).min(geometry.max_span()) as usize;
        Self {
            publisher,
            notices,
            now: 0,
            batch_bytes: 0,
            batch_most,
            full_batch: batch_most,
            batch_bytes_most,
            longest,
            news: false,
            drain_gaps: Arc::default(),
        }
    }

    /// Begins a round at `now` (CLOCK_MONOTONIC ns): the publish time of all its datagrams.
    pub fn begin(&mut self, now: u64) {
        self.now = now;
        self.batch_bytes = 0;
    }

    /// The moment this round began, CLOCK_MONOTONIC ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Whether the round may take another datagram of whatever size, claimed in one go or in
    /// several. Who takes more than one without asking again asks [`Self::how_many_fit`].
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.publisher.unflushed() < self.batch_most && self.batch_bytes < self.batch_bytes_most
            || self.fits()
    }

    #[cold]
    fn fits(&self) -> bool {
        self.is_gated()
            && self.publisher.unflushed() < self.full_batch
            && self.batch_bytes < self.batch_bytes_most
            && self.publisher.fits(self.longest)
    }

    /// How many datagrams of up to `len` bytes each may be taken at once, `most` at most and 1 at
    /// least.
    pub fn how_many_fit(&self, len: usize, most: usize) -> usize {
        self.publisher.how_many_fit(len, most)
    }

    /// The longest claim for one datagram.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether lossless readers are waited for.
    #[inline(always)]
    pub(crate) fn is_gated(&self) -> bool {
        self.batch_most == 0
    }

    pub(crate) fn set_gated(&mut self, gated: bool) {
        self.batch_most = if gated { 0 } else { self.full_batch };
    }

    /// Largest datagram that can be committed.
    pub fn max_datagram(&self) -> usize {
        self.publisher.memory().geometry().max_datagram() as usize
    }

    /// Longest claim: several datagrams filled in one call.
    pub fn max_span(&self) -> usize {
        self.publisher.memory().geometry().max_span() as usize
    }

    /// Claims `len` contiguous bytes of the ring. Claiming the same length again before a commit
    /// gives the same bytes, with what was filled in so far.
    #[inline(always)]
    pub fn claim(&mut self, len: usize) -> Result<Claim<'_>, SpanTooLong> {
        self.publisher.claim(len)
    }

    /// Commits `len` bytes at `offset` (a multiple of 8, behind earlier commits) of the current
    /// claim as one datagram.
    #[inline(always)]
    pub fn commit(&mut self, offset: usize, len: usize, arrival: Arrival) {
        let Arrival { original_len, channel, source_time } = arrival;
        if original_len as usize > len {
            self.publisher.add(PumpCounter::Truncated, 1);
        }
        self.publisher.commit(
            offset,
            len,
            Meta { original_len, channel, source_time, publish_time: self.now },
        );
        self.batch_bytes += len as u64;
    }

    /// `count` datagrams were lost in `layer` before what is committed next; `exact` false: at
    /// least so many.
    pub fn lost(&mut self, layer: Layer, count: u64, exact: bool) {
        self.publisher.lost_upstream(layer, count, exact);
    }

    /// Notes how many numbers the source has accounted for, everything so far committed or told as
    /// lost; `None`: that is not known any more. Said once when a source begins, and whenever its
    /// numbers jump for a reason that nobody can count.
    pub fn positioned(&mut self, position: Option<u32>) {
        self.publisher.set_position(position);
    }

    /// The device behind the source is gone: readers are told behind what they read before, and
    /// `why` is logged. The ring stays as it is; [`Self::back`] goes on with it.
    pub fn gone(&mut self, why: impl Display) {
        self.publisher.source_gone();
        self.news = true;
        self.notices.push(Notice::new(why));
    }

    /// The device is back; `how` is logged.
    pub fn back(&mut self, how: impl Display) {
        self.publisher.source_back();
        self.news = true;
        self.notices.push(Notice::new(how));
    }

    /// A FIFO was drained that had been filling for `gap` ns.
    pub fn drained(&mut self, gap: u64) {
        self.drain_gaps.count(gap);
        self.publisher.add(PumpCounter::Drains, 1);
        self.publisher
            .set(PumpCounter::DrainGapMax, self.drain_gaps.max_ns.load(Ordering::Relaxed));
    }

    /// How long FIFOs had been filling when they were drained.
    pub fn drain_gaps(&self) -> &Arc<LatencyBlock> {
        &self.drain_gaps
    }

    /// Shows what was committed. Whether somebody may have to be woken.
    pub(crate) fn flush(&mut self) -> bool {
        let news = std::mem::take(&mut self.news);
        if self.publisher.unflushed() == 0 {
            return news;
        }
        self.publisher.flush();
        self.count(PumpCounter::Batches, 1);
        true
    }

    /// Adds to a counter.
    pub fn count(&mut self, counter: PumpCounter, n: u64) {
        self.publisher.add(counter, n);
    }

    /// Counts a fault and has it told on stderr by the control thread (the text is cut at 200
    /// bytes, a flood is thinned).
    pub fn fault(&mut self, text: impl Display) {
        self.publisher.add(PumpCounter::SourceFaults, 1);
        self.notices.push(Notice::new(text));
    }

    /// Has something told on stderr that is no fault of the source.
    pub fn notice(&mut self, text: impl Display) {
        self.notices.push(Notice::new(text));
    }

    /// The publisher, for the pump.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }
}
