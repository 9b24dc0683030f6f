//! The program `ringd`: command line, start, and end.

use crate::check;
use crate::control::reload::Reload;
use crate::control::{limits, thread::Control};
use crate::file_page;
use crate::process::fd_store::FdStore;
use crate::process::passed_sockets::PassedSockets;
use crate::process::sandbox::{Needs, Sandbox};
use crate::process::service_manager::ServiceManager;
use crate::process::signals::Signals;
use crate::process::{privilege, sched};
use crate::setup::config::StreamConfig;
use crate::setup::config_file::FileConfig;
use crate::source::kinds;
use crate::stream::builder::Host;
use crate::stream::running::{Started, Stream};
use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use ringweir_cli::{arguments, log, manual, stderr, stdout};
use ringweir_proto::os::paths;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Brings datagrams into shared-memory rings that any number of processes read in place.
#[derive(Parser)]
#[command(name = "ringd", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// Serve the streams of a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check a TOML file without serving it, and exit: 0 if nothing wrong is found
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    check: Option<PathBuf>,

    /// Directory of the control sockets [default: $RINGWEIR_DIR, $XDG_RUNTIME_DIR/ringweir or
    /// /run/ringweir]
    #[arg(long, value_name = "DIR", global = true)]
    run_dir: Option<PathBuf>,

    /// Log only warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// For debugging: keep all rights, instead of giving up unneeded ones after the start
    #[arg(long, global = true)]
    no_sandbox: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one stream, without a file
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
  ringd --check /etc/ringweir.toml

Readers attach with ringcat or the client library; ringstat shows statistics. SIGTERM and SIGINT \
stop ringd.
SIGHUP reloads the --config file: new streams begin, removed streams end, the others are not \
affected.
Exit status: 0 ended well, 1 a source failed or a start was refused, 2 wrong usage.";

/// The program.
pub fn main() -> ExitCode {
    // Before anything is printed, usage errors included.
    let off = std::env::args_os().any(|argument| argument == "--no-sandbox");
    let sandbox = if off { Sandbox::Off } else { Sandbox::On };
    stderr::start("ringd", move || {
        sched::become_ordinary();
        // It writes to a descriptor that is open. What the kernel refuses here it also refuses to
        // the control thread, which reports it.
        let _reported_there = sandbox.enter(&Needs::default());
    });
    manual::answer(Cli::command, &[("ringd.toml", file_page::write)]);
    let cli: Cli = arguments::parse();
    log::start("ringd", cli.quiet);
    if let Some(file) = &cli.check {
        return check(file);
    }
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// `--check`.
fn check(file: &Path) -> ExitCode {
    let shown = check::check(file).and_then(|check::Checked { text, faults }| {
        stdout::put(&text)?;
        faults.iter().for_each(|fault| tracing::error!("{}: {fault}", file.display()));
        Ok(faults.is_empty())
    });
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line requests.
struct Job {
    run_dir: Option<PathBuf>,
    streams: Vec<StreamConfig>,
    later: Vec<String>,
    file: Option<PathBuf>,
}

impl Job {
    /// `None`: the command only printed something, and is done.
    fn of(cli: Cli) -> anyhow::Result<Option<Self>> {
        let mut job = match (cli.config, cli.command) {
            (Some(_), Some(_)) => {
                let text = "--config cannot be combined with a command: put the stream into the \
                    file";
                let kind = clap::error::ErrorKind::ArgumentConflict;
                arguments::exit(&Cli::command().error(kind, text))
            }
            (Some(file), None) => {
                let FileConfig { run_dir, streams, later } = FileConfig::read(&file)?;
                Self { run_dir, streams, later, file: Some(file) }
            }
            (None, Some(Command::Run(stream))) => {
                Self { run_dir: None, streams: vec![*stream], later: Vec::new(), file: None }
            }
            (None, Some(Command::Sources)) => {
                let lines = kinds::SOURCES
                    .iter()
                    .map(|kind| format!("{}\n    {}\n", kind.usage, kind.about));
                stdout::put(&lines.collect::<String>())?;
                return Ok(None);
            }
            (None, None) => {
                anyhow::bail!("nothing to do: use `ringd run …` or `ringd --config FILE`")
            }
        };
        if cli.run_dir.is_some() {
            job.run_dir = cli.run_dir;
        }
        Ok(Some(job))
    }

    fn warn_of_few_descriptors(&self) {
        let open_files = sched::raise_open_files();
        // For each reader its socket, page, and three events; for each stream and for the process a
        // few; and the connections of viewers and of peers that are still handshaking.
        let streams = self.streams.iter().map(|c| u64::from(c.readers_max) * 5 + 32);
        let needed = streams.sum::<u64>() + limits::descriptors(self.streams.len());
        if open_files < needed {
            tracing::warn!(
                "{open_files} open files are allowed, but up to {needed} may be needed: raise \
                LimitNOFILE= or ulimit -n"
            );
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<bool> {
    // First of all: descriptors are taken by their numbers.
    let (passed, rings) = PassedSockets::take()?;
    if !rings.is_empty() {
        privilege::forbid_inspection()?;
    }
    let manager = ServiceManager::connect();
    let store = FdStore::new(&manager, rings);
    let sandbox = if cli.no_sandbox { Sandbox::Off } else { Sandbox::On };
    let Some(job) = Job::of(cli)? else { return Ok(true) };
    let run_dir = paths::make_run_dir(job.run_dir.as_deref())?;
    job.warn_of_few_descriptors();
    // Before anything is made: a signal during the start, which takes seconds for large rings, must
    // leave nothing behind.
    let signals = Signals::catch(job.file.is_some())?;
    let mut host = Host::new(run_dir, sandbox.clone()).with_service_manager(passed, store);
    let mut streams = Started::default();
    start(&mut streams, &job.streams, &mut host, &signals)?;
    // The pumps have inherited the scheduling class of this process; everything else is ordinary
    // work.
    sched::become_ordinary();
    for socket in host.unclaimed_sockets() {
        tracing::warn!(
            "{socket}: passed by the service manager, but no stream claims it: set \
            FileDescriptorName= to the name of its stream"
        );
    }
    for ring in host.remove_unclaimed_rings() {
        tracing::warn!(
            "{ring}: stored by the service manager, but no stream claims it: removed from the store"
        );
    }
    let mut needs = Needs::of_control(host.run_dir());
    let mut reload = job.file.map(|file| Reload::new(file, host));
    if let Some(reload) = &mut reload {
        needs = needs.and(reload.needs(&job.streams, &job.later)?);
    }
    let confined = sandbox.enter(&needs);
    if let Some(missing) = confined.missing() {
        tracing::warn!("the sandbox is incomplete: {missing}");
    }
    if let Some(reload) = &mut reload {
        reload.host().set_sandbox(Sandbox::Inherited(confined));
    }
    Control::new(streams, signals, manager, reload)?.run()
}

/// Starts the streams, as long as no signal says to stop.
fn start(
    streams: &mut Started,
    configs: &[StreamConfig],
    host: &mut Host,
    signals: &Signals,
) -> anyhow::Result<()> {
    for config in configs {
        let stream = Stream::builder(config, host)
            .start()
            .with_context(|| format!("stream {:?}", config.name))?;
        tracing::info!("{}", stream.summary());
        streams.push(stream);
        if signals.stop_requested() {
            break;
        }
    }
    Ok(())
}
