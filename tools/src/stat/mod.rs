//! `ringstat`: lag, rates and loss of streams, from shared memory.
//!
//! Contract: one handshake per stream, then only loads from shared memory and looks at /proc, so it goes on while the broker
//! is busy, stopped or dead, and says how old the figures are. `fleet` looks, `model` computes, `table`, `json` and `live`
//! show.

pub(crate) mod columns;
pub(crate) mod fleet;
pub(crate) mod json;
mod live;
pub(crate) mod model;
pub(crate) mod table;

use crate::date;
use crate::output;
use clap::{CommandFactory, FromArgMatches, Parser};
use columns::Moment;
use fleet::Fleet;
use model::{Layer, Stream};
use ringweir_proto::os::clock;
use ringweir_proto::quantity::Span;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Two looks so far apart make a rate: three periods of the broker's sampler.
const RATE_WINDOW: Duration = Duration::from_millis(300);

/// Shows what streams carry, how far behind each reader is, and what was lost where.
///
/// Asks the broker once and reads shared memory from then on: neither the stream nor the broker notices, and the figures can
/// be seen while the broker is busy, stopped or dead.
#[derive(Debug, Parser)]
#[command(name = "ringstat", version)]
struct Options {
    /// Stream, or path of its socket; without it, all streams
    name: Option<String>,
    /// Look again every SECS seconds (0.5, 1, 500ms …): a live screen on a terminal, else one table after the other
    #[arg(short, long, value_name = "SECS", value_parser = interval)]
    watch: Option<Duration>,
    /// End after N looks
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One JSON object per stream and look, each on a line
    #[arg(long)]
    json: bool,
    /// Exit with 1 if any layer has lost anything since the stream began
    #[arg(long)]
    fail_on_loss: bool,
    /// Explain every column and every JSON key
    #[arg(long)]
    columns: bool,
}

const EXAMPLES: &str = "\
Examples:
  ringstat                               all streams, once
  ringstat fpga0 -w 1                    live screen; q, Esc or Ctrl-C leaves it, arrows scroll
  ringstat fpga0 -w 1 --count 60 | tee run.txt
  ringstat tap0 --json | jq '.loss, (.readers[]|{label,lost,hiwater_pct})'
  ringstat daq0 --fail-on-loss > /dev/null || echo 'something was lost'
  ringstat --columns                     what each column means

Exit status: 0 all well; 1 an error, such as no such stream, or a loss with --fail-on-loss; 2 wrong usage.
NO_COLOR=1 switches colour off; RINGWEIR_DIR says in which run directory to look.";

fn interval(text: &str) -> Result<Duration, String> {
    let span: Span = match text.trim().ends_with(|c: char| c.is_ascii_digit() || c == '.') {
        true => format!("{text} s").parse(),
        false => text.parse(),
    }
    .map_err(|e| format!("{e}; a number alone is seconds"))?;
    if (Duration::from_millis(50)..=Duration::from_secs(86_400)).contains(&span.0) {
        return Ok(span.0);
    }
    Err("must be 0.05 to 86400 seconds (the broker renews the figures ten times a second)".into())
}

fn help() -> String {
    let width = Layer::ALL.iter().map(|l| l.key().len()).max().unwrap_or(0);
    let layers = Layer::ALL.map(|l| format!("  {:width$}  {}", l.key(), l.definition()));
    format!("Loss is counted in layers:\n{}\n\n{EXAMPLES}", layers.join("\n"))
}

/// The program.
pub fn main() -> ExitCode {
    let options = Options::from_arg_matches(&Options::command().after_help(help()).get_matches());
    let options = options.unwrap_or_else(|e| e.exit());
    match run(&options) {
        Ok(lost) if lost && options.fail_on_loss => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringstat: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// True: something was lost.
fn run(options: &Options) -> anyhow::Result<bool> {
    if options.columns {
        let width = std::env::var("COLUMNS").ok().and_then(|w| w.parse().ok()).unwrap_or(100);
        output::put(&format!("{}\n", columns::explained(width)))?;
        return Ok(false);
    }
    let mut fleet = Fleet::attach(options.name.as_deref())?;
    let terminal = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
    let live = options.watch.is_some() && !options.json && terminal;
    if !live {
        for problem in fleet.problems() {
            eprintln!("ringstat: {problem}");
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP].iter().filter(|_| options.watch.is_some()) {
        signal_hook::flag::register(*signal, stop.clone())?;
    }
    fleet.measure(RATE_WINDOW.min(options.watch.unwrap_or(RATE_WINDOW)));
    match options.watch {
        Some(interval) if live => live::run(&mut fleet, interval, options.count, &stop),
        interval => plain(&mut fleet, interval, options, &stop),
    }
}

fn plain(fleet: &mut Fleet, interval: Option<Duration>, options: &Options, stop: &AtomicBool) -> anyhow::Result<bool> {
    let mut lost = false;
    let mut left = if interval.is_some() { options.count } else { Some(1) };
    let mut next = Instant::now();
    loop {
        let streams = fleet.look();
        lost |= streams.iter().any(|s| s.loss.any());
        let text = match options.json {
            true => streams.iter().map(|s| json::line(&json::sample(s))).collect(),
            false => tables(&streams, interval.is_some()),
        };
        left = left.map(|n| n - 1);
        if !output::put(&text)? || left == Some(0) {
            return Ok(lost);
        }
        next = (next + interval.unwrap_or_default()).max(Instant::now());
        while Instant::now() < next {
            if stop.load(Ordering::Relaxed) {
                return Ok(lost);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
    }
}

fn tables(streams: &[Stream], dated: bool) -> String {
    let tables: Vec<String> = streams.iter().map(|s| table::render(s, Moment::of(s))).collect();
    let text = tables.join("\n");
    if !dated {
        return text;
    }
    // One look after the other: each says when it was, and a blank line ends it.
    format!("{}\n{text}\n", date::full(clock::realtime_ns()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let parse = |line: &str| Options::try_parse_from(line.split(' '));
        assert!(parse("ringstat --count 3").is_err());
        assert!(parse("ringstat -w 1 --count 0").is_err());
        assert!(parse("ringstat demo -w 0.5 --count 3 --json --fail-on-loss").is_ok());
    }

    #[test]
    fn intervals_are_seconds_or_have_a_unit() {
        assert_eq!(interval("1"), Ok(Duration::from_secs(1)));
        assert_eq!(interval("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "", "x", "demo", "1e9", "0.01"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_defines_each_layer_once() {
        let help = help();
        for layer in Layer::ALL {
            assert_eq!(help.matches(layer.definition()).count(), 1, "{layer:?}");
        }
    }
}
