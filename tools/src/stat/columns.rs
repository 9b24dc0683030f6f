//! The columns of the readers' table and the words of a stream's line, each with its explanation:
//! the one list that table, live screen and `--columns` are made from.

use super::model::{Layer, Rates, Reader, Stream};
use crate::date;
use ringweir_cli::quantity::{Bytes, Count, Rate, Span};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
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

/// Words of a stream's line, and what they say.
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

/// Everything explained, for `--columns`.
pub fn explained(width: usize) -> String {
    let mut out = String::new();
    let mut section = |title: &str, rows: Vec<(String, &str)>| {
        let first = rows.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
        out.push_str(&format!("{title}\n"));
        for (word, help) in rows {
            let mut lead = format!("  {word:first$}  ");
            for line in wrap(help, width.saturating_sub(first + 4).max(30)) {
                out.push_str(&format!("{lead}{line}\n"));
                lead = " ".repeat(first + 4);
            }
        }
        out.push('\n');
    };
    let words = |list: &[(&'static str, &'static str)]| {
        list.iter().map(|(w, h)| (w.to_string(), *h)).collect::<Vec<_>>()
    };
    let mut stream = words(STREAM_WORDS);
    stream.extend(Layer::ALL.map(|l| (format!("  {}", l.key()), l.definition())));
    section("Line of a stream:", stream);
    section(
        "Columns of its readers:",
        COLUMNS.iter().map(|c| (c.head.to_string(), c.help)).collect(),
    );
    section("JSON (--json):", words(JSON_WORDS));
    section("JSON of --why:", words(super::why::JSON_WORDS));
    section("JSON of --latency:", words(super::latency::JSON_WORDS));
    section(
        "JSON, counters:",
        PumpCounter::ALL.iter().map(|f| (f.key().into(), f.help())).collect(),
    );
    section("JSON, facts:", StreamFact::ALL.iter().map(|f| (f.key().into(), f.help())).collect());
    section(
        "JSON, readers[]:",
        ReaderFact::ALL.iter().map(|f| (f.key().into(), f.help())).collect(),
    );
    out.truncate(out.trim_end().len());
    out
}

/// `text` in lines of at most `width` characters, where its words allow.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.into());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

/// "2.5 kdg/s  640 kB/s", or a dash.
pub fn rates(rates: Option<Rates>) -> String {
    rates.map_or("– dg/s  – B/s".into(), |r| {
        format!("{}  {}", Rate::Datagrams(r.datagrams), Rate::Bytes(r.bytes))
    })
}

/// A share as "12 %"; the smallest ones as "<1 %", so that only nothing is 0.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".into(),
        p if p < 1.0 => "<1 %".into(),
        p => format!("{p:.0} %"),
    }
}

/// Text of somebody else without what could move a cursor or break a line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_word_and_figure_is_explained() {
        let text = explained(100);
        let words = COLUMNS.iter().map(|c| c.head).chain(STREAM_WORDS.iter().map(|w| w.0));
        let keys = PumpCounter::ALL.iter().map(|f| f.key());
        let keys = keys
            .chain(StreamFact::ALL.iter().map(|f| f.key()))
            .chain(ReaderFact::ALL.iter().map(|f| f.key()));
        for word in words.chain(Layer::ALL.map(Layer::key)).chain(keys) {
            assert!(
                text.lines().any(|l| l.trim_start().starts_with(word)),
                "{word} is not explained:\n{text}"
            );
        }
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    }

    #[test]
    fn shares_and_foreign_text_are_honest_and_harmless() {
        assert_eq!([0.0, 0.0001, 0.031, 1.2].map(percent), ["0 %", "<1 %", "3 %", "120 %"]);
        assert_eq!(printable("a\x1b[2J\nb"), "a?[2J?b");
    }
}
