//! A finding, and the two samples of a stream that it is computed from.

use crate::stat::model::{Layer, Reader, Stream};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use serde::Serialize;

/// Kind of the finding that a reader page holds impossible values. It harms no other reader, but it
/// is reported.
pub(super) const IMPLAUSIBLE: &str = "implausible";

/// Kind of the finding that a recording pauses.
pub(super) const PAUSE: &str = "pause";

/// Kind of the finding that datagrams are left out on purpose.
pub(super) const SKIPPED: &str = "skipped";

/// What was seen of processes between the two samples.
pub trait Seen {
    /// Share of one processor that a process used, if it can be seen.
    fn load(&self, pid: u64) -> Option<f64>;
    /// Whether the pump has a real-time class, if it can be seen.
    fn pump_is_realtime(&self) -> Option<bool>;
}

/// Something that limits a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Layer it belongs to.
    pub(super) layer: &'static str,
    /// For programs: broker_stopped, broker_busy, broker_gone, losing, stopped, gone, lapped, slow,
    /// holding, implausible, pause, skipped.
    pub(super) kind: &'static str,
    /// The reader, if it is about one.
    pub(super) label: Option<String>,
    pub(super) pid: Option<u64>,
    pub(super) index: Option<u64>,
    /// Lost since the reader attached, or since the stream began.
    pub(super) lost: u64,
    /// Being lost now.
    pub(super) lost_per_second: f64,
    /// Time until the reader is lapped if nothing changes; 0: it is lapped.
    pub(super) lapped_in_ns: Option<u64>,
    /// As text.
    pub(super) what: String,
    /// What to do.
    pub(super) advice: String,
}

pub(super) fn finding(
    layer: Layer,
    kind: &'static str,
    lost: u64,
    per_second: f64,
    what: String,
    advice: String,
) -> Finding {
    Finding {
        layer: layer.key(),
        kind,
        label: None,
        pid: None,
        index: None,
        lost,
        lost_per_second: (per_second * 1000.0).round() / 1000.0,
        lapped_in_ns: None,
        what,
        advice,
    }
}

/// Two samples of one generation of a stream.
pub(super) struct Between<'a> {
    pub(super) before: &'a Stream,
    pub(super) now: &'a Stream,
    /// Seconds; never 0.
    pub(super) seconds: f64,
}

impl Between<'_> {
    pub(super) fn per_second(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds
    }

    pub(super) fn lost(&self, layer: Layer) -> f64 {
        self.per_second(self.before.loss.get(layer), self.now.loss.get(layer))
    }

    pub(super) fn published(&self) -> f64 {
        self.per_second(
            self.before.snapshot.pump(PumpCounter::Published),
            self.now.snapshot.pump(PumpCounter::Published),
        )
    }

    pub(super) fn earlier(&self, reader: &Reader) -> Option<&Reader> {
        let same = |r: &&Reader| {
            [ReaderFact::Index, ReaderFact::Pid, ReaderFact::AttachedRealtime]
                .iter()
                .all(|f| r.get(*f) == reader.get(*f))
        };
        self.before.readers.iter().find(same)
    }

    /// Seconds until the publisher laps a reader that continues at its present rate. A sixteenth of
    /// the ring is claimed ahead, so it holds no history.
    pub(super) fn lapped_in(&self, earlier: &Reader, reader: &Reader) -> Option<f64> {
        let left = |fact, ring| {
            let (before, now) = (earlier.get(fact), reader.get(fact));
            let growth = (now as f64 - before as f64) / self.seconds;
            let room = self.now.get(ring) as f64 * 15.0 / 16.0 - now as f64;
            (growth > 0.0).then(|| room.max(0.0) / growth)
        };
        let (slots, bytes) = (
            left(ReaderFact::Lag, StreamFact::Depth),
            left(ReaderFact::LagBytes, StreamFact::Capacity),
        );
        slots.into_iter().chain(bytes).reduce(f64::min)
    }
}
