//! `ringstat --latency`: the time from publishing a datagram to reading it.
//!
//! Contract: the readers measure ([`METHOD`]), the broker passes on what their pages hold, and this
//! module shows it. Only here ringstat queries the broker for every sample; a broker that does not
//! answer costs [`crate::broker_query::PATIENCE`].

use super::fleet::Fleet;
use super::model::{Health, Reader, Stream};
use super::table;
use crate::broker_query::Pending;
use crate::json_line::json_line;
use comfy_table::{CellAlignment, Table, presets};
use ringweir::view::{Histogram, Latency};
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::Span;
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How it is measured, for help and exposition.
pub const METHOD: &str = "time from publishing (when the broker starts the batch) to reading, \
    including the wake-up, by the same clock (CLOCK_MONOTONIC). A reader samples the first \
    datagram that was published at least a millisecond after the one it sampled last, so a reader \
    that falls behind samples all that it was late for. A lost datagram has no latency. A quantile \
    is the upper end of its bucket: at most 12.5 % too high";

const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// Whether `latency` belongs to `reader`, and not to an earlier reader with the same index.
pub fn is_of(latency: &Latency, reader: &Reader) -> bool {
    u64::from(latency.index) == reader.get(ReaderFact::Index)
        && latency.attached == reader.get(ReaderFact::AttachedRealtime)
}

/// How drain gaps are measured, for help and exposition.
pub const DRAIN_METHOD: &str = "how long the FIFO of a device had been filling when the broker \
    drained it: the time since the last drain, or since it was last seen empty; or, if that is \
    shorter, the time that the configured rate takes to fill it with what was found and what was \
    lost";

/// What a broker reported about one stream.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Latencies of its readers.
    pub readers: Vec<Latency>,
    /// Drain gaps of the FIFO behind its source.
    pub drain_gaps: Option<Histogram>,
}

/// Asks for the latencies of all readers of a stream, attached as `name`, and for the drain gaps of
/// its source. `None`: there is nothing to ask for.
fn ask(stream: &Stream, name: &str) -> Option<Pending<Measured>> {
    let drains =
        stream.get(StreamFact::DrainSlack) > 0 || stream.snapshot.pump(PumpCounter::Drains) > 0;
    let nothing = stream.readers.is_empty() && !drains;
    let indices: Vec<u32> =
        stream.readers.iter().map(|r| r.get(ReaderFact::Index) as u32).collect();
    (stream.health != Health::BrokerGone && !nothing).then(|| {
        Pending::ask(name, move |name| {
            let readers = ringweir::view::latencies(name, &indices)?;
            let drain_gaps = if drains { ringweir::view::drain_gaps(name)? } else { None };
            Ok(Measured { readers, drain_gaps })
        })
    })
}

/// Latencies for a program that asks again and again. A broker that does not answer has one query
/// at a time, and is waited for once.
#[derive(Default)]
pub struct Latencies {
    unanswered: HashMap<String, Pending<Measured>>,
}

impl Latencies {
    /// The latencies of all streams that tell them within `limit`; empty for the others. `streams`
    /// as returned by [`Fleet::look`].
    pub fn of(&mut self, fleet: &Fleet, streams: &[Stream], limit: Duration) -> Vec<Measured> {
        self.unanswered.retain(|_, pending| pending.poll().is_none());
        let asked: Vec<_> = streams
            .iter()
            .zip(fleet.names())
            .map(|(stream, name)| {
                let waits = self.unanswered.contains_key(name);
                (name, if waits { None } else { ask(stream, name) })
            })
            .collect();
        let until = Instant::now() + limit;
        let mut answers = Vec::new();
        for (name, pending) in asked {
            let answer = pending.as_ref().and_then(|pending| pending.poll_until(until));
            if answer.is_none()
                && let Some(pending) = pending
            {
                self.unanswered.insert(name.into(), pending);
            }
            answers.push(answer.and_then(Result::ok).unwrap_or_default());
        }
        answers
    }
}

/// Queries under way, one per stream.
pub struct Asked(Vec<Option<Pending<Measured>>>);

impl Asked {
    /// Asks for the latencies of all readers of all streams, at the same time; `streams` as
    /// returned by [`Fleet::look`].
    pub fn of(fleet: &Fleet, streams: &[Stream]) -> Self {
        let ask = |(stream, name): (&Stream, &str)| ask(stream, name);
        Self(streams.iter().zip(fleet.names()).map(ask).collect())
    }

