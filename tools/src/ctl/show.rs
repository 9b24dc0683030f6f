//! `ringctl show NAME`: everything about one stream, every figure with its explanation.

use crate::broker_query::{self, Pending};
use crate::date;
use crate::json_line::json_line;
use crate::stat::fleet::Fleet;
use crate::stat::model::Stream;
use crate::stat::text::percent;
use crate::stat::{json, table};
use crate::wait::WaitOption;
use anyhow::Context;
use clap::Args;
use ringweir::view::Description;
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::{Bytes, Span};
use ringweir_proto::stats::{Kind, PumpCounter, ReaderFact, StreamFact};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Name of the stream, or the path of its socket
    #[arg(add = crate::completion::stream())]
    name: String,
    #[command(flatten)]
    wait: WaitOption,
    /// Print one JSON object: the description, and what ringstat --json shows
    #[arg(long)]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl show daq0
  ringctl show daq0 --json | jq .description";

#[derive(Serialize)]
struct Described<'a> {
    summary: &'a str,
    broker_version: &'a str,
    source: &'a str,
    metadata: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Shown<'a> {
    description: Described<'a>,
    #[serde(flatten)]
    sample: json::Sample<'a>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    options.wait.until_figures(Some(&options.name))?;
    let description = Pending::ask(&options.name, ringweir::view::describe)
        .wait()
        .map_err(broker_query::with_unreadable)?;
    let mut fleet = Fleet::attach(std::slice::from_ref(&options.name))?;
    fleet.measure(Duration::from_millis(300));
    let streams = fleet.look();
    let stream = streams.first().context("the stream ended meanwhile")?;
    ringweir_cli::stdout::put(&if options.json {
        as_json(&description, stream)
    } else {
        as_text(&description, stream)
    })?;
    Ok(())
}

fn as_json(d: &Description, stream: &Stream) -> String {
    let metadata = d.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let description = Described {
        summary: &d.summary,
        broker_version: &d.broker_version,
        source: &d.source,
        metadata,
    };
    json_line(&Shown { description, sample: json::sample(stream) })
}

fn as_text(d: &Description, stream: &Stream) -> String {
    let mut out =
        format!("{}  {}\n{}\n", table::name(stream), table::facts(stream), table::losses(stream));
    for remark in table::remarks(stream) {
        out += &format!("!! {remark}\n");
    }
    out += &format!("source   {}\nsummary  {}\n", printable(&d.source), printable(&d.summary));
    out += &format!("broker   ringd {}\n", printable(&d.broker_version));
    out += "\nMetadata:\n";
    for (key, value) in &d.metadata {
        out += &format!("  {} = {}\n", printable(key), printable(value));
    }
    if d.metadata.is_empty() {
        out += "  none (ringd --meta KEY=VALUE sets it)\n";
    }
    let now = (stream.get(StreamFact::SampledAt), stream.age);
    out += "\nStream:\n";
    for f in StreamFact::ALL {
        row(&mut out, f.key(), f.kind(), stream.get(*f), f.help(), now);
    }
    out += "\nCounters:\n";
    for f in PumpCounter::ALL {
        row(&mut out, f.key(), f.kind(), stream.snapshot.pump(*f), f.help(), now);
    }
    for reader in &stream.readers {
        out += &format!("\nReader {}, {}:\n", printable(&reader.figures.label), reader.state);
        for f in ReaderFact::ALL {
            row(&mut out, f.key(), f.kind(), reader.get(*f), f.help(), now);
        }
        let plain = |out: &mut String, key: &str, value: String, help: &str| {
            *out += &format!("  {key:<18}{value:>28}  {help}\n")
        };
        plain(
            &mut out,
            "lost_pending",
            reader.pending.to_string(),
            "datagrams certainly lost, of which the reader has not been notified yet",
        );
        plain(
            &mut out,
            "lag_pct",
            percent(reader.lag_share),
            "share of the ring between the reader and the newest datagram",
        );
        plain(
            &mut out,
            "hiwater_pct",
            percent(reader.hiwater_share),
            "largest lag seen as a share of the ring's depth",
        );
    }
    if stream.readers.is_empty() {
        out += "\nno readers attached\n";
    }
    out
}

fn row(
    out: &mut String,
    key: &str,
    kind: Kind,
    value: u64,
    help: &str,
    (sampled, age): (u64, Duration),
) {
    let shown = match kind {
        Kind::Monotonic | Kind::Realtime if value == 0 => "–".into(),
        Kind::Monotonic => {
            format!("{} ago", Span(Duration::from_nanos(sampled.saturating_sub(value)) + age))
        }
        Kind::Realtime => date::full(value),
        _ if key.ends_with("_ns") && value > 0 => {
            format!("{value} ({})", Span(Duration::from_nanos(value)))
        }
        _ if key.contains("bytes") && value >= 1024 => format!("{value} ({})", Bytes(value)),
        _ => value.to_string(),
    };
    *out += &format!("  {key:<18}{shown:>28}  {help}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::model::tests::{SECOND, outside, runs, snapshot};

    fn example() -> (Description, Stream) {
        let d = Description {
            name: "demo".into(),
            source: "gen:rate=1MB/s".into(),
            summary: "demo gen 1, 1 MiB".into(),
            broker_version: "0.1.0".into(),
            metadata: vec![("channels".into(), "8".into())],
        };
        let s = snapshot(SECOND, 5000, &[("x", 4000, 3, false)]);
        (d, Stream::new(&s, None, &outside(SECOND), runs))
    }

    #[test]
    fn everything_is_shown_with_its_help() {
        let (d, stream) = example();
        let text = as_text(&d, &stream);
        let helps = StreamFact::ALL
            .iter()
            .map(|f| f.help())
            .chain(PumpCounter::ALL.iter().map(|f| f.help()));
        for part in helps
            .chain(ReaderFact::ALL.iter().map(|f| f.help()))
            .chain(["channels = 8", "demo gen 1, 1 MiB"])
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains("1280000 (1.22 MiB)"), "{text}");
    }

    #[test]
    fn json_has_the_description_beside_the_figures() {
        let (d, stream) = example();
        let v: serde_json::Value = serde_json::from_str(&as_json(&d, &stream)).unwrap();
        assert_eq!(v["description"]["metadata"]["channels"], "8");
        assert_eq!((&v["stream"], &v["readers"][0]["lost"]), (&"demo".into(), &3.into()));
    }
}
