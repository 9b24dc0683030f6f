//! What a source sees of the ring: memory to claim and fill, and an account of losses to keep.
//!
//! Contract: nothing else of the publisher is reachable from here. Commits collect into a batch
//! that the pump flushes after each round of `Source::fill`. A round ends when
//! [`Intake::has_room`] is false, so a flood of input cannot keep readers waiting. Nothing here
//! allocates; the text of a fault goes into a preallocated queue that the control thread logs.

use super::notice::{Notice, NoticeSender};
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::ring::{Claim, Layer, LinkType, Meta, Publisher, SpanTooLong};
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;
use std::fmt::Display;
use std::sync::Arc;

/// Most commits in a batch; never more than a quarter of the slots. Otherwise the first ones would
/// be overwritten before any reader sees them.
const BATCH_MOST: u64 = 64;

/// What a source knows of a datagram beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Length before it was cut; 0 = not cut.
    pub original_len: u32,
    /// Channel, 0 where there is only one.
    pub channel: u16,
    /// When the source saw it: CLOCK_REALTIME ns, 0 = unknown.
    pub source_time: u64,
}

/// The intake of one stream, as its source sees it.
pub struct Intake {
    pub(super) publisher: Publisher,
    pub(super) notices: NoticeSender,
    pub(super) now: u64,
    pub(super) batch_bytes: u64,
    /// 0 while the stream waits for lossless readers, so that [`Self::has_room`] needs no further
    /// check.
    pub(super) batch_most: u64,
    pub(super) full_batch: u64,
    batch_bytes_most: u64,
    pub(super) longest: usize,
    /// Readers must be woken even if nothing was committed.
    pub(super) news: bool,
    pub(super) drain_gaps: Arc<LatencyBlock>,
    link_type: LinkType,
}

impl Intake {
    pub(super) fn new(publisher: Publisher, notices: NoticeSender) -> Self {
        let geometry = publisher.memory().geometry();
        let (batch_most, batch_bytes_most) =
            (BATCH_MOST.min(geometry.depth() / 4).max(1), geometry.claim_bytes());
        // An earlier broker of this ring may have left its own.
        publisher.set(PumpCounter::LinkType, LinkType::Unknown.to_word());
        publisher.set(PumpCounter::SourceDue, 0);
        // A character device is read with one byte more than a datagram can have.
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
            link_type: LinkType::Unknown,
        }
    }

    /// The moment this round began, CLOCK_MONOTONIC ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Whether the round may take another datagram of any size, claimed at once or in several
    /// steps. A source that takes several without asking again uses [`Self::how_many_fit`].
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        self.publisher.unflushed() < self.batch_most && self.batch_bytes < self.batch_bytes_most
            || self.fits_while_gated()
    }

    #[cold]
    fn fits_while_gated(&self) -> bool {
        self.is_gated()
            && self.publisher.unflushed() < self.full_batch
            && self.batch_bytes < self.batch_bytes_most
            && self.publisher.fits(self.longest)
    }

    /// Whether the stream waits for lossless readers.
    #[inline(always)]
    pub(super) fn is_gated(&self) -> bool {
        self.batch_most == 0
    }

    /// How many datagrams of up to `len` bytes each may be taken at once: at least 1, at most
    /// `most`.
    pub fn how_many_fit(&self, len: usize, most: usize) -> usize {
        self.publisher.how_many_fit(len, most)
    }

    /// Largest datagram that can be committed.
    pub fn max_datagram(&self) -> usize {
        self.publisher.memory().geometry().max_datagram() as usize
    }

    /// Seq of the next commit.
    #[cfg(test)]
    pub(crate) fn next_seq(&self) -> u64 {
        self.publisher.next_seq()
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

    /// Commits `len` bytes at `offset` (a multiple of 8, after earlier commits) of the current
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

    /// What the next datagrams are in a capture. A second type is reported: readers that write a
    /// capture of one type must end.
    pub fn set_link_type(&mut self, number: u16) {
        let before = self.link_type;
        self.link_type = before.and(number);
        self.publisher.set(PumpCounter::LinkType, self.link_type.to_word());
        if let LinkType::Is(before) = before
            && self.link_type == LinkType::Mixed
        {
            self.fault(format_args!(
                "datagrams of link type {number} after some of {before}: a capture file of this \
                stream cannot hold both"
            ));
        }
    }

    /// When the next datagram of a recording is due, CLOCK_MONOTONIC ns; `None` once it has come.
    pub fn set_due(&mut self, due: Option<u64>) {
        self.publisher.set(PumpCounter::SourceDue, due.unwrap_or(0));
    }

    /// Reports that `count` datagrams were lost in `layer` before the next commit. With `exact`
    /// false the count is a lower bound. Readers count modulo 2^32: more at once is reported as at
    /// least 2^32 - 1.
    pub fn lost(&mut self, layer: Layer, count: u64, exact: bool) {
        let most = u64::from(u32::MAX);
        let (count, exact) = (count.min(most), exact && count <= most);
        self.publisher.lost_upstream(layer, count, exact);
    }

    /// Records how many numbers of the source are accounted for: everything committed or reported
    /// as lost so far. `None`: that is no longer known. Called when a source begins, and whenever
    /// its numbers jump by an unknown amount.
    pub fn set_position(&mut self, position: Option<u32>) {
        self.publisher.set_position(position);
    }

    /// Reports that the device behind the source is gone. Readers see it at this point of the
    /// stream, and `why` is logged. The ring stays; [`Self::device_back`] continues in it.
    pub fn device_gone(&mut self, why: impl Display) {
        self.publisher.source_gone();
        self.news = true;
        self.notices.push(Notice::new(why));
    }

    /// Reports that the device is back; `how` is logged.
    pub fn device_back(&mut self, how: impl Display) {
        self.publisher.source_back();
        self.news = true;
        self.notices.push(Notice::new(how));
    }

    /// Records that a device FIFO was drained after it had been filling for `gap` ns.
    pub fn drained(&mut self, gap: u64) {
        self.drain_gaps.count(gap);
        self.publisher.add(PumpCounter::Drains, 1);
        self.publisher
            .set(PumpCounter::DrainGapMax, self.drain_gaps.max_ns.load(Ordering::Relaxed));
    }

    /// Adds to a counter.
    pub(crate) fn count(&mut self, counter: PumpCounter, n: u64) {
        self.publisher.add(counter, n);
    }

    /// Counts a fault of the source and queues its text for the log. The text is cut at 200 bytes,
    /// and the log is rate limited.
    pub fn fault(&mut self, text: impl Display) {
        self.publisher.add(PumpCounter::SourceFaults, 1);
        self.log(text);
    }

    /// Queues a text for the log that is no fault of the source.
    pub fn log(&mut self, text: impl Display) {
        self.notices.push(Notice::new(text));
    }
}
