//! `soak-deaths`: kills readers and the broker all the time, beside a hostile reader, and checks
//! that every account closes. Ends in one verdict line.
//!
//! One `ringd` serves two streams: a generator and UDP. It is killed every few seconds, and the
//! next one adopts its rings. Readers in separate processes check every byte, number and seq, and
//! close their account for each generation. Several times a second one of them is killed, stopped
//! or asked to leave, and replaced. Permanent readers are never killed: they receive every restart
//! once and in order, and account for everything from where they began. At the end nothing may be
//! left behind. Negative control: `--miscount` makes a permanent reader forget a gap; the verdict
//! must then be FAIL.

mod account;
mod broker;
mod reader;
mod readers;

use anyhow::{Context, ensure};
use broker::{Broker, PATIENCE};
use clap::{Parser, Subcommand};
use readers::{PERMANENT, Readers};
use ringweir::view::Viewer;
use ringweir::view::stats::StreamFact;
use ringweir_cli::quantity::{Count, Span};
use ringweir_harness::environment::NOBODY;
use ringweir_harness::{Environment, Process, proc, wait_for};
use rustix::process::Signal;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Soak test: processes are killed, and every account still closes.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Example:\n  soak-deaths --time 30min --readers 16 --kill-reader 200ms \
        --kill-broker 5s\n\n\
                        Exit status: 0 PASS, 1 FAIL.")]
struct Cli {
    #[command(subcommand)]
    inside: Option<Inside>,
    /// Duration of the test
    #[arg(long, default_value = "5min")]
    time: Span,
    /// Readers of both streams together; four of them are never killed
    #[arg(long, default_value_t = 16)]
    readers: usize,
    /// Interval at which one of the others is killed, stopped or asked to leave
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    kill_reader: Span,
    /// Interval at which the broker is killed
    #[arg(long, value_name = "TIME", default_value = "5s")]
    kill_broker: Span,
    /// Datagrams per second of each stream
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    /// Hostile readers, which run as another user (root only)
    #[arg(long, default_value_t = 1)]
    hostile: u32,
    /// Seed of the random choices [default: random, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Negative control: forget one gap; the verdict must be FAIL
    #[arg(long)]
    miscount: bool,
}

