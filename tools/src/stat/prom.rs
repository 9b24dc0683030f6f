//! Streams in the text format of Prometheus (OpenMetrics 1.0): every figure of the lists in
//! `ringweir_proto::stats`, and what the model computes of them.
//!
//! Contract: the name of a figure follows from its key and kind alone ([`Name::of`]), so a new
//! figure needs no line here: `ringweir_` or `ringweir_reader_`, base units at the end, `_total`
//! after counters. One series per stream and generation, and one per reader. No series is there
//! twice, whatever a broker says of its readers: Prometheus would reject the whole exposition.

use super::latency::Measured;
use super::model::{Health, Layer, Reader, Stream};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use ringweir::view::Histogram;
use ringweir_proto::stats::{Kind, PumpCounter, ReaderFact, StreamFact};
use std::collections::HashSet;
use std::fmt;

/// The content type of [`exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A stream, and the latencies of its readers, where they are known.
pub struct Scraped {
    /// The stream.
    pub stream: Stream,
    /// Its latencies.
    pub measured: Measured,
}

/// All streams as text.
pub fn exposition(scraped: &[Scraped]) -> String {
    let mut registry = Registry::with_prefix("ringweir");
    registry.register_collector(Box::new(Families(families(scraped))));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a String");
    text
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Exact(u64),
    Measured(f64),
    Distribution(Histogram),
}

