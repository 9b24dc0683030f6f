//! How a bench process gets its job and reports its result: one job as JSON in its arguments,
//! `ready`, `go`, one report.
//!
//! Contract: a process prepares all that others need from it, prints `ready`, waits for the times
//! of the run, does its part, and prints its [`Report`]. Times are CLOCK_MONOTONIC ns, the same in
//! all processes.

use anyhow::Context;
use ringweir_proto::os::clock;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the stream of `ringd` in a run.
pub const STREAM: &str = "bench";

/// How a reader waits when there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Polls. If there are more readers than processors free for them, it yields between looks.
    Spin,
    /// Sleeps in the kernel.
    Park,
}

impl Wait {
    /// As it is written in records.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Park => "park",
        }
    }
}

/// A fault planted between the transport and the check of the first reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Inject {
    /// One bit of one datagram is flipped.
    Flip,
    /// One datagram is lost without a report.
    Drop,
    /// One datagram comes twice.
    Dup,
}

/// One process's part in a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Name of the contender.
    pub contender: String,
    /// `None`: publisher; else the reader's number.
    pub reader: Option<usize>,
    /// Where the processes of the run find each other.
    pub dir: PathBuf,
    /// Bytes of a datagram.
    pub size: usize,
    /// Readers in the run.
    pub readers: usize,
    /// Datagrams per second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// How readers wait.
    pub wait: Wait,
    /// The planted fault.
    pub inject: Option<Inject>,
    /// Processor to run on.
    pub cpu: Option<usize>,
}

impl Job {
    /// Whether there is a free processor for each reader to poll on.
    pub fn polls_alone(&self) -> bool {
        self.readers < std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Control socket of `ringd` in this run.
    pub fn ring_socket(&self) -> String {
        self.dir.join("run").join(format!("{STREAM}.sock")).to_string_lossy().into_owned()
    }

    /// Datagrams handled at once, at most 64 and at most 256 KiB: as many as a round of ringd
    /// takes, for every contender.
    pub fn batch(&self) -> usize {
        if self.rate.is_some() { 1 } else { ((256 << 10) / self.size).clamp(1, 64) }
    }
}

/// When a run takes place.
#[derive(Clone, Copy, Debug)]
pub struct Go {
    /// Publishers that are processes of the bench begin.
    pub start: u64,
    /// The measured time begins.
    pub begin: u64,
    /// It ends, and publishers with it.
    pub end: u64,
}

/// The report of a process at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Publisher: datagrams published in all.
    pub published: u64,
    /// Reader: verified datagrams in all.
    pub delivered: u64,
    /// Reader: datagrams lost in all, reported by the transport or found missing.
    pub lost: u64,
    /// Reader: number of the datagram that would have come next.
    pub next: u64,
    /// Reader: how many of the lost the kernel has counted, where it has a counter.
    pub kernel_lost: Option<u64>,
    /// Reader: length of its measured time, ns.
    pub window_ns: u64,
    /// Reader: verified datagrams in it.
    pub window_delivered: u64,
    /// Reader: lost ones in it.
    pub window_lost: u64,
    /// Reader: latencies in ns and how many there were of each.
    pub latency: Vec<(u64, u64)>,
}

/// Reports that everything others need is there, and waits for the times.
pub fn ready() -> anyhow::Result<Go> {
    let mut out = std::io::stdout();
    out.write_all(b"ready\n")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let times: Vec<u64> =
        line.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("go")?;
    let [start, begin, end] = times[..] else { anyhow::bail!("not three times: {line:?}") };
    Ok(Go { start, begin, end })
}

/// Prints the report.
pub fn report(report: &Report) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(report)?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Puts the calling thread on one processor.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut one = rustix::thread::CpuSet::new();
    one.set(cpu);
    rustix::thread::sched_setaffinity(None, &one).with_context(|| format!("processor {cpu}"))
}

/// Polls the clock until `time`.
pub fn spin_until(time: u64) -> u64 {
    loop {
        let now = clock::monotonic_ns();
        if now >= time {
            return now;
        }
        std::hint::spin_loop();
    }
}

/// Sleeps until `time`.
pub fn sleep_until(time: u64) {
    std::thread::sleep(Duration::from_nanos(time.saturating_sub(clock::monotonic_ns())));
}
