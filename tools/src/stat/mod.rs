//! `ringstat`: lag, rates and loss of streams, from shared memory.
//!
//! Contract: one handshake per stream, then only reads of shared memory and /proc. So it works
//! while the broker is busy, stopped or dead, and shows how old the figures are. Only latencies
//! need a query to the broker. `fleet` samples, `model` computes, `why` judges; `table`, `json`,
//! `live`, `latency` and `prom` show; `serve` serves; `explain` explains.

pub(crate) mod columns;
mod explain;
pub(crate) mod fleet;
pub(crate) mod json;
mod latency;
mod live;
pub(crate) mod model;
mod prom;
mod serve;
pub(crate) mod table;
pub(crate) mod text;
mod why;

use crate::date;
use crate::json_line::json_line;
use crate::process::Process;
use crate::wait::WaitOption;
use clap::{CommandFactory, Parser};
use columns::Moment;
use fleet::Fleet;
use model::{Layer, Stream};
use ringweir_cli::quantity::Span;
use ringweir_cli::{signals, stderr};
use ringweir_proto::os::clock;
use ringweir_proto::stats::{ReaderFact, StreamFact};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Signals that end a program that continues by itself, unless it was started with them ignored.
const ENDING: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Time between the two samples that make a rate: three periods of the broker's sampler.
const RATE_WINDOW: Duration = Duration::from_millis(300);

/// Shows the rate of each stream, how far behind each reader is, and what was lost where. Asks the
/// broker once and then reads shared memory. It disturbs neither the stream nor the broker, and
/// works while the broker is busy, stopped or dead.
#[derive(Debug, Parser)]
#[command(name = "ringstat", version)]
struct Options {
    /// Names of streams, or paths of their control sockets; without any, all streams
    #[arg(value_name = "NAME", add = crate::completion::stream())]
    names: Vec<String>,
    /// Repeat every SECS seconds (0.5, 1, 500ms …): a live screen on a terminal, else one table
    /// after the other
    #[arg(short, long, value_name = "SECS", value_parser = interval)]
    watch: Option<Duration>,
    /// End after N samples
    #[arg(
        long,
        value_name = "N",
        requires = "watch",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    count: Option<u64>,
    /// Print one JSON object per stream and sample, each on a line
    #[arg(long)]
    json: bool,
    /// Exit with status 1 if any layer has lost anything since the stream began
    #[arg(long)]
    fail_on_loss: bool,
    /// Report what limits each stream, which reader is furthest behind and why, and what to do;
    /// exit with status 1 if anything limits a stream
    #[arg(long, conflicts_with_all = ["watch", "fail_on_loss", "latency", "prom", "listen"])]
    why: bool,
    /// Show how long datagrams take from publishing to each reader; with --watch, for each interval
    #[arg(long, conflicts_with_all = ["fail_on_loss", "prom", "listen"])]
    latency: bool,
    /// Print all figures once, in the text format of Prometheus
    #[arg(long, conflicts_with_all = ["watch", "json", "fail_on_loss", "listen"])]
    prom: bool,
    /// Serve the figures for Prometheus over HTTP on ADDRESS:PORT or unix:PATH; may be repeated
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with_all = ["watch", "json", "fail_on_loss", "wait"]
    )]
    listen: Vec<serve::Address>,
    #[command(flatten)]
    wait: WaitOption,
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
  ringstat daq0 --why                    what limits it, how long until data is lost, what to do
  ringstat itch_a --latency -w 5         publish -> read per reader, every 5 seconds
  ringstat --listen 127.0.0.1:9469       an exporter: curl http://127.0.0.1:9469/metrics
  ringstat --listen unix:/run/rs.sock    the same: curl --unix-socket /run/rs.sock http://x/metrics
  ringstat --columns                     what each column means

Exit status: 0 all well; 1 an error, such as no such stream; a loss with --fail-on-loss; something
that limits a stream with --why; 2 wrong usage.
NO_COLOR=1 switches colours off; RINGWEIR_DIR sets the run directory.";