#[derive(Debug)]
struct Family {
    name: Name,
    help: String,
    series: Vec<(Labels, Value)>,
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let Name { text, unit, kind } = &family.name;
            let mut metric = encoder.encode_descriptor(text, &family.help, unit.as_ref(), *kind)?;
            for (labels, value) in &family.series {
                let mut one = metric.encode_family(labels)?;
                match (value, kind) {
                    (Value::Exact(n), MetricType::Counter) => {
                        one.encode_counter::<NoLabelSet, _, u64>(n, None)?
                    }
                    (Value::Exact(n), _) => one.encode_gauge(n)?,
                    (Value::Measured(x), MetricType::Counter) => {
                        one.encode_counter::<NoLabelSet, _, u64>(x, None)?
                    }
                    (Value::Measured(x), _) => one.encode_gauge(x)?,
                    (Value::Distribution(h), _) => {
                        let (sum, buckets) = (h.sum_ns as f64 * 1e-9, buckets(h));
                        one.encode_histogram::<NoLabelSet>(sum, h.samples(), &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Upper limits in seconds, and the number of samples in each bucket: 2^10 ns (about 1 µs) to 2^36
/// ns (69 s), each four times the one before.
fn buckets(h: &Histogram) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut between = |up_to: u64| up_to - std::mem::replace(&mut before, up_to);
    let mut buckets: Vec<(f64, u64)> = (10..=36)
        .step_by(2)
        .map(|octave| ((1u64 << octave) as f64 * 1e-9, between(h.below(1 << octave))))
        .collect();
    buckets.push((f64::INFINITY, between(h.samples())));
    buckets
}

/// A metric's name without the prefix and without its unit, which the encoder adds.
#[derive(Debug, Clone)]
struct Name {
    text: String,
    unit: Option<Unit>,
    kind: MetricType,
}

impl Name {
    fn gauge(text: &str, unit: Option<Unit>) -> Self {
        Self { text: text.into(), unit, kind: MetricType::Gauge }
    }

    /// The name of a figure: the unit (bytes, seconds) comes last, and moments are gauges of
    /// seconds.
    fn of(prefix: &str, key: &str, kind: Kind) -> Self {
        let mut words: Vec<&str> = key.split('_').collect();
        let mut take =
            |word: &str| words.iter().position(|w| *w == word).map(|at| words.remove(at)).is_some();
        let unit = match kind {
            Kind::Realtime => {
                take("realtime");
                words.push("timestamp");
                Some(Unit::Seconds)
            }
            Kind::Monotonic => {
                words.push("monotonic");
                Some(Unit::Seconds)
            }
            _ if take("ns") => Some(Unit::Seconds),
            _ if take("bytes") => Some(Unit::Bytes),
            _ => None,
        };
        let kind = if kind == Kind::Counter { MetricType::Counter } else { MetricType::Gauge };
        Self { text: format!("{prefix}{}", words.join("_")), unit, kind }
    }

    fn value(&self, figure: u64) -> Value {
        match self.unit {
            Some(Unit::Seconds) => Value::Measured(figure as f64 / 1e9),
            _ => Value::Exact(figure),
        }
    }
}

fn of_stream(stream: &Stream) -> Labels {
    vec![
        ("stream", stream.snapshot.name.clone()),
        ("generation", stream.get(StreamFact::Generation).to_string()),
    ]
}

fn of_reader(stream: &Stream, reader: &Reader) -> Labels {
    let number = |fact| reader.get(fact).to_string();
    let mut labels = of_stream(stream);
    labels.extend([
        ("reader", reader.figures.label.clone()),
        ("index", number(ReaderFact::Index)),
        ("pid", number(ReaderFact::Pid)),
    ]);
    labels
}

fn families(scraped: &[Scraped]) -> Vec<Family> {
    let mut families = Vec::new();
    let streams = || scraped.iter().map(|s| &s.stream);
    let readers = || streams().flat_map(|s| s.readers.iter().map(move |r| (s, r)));
    let mut family = |name: Name, help: &str, mut series: Vec<(Labels, Value)>| {
        let mut there = HashSet::new();
        series.retain(|(labels, _)| there.insert(labels.clone()));
        families.push(Family { name, help: format!("{}.", help.trim_end_matches('.')), series });
    };

    let up = "1 if the broker updates its figures; 0 if it is busy, stopped or gone, or has ended \
        the stream: then the figures are the last ones";
    let up_now = |s: &Stream| Value::Exact((s.health == Health::Fresh).into());
    family(Name::gauge("up", None), up, streams().map(|s| (of_stream(s), up_now(s))).collect());
    let age = |s: &Stream| Value::Measured(s.age.as_secs_f64());
    let age_help = "how old the figures are";
    family(
        Name::gauge("figures_age", Some(Unit::Seconds)),
        age_help,
        streams().map(|s| (of_stream(s), age(s))).collect(),
    );
    let source = |s: &Stream| {
        let mut labels = of_stream(s);
        labels.push(("source", s.snapshot.source.clone()));
        (labels, Value::Exact(1))
    };
    family(
        Name::gauge("stream_source", None),
        "always 1; the configured source",
        streams().map(source).collect(),
    );
    let layers = |s: &Stream| {
        Layer::ALL.map(|layer| {
            let mut labels = of_stream(s);
            labels.push(("layer", layer.key().into()));
            (labels, Value::Exact(s.loss.get(layer)))
        })
    };
    let lost = Name { text: "lost".into(), unit: None, kind: MetricType::Counter };
    family(
        lost,
        "datagrams lost since the stream began, by layer",
        streams().flat_map(layers).collect(),
    );

    for counter in PumpCounter::ALL {
        let name = Name::of("", counter.key(), counter.kind());
        let series =
            streams().map(|s| (of_stream(s), name.value(s.snapshot.pump(*counter)))).collect();
        family(name, counter.help(), series);
    }
    for fact in StreamFact::ALL {
        let name = Name::of("", fact.key(), fact.kind());
        let series = streams().map(|s| (of_stream(s), name.value(s.get(*fact)))).collect();
        family(name, fact.help(), series);
    }
    for fact in ReaderFact::ALL {
        let name = Name::of("reader_", fact.key(), fact.kind());
        let series = readers().map(|(s, r)| (of_reader(s, r), name.value(r.get(*fact)))).collect();
        family(name, fact.help(), series);
    }

    let state = |(s, r): (&Stream, &Reader)| {
        let mut labels = of_reader(s, r);
        labels.push(("state", r.state.key().into()));
        (labels, Value::Exact(1))
    };
    let state_help =
        "always 1; what the reader is doing: running, waiting, lapped, stopped or gone";
    family(Name::gauge("reader_state", None), state_help, readers().map(state).collect());
    let pending = readers().map(|(s, r)| (of_reader(s, r), Value::Exact(r.pending))).collect();
    let pending_help = "datagrams certainly lost, of which the reader has not been notified yet; \
        not included in lost";
    family(Name::gauge("reader_lost_pending", None), pending_help, pending);

    let latencies = scraped.iter().flat_map(|s| {
        let of = |r: &Reader| {
            let found = s.measured.readers.iter().find(|l| super::latency::is_of(l, r))?;
            Some((of_reader(&s.stream, r), Value::Distribution(found.histogram.clone())))
        };
        s.stream.readers.iter().filter_map(of).collect::<Vec<_>>()
    });
    let latency = Name {
        text: "reader_latency".into(),
        unit: Some(Unit::Seconds),
        kind: MetricType::Histogram,
    };
    family(latency, super::latency::METHOD, latencies.collect());
    let gaps = |s: &Scraped| {
        Some((of_stream(&s.stream), Value::Distribution(s.measured.drain_gaps.clone()?)))
    };
    let gap =
        Name { text: "drain_gap".into(), unit: Some(Unit::Seconds), kind: MetricType::Histogram };
    family(gap, super::latency::DRAIN_METHOD, scraped.iter().filter_map(gaps).collect());
    families.retain(|f| !f.series.is_empty());
    families
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::super::model::tests::{SECOND, outside, runs, snapshot};
    use super::*;
    use crate::json_line::json_line;
    use serde_json::Value as Json;
    use std::collections::BTreeMap;

    /// A stream in which every listed figure has a different value; two readers, one with a hostile
    /// name.
    fn scraped() -> Scraped {
        let mut s = snapshot(
            11 * SECOND,
            5000,
            &[("ids", 4990, 0, false), ("a\"b\\c\nd{}", 100, 65, true)],
        );
        PumpCounter::ALL.iter().zip(1_000_001..).for_each(|(f, v)| s.set_pump(*f, v));
        StreamFact::ALL.iter().zip(2_000_001..).for_each(|(f, v)| s.set(*f, v));
        for (i, r) in s.readers.iter_mut().enumerate() {
            ReaderFact::ALL
                .iter()
                .zip(3_000_001..)
                .for_each(|(f, v)| r.set(*f, v + 1000 * i as u64));
        }
        s.set(StreamFact::WriteCursor, u64::MAX);
        let histogram =
            Histogram::from_occupied([(10, 3), (200, 5), (367, 1)], 17 * SECOND, 9 * SECOND);
        let attached = s.readers[0].get(ReaderFact::AttachedRealtime);
        let index = s.readers[0].get(ReaderFact::Index) as u32;
        let drain_gaps = Some(histogram.clone());
        let measured = Measured {
            readers: vec![ringweir::view::Latency { index, attached, histogram }],
            drain_gaps,
        };
        Scraped { stream: Stream::new(&s, None, &outside(11 * SECOND), runs), measured }
    }

    /// Samples by name and labels.
    fn parsed(text: &str) -> BTreeMap<String, f64> {
        let samples = text.lines().filter(|l| !l.starts_with('#'));
        samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect()
    }

    /// Figures that do not appear in `text` with their value in JSON.
    fn missing(text: &str, json: &Json) -> Vec<String> {
        let samples = parsed(text);
        let mut missing = Vec::new();
        let mut look = |prefix: &str, key: &str, kind: Kind, value: &Json, label: &str| {
            let name = Name::of(prefix, key, kind);
            let unit = name.unit.as_ref().map_or(String::new(), |u| format!("_{}", u.as_str()));
            let total = if kind == Kind::Counter { "_total" } else { "" };
            let start = format!("ringweir_{}{unit}{total}{{", name.text);
            let reported = samples
                .iter()
                .find(|(s, _)| s.starts_with(&start) && s.contains(label))
                .map(|(_, v)| *v);
            let scale = if matches!(name.unit, Some(Unit::Seconds)) { 1e9 } else { 1.0 };
            let same = |reported: f64| {
                value
                    .as_u64()
                    .is_some_and(|v| (reported * scale - v as f64).abs() <= 1e-9 * v as f64)
            };
            if !reported.is_some_and(same) {
                missing.push(format!("{start} {reported:?} {value}"));
            }
        };
        PumpCounter::ALL
            .iter()
            .for_each(|f| look("", f.key(), f.kind(), &json["counters"][f.key()], "stream="));
        StreamFact::ALL
            .iter()
            .for_each(|f| look("", f.key(), f.kind(), &json["facts"][f.key()], "stream="));
        for (place, label) in [(0, "reader=\"ids\""), (1, r#"reader="a\"b\\c\nd{}""#)] {
            let reader = &json["readers"][place];
            ReaderFact::ALL
                .iter()
                .for_each(|f| look("reader_", f.key(), f.kind(), &reader[f.key()], label));
        }
        missing
    }

    #[test]
    fn every_figure_is_there_with_the_value_it_has_in_json() {
        let scraped = scraped();
        let json: Json = serde_json::from_str(&json_line(&json::sample(&scraped.stream))).unwrap();
        let text = exposition(&[scraped]);
        assert_eq!(missing(&text, &json), [""; 0], "\n{text}");
        assert!(
            text.contains("} 18446744073709551615\n") && text.ends_with("# EOF\n"),
            "exact: {text}"
        );
        // Control: one family left out, one value changed.
        let without: String = text
            .lines()
            .filter(|l| !l.contains("ringweir_kernel_lost"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(missing(&without, &json).len(), 1);
        let changed = text.replace("} 1000001\n", "} 1000002\n");
        assert_eq!(missing(&changed, &json).len(), 1);
    }

    #[test]
    fn names_follow_the_conventions() {
        let name = |key, kind| {
            let n = Name::of("reader_", key, kind);
            format!("{}:{}", n.text, n.unit.map_or(String::new(), |u| u.as_str().into()))
        };
        assert_eq!(name("bytes_delivered", Kind::Counter), "reader_delivered:bytes");
        assert_eq!(name("lag_max_ns", Kind::Gauge), "reader_lag_max:seconds");
        assert_eq!(name("last_gap_realtime", Kind::Realtime), "reader_last_gap_timestamp:seconds");
        assert_eq!(name("lost", Kind::Counter), "reader_lost:");
    }

    #[test]
    fn names_are_used_once_and_well_formed() {
        let families = families(&[scraped()]);
        let mut names: Vec<String> = families
            .iter()
            .map(|f| format!("{}_{}", f.name.text, f.name.unit.as_ref().map_or("", |u| u.as_str())))
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        let fine = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(names.iter().all(|n| n.chars().all(fine)), "{names:?}");
        assert!(
            families.iter().all(|f| !f.help.contains('\n') && f.help.len() > 4),
            "each is explained"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_cannot_overflow() {
        let text = exposition(&[scraped()]);
        let lines: Vec<&str> =
            text.lines().filter(|l| l.starts_with("ringweir_reader_latency_seconds")).collect();
        let value = |part: &str| {
            lines.iter().find(|l| l.contains(part)).map(|l| l.rsplit_once(' ').unwrap().1)
        };
        assert_eq!(value("_count"), Some("9"));
        assert_eq!(value("_sum"), Some("17.0"));
        assert_eq!(
            (value("le=\"0.000001024\""), value("le=\"+Inf\"")),
            (Some("3"), Some("9")),
            "{lines:#?}"
        );
        let hostile = Histogram::from_occupied((0..368).map(|i| (i, u64::MAX)), u64::MAX, u64::MAX);
        assert_eq!(
            buckets(&hostile).iter().map(|b| u128::from(b.1)).sum::<u128>(),
            u128::from(u64::MAX)
        );
    }

    /// A hostile broker may list a reader twice. Control: readers of different indices stay.
    #[test]
    fn no_series_is_there_twice() {
        let readers = [("ids", 10, 0, false), ("ids", 20, 0, false)];
        let series = |same: bool| {
            let mut s = snapshot(11 * SECOND, 5000, &readers);
            s.readers.iter_mut().for_each(|r| r.set(ReaderFact::Pid, 7));
            for (index, reader) in s.readers.iter_mut().enumerate() {
                reader.set(ReaderFact::Index, if same { 0 } else { index as u64 });
            }
            let stream = Stream::new(&s, None, &outside(11 * SECOND), runs);
            let text = exposition(&[Scraped { stream, measured: Measured::default() }]);
            let names = text.lines().filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned()));
            names.filter(|n| n.starts_with("ringweir_reader_lag{")).collect::<Vec<_>>()
        };
        assert_eq!((series(true).len(), series(false).len()), (1, 2));
    }

    #[test]
    fn nothing_runs_is_an_empty_exposition() {
        assert_eq!(exposition(&[]), "# EOF\n");
    }
}
