//! `ringctl`: lists streams, shows everything about one, and checks the machine.
//!
//! Contract: a command is one file here and one line in `Command`. Queries to brokers have a time
//! limit: a stopped broker is reported, not waited for.

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
use ringweir_cli::stderr;
use std::process::ExitCode;

/// Lists, inspects and controls the streams of this machine.
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
    /// Show everything about one stream
    #[command(after_help = show::EXAMPLES)]
    Show(show::Options),
    /// List the devices that ringd can drain, and why the others cannot be used
    #[command(after_help = devices::EXAMPLES)]
    Devices(devices::Options),
    /// Check this machine, and a running stream; each problem comes with the command that fixes it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Options),
    /// Remove what dead brokers left behind: rings in /dev/shm, sockets, locks
    #[command(after_help = gc::EXAMPLES)]
    Gc(gc::Options),
    /// Detach a reader from a stream; the reader is notified
    #[command(after_help = detach::EXAMPLES)]
    Detach(detach::Options),
    /// Make a broker read its --config again: it starts and ends streams, the others continue
    /// undisturbed
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::Options),
    /// Write shell completions for one program or all
    #[command(after_help = pages::COMPLETIONS_EXAMPLES)]
    Completions(pages::Completions),
    /// Write the man page of one program, or those of all into a directory
    #[command(after_help = pages::PAGES_EXAMPLES)]
    Man(pages::Pages),
    /// Demonstrate ringweir: a stream, three readers, one of them stopped on purpose, and the live
    /// screen; needs neither root nor a device
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Options),
}

const EXAMPLES: &str = "\
Examples:
  ringctl ls                 which streams there are, and whether their brokers answer
  ringctl show daq0          its configuration, metadata, counters and readers, all explained
  ringctl devices            which devices ringd can drain, and why not the others
  ringctl doctor             check this machine; how to fix what is wrong
  ringctl gc --dry-run       what dead brokers left behind
  ringctl detach daq0 4130   detach the reader with this pid
  ringctl reload daq0        make its broker read its configuration again
  ringctl demo               a demonstration, without root or a device
  ringctl show daq0 --json | jq .description.metadata

Exit status: 0 done; 1 an error, such as no such stream; 2 wrong usage.
RINGWEIR_DIR sets the run directory.";

/// The program.
pub fn main() -> ExitCode {
    stderr::start("ringctl", || ());
    manual::answer(<Options as clap::CommandFactory>::command, &[]);
    let well = |done: anyhow::Result<()>| done.map(|()| true);
    let done = match ringweir_cli::arguments::parse::<Options>().command {
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
            stderr::line(format_args!("{e:#}"));
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
