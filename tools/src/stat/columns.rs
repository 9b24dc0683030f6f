//! The columns of the readers' table and the words of a stream's line, each with its explanation:
//! the one list that table, live screen and `--columns` are made from.

use super::model::{Reader, Stream};
use crate::date;
use crate::output::printable;
use ringweir_cli::quantity::{Bytes, Count, Span};
use ringweir_proto::stats::{ReaderFact, StreamFact};
use std::time::Duration;

/// One column of the readers' table.
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// What it shows.
    pub help: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
    /// Columns with the highest number leave a narrow terminal first; 0 stays.
    pub leaves: u8,
    /// What it shows of one reader; moments are given as ns since 1970, with the time of the
    /// figures.
    pub cell: fn(&Reader, Moment) -> String,
}

/// How a moment is written: the moment and now, both ns since 1970.
pub type Clock = fn(u64, u64) -> String;

/// The time of the figures, and how moments are written.
#[derive(Clone, Copy)]
pub struct Moment {
    /// ns since 1970.
    pub now: u64,
    /// How.
    pub clock: Clock,
}

impl Moment {
    /// Of a stream's figures, in local time.
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
        help: "its process",
        right: true,
        leaves: 3,
        cell: |r, _| r.get(ReaderFact::Pid).to_string(),
    },
    Column {
        head: "LAG",
        help: "datagrams between it and the newest, and the age of the next one it would read; \
            LAPPED: that one is \
               overwritten already and the reader has not noticed yet, so its next read is a gap; \
               ?: what it says cannot be",
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
        help: "payload bytes between it and the newest datagram",
        right: true,
        leaves: 5,
        cell: |r, _| Bytes(r.get(ReaderFact::LagBytes)).to_string(),
    },
    Column {
        head: "HIWATER",
        help: "largest lag seen since it attached, in datagrams, and the largest age of what it \
            read or had to read next",
        right: true,
        leaves: 4,
        cell: |r, _| match r.get(ReaderFact::LagMax) {
            0 => "0".into(),
            n => format!("{n} / {}", Span(Duration::from_nanos(r.get(ReaderFact::LagMaxTime)))),
        },
    },
    Column {
        head: "LOST",
        help: "datagrams it was lapped over since it attached; with +, some of them are certain to \
            be lost but not told to \
               it yet, so it is at least so many",
        right: true,
        leaves: 0,
        cell: |r, _| format!("{}{}", r.lost(), if r.pending > 0 { "+" } else { "" }),
    },
    Column {
        head: "GAPS",
        help: "gaps it was told of",
        right: true,
        leaves: 6,
        cell: |r, _| r.get(ReaderFact::Gaps).to_string(),
    },
    Column {
        head: "LAST LOSS",
        help: "when it noticed its last gap, and the datagrams in it",
        right: false,
        leaves: 2,
        cell: |r, at| match r.get(ReaderFact::LastGapRealtime) {
            0 if r.pending > 0 => "not told yet".into(),
            0 => "–".into(),
            t => format!("{} ({})", (at.clock)(t, at.now), Count(r.get(ReaderFact::LastGapCount))),
        },
    },
    Column {
        head: "STATE",
        help: "running; waiting: asleep for want of datagrams; LAPPED: as under LAG; stopped (T): \
            its process is stopped by a \
               signal (t: by a debugger); gone: its process has died and the broker could not say \
               so; implausible: its page says what cannot \
               be, so that none of its figures is to be believed; lossless: the stream waits for \
               it; demoted: it did, until that one's \
               budget was used up",
        right: false,
        leaves: 0,
        cell: |r, at| match (r.get(ReaderFact::Lossless), r.get(ReaderFact::DemotedRealtime)) {
            (1, _) => format!("{}, lossless", r.state),
            (_, 0) => r.state.to_string(),
            (_, time) => format!("{}, demoted {}", r.state, (at.clock)(time, at.now)),
        },
    },
];

/// Messages of a stream's line, and what they say.
pub const STREAM_WORDS: &[(&str, &str)] = &[
    ("gen", "generation: goes up with every restart of the broker"),
    (
        "dg/s, B/s",
        "datagrams and payload bytes published per second between two looks; – if not known",
    ),
    ("depth", "slots of the ring / payload bytes it holds"),
    ("readers", "readers attached / most there may be"),
    ("age", "how old the figures are; the broker renews them ten times a second"),
    ("LOST", "datagrams lost since the stream began, by layer:"),
];

/// Keys that JSON has beside the lists of figures, and what they say.
pub const JSON_WORDS: &[(&str, &str)] = &[
    (
        "stream, source, note",
        "name, source as configured, and what the source complains of (empty if nothing)",
    ),
    (
        "health",
        "ok, ended, broker_busy, broker_stopped or broker_gone; caveat says the same in words",
    ),
    ("age_ns", "how old the figures are"),
    ("loss", "datagrams lost, by layer"),
    (
        "rates",
        "datagrams and bytes per second, and window_ns they are measured over; null if not known",
    ),
    ("counters", "the pump's counters"),
    ("facts", "the other figures of the stream"),
    ("readers[].label", "label the reader gave itself"),
    ("readers[].state", "running, waiting, lapped, stopped, gone or implausible"),
    (
        "readers[].lost_pending",
        "datagrams certainly lost that it was not told of yet; not part of lost",
    ),
    (
        "readers[].lag_pct",
        "share of the ring between it and the newest datagram, in slots or bytes, whichever is \
        more",
    ),
    ("readers[].hiwater_pct", "largest lag seen as a share of the ring's depth"),
    ("readers[].rates", "what was delivered to it, as for the stream"),
];
