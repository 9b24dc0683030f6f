//! `ringctl detach STREAM READER`: detaches one reader.
//!
//! Contract: exactly one reader is detached, or none: a name that fits several is refused with a
//! list. The broker gets the reader index *and* the time of attaching, so that a reader that got
//! the same index in the meantime is not detached.

use crate::broker_query::{self, Pending};
use crate::date;
use crate::json_line::json_line;
use crate::usage::Usage;
use crate::wait::WaitOption;
use anyhow::{Context, anyhow};
use clap::Args;
use ringweir::view::Viewer;
use ringweir_cli::printable::printable;
use ringweir_proto::stats::{ReaderFact, ReaderFigures, Snapshot};
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Name of the stream, or the path of its socket
    #[arg(add = crate::completion::stream())]
    stream: String,
    /// Label, pid or index of the reader, as ringstat and ringctl show print them; label:X, pid:N
    /// and index:N are unambiguous
    reader: String,
    #[command(flatten)]
    wait: WaitOption,
    /// Print the detached reader as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl detach daq0 monitor
  ringctl detach daq0 pid:4130
  ringctl detach daq0 index:2

For root and the broker's own user. The reader is notified: the library returns End::Detached,
ringcat ends with status 3. A reader that is stopped or does not react loses its index and its
wake-ups. It may keep a mapping of the ring, which it can read but not write.
Exit status: 0 detached; 1 no such stream or reader, or not allowed; 2 wrong usage, or
several readers match.";

#[derive(Serialize)]
struct Gone<'a> {
    stream: &'a str,
    label: &'a str,
    index: u64,
    pid: u64,
    uid: u64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    options.wait.until_figures(Some(&options.stream))?;
    let snapshot = Pending::ask(&options.stream, |name| Ok(Viewer::attach(name)?.snapshot()))
        .wait()
        .map_err(broker_query::with_unreadable)?
        .context("its broker shows no figures yet: try again, or use --wait")?;
    let reader = choose(&snapshot, &options.reader)?;
    let (index, attached) =
        (reader.get(ReaderFact::Index) as u32, reader.get(ReaderFact::AttachedRealtime));
    Pending::ask(&options.stream, move |name| ringweir::admin::detach(name, index, attached))
        .wait()?;
    let text = if options.json {
        json_line(&Gone {
            stream: &snapshot.name,
            label: &reader.label,
            index: index.into(),
            pid: reader.get(ReaderFact::Pid),
            uid: reader.get(ReaderFact::Uid),
        })
    } else {
        format!("detached from {}: {}\n", snapshot.name, row(reader))
    };
    ringweir_cli::stdout::put(&text)?;
    Ok(())
}

fn row(reader: &ReaderFigures) -> String {
    format!(
        "index:{} pid:{} label:{} (uid {}, attached {})",
        reader.get(ReaderFact::Index),
        reader.get(ReaderFact::Pid),
        printable(&reader.label),
        reader.get(ReaderFact::Uid),
        date::full(reader.get(ReaderFact::AttachedRealtime)),
    )
}

/// The one reader that `wanted` names.
fn choose<'s>(snapshot: &'s Snapshot, wanted: &str) -> anyhow::Result<&'s ReaderFigures> {
    let fits = |reader: &&ReaderFigures| {
        let number = |fact, text: &str| text.parse() == Ok(reader.get(fact));
        match wanted.split_once(':') {
            Some(("label", label)) => reader.label == label,
            Some(("pid", pid)) => number(ReaderFact::Pid, pid),
            Some(("index", index)) => number(ReaderFact::Index, index),
            _ => {
                reader.label == wanted
                    || number(ReaderFact::Pid, wanted)
                    || number(ReaderFact::Index, wanted)
            }
        }
    };
    let found: Vec<_> = snapshot.readers.iter().filter(fits).collect();
    let list = |readers: &mut dyn Iterator<Item = &ReaderFigures>| {
        readers.map(|r| format!("\n  {}", row(r))).collect::<String>()
    };
    match found[..] {
        [reader] => Ok(reader),
        [] if snapshot.readers.is_empty() => {
            Err(anyhow!("stream {:?} has no readers", snapshot.name))
        }
        [] => Err(anyhow!(
            "stream {:?} has no reader {wanted:?}; its readers:{}",
            snapshot.name,
            list(&mut snapshot.readers.iter())
        )),
        _ => Err(Usage(format!(
            "{} readers of stream {:?} match {wanted:?}; choose one by pid or index:{}",
            found.len(),
            snapshot.name,
            list(&mut found.iter().copied())
        ))
        .into()),
    }
}