    /// The answers, in order; empty for streams without a broker, or without readers and FIFO.
    pub fn wait(self) -> Vec<anyhow::Result<Measured>> {
        self.0
            .into_iter()
            .map(|pending| pending.map_or(Ok(Measured::default()), Pending::wait))
            .collect()
    }
}

/// The latencies of one stream's readers, since they attached or since the sample before.
pub struct Shown<'a> {
    stream: &'a Stream,
    /// `None`: since they attached.
    interval: Option<Duration>,
    readers: Vec<(&'a Reader, Histogram)>,
    drain_gaps: Option<Histogram>,
}

impl<'a> Shown<'a> {
    /// The latencies in `now`; with `before`, only those since then.
    pub fn new(stream: &'a Stream, now: &Measured, before: Option<(&Measured, Duration)>) -> Self {
        let histogram = |l: &Latency| match before {
            None => l.histogram.clone(),
            Some((before, _)) => {
                let same = |b: &&Latency| (b.index, b.attached) == (l.index, l.attached);
                before
                    .readers
                    .iter()
                    .find(same)
                    .map_or_else(|| l.histogram.clone(), |b| l.histogram.since(&b.histogram))
            }
        };
        let readers = stream
            .readers
            .iter()
            .filter_map(|r| Some((r, histogram(now.readers.iter().find(|l| is_of(l, r))?))));
        let readers = readers.collect();
        let drain_gaps = now.drain_gaps.as_ref().map(|now| {
            match before.and_then(|(b, _)| b.drain_gaps.as_ref()) {
                Some(before) => now.since(before),
                None => now.clone(),
            }
        });
        Self { stream, interval: before.map(|(_, span)| span), readers, drain_gaps }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let since = match self.interval {
            None => "since each attached".into(),
            Some(span) => format!("in the last {}", Span(span)),
        };
        let mut out =
            format!("{}  latency from publishing to reading, {since}\n", table::name(self.stream));
        for remark in table::remarks(self.stream) {
            out += &format!("!! {remark}\n");
        }
        if self.readers.is_empty() && self.drain_gaps.is_none() {
            return out + "no readers to measure\n";
        }
        let mut shown = Table::new();
        let heads = ["READER", "PID", "SAMPLES", "P50", "P90", "P99", "P99.9", "MAX"];
        shown.load_style(presets::NOTHING).set_header(heads);
        let mut row = |name: String, pid: String, histogram: &Histogram| {
            let span = |ns: Option<u64>| {
                ns.map_or("–".into(), |ns| Span(Duration::from_nanos(ns)).to_string())
            };
            let mut row = vec![name, pid, histogram.samples().to_string()];
            row.extend(QUANTILES.map(|share| span(histogram.quantile(share))));
            shown.add_row(row);
        };
        for (reader, histogram) in &self.readers {
            row(
                printable(&reader.figures.label),
                reader.get(ReaderFact::Pid).to_string(),
                histogram,
            );
        }
        if let Some(gaps) = &self.drain_gaps {
            row("(drain gap)".into(), self.stream.get(StreamFact::BrokerPid).to_string(), gaps);
        }
        for (i, column) in shown.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if i > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        shown.lines().fold(out, |out, line| out + line.trim_end() + "\n")
    }

    /// As one JSON object.
    pub fn json(&self) -> String {
        let readers = self.readers.iter().map(|(reader, h)| OneReader {
            label: &reader.figures.label,
            pid: reader.get(ReaderFact::Pid),
            index: reader.get(ReaderFact::Index),
            times: Times::of(h),
        });
        json_line(&Sample {
            stream: &self.stream.snapshot.name,
            generation: self.stream.get(StreamFact::Generation),
            window_ns: self.interval.map(|span| span.as_nanos() as u64),
            readers: readers.collect(),
            drain_gaps: self.drain_gaps.as_ref().map(Times::of),
        })
    }
}

/// Keys of the JSON, and what they mean.
pub const JSON_WORDS: &[(&str, &str)] = &[
    ("window_ns", "the interval; null: since each reader attached"),
    ("readers[].samples", "datagrams sampled"),
    ("readers[].sum_ns", "sum of their latencies"),
    ("readers[].p50_ns … max_ns", "quantiles of the samples; null without samples"),
    (
        "readers[].buckets",
        "pairs of an upper limit in ns and the number of samples below it that are not in the pair \
        before; without empty ones",
    ),
    ("drain_gaps", "the same for the FIFO of the source; null if there is none"),
];

#[derive(Serialize)]
struct OneReader<'a> {
    label: &'a str,
    pid: u64,
    index: u64,
    #[serde(flatten)]
    times: Times,
}

