//! The pump's side of the intake: it begins and flushes rounds, waits for lossless readers, and
//! ends the stream.
//!
//! Contract: holds the one [`Publisher`] of the stream. Only the pump has this type; it lends
//! [`Intake`] to the source for each round.

use super::for_sources::Intake;
use super::notice::{Notice, NoticeSender};
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::ring::Publisher;
use ringweir_proto::stats::PumpCounter;
use std::fmt::Display;
use std::sync::Arc;

/// The intake of one stream, as its pump sees it.
pub struct PumpIntake {
    intake: Intake,
}

impl PumpIntake {
    /// An intake into `publisher`'s ring.
    pub fn new(publisher: Publisher, notices: NoticeSender) -> Self {
        Self { intake: Intake::new(publisher, notices) }
    }

    /// What the source gets.
    #[inline(always)]
    pub fn for_source(&mut self) -> &mut Intake {
        &mut self.intake
    }

    /// Begins a round at `now` (CLOCK_MONOTONIC ns): the publish time of all its datagrams.
    pub fn begin(&mut self, now: u64) {
        self.intake.now = now;
        self.intake.batch_bytes = 0;
    }

    /// Sets the publish time of the datagrams that follow in this round, CLOCK_MONOTONIC ns.
    #[inline(always)]
    pub fn set_now(&mut self, now: u64) {
        self.intake.now = now;
    }

    /// The moment this round began, CLOCK_MONOTONIC ns.
    pub fn now(&self) -> u64 {
        self.intake.now
    }

    /// Shows the commits of this round to readers. Returns whether readers may have to be woken.
    pub fn flush(&mut self) -> bool {
        let news = std::mem::take(&mut self.intake.news);
        if self.intake.publisher.unflushed() == 0 {
            return news;
        }
        self.intake.publisher.flush();
        self.count(PumpCounter::Batches, 1);
        true
    }

    /// Whether the stream waits for lossless readers.
    #[inline(always)]
    pub fn is_gated(&self) -> bool {
        self.intake.is_gated()
    }

    /// Sets whether the stream waits for lossless readers.
    pub fn set_gated(&mut self, gated: bool) {
        self.intake.batch_most = if gated { 0 } else { self.intake.full_batch };
    }

    /// The longest claim for one datagram.
    pub fn longest(&self) -> usize {
        self.intake.longest
    }

    /// The publisher.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.intake.publisher
    }

    /// Marks the stream as ended. Readers read what is there and then see the end.
    pub fn end(&mut self) {
        self.intake.publisher.end();
    }

    /// For how long device FIFOs had been filling when they were drained.
    pub fn drain_gaps(&self) -> &Arc<LatencyBlock> {
        &self.intake.drain_gaps
    }

    /// Adds to a counter.
    pub fn count(&mut self, counter: PumpCounter, n: u64) {
        self.intake.publisher.add(counter, n);
    }

    /// Queues a text for the log.
    pub fn notice(&mut self, text: impl Display) {
        self.intake.notices.push(Notice::new(text));
    }
}
