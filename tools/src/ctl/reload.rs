//! `ringctl reload STREAM`: makes the broker of a stream read its configuration file again.
//!
//! Contract: every stream that changed has a line on stdout with its outcome; the exit status says
//! whether the file is now in effect. A broker that does not answer at all is reported at once; one
//! that is making large rings is waited for.

use crate::broker_query::Pending;
use crate::json_line::json_line;
use crate::wait::WaitOption;
use clap::Args;
use ringweir_cli::printable::printable;
use ringweir_proto::control::{Outcome, Reloaded, StreamChange};
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Any stream of that broker, or the path of its socket
    #[arg(add = crate::completion::stream())]
    stream: String,
    #[command(flatten)]
    wait: WaitOption,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  $ sudo ringctl reload daq0
  stays   daq0: its changes need a restart
  failed  tap0: source \"packet:eth7\": no such interface
  ended   daq1
  begun   daq2

For root and the broker's own user, for a broker that was started with --config. SIGHUP does
the same without a reply.
Exit status: 0 the file is in effect; 1 it is not, for the reasons shown, or there is no such
stream, or not allowed; 2 wrong usage.";

#[derive(Serialize)]
struct Change<'a> {
    stream: &'a str,
    outcome: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct Changes<'a> {
    changes: Vec<Change<'a>>,
    left_out: u32,
}

pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    options.wait.until_answered(&options.stream, false)?;
    Pending::ask(&options.stream, ringweir::view::describe).wait()?;
    let reloaded = ringweir::admin::reload(&options.stream)?;
    let text = if options.json {
        fn shown(change: &StreamChange) -> Change<'_> {
            Change { stream: &change.stream, outcome: word(change.outcome), text: &change.text }
        }
        let changes = reloaded.changes.iter().map(shown).collect();
        json_line(&Changes { changes, left_out: reloaded.left_out })
    } else {
        words(&reloaded)
    };
    ringweir_cli::stdout::put(&text)?;
    // What is not in effect comes first, so if any was left out, some is listed.
    Ok(reloaded.changes.iter().all(|change| change.outcome.is_in_effect()))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ended => "ended",
        Outcome::Begun => "begun",
        Outcome::Stays => "stays",
        Outcome::Failed => "failed",
    }
}

fn words(reloaded: &Reloaded) -> String {
    if reloaded.changes.is_empty() {
        return "nothing has changed\n".into();
    }
    let mut text = String::new();
    for change in &reloaded.changes {
        let why = if change.text.is_empty() {
            String::new()
        } else {
            format!(": {}", printable(&change.text))
        };
        text += &format!("{:<7} {}{why}\n", word(change.outcome), printable(&change.stream));
    }
    if reloaded.left_out > 0 {
        text += &format!("and {} more: see the log of the broker\n", reloaded.left_out);
    }
    text
}
