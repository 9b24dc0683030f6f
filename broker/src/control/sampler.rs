//! The sampler: converts counters and reader pages into the snapshot that viewers see, several
//! times per second.
//!
//! Contract: runs on the control thread at normal priority. It reads each word of a reader's page
//! once and clamps it. It never disturbs the pump: it only loads what the pump stores anyway. A
//! reader with an implausible page is logged, once.

use crate::readers::entry::ReaderEntry;
use crate::readers::plausibility::PageClaim;
use crate::readers::registry::Census;
use crate::stream::running::Stream;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{RingMemory, Start, first_seq};
use ringweir_proto::stats::{PumpCounter, ReaderFact, ReaderFigures, Snapshot, StreamFact};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two samples.
pub const PERIOD: Duration = Duration::from_millis(100);

/// The state of the stream that a reader's figures are compared with.
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

/// Takes a snapshot of `stream` and publishes it.
pub fn sample(stream: &mut Stream) {
    for text in publish(stream) {
        stream.log().warn(text, Instant::now());
    }
}

/// Publishes a snapshot. Returns a text for each reader newly found to be implausible.
fn publish(stream: &Stream) -> Vec<String> {
    let mut found = Vec::new();
    let memory = stream.memory();
    let mut snapshot = Snapshot::new(stream.name(), &stream.config().source);
    if let Some(failure) = stream.failure() {
        snapshot.note = failure.into();
    } else if memory.source_word() & 1 == 1 {
        snapshot.note = "its device is gone; readers wait for it to come back".into();
    }
    let (monotonic, realtime) = (clock::monotonic_ns(), clock::realtime_ns());
    // Cursors of readers first, then the write cursor: so no reader seems to be ahead of it.
    let Census { entries, ever, woken, lost_by_gone } = stream.readers().census();
    let claims: Vec<_> = entries.iter().map(|e| PageClaim::read(e.page())).collect();
    let write = memory.write_cursor();
    snapshot.take_pump(memory);
    let written_bytes = snapshot.pump(PumpCounter::PublishedBytes);
    let oldest = first_seq(memory, Start::Oldest);
    let history = memory.look(oldest).map_or(0, |o| monotonic.saturating_sub(o.publish_time));
    let since_start = monotonic.saturating_sub(stream.started_at());
    let now = Now { memory, monotonic, write, written_bytes, history, since_start };
    for (entry, claim) in entries.iter().zip(claims) {
        if let Some(what) = entry.observed.check(claim, write) {
            found.push(format!(
                "{}: its page is implausible: {what}; its figures are ignored",
                entry.describe()
            ));
        }
        let mut figures = reader(entry, claim.cursor, &now);
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
        (StreamFact::StartedRealtime, stream.started()),
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
        (StreamFact::ReadersMost, stream.readers().most().into()),
        (StreamFact::ReadersEver, ever),
        (StreamFact::LostByGone, lost_by_gone),
        (StreamFact::Refused, stream.refused_count()),
        (StreamFact::WakesByWaker, woken),
        (StreamFact::NominalRate, stream.nominal_rate()),
        (StreamFact::OldestSeq, oldest),
        (StreamFact::History, history),
        (StreamFact::SourceAway, memory.source_word() & 1),
        (StreamFact::DrainSlack, stream.slack().map_or(0, |slack| slack.as_nanos() as u64)),
    ] {
        snapshot.set(fact, value);
    }
    stream.publish_stats(&snapshot);
    found
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn reader(entry: &ReaderEntry, cursor: u64, now: &Now<'_>) -> ReaderFigures {
    let Now { memory, write, written_bytes, .. } = *now;
    let block = entry.page().block();
    let mut figures = ReaderFigures::new("");
    let cursor = cursor.min(write);
    let start = load(&block.start_seq).min(cursor);
    let next = memory.look(cursor);
    let behind = cursor < write;
    // Overwritten, and the reader is still there. If it has moved on, the sample was only too late.
    let lapped = behind && next.is_none() && load(&block.read_seq) == cursor;
    // Bytes: exact from the ring if its next datagram is still there, else from its page.
    let read_bytes = next.map_or(load(&block.read_bytes), |n| n.bytes_before);
    let lag_bytes = if behind { written_bytes.saturating_sub(read_bytes) } else { 0 };
    let lag_ns = entry.observed.lag_ns(
        cursor,
        next.map(|n| n.publish_time),
        lapped,
        now.monotonic,
        now.history,
    );
    let slowest = load(&entry.page().latency().max_ns).min(now.since_start);
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
        (ReaderFact::LagMaxBytes, entry.observed.lag_bytes.raise(lag_bytes)),
        (ReaderFact::LagMaxTime, entry.observed.lag_ns.raise(lag_ns.max(slowest))),
        (ReaderFact::LastGapFirst, load(&block.last_gap_first).min(write)),
        (ReaderFact::LastGapCount, load(&block.last_gap_count).min(write)),
        (ReaderFact::LastGapRealtime, load(&block.last_gap_time)),
        (ReaderFact::UpstreamLost, load(&block.upstream_lost)),
        (ReaderFact::Waiting, (load(&block.waiting) == 1).into()),
        (ReaderFact::Lapped, lapped.into()),
        (ReaderFact::Lossless, entry.lossless.load(Ordering::Relaxed).into()),
        (ReaderFact::Held, load(&entry.held_ns)),
        (ReaderFact::DemotedRealtime, load(&entry.demoted_at)),
        (ReaderFact::SleepRequests, entry.sleep_requests()),
        (ReaderFact::SlowWakes, entry.is_slow_to_wake().into()),
        (ReaderFact::Implausible, entry.observed.implausible()),
    ] {
        figures.set(fact, value);
    }
    figures
}
