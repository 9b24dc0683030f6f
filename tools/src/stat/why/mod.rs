//! `ringstat --why`: what limits a stream, which reader is furthest behind, how long until data is
//! lost, and what to do.
//!
//! Contract: judged from two samples, so that an old loss and a present one are distinguished.
//! Pure: what is seen of processes comes in through [`Seen`]. A finding is a fact with its figures
//! and one line of advice. A stream is limited if anything is being lost now, or will be if nothing
//! changes.

mod finding;
mod layers;
mod readers;

use super::model::{Health, Layer, Loss, Stream};
use super::table;
pub use finding::Seen;
use finding::{Between, Finding, IMPLAUSIBLE, PAUSE, SKIPPED};
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::Span;
use ringweir_proto::stats::{ReaderFact, StreamFact};
use serde::Serialize;
use std::time::Duration;

/// Time between the two samples.
pub const WINDOW: Duration = Duration::from_secs(1);

/// The reader furthest behind.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Furthest {
    label: String,
    pid: u64,
    index: u64,
    lag: u64,
    lag_ns: u64,
    lag_pct: f64,
}

/// The verdict on a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    stream: String,
    generation: u64,
    /// Whether anything limits it.
    pub limited: bool,
    window_ns: u64,
    findings: Vec<Finding>,
    furthest: Option<Furthest>,
    #[serde(skip)]
    head: String,
    #[serde(skip)]
    flow: String,
    #[serde(skip)]
    ring: String,
    #[serde(skip)]
    earlier: Vec<String>,
}

/// Keys of the JSON, and what they mean.
pub const JSON_WORDS: &[(&str, &str)] = &[
    ("limited", "whether anything is being lost, or will be if nothing changes"),
    ("window_ns", "time between the two samples"),
    (
        "findings[].layer",
        "device, kernel, broker or reader; for a reader with label, pid and index",
    ),
    (
        "findings[].kind",
        "broker_stopped, broker_busy, broker_gone, losing; of a reader: stopped, gone, lapped, \
        slow, holding; pause (of a recording), skipped (on purpose) and implausible limit nothing",
    ),
    ("findings[].lost", "lost so far; lost_per_second: lost now"),
    (
        "findings[].lapped_in_ns",
        "time until it is lapped if nothing changes; 0: it is lapped; null: not expected",
    ),
    ("findings[].what, advice", "the same as text, and what to do"),
    ("furthest", "the reader that is furthest behind, whether it is in trouble or not"),
];

/// Judges a stream from two samples.
pub fn judge(before: Option<&Stream>, now: &Stream, seen: &impl Seen) -> Verdict {
    let window =
        |b: &Stream| now.get(StreamFact::SampledAt).saturating_sub(b.get(StreamFact::SampledAt));
    let same = |b: &&Stream| {
        now.get(StreamFact::StartedRealtime) == b.get(StreamFact::StartedRealtime) && window(b) > 0
    };
    let before = before.filter(same);
    let window_ns = before.map_or(0, window);
    let mut findings: Vec<Finding> = layers::broker(now).into_iter().collect();
    if let Some(before) = before {
        let between = Between { before, now, seconds: window_ns as f64 / 1e9 };
        findings.extend(
            [Layer::Device, Layer::Kernel, Layer::Broker]
                .iter()
                .filter_map(|l| layers::losing(&between, *l, seen)),
        );
        // In a stream that has ended no reader is lapped any more.
        let judged = now.readers.iter().filter(|_| now.health != Health::Ended);
        let mut limiting: Vec<Finding> = judged
            .filter(|r| r.implausible().is_none())
            .filter_map(|r| readers::limiting(&between, r, between.earlier(r)?, seen))
            .collect();
        limiting.sort_by(|a, b| {
            let soon = |f: &Finding| f.lapped_in_ns.unwrap_or(u64::MAX);
            b.lost_per_second.total_cmp(&a.lost_per_second).then(soon(a).cmp(&soon(b)))
        });
        findings.extend(limiting);
    }
    findings.extend(layers::pausing(now));
    findings.extend(layers::skipping(now));
    findings.extend(now.readers.iter().filter_map(|r| readers::implausible(&now.snapshot.name, r)));
    let ring = match now.get(StreamFact::History) {
        0 => String::new(),
        ns => format!(" of {} in the ring", Span(Duration::from_nanos(ns))),
    };
    Verdict {
        stream: now.snapshot.name.clone(),
        generation: now.get(StreamFact::Generation),
        limited: findings.iter().any(|f| ![IMPLAUSIBLE, PAUSE, SKIPPED].contains(&f.kind)),
        window_ns,
        furthest: furthest(now),
        head: table::name(now),
        flow: super::text::rates(now.rates),
        ring,
        earlier: [
            earlier(before.map(|b| b.loss), now.loss, Duration::from_nanos(window_ns)),
            readers::demoted(now),
        ]
        .concat(),
        findings,
    }
}

fn furthest(stream: &Stream) -> Option<Furthest> {
    let reader = stream.readers.iter().filter(|r| r.implausible().is_none()).max_by(|a, b| {
        a.lag_share
            .total_cmp(&b.lag_share)
            .then(a.get(ReaderFact::Lag).cmp(&b.get(ReaderFact::Lag)))
    })?;
    Some(Furthest {
        label: reader.figures.label.clone(),
        pid: reader.get(ReaderFact::Pid),
        index: reader.get(ReaderFact::Index),
        lag: reader.get(ReaderFact::Lag),
        lag_ns: reader.get(ReaderFact::LagTime),
        lag_pct: (reader.lag_share * 1e5).round() / 1e3,
    })
}

/// Layers that lost something earlier, but nothing now.
fn earlier(before: Option<Loss>, now: Loss, window: Duration) -> Vec<String> {
    let over = |l: &&Layer| now.get(**l) > 0 && before.is_none_or(|b| b.get(**l) == now.get(**l));
    let said = |l: &Layer| {
        format!("{} lost {} earlier, nothing in the last {}", l.key(), now.get(*l), Span(window))
    };
    Layer::ALL.iter().filter(over).map(said).collect()
}

impl Verdict {
    /// The verdict as text: each finding with its advice, or that nothing limits the stream.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if self.findings.is_empty() {
            out += &format!("{}  nothing limits it: {}", self.head, self.flow);
            match &self.furthest {
                None => out += "; no readers\n",
                Some(f) if f.lag == 0 => out += "; no reader is behind\n",
                Some(f) => {
                    let (who, time) = (printable(&f.label), Span(Duration::from_nanos(f.lag_ns)));
                    out += &format!(
                        "; furthest behind is {who} (pid {}), {} dg / {time}{}\n",
                        f.pid, f.lag, self.ring
                    );
                }
            }
        } else {
            out += &format!("{}  {}\n", self.head, self.flow);
        }
        for finding in &self.findings {
            out += &format!("  {}\n    -> {}\n", finding.what, finding.advice);
        }
        for over in &self.earlier {
            out += &format!("  {over}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests;
