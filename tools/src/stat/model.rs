//! A stream as it is shown, computed from one or two snapshots and from what is seen around them.
//!
//! Contract: pure, without system calls or a clock. Table, screen and JSON show what is here and
//! compute nothing themselves. Loss has four layers, each with one definition
//! ([`Layer::definition`]).

use crate::process::Process;
use ringweir_cli::quantity::Span;
use ringweir_proto::stats::{
    IMPLAUSIBLE, PumpCounter, ReaderFact, ReaderFigures, Snapshot, StreamFact,
};
use std::time::Duration;

/// Figures older than this are old; then the state of the broker's process is read. The period of
/// the broker's sampler is a tenth of it.
pub const FRESH: Duration = Duration::from_secs(1);

/// Where datagrams can be lost, in the order of their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The device's buffer.
    Device,
    /// The kernel's queue.
    Kernel,
    /// The broker.
    Broker,
    /// A reader.
    Reader,
}

impl Layer {
    /// All of them.
    pub const ALL: [Layer; 4] = [Layer::Device, Layer::Kernel, Layer::Broker, Layer::Reader];

    /// Name in table and JSON.
    pub const fn key(self) -> &'static str {
        match self {
            Layer::Device => "device",
            Layer::Kernel => "kernel",
            Layer::Broker => "broker",
            Layer::Reader => "reader",
        }
    }

    /// What is counted.
    pub const fn definition(self) -> &'static str {
        match self {
            Layer::Device => PumpCounter::DeviceLost.help(),
            Layer::Kernel => PumpCounter::KernelLost.help(),
            Layer::Broker => PumpCounter::BrokerLost.help(),
            Layer::Reader => {
                "published datagrams that a reader lost because it was lapped, reported to it as \
                gaps or certain to be; the sum over all readers, including those that have left"
            }
        }
    }
}

/// Datagrams lost since the stream began, by layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss([u64; Layer::ALL.len()]);

impl Loss {
    /// Datagrams lost in one layer.
    pub fn get(self, layer: Layer) -> u64 {
        self.0[layer as usize]
    }
    /// Whether any layer lost anything.
    pub fn any(self) -> bool {
        self.0.iter().any(|n| *n > 0)
    }
}

/// The flow between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Datagrams per second.
    pub datagrams: f64,
    /// Payload bytes per second.
    pub bytes: f64,
    /// Time between the snapshots.
    pub window: Duration,
}

/// What is known about a stream besides its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// CLOCK_MONOTONIC ns.
    pub now: u64,
    /// The broker has closed the connection.
    pub hung_up: bool,
    /// The broker's process; its state is read only if the figures are old.
    pub broker: Process,
}

/// Whether the figures can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// They are current.
    Fresh,
    /// The stream has ended; they are its last.
    Ended,
    /// The broker has not updated them; the state of its process.
    Stale(Process),
    /// The broker has died, and these are the last.
    BrokerGone,
}

impl Health {
    fn judge(snapshot: &Snapshot, outside: &Outside) -> Self {
        let ended = snapshot.get(StreamFact::Ended) == 1;
        match outside {
            Outside { hung_up: true, .. } if ended => Self::Ended,
            Outside { hung_up: true, .. } => Self::BrokerGone,
            _ if age(snapshot, outside) > FRESH => Self::Stale(outside.broker),
            _ if ended => Self::Ended,
            _ => Self::Fresh,
        }
    }

    /// For programs.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Fresh => "ok",
            Self::Ended => "ended",
            Self::Stale(Process::Stopped(_)) => "broker_stopped",
            Self::Stale(_) => "broker_busy",
            Self::BrokerGone => "broker_gone",
        }
    }
}

