//! The sampler: turns counters and reader pages into the snapshot that viewers see, several times a second.
//!
//! Contract: runs on the control thread at normal priority, reads each word of a reader's page once and clamps it, and
//! never disturbs the pump: it only loads what the pump stores anyway.

use crate::readers::{Census, ReaderEntry};
use crate::stream::Stream;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Resume, RingMemory, RingReader, Start};
use ringweir_proto::stats::{PumpCounter, ReaderFact, ReaderFigures, Snapshot, StatsWriter, StreamFact};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// How often.
pub const PERIOD: Duration = Duration::from_millis(100);

/// What the sampler keeps of a reader from one look to the next; only the control thread touches it.
#[derive(Debug, Default)]
pub struct Remembered {
    lag_bytes: AtomicU64,
    lag_ns: AtomicU64,
    /// The datagram it stood at and when that was published: how long a lapped reader has not moved.
    cursor: AtomicU64,
    published: AtomicU64,
}

/// What a reader's figures are judged by.
struct Now<'a> {
    memory: &'a RingMemory,
    monotonic: u64,
    /// Write cursor, and all bytes published.
    write: u64,
    written_bytes: u64,
    /// Age of the oldest datagram in the ring.
    history: u64,
    /// Age of the stream: no datagram is older.
    since_start: u64,
}

/// Takes and shows a snapshot of `stream`.
pub fn sample(stream: &Stream) {
    let memory = stream.object.memory();
    let mut snapshot = Snapshot::new(&stream.config.name, &stream.config.source);
    if let Some(failure) = &stream.failure {
        snapshot.note = failure.clone();
    } else if stream.object.memory().source_word() & 1 == 1 {
        snapshot.note = "its device is gone; readers wait for it to come back".into();
    }
    let (monotonic, realtime) = (clock::monotonic_ns(), clock::realtime_ns());
    // Cursors of readers first, then the write cursor: so nobody seems to be ahead of it.
    let Census { entries, ever, woken, lost_by_gone } = stream.readers.census();
    let cursors: Vec<u64> = entries.iter().map(|e| load(&e.page.block().read_seq)).collect();
    let write = memory.write_cursor();
    snapshot.take_pump(memory);
    let written_bytes = snapshot.pump(PumpCounter::PublishedBytes);
    let oldest = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest).read_cursor();
    let history = memory.look(oldest).map_or(0, |o| monotonic.saturating_sub(o.publish_time));
    let since_start = realtime.saturating_sub(stream.started);
    let now = Now { memory, monotonic, write, written_bytes, history, since_start };
    for (entry, cursor) in entries.iter().zip(cursors) {
        let mut figures = reader(entry, cursor, &now);
        figures.label = entry.label.clone();
        figures.set(ReaderFact::Index, entry.index.into());
        figures.set(ReaderFact::Pid, entry.peer.pid.into());
        figures.set(ReaderFact::Uid, entry.peer.uid.into());
        figures.set(ReaderFact::AttachedRealtime, entry.attached);
        snapshot.readers.push(figures);
    }
    let geometry = memory.geometry();
    let newest = write.checked_sub(1).and_then(|seq| memory.look(seq));
    for (fact, value) in [
        (StreamFact::SampledAt, monotonic),
        (StreamFact::SampledRealtime, realtime),
        (StreamFact::StartedRealtime, stream.started),
        (StreamFact::BrokerPid, std::process::id().into()),
        (StreamFact::Generation, memory.generation()),
        (StreamFact::Depth, geometry.depth()),
        (StreamFact::Capacity, geometry.capacity()),
        (StreamFact::MaxDatagram, geometry.max_datagram()),
        (StreamFact::WriteCursor, write),
        (StreamFact::ClaimedSeq, memory.claimed_now().seq),
        (StreamFact::LastPublished, newest.map_or(0, |n| n.publish_time)),
        (StreamFact::Ended, memory.has_ended().into()),
        (StreamFact::Readers, entries.len() as u64),
        (StreamFact::ReadersMost, stream.readers.most().into()),
        (StreamFact::ReadersEver, ever),
        (StreamFact::LostByGone, lost_by_gone),
        (StreamFact::Refused, stream.refused),
        (StreamFact::WakesByWaker, woken),
        (StreamFact::NominalRate, stream.plan.nominal_rate()),
        (StreamFact::OldestSeq, oldest),
        (StreamFact::History, history),
        (StreamFact::SourceAway, memory.source_word() & 1),
        (StreamFact::DrainSlack, stream.slack.map_or(0, |slack| slack.as_nanos() as u64)),
    ] {
        snapshot.set(fact, value);
    }
    StatsWriter::new(stream.stats.words(), stream.readers.most()).publish(&snapshot);
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn reader(entry: &ReaderEntry, cursor: u64, now: &Now<'_>) -> ReaderFigures {
    let Now { memory, write, written_bytes, .. } = *now;
    let block = entry.page.block();
    let mut figures = ReaderFigures::new("");
    let cursor = cursor.min(write);
    let start = load(&block.start_seq).min(cursor);
    let next = memory.look(cursor);
    let behind = cursor < write;
    // Gone already, and the reader still stands there: one that has moved on since was only looked at too late.
    let lapped = behind && next.is_none() && load(&block.read_seq) == cursor;
    // Bytes: exact from the ring if its next datagram is still there, else from its own word.
    let read_bytes = next.map_or(load(&block.read_bytes), |n| n.bytes_before);
    let lag_bytes = if behind { written_bytes.saturating_sub(read_bytes) } else { 0 };
    let lag_ns = entry.remembered.lag_ns(cursor, next.map(|n| n.publish_time), lapped, now);
    let slowest = load(&entry.page.latency().max_ns).min(now.since_start);
    for (fact, value) in [
        (ReaderFact::ReadCursor, cursor),
        (ReaderFact::StartSeq, start),
        (ReaderFact::Delivered, load(&block.delivered).min(write)),
        (ReaderFact::Lost, load(&block.lost).min(write)),
        (ReaderFact::Gaps, load(&block.gaps).min(write)),
        (ReaderFact::BytesDelivered, load(&block.bytes_delivered).min(written_bytes)),
        (ReaderFact::BytesLost, load(&block.bytes_lost).min(written_bytes)),
        (ReaderFact::Lag, write - cursor),
        (ReaderFact::LagBytes, lag_bytes),
        (ReaderFact::LagTime, lag_ns),
        (ReaderFact::LagMax, load(&block.lag_max).max(write - cursor).min(write)),
        (ReaderFact::LagMaxBytes, high_water(&entry.remembered.lag_bytes, lag_bytes)),
        (ReaderFact::LagMaxTime, high_water(&entry.remembered.lag_ns, lag_ns.max(slowest))),
        (ReaderFact::LastGapFirst, load(&block.last_gap_first).min(write)),
        (ReaderFact::LastGapCount, load(&block.last_gap_count).min(write)),
        (ReaderFact::LastGapRealtime, load(&block.last_gap_time)),
        (ReaderFact::UpstreamLost, load(&block.upstream_lost)),
        (ReaderFact::Waiting, (load(&block.waiting) == 1).into()),
        (ReaderFact::Lapped, lapped.into()),
        (ReaderFact::Lossless, entry.lossless.load(Ordering::Relaxed).into()),
        (ReaderFact::Held, load(&entry.held_ns)),
        (ReaderFact::DemotedRealtime, load(&entry.demoted_at)),
    ] {
        figures.set(fact, value);
    }
    figures
}