#[derive(Subcommand)]
enum Inside {
    /// (internal) be a reader
    #[command(hide = true)]
    BeReader(reader::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (name, done) = match &cli.inside {
        Some(Inside::BeReader(args)) => ("reader", reader::read(args)),
        None => ("soak-deaths: FAIL", soak(&cli)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(cli: &Cli) -> anyhow::Result<()> {
    ensure!(
        cli.readers > PERMANENT,
        "--readers {}: must be more than {PERMANENT}, which are never killed",
        cli.readers
    );
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("soak-deaths: --seed {seed}");
    let fds = proc::open_fds(std::process::id());
    let mut env = Environment::new(cli.time.0 * 2 + Duration::from_secs(1200));
    let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let verdict = std::thread::scope(|scope| {
        let feed = scope.spawn(|| broker::feed(port, cli.rate, &stop, &sent));
        let verdict = run(cli, seed, &env, port, &sent);
        stop.store(true, Ordering::Relaxed);
        feed.join().expect("the sender does not panic")?;
        verdict
    });
    // Report the first fault, not what it leaves behind.
    env.untidy = verdict.is_err();
    let verdict = verdict?;
    ensure!(env.objects().is_empty(), "left in /dev/shm: {:?}", env.objects());
    ensure!(env.left().is_empty(), "left in the run directory: {:?}", env.left());
    drop(env);
    let same = wait_for(PATIENCE, || (proc::open_fds(std::process::id()) <= fds).then_some(()));
    ensure!(same.is_some(), "{fds} fds before, {} after", proc::open_fds(std::process::id()));
    println!("{verdict}; no file, fd or process is left behind");
    Ok(())
}

/// Runs the test; returns the verdict line.
fn run(
    cli: &Cli,
    seed: u64,
    env: &Environment,
    port: u16,
    sent: &AtomicU64,
) -> anyhow::Result<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let root = rustix::process::geteuid().is_root();
    let mut broker = Broker::start(env, cli.rate, port, root.then_some(NOBODY))?;
    let mut readers = Readers::new(env, cli.miscount);
    for _ in 0..PERMANENT {
        readers.add(&broker)?;
    }
    readers.all_attached()?;
    let its_fds = settled(&broker)?;
    for _ in PERMANENT..cli.readers {
        readers.add(&broker)?;
    }
    if !root && cli.hostile > 0 {
        eprintln!("soak-deaths: SKIPPED hostile readers: needs root, to run them as another user");
    }
    let mut hostile: Vec<Process> = (0..if root { cli.hostile } else { 0 })
        .map(|i| {
            let mut command = env.command_as_nobody("ringtest-hostile");
            command.args([
                "run",
                broker.socket(i as usize % 2),
                "--seed",
                &random.u64(..).to_string(),
            ]);
            command.stdout(Stdio::piped());
            env.start(command)
        })
        .collect();
    let began = Instant::now();
    let (mut next_reader, mut next_broker, mut reported) =
        (began, began + cli.kill_broker.0, began);
    while began.elapsed() < cli.time.0 {
        let now = Instant::now();
        if now >= next_broker {
            let killed = broker.kill(env)?;
            readers
                .account
                .iter_mut()
                .for_each(|account| account.restarted(broker.generation, killed));
            next_broker = Instant::now() + cli.kill_broker.0;
        }
        if now >= next_reader {
            readers.disturb(&mut random, &broker)?;
            // After a delay, catch up at most one.
            next_reader = (next_reader + cli.kill_reader.0).max(now);
        }
        readers.check()?;
        for hostile in &mut hostile {
            ensure!(hostile.ended().is_none(), "the hostile reader: {}", hostile.stderr());
        }
        if reported.elapsed() > Duration::from_secs(5) {
            reported = Instant::now();
            let (counts, left) = (&readers.counts, cli.time.0.saturating_sub(began.elapsed()));
            let (generation, killed) = (broker.generation, counts.killed);
            eprintln!(
                "soak-deaths: generation {generation}, {killed} readers killed, {} to go",
                Span(left)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed();
    let attackers = hostile.len();
    let attacks = hostile.into_iter().map(end_hostile).sum::<anyhow::Result<u64>>()?;
    readers.end_others()?;
    let now = settled(&broker)?;
    ensure!(
        // What the hostile reader was given is kept for the next one of its user: four each, for as
        // many as there may be readers of both streams.
        now.checked_sub(its_fds).is_some_and(|more| more % 4 == 0 && more <= 8 * 128),
        "ringd had {its_fds} fds for the permanent readers at first, and has {now} now: {}",
        broker.stderr()
    );
    let restarts = broker.generation - 1;
    let published = broker.end()?;
    readers.close(published, restarts)?;
    let account = &readers.account;
    let sum = |of: fn(&account::SoakAccount) -> u64| account.iter().map(of).sum::<u64>();
    let counts = &readers.counts;
    Ok(format!(
        "soak-deaths: PASS: {} with seed {seed}; ringd killed {restarts} times: all rings adopted, \
        each restart reported once and in order ({} reports); {} readers started: {PERMANENT} \
        permanent, {} killed, {} ended, {} stopped and continued; {} generations accounted for by \
        readers: start + {} delivered + {} lost = end for each; published {} from gen, {} from udp \
        ({} sent); {} torn datagrams reported as lost, 0 wrong; {} lossless readers demoted; a \
        reader reads again {} after the kill, {} after the next broker is up; {} hostile readers, \
        {} attacks",
        Span(Duration::from_secs(took.as_secs())),
        sum(|b| b.restarts),
        counts.started,
        counts.killed,
        counts.left,
        counts.stopped,
        sum(|b| b.closed),
        sum(|b| b.delivered),
        sum(|b| b.lost),
        published[0],
        published[1],
        sent.load(Ordering::Relaxed),
        sum(|b| b.torn),
        sum(|b| b.demoted),
        spread(account.iter().flat_map(|b| b.back.iter().map(|t| t.0))),
        spread(account.iter().flat_map(|b| b.back.iter().map(|t| t.1))),
        attackers,
        Count(attacks),
    ))
}

/// Waits until only the permanent readers are attached; returns the broker's number of fds.
fn settled(broker: &Broker) -> anyhow::Result<usize> {
    for stream in 0..2 {
        let watch = Viewer::attach(broker.socket(stream))?;
        let alone =
            || watch.snapshot().filter(|s| s.get(StreamFact::Readers) == PERMANENT as u64 / 2);
        wait_for(PATIENCE, alone)
            .with_context(|| format!("other readers are still attached: {}", broker.stderr()))?;
    }
    // Connections of a dead hostile reader, and our own, close a little later.
    let mut before = 0;
    let count = wait_for(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = proc::open_fds(broker.pid());
        (now == std::mem::replace(&mut before, now)).then_some(now)
    });
    count.context("the broker's number of fds does not settle")
}

/// Ends a hostile reader; returns how many attacks it made.
fn end_hostile(hostile: Process) -> anyhow::Result<u64> {
    hostile.signal(Signal::TERM);
    let output = hostile.output();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the hostile reader ({}): {}", output.status, stderr.trim());
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).sum())
}

/// "p50 12 ms, max 80 ms".
fn spread(times: impl Iterator<Item = Duration>) -> String {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    match times[..] {
        [] => "– (no reader was attached before and after)".into(),
        [.., max] => format!("p50 {}, max {}", Span(times[times.len() / 2]), Span(max)),
    }
}
