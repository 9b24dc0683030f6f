//! `ringctl`: what streams there are, and everything about one of them.
//!
//! Contract: a command is one file here and one line in `Command`; it asks brokers with a time limit, so a stopped one is
//! reported, not waited for.

mod demo;
mod ls;
mod show;

use clap::{Parser, Subcommand};
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
    /// See it work: a stream, three readers, one of them stopped on purpose, and the live screen; no root, no device
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Options),
}

const EXAMPLES: &str = "\
Examples:
  ringctl ls                 which streams are there, and who answers
  ringctl show daq0          its configuration, metadata, counters and readers, each explained
  ringctl demo               see it work, with no root and no device
  ringctl show daq0 --json | jq .description.metadata

Exit status: 0 done; 1 an error, such as no such stream; 2 wrong usage.
RINGWEIR_DIR says in which run directory to look.";

/// The program.
pub fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Ls(options) => ls::run(&options),
        Command::Show(options) => show::run(&options),
        Command::Demo(options) => demo::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringctl: {e:#}");
            ExitCode::FAILURE
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
