//! The sampler: turns counters and reader pages into the snapshot that viewers see, several times a
//! second.
//!
//! Contract: runs on the control thread at normal priority, reads each word of a reader's page once
//! and clamps it, and never disturbs the pump: it only loads what the pump stores anyway. A reader
//! whose page says what cannot be is named, once.

use crate::readers::{Census, ReaderEntry};
use crate::stream::Stream;
use ringweir_proto::os::clock;
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::ring::{Resume, RingMemory, RingReader, Start};
use ringweir_proto::stats::{
    IMPLAUSIBLE, PumpCounter, ReaderFact, ReaderFigures, Snapshot, StatsWriter, StreamFact,
};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often.
pub const PERIOD: Duration = Duration::from_millis(100);

/// What the sampler keeps of a reader from one look to the next; only the control thread touches
/// it.
#[derive(Debug, Default)]
pub struct Remembered {
    lag_bytes: AtomicU64,
    lag_ns: AtomicU64,
    /// The datagram it stood at and when that was published: how long a lapped reader has not
    /// moved.
    cursor: AtomicU64,
    published: AtomicU64,
    /// Where its cursor was, to see it go back.
    furthest: AtomicU64,
    /// [`ReaderFact::Implausible`]; who lied once is not believed again.
    implausible: AtomicU64,
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
pub fn sample(stream: &mut Stream) {
    for caught in show(stream) {
        if stream.rate_limit.pass(Instant::now()) {
            tracing::warn!("{}: {caught}", stream.config.name);
        }
    }
}

/// Shows it; which readers were found to say what cannot be, for the first time.
fn show(stream: &Stream) -> Vec<String> {
    let mut caught = Vec::new();
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
    let claims: Vec<Claim> = entries.iter().map(|e| Claim::of(&e.page)).collect();
    let write = memory.write_cursor();
    snapshot.take_pump(memory);
    let written_bytes = snapshot.pump(PumpCounter::PublishedBytes);
    let oldest = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest).read_cursor();
    let history = memory.look(oldest).map_or(0, |o| monotonic.saturating_sub(o.publish_time));
    let since_start = realtime.saturating_sub(stream.started);
    let now = Now { memory, monotonic, write, written_bytes, history, since_start };
    for (entry, claim) in entries.iter().zip(claims) {
        if let Some(what) = entry.remembered.judge(claim, write) {
            let (label, peer) = (&entry.label, &entry.peer);
            let who = format!(
                "reader {label} (place {}, pid {}, uid {})",
                entry.index, peer.pid, peer.uid
            );
            caught.push(format!(
                "{who} writes into its page what cannot be: {what}; its figures are not believed"
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
    caught
}

/// What a reader says that can be held against it.
#[derive(Clone, Copy)]
struct Claim {
    cursor: u64,
    /// Delivered and lost together. Both only grow, so two loads one after the other make no more
    /// of them than there were.
    counted: u64,
}

impl Claim {
    fn of(page: &ReaderPage) -> Self {
        // Acquire: the write cursor is looked at after these, so it is not behind what an honest
        // reader had seen of it.
        let word = |word: &AtomicU64| word.load(Ordering::Acquire);
        let block = page.block();
        let counted = word(&block.delivered).saturating_add(word(&block.lost));
        Self { cursor: word(&block.read_seq), counted }
    }
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
    // Gone already, and the reader still stands there: one that has moved on since was only looked
    // at too late.
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
        (ReaderFact::SleepRequests, entry.sleep_requests()),
        (ReaderFact::SlowWakes, entry.is_slow_to_wake().into()),
        (ReaderFact::Implausible, entry.remembered.implausible()),
    ] {
        figures.set(fact, value);
    }
    figures
}

fn high_water(mark: &AtomicU64, level: u64) -> u64 {
    mark.fetch_max(level, Ordering::Relaxed).max(level)
}

impl Remembered {
    /// [`ReaderFact::Implausible`] of this reader so far.
    pub fn implausible(&self) -> u64 {
        load(&self.implausible)
    }

    /// Holds what the reader claims against what was published by then; in words, if it is the
    /// first thing found.
    fn judge(&self, claim: Claim, write: u64) -> Option<&'static str> {
        let furthest = self.furthest.fetch_max(claim.cursor, Ordering::Relaxed);
        let found = match claim {
            Claim { cursor, .. } if cursor > write => 1,
            Claim { cursor, .. } if cursor < furthest => 2,
            Claim { counted, .. } if counted > write => 3,
            _ => return None,
        };
        if self.implausible() != 0 {
            return None;
        }
        self.implausible.store(found, Ordering::Relaxed);
        Some(IMPLAUSIBLE[found as usize])
    }

    /// Age of the datagram at `cursor`, also when it is gone: it was seen while it was there, or it
    /// is older than the oldest.
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
        assert_eq!(
            seen.lag_ns(7, None, true, &at(9000, 300)),
            300,
            "never seen: at least as old as the oldest"
        );
        assert_eq!(seen.lag_ns(7, Some(8000), false, &at(9000, 300)), 1000);
        assert_eq!(seen.lag_ns(7, None, true, &at(20_000, 300)), 12_000, "seen before it went");
        assert_eq!(seen.lag_ns(8, None, true, &at(20_000, 300)), 300, "another datagram");
        assert_eq!(seen.lag_ns(8, None, false, &at(20_000, 300)), 0, "nothing to read");
    }

    /// What cannot be is found whatever follows, and said once. Control: what can be, at its very
    /// limits, is not held against anybody.
    #[test]
    fn a_reader_that_lies_is_found_and_one_that_does_not_is_not() {
        let judged = |claims: &[(u64, u64)]| {
            let seen = Remembered::default();
            let said: Vec<_> = claims
                .iter()
                .filter_map(|c| seen.judge(Claim { cursor: c.0, counted: c.1 }, 500))
                .collect();
            (seen.implausible(), said)
        };
        assert_eq!(judged(&[(0, 0), (300, 200), (300, 300), (500, 500)]), (0, vec![]));
        for (found, claims) in [
            (1, [(501, 0), (u64::MAX, 0)]),
            (2, [(300, 0), (299, 0)]),
            (3, [(7, 501), (6, 0)]),
            (3, [(7, u64::MAX), (900, 0)]),
        ] {
            assert_eq!(judged(&claims), (found, vec![IMPLAUSIBLE[found as usize]]), "{claims:?}");
        }
    }

    #[test]
    fn a_high_water_mark_only_rises() {
        let mark = AtomicU64::new(0);
        assert_eq!([3, 9, 4].map(|level| high_water(&mark, level)), [3, 9, 9]);
    }
}
