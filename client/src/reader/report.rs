//! What a reader tells `ringstat`: its books and its latencies, in its own page.
//!
//! Contract: one writer, relaxed words, no system call but the clock of a sampled latency. Nobody
//! computes with them but people and their tools: the broker clamps what it reads.

use super::Reader;
use ringweir_proto::latency::SAMPLE_EVERY_NS;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Cause, Gap, gate};
use ringweir_proto::sync::Ordering;

impl Reader {
    /// Once for each millisecond of the stream, not of the reader: one that falls behind samples
    /// all it was late for.
    #[cold]
    pub(super) fn sample_latency(&mut self, published: u64) {
        self.sample_from = published.saturating_add(SAMPLE_EVERY_NS);
        self.link.page.latency().count(clock::monotonic_ns().saturating_sub(published));
        // One that always has something to read would not come to it elsewhere.
        self.attach_meanwhile();
    }

    /// What changes with every datagram. Relaxed: figures for people, each a word.
    #[inline(always)]
    pub(super) fn report_progress(&self) {
        let (block, account) = (self.link.page.block(), self.ring.account());
        // P13: of a lossless reader more than a figure.
        gate::release(block, self.ring.read_cursor());
        block.delivered.store(account.delivered, Ordering::Relaxed);
        block.bytes_delivered.store(account.bytes_delivered, Ordering::Relaxed);
        block.read_bytes.store(self.ring.read_bytes().unwrap_or(u64::MAX), Ordering::Relaxed);
        block.lag_max.store(account.lag_max, Ordering::Relaxed);
    }

    /// Everything.
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
