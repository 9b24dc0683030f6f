//! What a reader reports to `ringstat` in its reader page: its account and its latencies.
//!
//! Contract: one writer, relaxed stores of single words, no system call except the clock for a
//! sampled latency. The figures are for people and their tools; the broker clamps what it reads.

use super::Reader;
use ringweir_proto::latency::SAMPLE_EVERY_NS;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Cause, Gap, gate};
use ringweir_proto::sync::Ordering;

impl Reader {
    /// Samples once per millisecond of stream time, not of reader time: a reader that has fallen
    /// behind samples every millisecond for which it is late.
    #[cold]
    pub(super) fn sample_latency(&mut self, published: u64) {
        self.sample_from = published.saturating_add(SAMPLE_EVERY_NS);
        self.link.page.latency().count(clock::monotonic_ns().saturating_sub(published));
        // A reader that always has something to read would never get to this elsewhere.
        self.attach_meanwhile();
    }

    /// Reports what changes with every datagram. Relaxed: figures for people, one word each.
    #[inline(always)]
    pub(super) fn report_progress(&self) {
        let (block, account) = (self.link.page.block(), self.ring.account());
        // P13: for a lossless reader this is more than a figure. Partner: `LosslessGate::look`.
        gate::release(block, self.ring.read_cursor());
        block.delivered.store(account.delivered, Ordering::Relaxed);
        block.bytes_delivered.store(account.bytes_delivered, Ordering::Relaxed);
        block.read_bytes.store(self.ring.read_bytes().unwrap_or(u64::MAX), Ordering::Relaxed);
        block.lag_max.store(account.lag_max, Ordering::Relaxed);
    }

    /// Reports everything.
    #[cold]
    pub(super) fn report(&mut self) {
        let (block, account) = (self.link.page.block(), self.ring.account());
        block.start_seq.store(account.start, Ordering::Relaxed);
        block.lost.store(account.lost, Ordering::Relaxed);
        block.gaps.store(account.gaps, Ordering::Relaxed);
        block.bytes_lost.store(account.bytes_lost, Ordering::Relaxed);
        block.upstream_lost.store(account.upstream_lost, Ordering::Relaxed);
        if let Some(Gap { first, count, cause: Cause::Lapped, .. }) = account.last_gap
            && (
                block.last_gap_first.load(Ordering::Relaxed),
                block.last_gap_count.load(Ordering::Relaxed),
            ) != (first, count)
        {
            block.last_gap_first.store(first, Ordering::Relaxed);
            block.last_gap_count.store(count, Ordering::Relaxed);
            block.last_gap_time.store(clock::realtime_ns(), Ordering::Relaxed);
        }
        self.report_progress();
    }
}