fn age(snapshot: &Snapshot, outside: &Outside) -> Duration {
    Duration::from_nanos(outside.now.saturating_sub(snapshot.get(StreamFact::SampledAt)))
}

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderState {
    /// It reads, or computes between reads.
    Running,
    /// It sleeps until the next datagram.
    Waiting,
    /// What it would read next is overwritten, and it has not noticed yet.
    Lapped,
    /// Its reader page holds impossible values.
    Implausible,
    /// Its process is stopped: the letter of /proc/PID/stat.
    Stopped(char),
    /// Its process is gone, and the broker has not noticed: the broker is stopped, or a process
    /// that the reader forked holds its connection.
    Gone,
}

impl ReaderState {
    /// For programs.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Lapped => "lapped",
            Self::Implausible => "implausible",
            Self::Stopped(_) => "stopped",
            Self::Gone => "gone",
        }
    }
}

impl std::fmt::Display for ReaderState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped(letter) => f.pad(&format!("stopped ({letter})")),
            Self::Lapped => f.pad("LAPPED"),
            other => f.pad(other.key()),
        }
    }
}

/// One reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// Label and figures.
    pub figures: ReaderFigures,
    /// What it is doing.
    pub state: ReaderState,
    /// What was delivered to it; `None` without two snapshots.
    pub rates: Option<Rates>,
    /// Datagrams certainly lost, of which it has not been notified yet; a minimum.
    pub pending: u64,
    /// How much of the ring lies between it and the write cursor, 0 to 1, in slots or in bytes,
    /// whichever is more.
    pub lag_share: f64,
    /// Largest lag seen as a share of the ring's slots; above 1 it was lapped.
    pub hiwater_share: f64,
}

impl Reader {
    fn new(figures: &ReaderFigures, snapshot: &Snapshot, process: Process) -> Self {
        let figure = |fact| figures.get(fact);
        let lapped = figure(ReaderFact::Lapped) == 1;
        let depth = snapshot.get(StreamFact::Depth);
        let oldest = snapshot.get(StreamFact::ClaimedSeq).saturating_sub(depth);
        // A ring can run out of bytes before it runs out of slots: then only one lost datagram is
        // certain.
        let pending =
            if lapped { oldest.saturating_sub(figure(ReaderFact::ReadCursor)).max(1) } else { 0 };
        let share =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let slots = share(figure(ReaderFact::Lag), depth);
        let bytes = share(figure(ReaderFact::LagBytes), snapshot.get(StreamFact::Capacity));
        let state = match process {
            Process::Gone => ReaderState::Gone,
            Process::Stopped(letter) => ReaderState::Stopped(letter),
            _ if figure(ReaderFact::Implausible) != 0 => ReaderState::Implausible,
            _ if lapped => ReaderState::Lapped,
            _ if figure(ReaderFact::Waiting) == 1 => ReaderState::Waiting,
            _ => ReaderState::Running,
        };
        Self {
            figures: figures.clone(),
            state,
            rates: None,
            pending,
            lag_share: if lapped { 1.0 } else { slots.max(bytes).min(1.0) },
            hiwater_share: share(figure(ReaderFact::LagMax), depth),
        }
    }

    /// A figure.
    pub fn get(&self, fact: ReaderFact) -> u64 {
        self.figures.get(fact)
    }
    /// What is impossible in its reader page.
    pub fn implausible(&self) -> Option<&'static str> {
        IMPLAUSIBLE
            .get(self.get(ReaderFact::Implausible) as usize)
            .copied()
            .filter(|what| !what.is_empty())
    }
    /// Whether the datagram that it would read next is overwritten.
    pub fn is_lapped(&self) -> bool {
        self.get(ReaderFact::Lapped) == 1
    }
    /// Everything it lost: what was reported to it and what will be.
    pub fn lost(&self) -> u64 {
        self.get(ReaderFact::Lost).saturating_add(self.pending)
    }
}

/// One stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The figures.
    pub snapshot: Snapshot,
    /// How old they are.
    pub age: Duration,
    /// Whether they can be trusted.
    pub health: Health,
    /// What was published; `None` without two snapshots, or if they are old.
    pub rates: Option<Rates>,
    /// What was lost.
    pub loss: Loss,
    /// Its readers.
    pub readers: Vec<Reader>,
}

