//! One run: publisher and readers are started as processes, released together, and measured from
//! outside; then their accounts are compared.
//!
//! Contract: [`run`] returns an [`Outcome`] only if every reader's account closes: `published =
//! delivered + lost`, each delivered byte right, and what the kernel counts as lost is what is
//! missing. Anything else is an error, and the bench fails.

use super::contender::Publisher;
use super::contenders::by_name;
use super::job::{Inject, Job, Report, STREAM, Wait, sleep_until};
use super::{line, machine};
use anyhow::{Context, bail, ensure};
use ringweir_harness::netns::Namespace;
use ringweir_harness::{Daemon, Environment, Process};
use ringweir_proto::os::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name of the contender.
    pub contender: &'static str,
    /// Bytes of a datagram.
    pub size: usize,
    /// Readers.
    pub readers: usize,
    /// How they wait.
    pub wait: Wait,
    /// Datagrams per second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Time before the measured time.
    pub warm: Duration,
    /// Measured time.
    pub window: Duration,
    /// A planted fault.
    pub inject: Option<Inject>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Datagrams published in all.
    pub published: u64,
    /// The readers' reports, with losses completed to the end of the stream.
    pub readers: Vec<Report>,
    /// Measured time as planned, s.
    pub window: f64,
    /// Measured time between the samples of processor time, s.
    pub seconds: f64,
    /// Processor time in it: publisher (all threads), readers, and all other processes of the
    /// machine, s.
    pub cpu: [f64; 3],
    /// Time of a cache line from core to core before and after the run, ns.
    pub line: [f64; 2],
}

impl Outcome {
    /// A reader's measured time, s. A reader that could not run for part of it gains nothing from
    /// that.
    fn window_of(&self, report: &Report) -> f64 {
        (report.window_ns as f64 / 1e9).max(self.window)
    }

    /// Verified datagrams per second, the mean of the readers.
    pub fn delivered_per_s(&self) -> f64 {
        let rate = |r: &Report| r.window_delivered as f64 / self.window_of(r);
        self.readers.iter().map(rate).sum::<f64>() / self.readers.len() as f64
    }

    /// Lost datagrams per second, the mean of the readers.
    pub fn lost_per_s(&self) -> f64 {
        let rate = |r: &Report| r.window_lost as f64 / self.window_of(r);
        self.readers.iter().map(rate).sum::<f64>() / self.readers.len() as f64
    }

    /// All readers' latencies: value in ns and how many, by value.
    pub fn latencies(&self) -> Vec<(u64, u64)> {
        let mut all: Vec<_> = self.readers.iter().flat_map(|r| r.latency.iter().copied()).collect();
        all.sort_unstable();
        all
    }
}

/// Payload bytes of the ring for datagrams of `size`: 4 MiB, or eight of the largest; inside the
/// last-level cache.
pub fn ring_capacity(size: usize) -> usize {
    (4 << 20).max(8 * size)
}

/// `ringd`'s options for datagrams of `size`: 16384 slots, and it takes no datagram before all
/// readers are attached.
pub fn ring_options(size: usize, readers: usize) -> Vec<String> {
    let text = format!(
        "--depth 15000 --capacity {}KiB --max-datagram {size} --readers-max {} --wait-readers \
        {readers} --cpu 0",
        ring_capacity(size) >> 10,
        readers.max(64)
    );
    text.split(' ').map(String::from).collect()
}

/// A process of the bench: it is started, gets the times of the run, and reports.
pub(super) struct Worker {
    /// The process.
    pub process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    what: String,
}

impl Worker {
    pub fn start(env: &Environment, job: &Job) -> anyhow::Result<Self> {
        Self::start_in(env, job, None)
    }

    /// Starts it in a network namespace.
    pub fn start_in(
        env: &Environment,
        job: &Job,
        namespace: Option<&Namespace>,
    ) -> anyhow::Result<Self> {
        let mut command = env.command("ringbench");
        command.args(["job", &serde_json::to_string(job)?]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(namespace) = namespace {
            namespace.enter(&mut command);
        }
        let mut process = env.start(command);
        let stdin = process.stdin().context("its stdin")?;
        let stdout = BufReader::new(process.stdout().context("its stdout")?);
        let what = match job.reader {
            None => format!("{} publisher", job.contender),
            Some(n) => format!("{} reader {n}", job.contender),
        };
        Ok(Self { process, stdin, stdout, what })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.process.wait();
            bail!("{} ({status}): {}", self.what, self.process.stderr().trim());
        }
        Ok(line)
    }

    pub fn ready(&mut self) -> anyhow::Result<()> {
        let line = self.line()?;
        ensure!(line == "ready\n", "{} said {line:?}", self.what);
        Ok(())
    }

    pub fn go(&mut self, times: &str) -> anyhow::Result<()> {
        self.stdin
            .write_all(times.as_bytes())
            .with_context(|| format!("{} does not listen", self.what))
    }

    /// Why it ended, if it has failed.
    fn failed(&mut self) -> Option<String> {
        let status = self.process.ended().filter(|status| !status.success())?;
        Some(format!("{} ({status}): {}", self.what, self.process.stderr().trim()))
    }

    /// Whether a line, or end of file, can be read.
    fn has_said(&self) -> bool {
        let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Its report, once it has ended well.
    pub fn report(mut self) -> anyhow::Result<Report> {
        let line = self.line()?;
        let report =
            serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.what))?;
        let status = self.process.wait();
        ensure!(status.success(), "{} ({status}): {}", self.what, self.process.stderr().trim());
        Ok(report)
    }
}

