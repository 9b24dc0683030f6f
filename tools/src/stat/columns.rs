//! The columns of the table of readers and the words of a stream's line, each with its explanation:
//! the one list that table, live screen and `--columns` use.

use super::model::{Reader, Stream};
use crate::date;
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::{Bytes, Count, Span};
use ringweir_proto::stats::{ReaderFact, StreamFact};
use std::time::Duration;

/// One column of the readers' table.
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// What it shows.
    pub help: &'static str,
    /// Whether it is aligned to the right, as numbers are.
    pub right: bool,
    /// In a narrow terminal the columns with the highest number are dropped first; 0: never
    /// dropped.
    pub leaves: u8,
    /// Its text for one reader; `Moment` is the time of the figures.
    pub cell: fn(&Reader, Moment) -> String,
}

/// How a time is printed: the time and now, both ns since 1970.
pub type Clock = fn(u64, u64) -> String;

/// The time of the figures, and how times are printed.
#[derive(Clone, Copy)]
pub struct Moment {
    /// ns since 1970.
    pub now: u64,
    /// The format.
    pub clock: Clock,
}

impl Moment {
    /// The moment of a stream's figures, printed in local time.
    pub fn of(stream: &Stream) -> Self {
        Self { now: stream.get(StreamFact::SampledRealtime), clock: date::moment }
    }
}

/// All of them, in order.
pub const COLUMNS: &[Column] = &[
    Column {
        head: "READER",
        help: "label the reader gave itself",
        right: false,
        leaves: 0,
        cell: |r, _| printable(&r.figures.label),
    },
    Column {
        head: "PID",
        help: "process of the reader",
        right: true,
        leaves: 3,
        cell: |r, _| r.get(ReaderFact::Pid).to_string(),
    },
    Column {
        head: "LAG",
        help: "datagrams between the reader and the newest one, and the age of the next one it \
            would read; LAPPED: that one is already overwritten and the reader has not noticed \
            yet, so its next read is a gap; ?: its figures are impossible",
        right: true,
        leaves: 0,
        cell: |r, _| match r.get(ReaderFact::Lag) {
            _ if r.implausible().is_some() => "?".into(),
            _ if r.is_lapped() => "LAPPED".into(),
            0 => "0".into(),
            n => format!("{n} / {}", Span(Duration::from_nanos(r.get(ReaderFact::LagTime)))),
        },
    },
    Column {
        head: "LAG BYTES",
        help: "payload bytes between the reader and the newest datagram",
        right: true,
        leaves: 5,
        cell: |r, _| Bytes(r.get(ReaderFact::LagBytes)).to_string(),
    },
    Column {
        head: "HIWATER",
        help: "largest lag since the reader attached, in datagrams, and the largest age of a \
            datagram that it read or had to read next",
        right: true,
        leaves: 4,
        cell: |r, _| match r.get(ReaderFact::LagMax) {
            0 => "0".into(),
            n => format!("{n} / {}", Span(Duration::from_nanos(r.get(ReaderFact::LagMaxTime)))),
        },
    },
    Column {
        head: "LOST",
        help: "datagrams lost since the reader attached, because it was lapped; with +, some are \
            certainly lost but not yet reported to the reader, so the number is a minimum",
        right: true,
        leaves: 0,
        cell: |r, _| format!("{}{}", r.lost(), if r.pending > 0 { "+" } else { "" }),
    },
    Column {
        head: "GAPS",
        help: "gaps reported to the reader",
        right: true,
        leaves: 6,
        cell: |r, _| r.get(ReaderFact::Gaps).to_string(),
    },
    Column {
        head: "LAST LOSS",
        help: "when the reader noticed its last gap, and the datagrams in it",
        right: false,
        leaves: 2,
        cell: |r, at| match r.get(ReaderFact::LastGapRealtime) {
            0 if r.pending > 0 => "not noticed".into(),
            0 => "–".into(),
            t => format!("{} ({})", (at.clock)(t, at.now), Count(r.get(ReaderFact::LastGapCount))),
        },
    },
    Column {
        head: "STATE",
        help: "running; waiting: asleep until the next datagram; LAPPED: see LAG; stopped (T): its \
            process is stopped by a signal (t: by a debugger); gone: its process has died and the \
            broker has not noticed, because it is stopped or because a process that the reader \
            forked holds its connection; implausible: its reader page holds impossible values, so \
            none of its figures can be trusted; lossless: the stream waits for it; demoted: the \
            stream waited for it until its budget was used up",
        right: false,
        leaves: 0,
        cell: |r, at| match (r.get(ReaderFact::Lossless), r.get(ReaderFact::DemotedRealtime)) {
            (1, _) => format!("{}, lossless", r.state),
            (_, 0) => r.state.to_string(),
            (_, time) => format!("{}, demoted {}", r.state, (at.clock)(time, at.now)),
        },
    },
];

/// Messages of a stream's line, and what they mean.
pub const STREAM_WORDS: &[(&str, &str)] = &[
    ("gen", "generation: increases with every restart of the broker"),
    (
        "dg/s, B/s",
        "datagrams and payload bytes published per second between two samples; – if not known",
    ),
    ("depth", "slots of the ring / payload bytes it holds"),
    ("readers", "readers attached / maximum"),
    ("age", "how old the figures are; the broker updates them ten times a second"),
    ("LOST", "datagrams lost since the stream began, by layer:"),
];

/// Keys of the JSON besides the lists of figures, and what they mean.
pub const JSON_WORDS: &[(&str, &str)] = &[
    (
        "stream, source, note",
        "name, configured source, and the complaint of the source (empty if there is none)",
    ),
    ("health", "ok, ended, broker_busy, broker_stopped or broker_gone; caveat is the same as text"),
    ("age_ns", "how old the figures are"),
    ("loss", "datagrams lost, by layer"),
    ("rates", "datagrams and bytes per second, measured over window_ns; null if not known"),
    ("counters", "the counters of the pump"),
    ("facts", "the other figures of the stream"),
    ("readers[].label", "label the reader gave itself"),
    ("readers[].state", "running, waiting, lapped, stopped, gone or implausible"),
    (
        "readers[].lost_pending",
        "datagrams certainly lost, of which the reader has not been notified yet; not included in \
        lost",
    ),
    (
        "readers[].lag_pct",
        "share of the ring between the reader and the newest datagram, in slots or bytes, \
        whichever is more",
    ),
    ("readers[].hiwater_pct", "largest lag as a share of the ring's depth"),
    ("readers[].rates", "what was delivered to the reader, as for the stream"),
];
