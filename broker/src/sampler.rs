//! The sampler: turns counters and reader pages into the snapshot that viewers see, several times a second.
//!
//! Contract: runs on the control thread at normal priority, reads each word of a reader's page once and clamps it, and
//! never disturbs the pump: it only loads what the pump stores anyway.

use crate::readers::Census;
use crate::stream::Stream;
use ringweir_proto::layout::ReaderBlock;
use ringweir_proto::os::clock;
use ringweir_proto::ring::RingMemory;
use ringweir_proto::stats::{PumpCounter, ReaderFact, ReaderFigures, Snapshot, StatsWriter, StreamFact};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// How often.
pub const PERIOD: Duration = Duration::from_millis(100);

/// Takes and shows a snapshot of `stream`.
pub fn sample(stream: &Stream) {
    let memory = stream.object.memory();
    let mut snapshot = Snapshot::new(&stream.config.name, &stream.config.source);
    if let Some(failure) = &stream.failure {
        snapshot.note = failure.clone();
    }
    let now = clock::monotonic_ns();
    // Cursors of readers first, then the write cursor: so nobody seems to be ahead of it.
    let Census { entries, ever, woken, lost_by_gone } = stream.readers.census();
    let cursors: Vec<u64> = entries.iter().map(|e| load(&e.page.block().read_seq)).collect();
    let write = memory.write_cursor();
    snapshot.take_pump(memory);
    let written_bytes = snapshot.pump(PumpCounter::PublishedBytes);
    for (entry, cursor) in entries.iter().zip(cursors) {
        let mut figures = reader(entry.page.block(), cursor, memory, write, written_bytes, now);
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
        (StreamFact::SampledAt, now),
        (StreamFact::SampledRealtime, clock::realtime_ns()),
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
    ] {
        snapshot.set(fact, value);
    }
    StatsWriter::new(stream.stats.words(), stream.readers.most()).publish(&snapshot);
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn reader(
    block: &ReaderBlock,
    cursor: u64,
    memory: &RingMemory,
    write: u64,
    written_bytes: u64,
    now: u64,
) -> ReaderFigures {
    let mut figures = ReaderFigures::new("");
    let cursor = cursor.min(write);
    let start = load(&block.start_seq).min(cursor);
    let next = memory.look(cursor);
    let behind = cursor < write;
    // Gone already, and the reader still stands there: one that has moved on since was only looked at too late.
    let lapped = behind && next.is_none() && load(&block.read_seq) == cursor;
    // Bytes: exact from the ring if its next datagram is still there, else from its own word.
    let read_bytes = next.map_or(load(&block.read_bytes), |n| n.bytes_before);
    for (fact, value) in [
        (ReaderFact::ReadCursor, cursor),
        (ReaderFact::StartSeq, start),
        (ReaderFact::Delivered, load(&block.delivered).min(write)),
        (ReaderFact::Lost, load(&block.lost).min(write)),
        (ReaderFact::Gaps, load(&block.gaps).min(write)),
        (ReaderFact::BytesDelivered, load(&block.bytes_delivered).min(written_bytes)),
        (ReaderFact::BytesLost, load(&block.bytes_lost).min(written_bytes)),
        (ReaderFact::Lag, write - cursor),
        (ReaderFact::LagBytes, if behind { written_bytes.saturating_sub(read_bytes) } else { 0 }),
        (ReaderFact::LagTime, next.map_or(0, |n| now.saturating_sub(n.publish_time))),
        (ReaderFact::LagMax, load(&block.lag_max).max(write - cursor).min(write)),
        (ReaderFact::LastGapFirst, load(&block.last_gap_first).min(write)),
        (ReaderFact::LastGapCount, load(&block.last_gap_count).min(write)),
        (ReaderFact::LastGapRealtime, load(&block.last_gap_time)),
        (ReaderFact::UpstreamLost, load(&block.upstream_lost)),
        (ReaderFact::Waiting, (load(&block.waiting) == 1).into()),
        (ReaderFact::Lapped, lapped.into()),
    ] {
        figures.set(fact, value);
    }
    figures
}
