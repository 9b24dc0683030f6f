//! `soak-deaths`: kills readers and the broker all the time, beside a hostile reader, and checks
//! that every account closes. Ends in one verdict line.
//!
//! One `ringd` serves two streams: a generator and UDP. It is killed every few seconds, and the
//! next one adopts its rings. Readers in separate processes check every byte, number and seq, and
//! close their account for each generation. Several times a second one of them is killed, stopped
//! or asked to leave, and replaced. Permanent readers are never killed: they receive every restart
//! once and in order, and account for everything from where they began. At the end nothing may be
//! left behind.
//!
//! Meanwhile names are planted where brokers make their files, other brokers come and go
//! (`guests.rs`), the configuration is reloaded, and tools show all of it beside a hostile broker
//! (`viewers.rs`).
//!
//! Negative controls: `--miscount` makes a permanent reader forget a gap, `--starve` stops the
//! broker, and `--leave-planted` leaves a planted name in place; the verdict must then be FAIL.

mod account;
mod broker;
mod children;
mod guests;
mod plant;
mod reader;
mod readers;
mod viewers;

use anyhow::{Context, ensure};
use broker::{Broker, PATIENCE};
use clap::{Parser, Subcommand};
use guests::Guests;
use readers::{PERMANENT, Readers};
use ringweir::view::Viewer;
use ringweir::view::stats::StreamFact;
use ringweir_cli::quantity::Span;
use ringweir_harness::environment::NOBODY;
use ringweir_harness::{Environment, Process, proc, wait_for};
use ringweir_proto::os::paths;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
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
    /// Hostile readers, which run as another user (root only); one more attacks the brokers that
    /// come and go
    #[arg(long, default_value_t = 1)]
    hostile: u32,
    /// Without planted names, brokers that come and go, reloads and tools, to compare figures
    #[arg(long)]
    calm: bool,
    /// Longest time that a reader may receive nothing
    #[arg(long, value_name = "TIME", default_value = "60s")]
    patience: Span,
    /// Seed of the random choices [default: random, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Negative control: forget one gap; the verdict must be FAIL
    #[arg(long)]
    miscount: bool,
    /// Negative control: stop the broker halfway; the verdict must be FAIL
    #[arg(long, conflicts_with = "calm")]
    starve: bool,
    /// Negative control: leave what was planted where it is; the verdict must be FAIL
    #[arg(long, conflicts_with = "calm")]
    leave_planted: bool,
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
        let others_stop = AtomicBool::new(false);
        let verdict = std::thread::scope(|scope| {
            let start = || Others::start(scope, cli, seed, &env, &others_stop);
            let verdict = run(cli, seed, &env, port, &sent, start);
            others_stop.store(true, Ordering::Relaxed);
            verdict
        });
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