fn interval(text: &str) -> Result<Duration, String> {
    let span: Span = match text.trim().ends_with(|c: char| c.is_ascii_digit() || c == '.') {
        true => format!("{text} s").parse(),
        false => text.parse(),
    }
    .map_err(|e| format!("{e}; a number alone is seconds"))?;
    if (Duration::from_millis(50)..=Duration::from_secs(86_400)).contains(&span.0) {
        return Ok(span.0);
    }
    Err("must be 0.05 to 86400 seconds (the broker updates the figures ten times a second)".into())
}

fn help() -> String {
    let width = Layer::ALL.iter().map(|l| l.key().len()).max().unwrap_or(0);
    let layers = Layer::ALL.map(|l| format!("  {:width$}  {}", l.key(), l.definition()));
    let method = text::wrap(&format!("Latency is the {}.", latency::METHOD), 100).join("\n");
    format!("Loss is counted in layers:\n{}\n\n{method}\n\n{EXAMPLES}", layers.join("\n"))
}

/// The program.
pub fn main() -> ExitCode {
    stderr::start("ringstat", || ());
    ringweir_cli::manual::answer(|| Options::command().after_help(help()), &[]);
    let options: Options = ringweir_cli::arguments::parse_as(Options::command().after_help(help()));
    match run(&options) {
        Ok(true) if options.fail_on_loss || options.why => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            stderr::line(format_args!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// True if something was lost, or limits a stream.
fn run(options: &Options) -> anyhow::Result<bool> {
    if options.columns {
        let width = std::env::var("COLUMNS").ok().and_then(|w| w.parse().ok()).unwrap_or(100);
        ringweir_cli::stdout::put(&format!("{}\n", explain::explained(width)))?;
        return Ok(false);
    }
    if !options.listen.is_empty() {
        let fleet = Fleet::open(&options.names);
        fleet.problems().iter().for_each(stderr::line);
        serve::run(fleet, &options.listen)?;
        return Ok(false);
    }
    options.wait.until_all_figures(&options.names)?;
    let mut fleet = Fleet::attach(&options.names)?;
    let terminal =
        std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
    let live = options.watch.is_some() && !options.json && !options.latency && terminal;
    if !live {
        for problem in fleet.problems() {
            stderr::line(problem);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    if options.watch.is_some() {
        for signal in ENDING.into_iter().filter(|signal| !signals::is_ignored(*signal)) {
            signal_hook::flag::register(signal, stop.clone())?;
        }
    }
    if options.prom {
        let streams = fleet.look();
        let asked = latency::Asked::of(&fleet, &streams);
        ringweir_cli::stdout::put(&prom::exposition(&serve::scraped(streams, asked)))?;
        return Ok(false);
    }
    if options.why {
        return why(&mut fleet, options.json);
    }
    if options.latency {
        return latencies(&mut fleet, options, &stop);
    }
    fleet.measure(RATE_WINDOW.min(options.watch.unwrap_or(RATE_WINDOW)));
    match options.watch {
        Some(interval) if live => live::run(&mut fleet, interval, options.count, &stop),
        interval => plain(&mut fleet, interval, options, &stop),
    }
}

fn plain(
    fleet: &mut Fleet,
    interval: Option<Duration>,
    options: &Options,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let mut lost = false;
    let mut left = if interval.is_some() { options.count } else { Some(1) };
    let mut next = Instant::now();
    loop {
        let streams = fleet.look();
        lost |= streams.iter().any(|s| s.loss.any());
        let text = match options.json {
            true => streams.iter().map(|s| json_line(&json::sample(s))).collect(),
            false => tables(&streams, interval.is_some()),
        };
        left = left.map(|n| n - 1);
        if !ringweir_cli::stdout::put(&text)? || left == Some(0) {
            return Ok(lost);
        }
        next = (next + interval.unwrap_or_default()).max(Instant::now());
        if !sleep_until(next, stop) {
            return Ok(lost);
        }
    }
}

/// Sleeps until `moment`. Returns false if `stop` was set.
fn sleep_until(moment: Instant, stop: &AtomicBool) -> bool {
    while Instant::now() < moment {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(
            moment.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)),
        );
    }
    true
}

/// Prints what limits the streams. Returns true if anything does.
fn why(fleet: &mut Fleet, json: bool) -> anyhow::Result<bool> {
    let before = fleet.look();
    let used = |s: &Stream| -> Vec<(u64, Option<u64>)> {
        let pids = s.readers.iter().map(|r| r.get(ReaderFact::Pid));
        pids.map(|pid| (pid, Process::used_ns(pid))).collect()
    };
    let (used_before, began) =
        (before.iter().flat_map(used).collect::<HashMap<_, _>>(), Instant::now());
    fleet.measure(why::WINDOW);
    let now = fleet.look();
    let used_now: HashMap<_, _> = now.iter().flat_map(used).collect();
    let window = began.elapsed();
    let mut limited = false;
    let mut report = String::new();
    for stream in &now {
        let earlier = before.iter().find(|b| b.snapshot.name == stream.snapshot.name);
        let seen = Observed { stream, before: &used_before, now: &used_now, window };
        let verdict = why::judge(earlier, stream, &seen);
        limited |= verdict.limited;
        report += &if json { json_line(&verdict) } else { verdict.text() };
    }
    ringweir_cli::stdout::put(&report)?;
    Ok(limited)
}

/// What /proc shows about the time between two samples.
struct Observed<'a> {
    stream: &'a Stream,
    before: &'a HashMap<u64, Option<u64>>,
    now: &'a HashMap<u64, Option<u64>>,
    window: Duration,
}

impl why::Seen for Observed<'_> {
    fn load(&self, pid: u64) -> Option<f64> {
        let (before, now) = (self.before.get(&pid).copied()??, self.now.get(&pid).copied()??);
        Some(now.saturating_sub(before) as f64 / self.window.as_nanos() as f64)
    }

    fn pump_is_realtime(&self) -> Option<bool> {
        Process::pump_is_realtime(
            self.stream.get(StreamFact::BrokerPid),
            &self.stream.snapshot.name,
        )
    }
}

fn latencies(fleet: &mut Fleet, options: &Options, stop: &AtomicBool) -> anyhow::Result<bool> {
    let mut left = options.count;
    let mut before: HashMap<String, latency::Measured> = HashMap::new();
    let mut sampled = Instant::now();
    loop {
        let streams = fleet.look();
        let (last, now) = (std::mem::take(&mut before), Instant::now());
        let window = now.duration_since(std::mem::replace(&mut sampled, now));
        let answers = latency::Asked::of(fleet, &streams).wait();
        let mut texts = Vec::new();
        for (stream, answer) in streams.iter().zip(answers) {
            let name = stream.snapshot.name.clone();
            let found = answer.unwrap_or_else(|e| {
                stderr::line(format_args!("{e:#}"));
                latency::Measured::default()
            });
            let earlier = last.get(&name).map(|l| (l, window));
            // With --watch the first sample is only the start of the first interval.
            if options.watch.is_none() || earlier.is_some() {
                let shown = latency::Shown::new(stream, &found, earlier);
                texts.push(if options.json { shown.json() } else { shown.table() });
            }
            before.insert(name, found);
        }
        let dated = options.watch.is_some() && !options.json && !texts.is_empty();
        let mut text = texts.join(if options.json { "" } else { "\n" });
        if dated {
            text = format!("{}\n{text}\n", date::full(clock::realtime_ns()));
        }
        if !last.is_empty() {
            left = left.map(|n| n - 1);
        }
        if !ringweir_cli::stdout::put(&text)? || left == Some(0) {
            return Ok(false);
        }
        let Some(interval) = options.watch else { return Ok(false) };
        if !sleep_until(sampled + interval, stop) {
            return Ok(false);
        }
    }
}

fn tables(streams: &[Stream], dated: bool) -> String {
    let tables: Vec<String> = streams.iter().map(|s| table::render(s, Moment::of(s))).collect();
    let text = tables.join("\n");
    if !dated {
        return text;
    }
    // Each table has its time, and ends with a blank line.
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
