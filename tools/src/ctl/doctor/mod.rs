//! `ringctl doctor`: checks this machine, and a running stream; each problem comes with the command
//! that fixes it.
//!
//! Contract: a check is one function and one line in [`CHECKS`] or [`STREAM_CHECKS`]. It only
//! looks. What it cannot see it reports as such, and never calls it ok. Every warning and failure
//! carries the exact command that fixes it.

mod cgroup;
mod finding;
mod memory;
mod places;
mod processor;
mod rights;
mod sandbox;
mod stream;

use crate::json_line::json_line;
use crate::machine::Machine;
use crate::usage::Usage;
use crate::wait::WaitOption;
use clap::Args;
use finding::{Finding, Found, State};
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::Bytes;
use ringweir_cli::stderr;
use std::path::PathBuf;
use std::time::Duration;
use stream::Seen;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Also check this running stream: its pump, its memory, its readers
    #[arg(add = crate::completion::stream())]
    stream: Option<String>,
    /// Memory that all rings of one broker will take [default: that of one ring of default size]
    #[arg(long, value_name = "SIZE")]
    ring: Option<Bytes>,
    /// Readers that will be attached at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    readers: u64,
    /// The rings will use huge pages
    #[arg(long)]
    hugepages: bool,
    /// Treat warnings as failures
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    wait: WaitOption,
    /// Print one JSON object per finding, each on a line
    #[arg(long)]
    json: bool,
    /// How long to watch the pump of the stream for page faults, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 1.0, value_parser = window)]
    window: f64,
    /// Read /proc, /sys, /etc, /run and /dev below this directory: another system's tree, or a
    /// planted one
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

fn window(text: &str) -> Result<f64, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "a number of seconds, such as 1 or 0.5".to_string())?;
    if (0.1..=60.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must be 0.1 to 60 seconds".into())
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl doctor                               check this machine for a broker of this user,
                                               started from this shell
  ringctl doctor --ring 1GiB --readers 200     the same for rings of this size
  ringctl doctor daq0                          also check this stream
  ringctl doctor --json | jq -r 'select(.state!=\"ok\")|.fix'

Each finding is ok, warn (it works, with the limit described) or fail (it will not work). A warning
or failure is followed by the command that fixes it. Limits are those of the shell that runs it.
Exit status: 0 all ok or only warnings; 1 a failure, with --strict also a warning, or an error; 2 \
wrong usage.";

/// One check of the machine: its name and its function.
struct Check(&'static str, fn(&Machine) -> Vec<Found>);

const CHECKS: &[Check] = &[
    Check("locked-memory", rights::locked_memory),
    Check("real-time", rights::real_time),
    Check("open-files", rights::open_files),
    Check("packet-capture", rights::packet_capture),
    Check("receive-buffers", rights::receive_buffers),
    Check("throttling", processor::throttling),
    Check("real-time-group", processor::real_time_group),
    Check("cpu-limit", processor::cpu_limit),
    Check("processors", processor::processors),
    Check("governor", processor::governor),
    Check("clock", processor::clock),
    Check("preemption", processor::preemption),
    Check("shared-memory", memory::shared_memory),
    Check("memory-limit", memory::memory_limit),
    Check("remove-ipc", memory::remove_ipc),
    Check("huge-pages", memory::huge_pages),
    Check("run-directory", places::run_directory),
    Check("leftovers", places::leftovers),
    Check("sockets", places::sockets),
];

/// One check of a running stream.
struct StreamCheck(&'static str, fn(&Seen, &Machine) -> Vec<Found>);

const STREAM_CHECKS: &[StreamCheck] = &[
    StreamCheck("pump-class", stream::class),
    StreamCheck("pump-faults", stream::faults),
    StreamCheck("ring-memory", stream::resident),
    StreamCheck("readers", stream::readers),
    StreamCheck("sandbox", sandbox::sandbox),
];

pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    match &options.stream {
        Some(name) => options.wait.until_figures(Some(name))?,
        None if options.wait.is_given() => {
            return Err(Usage(
                "--wait needs a STREAM to wait for, such as: ringctl doctor daq0 --wait 5s".into(),
            )
            .into());
        }
        None => {}
    }
    let machine =
        Machine::new(&options.root, options.ring.map(|b| b.0), options.readers, options.hugepages);
    let mut findings = Vec::new();
    for Check(name, look) in CHECKS {
        findings.extend(look(&machine).into_iter().map(|found| named(name, found)));
    }
    if let Some(name) = &options.stream {
        let seen = Seen::new(name, Duration::from_secs_f64(options.window))?;
        for StreamCheck(check, look) in STREAM_CHECKS {
            findings.extend(look(&seen, &machine).into_iter().map(|found| named(check, found)));
        }
    }
    let text =
        if options.json { findings.iter().map(json_line).collect() } else { words(&findings) };
    ringweir_cli::stdout::put(&text)?;
    let count = |state| findings.iter().filter(|f| f.state == state).count();
    let (warnings, failures) = (count(State::Warn), count(State::Fail));
    if !options.json {
        stderr::line(format_args!(
            "{} ok, {warnings} warnings, {failures} failures",
            count(State::Ok)
        ));
    }
    Ok(failures == 0 && !(options.strict && warnings > 0))
}

fn named(check: &'static str, (state, text, fix): Found) -> Finding {
    Finding { check, state, text, fix }
}

fn words(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { check, state, text, fix } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        out += &format!("{state:<4}  {check:<width$}  {}\n", printable(text));
        if let Some(fix) = fix {
            out += &format!("{:>width$}  fix: {}\n", "", printable(fix), width = width + 6);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::finding::{ok, warn};
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let mut names: Vec<_> =
            CHECKS.iter().map(|c| c.0).chain(STREAM_CHECKS.iter().map(|c| c.0)).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_fix_is_printed_below_the_finding() {
        let text = words(&[named("a", ok("fine")), named("bcd", warn("bad", "repair it"))]);
        assert_eq!(text, "ok    a    fine\nwarn  bcd  bad\n           fix: repair it\n");
    }
}