enum Publishing {
    Ringd(Daemon),
    Worker(Worker),
}

/// Does the run.
///
/// # Errors
/// If a process fails, a byte is wrong or an account does not close: the bench is void.
pub fn run(run: &Run) -> anyhow::Result<Outcome> {
    once(run).with_context(|| {
        format!(
            "{}, {} readers ({}), {} bytes",
            run.contender,
            run.readers,
            run.wait.key(),
            run.size
        )
    })
}

fn once(run: &Run) -> anyhow::Result<Outcome> {
    let line_before = line::one_way_ns();
    let env = Environment::new(run.warm + run.window + Duration::from_secs(60));
    let contender = by_name(run.contender)?;
    let job = Job {
        contender: run.contender.into(),
        reader: None,
        dir: env.path(""),
        size: run.size,
        readers: run.readers,
        rate: run.rate,
        wait: run.wait,
        inject: run.inject,
        cpu: Some(0),
    };
    let mut publishing = match contender.publisher {
        Publisher::Ringd => Publishing::Ringd(ringd(&env, run)),
        Publisher::Process(_) => {
            let mut hand = Worker::start(&env, &job)?;
            hand.ready()?;
            Publishing::Worker(hand)
        }
    };
    let alone = run.readers == 1 && job.polls_alone();
    let mut readers = Vec::new();
    for n in 0..run.readers {
        let job = Job { reader: Some(n), cpu: alone.then_some(1), ..job.clone() };
        readers.push(Worker::start(&env, &job)?);
    }
    readers.iter_mut().try_for_each(Worker::ready)?;

    let start = clock::monotonic_ns() + 5_000_000;
    let begin = start + run.warm.as_nanos() as u64;
    let end = begin + run.window.as_nanos() as u64;
    let times = format!("{start} {begin} {end}\n");
    readers.iter_mut().try_for_each(|hand| hand.go(&times))?;
    let publisher_pid = match &mut publishing {
        Publishing::Ringd(daemon) => daemon.process.pid(),
        Publishing::Worker(hand) => {
            hand.go(&times)?;
            hand.process.pid()
        }
    };
    let reader_pids: Vec<u32> = readers.iter().map(|hand| hand.process.pid()).collect();
    sleep_until(begin);
    let before = machine::Load::now(publisher_pid, &reader_pids);
    sleep_until(end);
    let spent = machine::Load::now(publisher_pid, &reader_pids).since(&before);

    let published = match publishing {
        Publishing::Ringd(daemon) => {
            daemon.process.signal(Signal::TERM);
            settle(&mut readers, None)?;
            daemon.published()
        }
        Publishing::Worker(mut hand) => {
            settle(&mut readers, Some(&mut hand))?;
            hand.report()?.published
        }
    };
    let mut reports = Vec::new();
    for (n, hand) in readers.into_iter().enumerate() {
        reports.push(closed(hand.report()?, published).with_context(|| format!("reader {n}"))?);
    }
    Ok(Outcome {
        published,
        readers: reports,
        window: run.window.as_secs_f64(),
        seconds: spent.seconds,
        cpu: [spent.publisher, spent.readers, spent.others],
        line: [line_before, line::one_way_ns()],
    })
}

/// Waits until all processes have printed something. If one fails, that is the error, and not what
/// this causes in the others. Readers come first: a reader's end also ends a publisher that waits
/// for it. The environment's watchdog ends a process that hangs.
fn settle(readers: &mut [Worker], publisher: Option<&mut Worker>) -> anyhow::Result<()> {
    let mut all: Vec<&mut Worker> = readers.iter_mut().chain(publisher).collect();
    loop {
        if all.iter_mut().any(|hand| hand.failed().is_some()) {
            // The publisher may have failed because of a reader that is just ending.
            std::thread::sleep(Duration::from_millis(100));
            let first = all.iter_mut().find_map(|hand| hand.failed());
            bail!(first.unwrap_or_default());
        }
        if all.iter().all(|hand| hand.has_said()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Completes a reader's account to the end of the stream and checks it.
pub(super) fn closed(mut report: Report, published: u64) -> anyhow::Result<Report> {
    ensure!(
        report.next <= published,
        "it counts up to {}, published were {published}",
        report.next
    );
    let tail = published - report.next;
    match report.kernel_lost {
        // Only a transport that loses silently may end before the stream does, and then the kernel
        // knows.
        None => ensure!(
            tail == 0,
            "the last {tail} of {published} datagrams are missing and no loss was reported"
        ),
        Some(kernel) => {
            report.lost += tail;
            ensure!(
                report.lost == kernel,
                "{} of {published} datagrams are missing, the kernel counts {kernel} dropped",
                report.lost
            );
        }
    }
    ensure!(report.delivered + report.lost == published, "{report:?} of {published}");
    Ok(report)
}

fn ringd(env: &Environment, run: &Run) -> Daemon {
    let rate = run.rate.map_or("max".to_string(), |rate| format!("{rate}/s"));
    let source = format!("gen:check=sum,rate={rate},size={}", run.size);
    let mut options = ring_options(run.size, run.readers);
    if run.rate.is_some() {
        // Like the other publishers, it polls its clock, so that its lateness is not what is
        // measured.
        options.push("--spin".into());
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    env.broker(STREAM, &source, &options)
}
