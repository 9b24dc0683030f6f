//! `ringd`, the broker: wires configuration, streams and the control thread together.
//!
//! A library only so that fuzzers reach what parses: nobody else depends on it.

mod access;
mod adopt;
mod back_pressure;
mod config;
mod control;
pub mod framing;
mod intake;
mod notice;
mod plan;
mod privilege;
mod pump;
mod readers;
mod sampler;
mod sandbox;
mod sched;
mod service;
mod signals;
mod source;
mod store;
mod stream;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use config::{FileConfig, StreamConfig};
use ringweir_cli::{log, manual};
use ringweir_proto::os::paths;
use sandbox::{Needs, Sandbox};
use std::path::PathBuf;
use std::process::ExitCode;
use stream::Host;

/// Brings datagrams into shared-memory rings that any number of processes read in place.
#[derive(Parser)]
#[command(name = "ringd", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// Serve the streams of a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the control sockets [default: $RINGWEIR_DIR, $XDG_RUNTIME_DIR/ringweir or
    /// /run/ringweir]
    #[arg(long, value_name = "DIR", global = true)]
    run_dir: Option<PathBuf>,

    /// Say only what went wrong
    #[arg(short, long, global = true)]
    quiet: bool,

    /// For debugging: keep all rights, instead of giving up after the start what is not needed
    #[arg(long, global = true)]
    no_sandbox: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one stream, no file needed
    Run(Box<StreamConfig>),
    /// List the kinds of source and their syntax
    Sources,
}

const EXAMPLES: &str = "\
Examples:
  ringd run --name demo --source gen:rate=1MB/s,size=256
  sudo chrt -f 60 ringd run --name tap0 --source packet:eth1 --capacity 256MiB
  ringd run --name feed --source udp:239.1.2.3:26400@eth0 --depth 30s --rate 40MB/s
  ringgen --rate 350MB/s --size 256KiB | ringd run --name daq0 --source stdin:len32le --depth 3s \
  --rate 350MB/s
  ringd run --name daq0 --source chardev:size=4KiB:/dev/daq0 --memory memfd --hugepages
  ringd --config /etc/ringweir.toml

Readers attach with ringcat, the client library, or look with ringstat. SIGTERM and SIGINT end it \
cleanly;
SIGHUP has it read its --config again: streams that are new there begin, those that are gone end, \
others notice nothing.
Exit status: 0 ended well, 1 a source failed or a start was refused, 2 wrong usage.";

/// The program.
pub fn main() -> ExitCode {
    manual::answer(Cli::command);
    let cli = Cli::parse();
    log::start("ringd", cli.quiet);
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<bool> {
    // First of all: descriptors are taken by their numbers.
    let (passed, rings) = service::Passed::take()?;
    if !rings.is_empty() {
        privilege::forbid_inspection()?;
    }
    let manager = service::Manager::find()?;
    let store = store::Store::of(&manager, rings);
    let (mut run_dir, configs, later, file) = match (cli.config, cli.command) {
        (Some(_), Some(_)) => {
            let text = "--config and a command exclude each other: put the stream into the file";
            Cli::command().error(clap::error::ErrorKind::ArgumentConflict, text).exit()
        }
        (Some(file), None) => {
            let read = FileConfig::read(&file)?;
            (read.run_dir, read.streams, read.later, Some(file))
        }
        (None, Some(Command::Run(stream))) => (None, vec![*stream], Vec::new(), None),
        (None, Some(Command::Sources)) => {
            for kind in source::SOURCES {
                println!("{}\n    {}", kind.usage, kind.about);
            }
            return Ok(true);
        }
        (None, None) => anyhow::bail!("nothing to do: say `ringd run …` or `ringd --config FILE`"),
    };
    if cli.run_dir.is_some() {
        run_dir = cli.run_dir;
    }
    let run_dir = paths::make_run_dir(run_dir.as_deref())?;
    let open_files = sched::raise_open_files();
    // Socket, wake and doze of each reader, what a stream and the process itself hold, and who only
    // looks or says nothing.
    let needed: u64 = configs.iter().map(|c| u64::from(c.readers_max) * 3 + 32).sum::<u64>()
        + control::limits::DESCRIPTORS;
    if open_files < needed {
        tracing::warn!(
            "{open_files} open files are allowed, full use takes {needed}: raise LimitNOFILE= or \
            ulimit -n"
        );
    }
    // Before anything is made: a signal during the start, which takes seconds for large rings, must
    // not leave it behind.
    let signals = signals::Signals::catch(file.is_some())?;
    let sandbox = if cli.no_sandbox { Sandbox::Off } else { Sandbox::On };
    let mut host = Host { passed, store, ..Host::new(run_dir, sandbox.clone()) };
    let mut streams = Vec::new();
    for config in &configs {
        let stream = stream::Stream::start(config, &mut host)
            .with_context(|| format!("stream {:?}", config.name))?;
        tracing::info!("{}", stream.summary);
        streams.push(stream);
        if signals.came() {
            break;
        }
    }
    // The pumps have inherited the class this process was launched with; everything else is
    // ordinary work.
    sched::become_ordinary();
    for socket in host.passed.unclaimed() {
        tracing::warn!(
            "{socket}: was passed by the service manager, and is no stream's: FileDescriptorName= \
            says whose"
        );
    }
    for ring in host.store.let_go() {
        tracing::warn!(
            "{ring}: was kept by the service manager, and is no stream's any more: let go"
        );
    }
    let mut needs = Needs::of_control(&host.run_dir);
    let mut reload = file.map(|file| control::reload::Reload::new(file, host));
    if let Some(reload) = &reload {
        needs = needs.and(reload.needs(&configs, &later)?);
    }
    let confined = sandbox.enter(&needs);
    if let Some(missing) = confined.missing() {
        tracing::warn!("what is not needed could not all be given up: {missing}");
    }
    if let Some(reload) = &mut reload {
        reload.host.sandbox = Sandbox::Inherited(confined);
    }
    control::Control::new(streams, signals, manager, reload)?.run()
}