/// Runs the test; returns the verdict line. `start` starts what runs beside.
fn run<'s, 'e>(
    cli: &Cli,
    seed: u64,
    env: &Environment,
    port: u16,
    sent: &AtomicU64,
    start: impl FnOnce() -> Others<'s, 'e>,
) -> anyhow::Result<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let root = rustix::process::geteuid().is_root();
    let mut broker = Broker::start(env, cli.rate, port, root.then_some(NOBODY))?;
    let mut readers = Readers::new(env, cli.patience, cli.miscount);
    for _ in 0..PERMANENT {
        readers.add(&broker)?;
    }
    readers.all_attached()?;
    let its_fds = settled(&broker)?;
    let mut others = start();
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
    if !hostile.is_empty() && !cli.calm {
        let mut command = env.command_as_nobody("ringtest-hostile");
        let socket = paths::socket_path(&env.run_dir(), guests::NAME);
        command.arg("run").arg(socket).args(["--seed", &random.u64(..).to_string()]);
        command.stdout(Stdio::piped());
        hostile.push(env.start(command));
    }
    let began = Instant::now();
    let (mut next_reader, mut next_broker, mut reported) =
        (began, began + cli.kill_broker.0, began);
    let (mut next_reload, mut kills, mut reloads, mut starved) = (began, 0, 0u64, !cli.starve);
    let mut planted = BTreeMap::<String, u64>::new();
    while began.elapsed() < cli.time.0 {
        let now = Instant::now();
        if now >= next_broker {
            let plants = !cli.calm && random.u8(..3) == 0;
            let (killed, what) = broker.kill(env, plants.then_some(&mut random))?;
            kills += 1;
            match what {
                Some(what) => *planted.entry(what).or_default() += 1,
                // How long it takes until readers read again is measured without.
                None => readers
                    .account
                    .iter_mut()
                    .zip(broker.generations)
                    .for_each(|(account, generation)| account.restarted(generation, killed)),
            }
            next_broker = Instant::now() + cli.kill_broker.0;
        }
        if now >= next_reader {
            readers.disturb(&mut random, &broker)?;
            // After a delay, catch up at most one.
            next_reader = (next_reader + cli.kill_reader.0).max(now);
        }
        if now >= next_reload && !cli.calm {
            broker.reload();
            reloads += 1;
            next_reload = now + Duration::from_millis(random.u64(100..800));
        }
        if !starved && began.elapsed() > cli.time.0 / 2 {
            broker.signal(Signal::STOP);
            (starved, next_broker) = (true, began + cli.time.0 * 1000);
        }
        readers.check()?;
        others.check()?;
        for hostile in &mut hostile {
            ensure!(hostile.ended().is_none(), "the hostile reader: {}", hostile.stderr());
        }
        if reported.elapsed() > Duration::from_secs(5) {
            reported = Instant::now();
            let (counts, left) = (&readers.counts, cli.time.0.saturating_sub(began.elapsed()));
            let (generations, killed) = (broker.generations, counts.killed);
            eprintln!(
                "soak-deaths: generations {generations:?}, {killed} readers killed, {} to go",
                Span(left)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed();
    let others = others.end()?;
    let attackers = hostile.len();
    let mut attacks = BTreeMap::<String, u64>::new();
    for hostile in hostile {
        for (attack, count) in end_hostile(hostile)? {
            *attacks.entry(attack).or_default() += count;
        }
    }
    readers.end_others()?;
    let now = settled(&broker)?;
    ensure!(
        // What the hostile reader was given is kept for the next one of its user: four each, for as
        // many as there may be readers of both streams.
        now.checked_sub(its_fds).is_some_and(|more| more % 4 == 0 && more <= 8 * 128),
        "ringd had {its_fds} fds for the permanent readers at first, and has {now} now: {}",
        broker.stderr()
    );
    let restarts = broker.generations.map(|generation| generation - 1);
    let published = broker.end()?;
    readers.close(published, restarts)?;
    let account = &readers.account;
    let sum = |of: fn(&account::SoakAccount) -> u64| account.iter().map(of).sum::<u64>();
    let counts = &readers.counts;
    Ok(format!(
        "soak-deaths: PASS: {} with seed {seed}; ringd killed {kills} times: all rings adopted, \
        each restart reported once and in order ({} reports); {} readers started: {PERMANENT} \
        permanent, {} killed, {} ended, {} stopped and continued; {} generations accounted for by \
        readers: start + {} delivered + {} lost = end for each; published {} from gen, {} from udp \
        ({} sent); {} torn datagrams reported as lost, 0 wrong; {} lossless readers demoted; a \
        reader reads again {} after the kill, {} after the next broker is up; longest without \
        anything, restarts apart, {}; {} forked children could not read; {} hostile readers, \
        attacks: {}; planted before the next start: {}; {reloads} reloads; {others}",
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
        Span(readers.longest),
        sum(|b| b.forked),
        attackers,
        list(&attacks),
        list(&planted),
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

/// Everything that runs beside, each on a thread.
struct Others<'s, 'e> {
    guests: Option<ScopedJoinHandle<'s, anyhow::Result<Guests<'e>>>>,
    viewers: Option<ScopedJoinHandle<'s, anyhow::Result<viewers::Counts>>>,
    stop: &'e AtomicBool,
}

impl<'s, 'e: 's> Others<'s, 'e> {
    /// Starts them; with `--calm` there are none.
    fn start(
        scope: &'s Scope<'s, 'e>,
        cli: &'e Cli,
        seed: u64,
        env: &'e Environment,
        stop: &'e AtomicBool,
    ) -> Self {
        if cli.calm {
            return Self { guests: None, viewers: None, stop };
        }
        let root = rustix::process::geteuid().is_root();
        let mut guests = Guests {
            env,
            random: fastrand::Rng::with_seed(seed ^ 1),
            hostile_uid: root.then_some(NOBODY),
            leave_planted: cli.leave_planted,
            counts: BTreeMap::new(),
            delivered: 0,
            lost: 0,
        };
        let is_over = || stop.load(Ordering::Relaxed);
        let guests = scope.spawn(move || guests.run(is_over).map(|()| guests));
        let viewers = scope.spawn(move || viewers::run(env, seed ^ 2, is_over));
        Self { guests: Some(guests), viewers: Some(viewers), stop }
    }
}

impl Others<'_, '_> {
    /// Fails if one of them has found a fault.
    fn check(&mut self) -> anyhow::Result<()> {
        if let Some(guests) = self.guests.take_if(|thread| thread.is_finished()) {
            guests.join().expect("no panic").context("brokers that come and go")?;
        }
        if let Some(viewers) = self.viewers.take_if(|thread| thread.is_finished()) {
            viewers.join().expect("no panic").context("tools that show everything")?;
        }
        Ok(())
    }

    /// Ends them; returns their figures.
    fn end(mut self) -> anyhow::Result<String> {
        self.check()?;
        self.stop.store(true, Ordering::Relaxed);
        let (Some(guests), Some(viewers)) = (self.guests, self.viewers) else {
            return Ok("nothing else beside".into());
        };
        let guests = guests.join().expect("no panic").context("brokers that come and go")?;
        let viewers = viewers.join().expect("no panic").context("tools that show everything")?;
        Ok(format!(
            "brokers that came and went: {}, published = {} delivered + {} lost; a hostile broker \
            was asked {} times; {} tools ran, {} of them showed its words, a live screen began {} \
            times; {} scrapes, {} of them with the other streams",
            list(&guests.counts),
            guests.delivered,
            guests.lost,
            viewers.asked,
            viewers.ran,
            viewers.with_words,
            viewers.restarted + 1,
            viewers.scrapes,
            viewers.with_honest
        ))
    }
}

/// "cursors 3, future 5".
fn list(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// Ends a hostile reader; returns how often it made each attack.
fn end_hostile(hostile: Process) -> anyhow::Result<Vec<(String, u64)>> {
    hostile.signal(Signal::TERM);
    let output = hostile.output();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the hostile reader ({}): {}", output.status, stderr.trim());
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().filter_map(|line| line.split_once(' '));
    Ok(counts.filter_map(|(attack, count)| Some((attack.into(), count.parse().ok()?))).collect())
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
