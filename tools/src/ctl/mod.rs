//! `ringctl`: what streams there are, and everything about one of them.
//!
//! Contract: a command is one file here and one line in `Command`; it asks brokers with a time
//! limit, so a stopped one is reported, not waited for.

mod demo;
mod detach;
mod devices;
mod doctor;
mod gc;
mod ls;
mod pages;
mod reload;
mod show;

use crate::usage::Usage;
use clap::{Parser, Subcommand};
use ringweir_cli::manual;
use std::process::ExitCode;

/// Looks after the streams of this machine.
#[derive(Debug, Parser)]
#[command(name = "ringctl", version, after_help = EXAMPLES)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the streams in the run directories, and whether their brokers answer
    #[command(after_help = ls::EXAMPLES)]
    Ls(ls::Options),
    /// Show everything there is to know about one stream
    #[command(after_help = show::EXAMPLES)]
    Show(show::Options),
    /// List the devices that ringd can drain, and why the rest cannot be used
    #[command(after_help = devices::EXAMPLES)]
    Devices(devices::Options),
    /// Tell whether this machine, and a running stream, are fit; each finding with the line that
    /// mends it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Options),
    /// Remove what brokers that died have left: rings in /dev/shm, sockets, locks
    #[command(after_help = gc::EXAMPLES)]
    Gc(gc::Options),
    /// Take a reader's place back, and tell it
    #[command(after_help = detach::EXAMPLES)]
    Detach(detach::Options),
    /// Have a broker read its --config again: streams come and go, the others do not notice
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::Options),
    /// Write shell completions, of one program or all
    #[command(after_help = pages::COMPLETIONS_EXAMPLES)]
    Completions(pages::Completions),
    /// Write the man page of a program, or those of all into a directory
    #[command(after_help = pages::PAGES_EXAMPLES)]
    Man(pages::Pages),
    /// See it work: a stream, three readers, one of them stopped on purpose, and the live screen;
    /// no root, no device
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Options),
}

const EXAMPLES: &str = "\
Examples:
  ringctl ls                 which streams are there, and who answers
  ringctl show daq0          its configuration, metadata, counters and readers, each explained
  ringctl devices            which devices ringd can drain, and why not the rest
  ringctl doctor             is this machine fit, and if not, which line mends it
  ringctl gc --dry-run       what dead brokers have left
  ringctl detach daq0 4130   take the place of the reader with this pid back
  ringctl reload daq0        have its broker read its file again: streams come and go
  ringctl demo               see it work, with no root and no device
  ringctl show daq0 --json | jq .description.metadata

Exit status: 0 done; 1 an error, such as no such stream; 2 wrong usage.
RINGWEIR_DIR says in which run directory to look.";

/// The program.
pub fn main() -> ExitCode {
    manual::answer(<Options as clap::CommandFactory>::command);
    let well = |done: anyhow::Result<()>| done.map(|()| true);
    let done = match Options::parse().command {
        Command::Ls(options) => well(ls::run(&options)),
        Command::Show(options) => well(show::run(&options)),
        Command::Devices(options) => well(devices::run(&options)),
        Command::Doctor(options) => doctor::run(&options),
        Command::Gc(options) => gc::run(&options),
        Command::Detach(options) => well(detach::run(&options)),
        Command::Reload(options) => reload::run(&options),
        Command::Completions(options) => well(pages::completions(&options)),
        Command::Man(options) => well(pages::pages(&options)),
        Command::Demo(options) => well(demo::run(&options)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("ringctl: {e:#}");
            if e.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Options::command().debug_assert();
    }
}
