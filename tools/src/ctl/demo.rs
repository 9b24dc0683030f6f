//! `ringctl demo`: a stream, three readers and the live screen, without root or a device.
//!
//! Contract: everything it starts has its own run directory and ends with the demo. Nothing is
//! faked: the readers are `ringcat --verify` processes, one of them is stopped with SIGSTOP, and
//! each prints at the end what it received and what it lost.

use anyhow::Context;
use clap::Args;
use ringweir_cli::stderr;
use ringweir_proto::os::paths;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// How long to run, in seconds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(5..=3600)
    )]
    seconds: u64,
    /// Rate of the generated stream
    #[arg(long, default_value = "20MB/s")]
    rate: ringweir_cli::quantity::Rate,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl demo
  ringctl demo --seconds 60 --rate 200MB/s";

const READERS: [&str; 3] = ["recorder", "trigger", "monitor"];

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    // Ctrl-C ends the screen. The other processes must then still be ended.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let dir = DemoDir::new()?;
    // Half a second of history: a reader that is stopped for longer is lapped.
    let source = format!("gen:rate={},size=64..1500,channels=3", rate_argument(options.rate));
    let mut ringd = dir.start(
        "ringd",
        "ringd",
        &["run", "--name", "demo", "--source", &source, "--depth", "500ms"],
    )?;
    dir.wait_for_broker(&mut ringd)?;
    stderr::raw(&dir.messages("ringd"));
    let mut readers = Vec::new();
    for label in READERS {
        readers.push(dir.start(label, "ringcat", &["demo", "--verify", "--label", label])?);
    }
    stderr::line(format_args!(
        "the reader {} will be stopped (SIGSTOP) for a while; the other readers are not affected",
        READERS[2]
    ));
    // Before the screen that follows.
    stderr::flush(Duration::from_secs(1));

    let count = options.seconds.to_string();
    let mut screen = dir
        .command("ringstat", &["demo", "-w", "1", "--count", &count])?
        .spawn()
        .context("ringstat")?;
    let began = Instant::now();
    let (stop_at, resume_at) = (options.seconds as f64 * 0.25, options.seconds as f64 * 0.6);
    let mut step = 0;
    while screen.try_wait()?.is_none() && !ended.load(Ordering::Relaxed) {
        let now = began.elapsed().as_secs_f64();
        if step == 0 && now > stop_at {
            (step, _) = (1, signal(&readers[2], Signal::STOP));
        } else if step == 1 && now > resume_at {
            (step, _) = (2, signal(&readers[2], Signal::CONT));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if screen.try_wait()?.is_none() {
        signal(&screen, Signal::TERM);
    }
    screen.wait()?;

    signal(&readers[2], Signal::CONT);
    signal(&ringd, Signal::TERM);
    ringd.wait()?;
    let mut well = true;
    for (reader, label) in readers.iter_mut().zip(READERS) {
        well &= reader.wait()?.success();
        for line in dir.messages(label).lines() {
            stderr::raw(&format!("{label}: {line}\n"));
        }
    }
    for line in dir.messages("ringd").lines().skip(1) {
        stderr::raw(&format!("{line}\n"));
    }
    anyhow::ensure!(well, "a reader failed its verification: this is a bug in ringweir");
    Ok(())
}

/// A rate as a source option: without the space that it is printed with.
fn rate_argument(rate: ringweir_cli::quantity::Rate) -> String {
    rate.to_string().replace(' ', "")
}

/// Signals a child; false if it has ended already.
fn signal(child: &Child, signal: Signal) -> bool {
    kill_process(Pid::from_child(child), signal).is_ok()
}

/// The run directory of the demo; removed at its end.
struct DemoDir {
    dir: PathBuf,
    programs: PathBuf,
}

impl DemoDir {
    fn new() -> anyhow::Result<Self> {
        let programs = std::env::current_exe()?
            .parent()
            .context("the path of ringctl has no directory")?
            .to_path_buf();
        for program in ["ringd", "ringcat", "ringstat"] {
            let path = programs.join(program);
            anyhow::ensure!(
                path.exists(),
                "{} is missing: build all programs (cargo build --release)",
                path.display()
            );
        }
        let dir = std::env::temp_dir().join(format!("ringweir-demo-{}", std::process::id()));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, programs })
    }

    fn command(&self, program: &str, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).env(paths::RUN_DIR_ENV, self.dir.join("run"));
        Ok(command)
    }

    /// Starts a program with its messages in a file. It gets a separate process group, so that the
    /// terminal's Ctrl-C does not reach it.
    fn start(&self, role: &str, program: &str, args: &[&str]) -> anyhow::Result<Child> {
        let messages = File::create(self.messages_file(role))?;
        let mut command = self.command(program, args)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages).process_group(0);
        command.spawn().with_context(|| format!("cannot start {program}"))
    }

    fn wait_for_broker(&self, ringd: &mut Child) -> anyhow::Result<()> {
        let socket = paths::socket_path(&self.dir.join("run"), "demo");
        let limit = Instant::now() + Duration::from_secs(10);
        while ringweir::view::describe(&socket.to_string_lossy()).is_err() {
            let gone = ringd.try_wait()?.is_some();
            anyhow::ensure!(
                !gone && Instant::now() < limit,
                "ringd did not start: {}",
                self.messages("ringd").trim()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn messages_file(&self, role: &str) -> PathBuf {
        Path::new(&self.dir).join(role)
    }

    fn messages(&self, role: &str) -> String {
        std::fs::read_to_string(self.messages_file(role)).unwrap_or_default()
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        // If this fails, a few small files stay in the temporary directory.
        let _left = std::fs::remove_dir_all(&self.dir);
    }
}
