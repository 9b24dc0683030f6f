//! `ringcat`: writes one stream's datagrams to standard output, a file or a capture, and verifies
//! them.
//!
//! Contract: the output is whole datagrams in order. A loss is reported on stderr, with its count
//! and position, and never in the output. Output is gathered, and written when the stream pauses or
//! enough has arrived. If the reader of the output goes away, ringcat ends quietly; SIGINT, SIGTERM
//! and `--timeout` end it after a whole datagram, or within a second if the output takes nothing.

mod copy;
mod options;
mod socket_server;

use crate::account::DETACHED;
use crate::output::Output;
use crate::stop::Stop;
use crate::usage::Usage;
use anyhow::{Context, bail};
use clap::CommandFactory;
use copy::{Cat, Why};
use options::{Cli, choose};
use ringweir::Options;
use ringweir_cli::stderr;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The program.
pub fn main() -> ExitCode {
    stderr::start("ringcat", || ());
    ringweir_cli::manual::answer(Cli::command, &[]);
    let cli: Cli = ringweir_cli::arguments::parse();
    match run(&cli) {
        Ok(status) => status,
        Err(error) => {
            stderr::line(format_args!("{error:#}"));
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// The exit status says whether the account adds up.
fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let format = choose(cli, io::stdout().is_terminal())?;
    cli.wait.until_answered(&cli.stream, cli.quiet)?;
    let stop = Stop::on_signals()?;
    if let Some(place) = &cli.unix {
        let adds_up = socket_server::run(cli, place, &stop)?;
        return Ok(if adds_up { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }

    let mut options = Options::new(&cli.label).start(cli.from.0);
    if cli.lossless {
        options = options.lossless();
    }
    if cli.spin {
        options = options.always_spin();
    }
    // Attaches first, so that no file is emptied for a stream that does not exist.
    let mut reader = options.attach(&cli.stream)?;
    let began = Instant::now();
    let to = match cli.file() {
        Some(path) => {
            let until = cli.timeout.map(|t| began + t.0);
            Output::open(path, &stop, until)
                .with_context(|| format!("cannot write to {}", path.display()))?
        }
        None => Some(Output::stdout().context("standard output")?),
    };
    let Some(to) = to else {
        let path = cli.file().unwrap_or(Path::new("-")).display();
        bail!("nobody has opened {path} for reading: nothing was written");
    };
    let mut cat = Cat::new(cli, format, to, &reader, &stop, began);
    let why = cat.run(&mut reader)?;
    let adds_up = cat.conclude(&mut reader, why)?;
    if why == Why::Timeout
        && let Some(count) = cli.count
    {
        let taken = cat.account.all().delivered;
        cat.account.messages.print(format_args!("--timeout: {taken} of {count} datagrams arrived"));
        return Ok(ExitCode::FAILURE);
    }
    if let Why::Detached(by) = why {
        cat.account.messages.print(format_args!("detached by pid {} (uid {})", by.pid, by.uid));
    }
    Ok(match why {
        _ if !adds_up => ExitCode::FAILURE,
        Why::Detached(_) => ExitCode::from(DETACHED),
        _ => ExitCode::SUCCESS,
    })
}
