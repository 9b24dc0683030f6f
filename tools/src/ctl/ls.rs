//! `ringctl ls`: lists the streams in the run directories, and whether their brokers answer.
//!
//! Contract: all brokers are asked at once; one that does not answer has a line with the reason.

use crate::broker_query::{self, Pending};
use crate::json_line::json_line;
use crate::wait::WaitOption;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use ringweir::view::Viewer;
use ringweir_cli::printable::printable;
use ringweir_cli::stderr;
use ringweir_proto::stats::{PumpCounter, Snapshot, StreamFact};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    wait: WaitOption,
    /// Print one JSON object per stream, each on a line
    #[arg(long)]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl ls
  ringctl ls --json | jq -r 'select(.answers)|.stream'";

/// One stream, found by its socket.
#[derive(Serialize)]
struct Row {
    stream: String,
    socket: PathBuf,
    state: &'static str,
    answers: bool,
    /// Why its broker does not answer.
    problem: Option<String>,
    source: Option<String>,
    generation: Option<u64>,
    readers: Option<u64>,
    readers_max: Option<u64>,
    published: Option<u64>,
    published_bytes: Option<u64>,
    broker_pid: Option<u64>,
}

impl Row {
    fn new(stream: String, socket: PathBuf, found: anyhow::Result<Snapshot>) -> Self {
        let state = match &found {
            Ok(snapshot) if snapshot.get(StreamFact::Ended) == 1 => "ended",
            Ok(_) => "running",
            Err(e) => match e.downcast_ref() {
                Some(ringweir::Error::NotRunning { .. }) => "dead",
                Some(ringweir::Error::NoAccess { .. }) => "no access",
                _ => "no answer",
            },
        };
        let (snapshot, problem) = match found {
            Ok(snapshot) => (Some(snapshot), None),
            Err(e) => (None, Some(format!("{e:#}"))),
        };
        let fact = |f| snapshot.as_ref().map(|s| s.get(f));
        let count = |c| snapshot.as_ref().map(|s| s.pump(c));
        Self {
            stream,
            socket,
            state,
            answers: snapshot.is_some(),
            problem,
            source: snapshot.as_ref().map(|s| s.source.clone()),
            generation: fact(StreamFact::Generation),
            readers: fact(StreamFact::Readers),
            readers_max: fact(StreamFact::ReadersMost),
            published: count(PumpCounter::Published),
            published_bytes: count(PumpCounter::PublishedBytes),
            broker_pid: fact(StreamFact::BrokerPid),
        }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    options.wait.until_figures(None)?;
    let found = ringweir::view::streams();
    if found.is_empty() {
        return Err(broker_query::nothing_runs());
    }
    let asked: Vec<_> = found
        .into_iter()
        .map(|(name, socket)| {
            let pending = Pending::ask(&name, |name| Ok(Viewer::attach(name)?.snapshot()));
            (name, socket, pending)
        })
        .collect();
    let rows: Vec<Row> = asked
        .into_iter()
        .map(|(name, socket, pending)| {
            let found = pending
                .wait()
                .and_then(|s| s.ok_or_else(|| anyhow::anyhow!("its broker shows no figures yet")));
            Row::new(name, socket, found)
        })
        .collect();
    for problem in broker_query::unreadable() {
        stderr::line(problem);
    }
    let text = if options.json { rows.iter().map(json_line).collect() } else { table(&rows) };
    ringweir_cli::stdout::put(&text)?;
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "STREAM",
        "STATE",
        "GEN",
        "READERS",
        "PUBLISHED",
        "BROKER",
        "SOURCE",
    ]);
    let number = |n: Option<u64>| n.map_or("–".into(), |n| n.to_string());
    for row in rows {
        let readers = row
            .readers
            .zip(row.readers_max)
            .map_or("–".into(), |(n, most)| format!("{n}/{most}"));
        table.add_row([
            row.stream.clone(),
            row.state.into(),
            number(row.generation),
            readers,
            number(row.published),
            number(row.broker_pid),
            row.source.as_deref().map_or("–".into(), printable),
        ]);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (2..=5).contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out: String = table.lines().map(|l| format!("{}\n", l.trim_end())).collect();
    for row in rows {
        if let Some(problem) = &row.problem {
            out += &format!("!! {}\n", printable(problem));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_answer_and_streams_that_do_not() {
        let mut snapshot = Snapshot::new("demo", "gen:rate=1MB/s");
        snapshot.set(StreamFact::Generation, 3);
        snapshot.set_pump(PumpCounter::Published, u64::MAX);
        let rows = [
            Row::new("demo".into(), "/run/ringweir/demo.sock".into(), Ok(snapshot)),
            Row::new(
                "old".into(),
                "/run/ringweir/old.sock".into(),
                Err(anyhow::anyhow!("no broker answers")),
            ),
        ];
        let text = table(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].starts_with("demo    running") && lines[1].contains("18446744073709551615"),
            "{text}"
        );
        assert!(lines[2].starts_with("old     no answer"), "{text}");
        assert_eq!(lines[3], "!! no broker answers");
        let json = json_line(&rows[1]);
        assert!(
            json.contains("\"answers\":false") && json.contains("\"published\":null"),
            "{json}"
        );
        assert!(json_line(&rows[0]).contains("\"published\":18446744073709551615"));
    }
}