#[derive(Serialize)]
struct Times {
    samples: u64,
    sum_ns: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p99_9_ns: Option<u64>,
    max_ns: Option<u64>,
    /// Upper limit in ns, and the number of samples in this bucket. Empty buckets are left out.
    buckets: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct Sample<'a> {
    stream: &'a str,
    generation: u64,
    window_ns: Option<u64>,
    readers: Vec<OneReader<'a>>,
    drain_gaps: Option<Times>,
}

impl Times {
    fn of(h: &Histogram) -> Self {
        let [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns] = QUANTILES.map(|share| h.quantile(share));
        let buckets = h
            .occupied()
            .map(|(place, n)| (ringweir_proto::latency::above(place.into()), n))
            .collect();
        Self {
            samples: h.samples(),
            sum_ns: h.sum_ns,
            p50_ns,
            p90_ns,
            p99_ns,
            p99_9_ns,
            max_ns,
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{SECOND, outside, runs, snapshot};
    use super::*;

    fn sampled(index: u32, attached: u64, ns: &[u64]) -> Latency {
        let mut places: Vec<u16> =
            ns.iter().map(|n| ringweir_proto::latency::bucket(*n) as u16).collect();
        places.sort_unstable();
        let counted = places.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u64));
        let (sum, max) = (ns.iter().sum(), ns.iter().copied().max().unwrap_or(0));
        Latency { index, attached, histogram: Histogram::from_occupied(counted, sum, max) }
    }

    fn of(readers: Vec<Latency>) -> Measured {
        Measured { readers, drain_gaps: None }
    }

    #[test]
    fn latencies_belong_to_their_reader() {
        let s = snapshot(11 * SECOND, 5000, &[("ids", 5000, 0, false), ("monitor", 100, 65, true)]);
        let stream = Stream::new(&s, None, &outside(11 * SECOND), runs);
        let first = of(vec![sampled(0, 0, &[1000, 2000, 3000]), sampled(1, 77, &[9])]);
        let text = Shown::new(&stream, &first, None).table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "STREAM demo gen 1  latency from publishing to reading, since each attached"
        );
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(
            words,
            ["ids", "1000", "3", "2.05", "us", "3", "us", "3", "us", "3", "us", "3", "us"],
            "{text}"
        );
        assert_eq!(lines.len(), 3, "the second was of another reader: {text}");
        // The difference has one sample, although an earlier one was the longest.
        let now = of(vec![sampled(0, 0, &[1000, 2000, 3000, 500])]);
        let since = Shown::new(&stream, &now, Some((&first, Duration::from_secs(2))));
        let shown: serde_json::Value = serde_json::from_str(&since.json()).unwrap();
        assert_eq!(
            (&shown["window_ns"], &shown["readers"][0]["samples"]),
            (&(2 * SECOND).into(), &1.into())
        );
        assert_eq!(shown["readers"][0]["max_ns"], 511);
        assert!(since.table().contains("in the last 2 s"));
    }

    #[test]
    fn no_samples_are_dashes_and_null() {
        let s = snapshot(11 * SECOND, 5000, &[("ids", 5000, 0, false)]);
        let stream = Stream::new(&s, None, &outside(11 * SECOND), runs);
        let none = of(vec![sampled(0, 0, &[])]);
        let shown = Shown::new(&stream, &none, None);
        assert!(shown.table().ends_with("0    –    –    –      –    –\n"), "{}", shown.table());
        assert!(shown.json().contains("\"p50_ns\":null"));
        assert!(Shown::new(&stream, &of(vec![]), None).table().contains("no readers to measure"));
    }

    #[test]
    fn the_drain_gap_of_a_fifo_has_its_own_line() {
        let s = snapshot(11 * SECOND, 5000, &[]);
        let stream = Stream::new(&s, None, &outside(11 * SECOND), runs);
        let gaps = |ns: &[u64]| Measured {
            readers: vec![],
            drain_gaps: Some(sampled(0, 0, ns).histogram),
        };
        let before = gaps(&[5_000_000]);
        let now = gaps(&[5_000_000, 1000]);
        let table = Shown::new(&stream, &now, None).table();
        assert!(table.contains("(drain gap)") && table.ends_with("5 ms\n"), "{table}");
        let since: serde_json::Value = serde_json::from_str(
            &Shown::new(&stream, &now, Some((&before, Duration::from_secs(1)))).json(),
        )
        .unwrap();
        assert_eq!(
            (&since["drain_gaps"]["samples"], &since["drain_gaps"]["max_ns"]),
            (&1.into(), &1023.into())
        );
        assert!(Shown::new(&stream, &of(vec![]), None).json().contains("\"drain_gaps\":null"));
    }
}
