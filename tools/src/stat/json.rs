//! One stream as one line of JSON.
//!
//! Contract: the keys are those of the lists of figures and of [`super::columns::JSON_WORDS`].
//! Whole numbers are exact, up to 2^64 - 1.

use super::model::{Layer, Loss, Rates, Reader, Stream};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use serde::{Serialize, Serializer};

/// A list of figures as an object, in the order of the list.
struct Figures(Vec<(&'static str, u64)>);

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().copied())
    }
}

#[derive(Serialize)]
struct Flow {
    datagrams: f64,
    bytes: f64,
    window_ns: u64,
}

#[derive(Serialize)]
struct OneReader<'a> {
    label: &'a str,
    state: &'static str,
    #[serde(flatten)]
    figures: Figures,
    lost_pending: u64,
    lag_pct: f64,
    hiwater_pct: f64,
    rates: Option<Flow>,
}

/// A stream as JSON.
#[derive(Serialize)]
pub struct Sample<'a> {
    stream: &'a str,
    source: &'a str,
    note: &'a str,
    health: &'static str,
    caveat: String,
    age_ns: u64,
    loss: Figures,
    rates: Option<Flow>,
    counters: Figures,
    facts: Figures,
    readers: Vec<OneReader<'a>>,
}

fn thousandths(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

fn flow(rates: Option<Rates>) -> Option<Flow> {
    rates.map(|r| Flow {
        datagrams: thousandths(r.datagrams),
        bytes: thousandths(r.bytes),
        window_ns: r.window.as_nanos() as u64,
    })
}

fn layers(loss: Loss) -> Figures {
    Figures(Layer::ALL.iter().map(|l| (l.key(), loss.get(*l))).collect())
}

fn reader(r: &Reader) -> OneReader<'_> {
    OneReader {
        label: &r.figures.label,
        state: r.state.key(),
        figures: Figures(ReaderFact::ALL.iter().map(|f| (f.key(), r.get(*f))).collect()),
        lost_pending: r.pending,
        lag_pct: thousandths(r.lag_share * 100.0),
        hiwater_pct: thousandths(r.hiwater_share * 100.0),
        rates: flow(r.rates),
    }
}

/// A stream for serde.
pub fn sample(stream: &Stream) -> Sample<'_> {
    Sample {
        stream: &stream.snapshot.name,
        source: &stream.snapshot.source,
        note: &stream.snapshot.note,
        health: stream.health.key(),
        caveat: stream.caveat(),
        age_ns: stream.age.as_nanos() as u64,
        loss: layers(stream.loss),
        rates: flow(stream.rates),
        counters: Figures(
            PumpCounter::ALL.iter().map(|f| (f.key(), stream.snapshot.pump(*f))).collect(),
        ),
        facts: Figures(StreamFact::ALL.iter().map(|f| (f.key(), stream.get(*f))).collect()),
        readers: stream.readers.iter().map(reader).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::JSON_WORDS;
    use super::super::model::tests::{SECOND, outside, runs, snapshot};
    use super::*;
    use crate::json_line::json_line;
    use serde_json::Value;

    fn shown() -> Value {
        let a = snapshot(SECOND, 10, &[("x", 5, 0, false)]);
        let mut b = snapshot(2 * SECOND, 1010, &[("x", 1000, 2, false)]);
        b.set(StreamFact::WriteCursor, u64::MAX);
        let text = json_line(&sample(&Stream::new(&b, Some(&a), &outside(2 * SECOND + 7), runs)));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains("\"write_cursor\":18446744073709551615,"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_figure_is_there_under_its_key_and_exact() {
        let v = shown();
        PumpCounter::ALL
            .iter()
            .for_each(|f| assert!(v["counters"][f.key()].is_u64(), "{}", f.key()));
        StreamFact::ALL.iter().for_each(|f| assert!(v["facts"][f.key()].is_u64(), "{}", f.key()));
        ReaderFact::ALL
            .iter()
            .for_each(|f| assert!(v["readers"][0][f.key()].is_u64(), "{}", f.key()));
        Layer::ALL.iter().for_each(|l| assert!(v["loss"][l.key()].is_u64(), "{}", l.key()));
        assert_eq!(v["facts"]["write_cursor"], u64::MAX);
        assert_eq!(
            (&v["rates"]["datagrams"], &v["rates"]["window_ns"]),
            (&1000.0.into(), &SECOND.into())
        );
        assert_eq!((&v["age_ns"], &v["health"]), (&7.into(), &"ok".into()));
        assert_eq!((&v["readers"][0]["label"], &v["readers"][0]["lost"]), (&"x".into(), &2.into()));
    }

    /// A figure with the name of a computed key would make the key appear twice, and most parsers
    /// would drop one.
    #[test]
    fn no_key_is_there_twice_and_each_is_explained() {
        let v = shown();
        let own = ["label", "state", "lost_pending", "lag_pct", "hiwater_pct", "rates"];
        assert!(ReaderFact::ALL.iter().all(|f| !own.contains(&f.key())));
        assert_eq!(v["readers"][0].as_object().unwrap().len(), own.len() + ReaderFact::ALL.len());
        let explained: String =
            JSON_WORDS.iter().map(|(word, help)| format!("{word} {help} ")).collect();
        for key in v.as_object().unwrap().keys().map(String::as_str).chain(own) {
            assert!(explained.contains(key), "{key} is not explained");
        }
    }
}