fn high_water(mark: &AtomicU64, level: u64) -> u64 {
    mark.fetch_max(level, Ordering::Relaxed).max(level)
}

impl Remembered {
    /// Age of the datagram at `cursor`, also when it is gone: it was seen while it was there, or it is older than the oldest.
    fn lag_ns(&self, cursor: u64, published: Option<u64>, lapped: bool, now: &Now<'_>) -> u64 {
        if let Some(published) = published {
            self.cursor.store(cursor, Ordering::Relaxed);
            self.published.store(published, Ordering::Relaxed);
            return now.monotonic.saturating_sub(published);
        }
        if !lapped {
            return 0;
        }
        let seen = load(&self.published);
        let known = seen != 0 && load(&self.cursor) == cursor;
        if known { now.monotonic.saturating_sub(seen) } else { now.history }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_proto::layout::Geometry;

    #[test]
    fn the_lag_of_a_lapped_reader_is_the_age_of_what_it_missed() {
        let memory = RingMemory::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap());
        let at = |monotonic, history| Now {
            memory: &memory,
            monotonic,
            write: 500,
            written_bytes: 0,
            history,
            since_start: u64::MAX,
        };
        let seen = Remembered::default();
        assert_eq!(seen.lag_ns(7, None, true, &at(9000, 300)), 300, "never seen: at least as old as the oldest");
        assert_eq!(seen.lag_ns(7, Some(8000), false, &at(9000, 300)), 1000);
        assert_eq!(seen.lag_ns(7, None, true, &at(20_000, 300)), 12_000, "seen before it went");
        assert_eq!(seen.lag_ns(8, None, true, &at(20_000, 300)), 300, "another datagram");
        assert_eq!(seen.lag_ns(8, None, false, &at(20_000, 300)), 0, "nothing to read");
    }

    #[test]
    fn a_high_water_mark_only_rises() {
        let mark = AtomicU64::new(0);
        assert_eq!([3, 9, 4].map(|level| high_water(&mark, level)), [3, 9, 9]);
    }
}