impl Stream {
    /// Computes the stream from `snapshot`; rates need a snapshot `before` it. `process` looks at
    /// the process of a reader.
    pub fn new(
        snapshot: &Snapshot,
        before: Option<&Snapshot>,
        outside: &Outside,
        process: impl Fn(u64) -> Process,
    ) -> Self {
        let health = Health::judge(snapshot, outside);
        let old = matches!(health, Health::Stale(_) | Health::BrokerGone);
        let before = before.filter(|b| !old && same_generation(b, snapshot));
        let window = before.map_or(0, |b| {
            snapshot.get(StreamFact::SampledAt).saturating_sub(b.get(StreamFact::SampledAt))
        });
        let readers: Vec<Reader> = snapshot
            .readers
            .iter()
            .map(|figures| {
                let mut reader =
                    Reader::new(figures, snapshot, process(figures.get(ReaderFact::Pid)));
                let earlier =
                    before.and_then(|b| b.readers.iter().find(|r| same_reader(r, figures)));
                reader.rates = earlier.and_then(|b| {
                    let pair = |fact| (b.get(fact), figures.get(fact));
                    rates(pair(ReaderFact::Delivered), pair(ReaderFact::BytesDelivered), window)
                });
                reader
            })
            .collect();
        let gone = snapshot.get(StreamFact::LostByGone);
        let believed = readers.iter().filter(|r| r.implausible().is_none());
        let lapped = believed.fold(gone, |sum, r| sum.saturating_add(r.lost()));
        let lost = |counter| snapshot.pump(counter);
        Self {
            age: age(snapshot, outside),
            health,
            rates: before.and_then(|b| {
                let pair = |counter| (b.pump(counter), snapshot.pump(counter));
                rates(pair(PumpCounter::Published), pair(PumpCounter::PublishedBytes), window)
            }),
            loss: Loss([
                lost(PumpCounter::DeviceLost),
                lost(PumpCounter::KernelLost),
                lost(PumpCounter::BrokerLost),
                lapped,
            ]),
            readers,
            snapshot: snapshot.clone(),
        }
    }

    /// A fact.
    pub fn get(&self, fact: StreamFact) -> u64 {
        self.snapshot.get(fact)
    }

    /// Why the figures may not be current; empty if they are.
    pub fn caveat(&self) -> String {
        let age = Span(self.age);
        match self.health {
            Health::Fresh => String::new(),
            Health::Ended => "stream ended".into(),
            Health::Stale(Process::Stopped(c)) => {
                format!("broker stopped ({c}), figures {age} old")
            }
            Health::Stale(Process::Runs(c)) => format!("broker busy ({c}), figures {age} old"),
            // Its socket is still open, so it cannot be gone.
            Health::Stale(_) => {
                format!("broker silent and its process not visible from here, figures {age} old")
            }
            Health::BrokerGone => format!("broker gone, figures {age} old"),
        }
    }
}

fn same_generation(a: &Snapshot, b: &Snapshot) -> bool {
    [StreamFact::Generation, StreamFact::StartedRealtime].iter().all(|f| a.get(*f) == b.get(*f))
}

fn same_reader(a: &ReaderFigures, b: &ReaderFigures) -> bool {
    [ReaderFact::Index, ReaderFact::Pid, ReaderFact::AttachedRealtime]
        .iter()
        .all(|f| a.get(*f) == b.get(*f))
}

fn rates(datagrams: (u64, u64), bytes: (u64, u64), window: u64) -> Option<Rates> {
    let per_second =
        |(before, now): (u64, u64)| Some(now.checked_sub(before)? as f64 * 1e9 / window as f64);
    (window > 0).then_some(())?;
    Some(Rates {
        datagrams: per_second(datagrams)?,
        bytes: per_second(bytes)?,
        window: Duration::from_nanos(window),
    })
}

#[cfg(test)]
pub(crate) mod tests;
