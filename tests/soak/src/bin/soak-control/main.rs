//! `soak-control`: sends arbitrary requests to the control socket of a live broker, and attacks it
//! as other users can. Ends in one verdict line.
//!
//! Requests are valid, nearly valid or random bytes; cut, repeated, with descriptors, or abandoned
//! in the middle. The broker answers each, refuses it with a reason or hangs up, at once. Beside
//! them, other users make the broker keep, wait and pay as far as they can (`strangers.rs`); its
//! configuration is reloaded, and its log is now read, now stuck or closed (`surroundings.rs`). The
//! broker keeps neither descriptors nor memory of all that, and a reader beside them never waits
//! long and closes its account. Negative controls: `--miscount`, `--kill-broker`, `--starve`,
//! `--no-limit`; the verdict must then be FAIL.

mod checker;
mod conversation;
mod strangers;
mod stream;
mod surroundings;

use anyhow::{Context, bail, ensure};
use checker::Progress;
use clap::{Parser, ValueEnum};
use conversation::{Client, Outcomes, list};
use ringweir::view::{Viewer, buckets, latencies, stats::ReaderFact};
use ringweir::{Options, Start};
use ringweir_cli::quantity::{Count, Span};
use ringweir_harness::{Daemon, Environment, proc, wait_for};
use rustix::process::Signal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strangers::{Attack, Strangers};
use stream::{LIMIT, READERS_MAX};
use surroundings::Surroundings;

/// Fuzzes the control socket of a live broker.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  soak-control --conversations 1000000\n\nExit status: 0 PASS, 1 FAIL."
)]
struct Cli {
    /// Number of conversations, each of up to three messages
    #[arg(long, default_value_t = 1_000_000)]
    conversations: u64,
    /// Seed of the random choices [default: random, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Longest time that the reader may receive nothing
    #[arg(long, value_name = "TIME", default_value = "5s")]
    patience: Span,
    /// Only this attack of other users, repeatable [default: all]
    #[arg(long, value_enum)]
    only: Vec<Attack>,
    /// Without attacks of other users, reloads and faults of the log, to compare figures
    #[arg(long, conflicts_with = "only")]
    calm: bool,
    /// Negative control: the reader forgets one datagram; the verdict must be FAIL
    #[arg(long)]
    miscount: bool,
    /// Negative control: kill the broker halfway; the verdict must be FAIL
    #[arg(long)]
    kill_broker: bool,
    /// Negative control: stop the broker halfway; the verdict must be FAIL
    #[arg(long)]
    starve: bool,
    /// Negative control: the attacks come from root, for whom there is no limit; the verdict must
    /// be FAIL
    #[arg(long)]
    no_limit: bool,
}

/// Clients at a time.
const CLIENTS: u64 = 2;
/// Most memory in bytes that the broker may grow by.
const MEMORY: u64 = 16 << 20;

fn main() -> ExitCode {
    let env = Environment::new(Duration::from_secs(24 * 3600));
    match soak(&Cli::parse(), &env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("soak-control: FAIL: {e:#}");
            // Removes what a killed broker left, because an environment must end empty.
            env.run("ringctl", &["gc"]);
            ExitCode::FAILURE
        }
    }
}

fn soak(cli: &Cli, env: &Environment) -> anyhow::Result<()> {
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("soak-control: --seed {seed}");
    let (mut surroundings, broker) = Surroundings::new(env, seed)?;
    let (path, pid) = (broker.socket.clone(), broker.process.pid());
    let reader = Options::new("checker").start(Start::Seq(0)).attach(broker.path())?;
    let (miscount, progress) = (cli.miscount, Progress::default());
    let reader = std::thread::spawn({
        let progress = progress.clone();
        move || checker::read(reader, miscount, &progress)
    });
    // First let the broker allocate what it allocates once.
    let choice = match &cli.only[..] {
        [] if cli.calm => Vec::new(),
        [] => Attack::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let mut strangers = Strangers::new(&path, seed, choice, cli.no_limit)?;
    for (warm, seed) in [(1000, seed), (1000, !seed)] {
        Client::new(&path, seed).converse(warm, &AtomicU64::new(0), &AtomicBool::new(false))?;
    }
    strangers.attack_once_each()?;
    strangers.release();
    let settled = || wait_for(LIMIT, || (proc::open_fds(pid) < 150).then_some(()));
    settled().context("the broker keeps descriptors")?;
    let before = (proc::settled_fds(pid), proc::resident(pid));
    let began = Instant::now();
    let outcomes = rush(cli, seed, &broker, &mut strangers, &mut surroundings, &progress);
    if reader.is_finished() {
        // Its fault says more than its silence.
        let counts = reader.join().expect("the reader panicked")?;
        bail!("the stream has ended: {counts:?} delivered and lost");
    }
    let outcomes = outcomes?;
    let took = began.elapsed();
    strangers.check(took)?;
    surroundings.settle(&broker)?;
    let waits = waits(broker.path())?;
    strangers.release();
    // What other users were given is kept for their next readers: four each, for as many as there
    // may be readers.
    let kept = |fds: usize| {
        let more = fds.saturating_sub(before.0);
        more.is_multiple_of(4) && more <= 4 * READERS_MAX
    };
    let fds = wait_for(LIMIT, || kept(proc::open_fds(pid)).then_some(()));
    ensure!(
        fds.is_some(),
        "the broker had {} descriptors open, now {}",
        before.0,
        proc::open_fds(pid)
    );
    let grown = proc::resident(pid).saturating_sub(before.1);
    ensure!(grown <= MEMORY, "the broker has {grown} bytes more than before");
    let (after, counts) = (proc::open_fds(pid), surroundings.counts.clone());
    let published = surroundings.end(broker, seed)?;
    let (delivered, lost) = reader.join().expect("the reader panicked")?;
    ensure!(
        delivered + lost == published,
        "{published} published, {delivered} delivered + {lost} lost"
    );
    println!(
        "soak-control: PASS: {} conversations in {} ({}/s): {}; attacks of other users: {}; {}; \
        the broker's descriptors {} before and {after} after, its memory {} KiB more; its reader: \
        {published} published = {delivered} delivered + {lost} lost, {waits}, never without for \
        longer than {}",
        cli.conversations,
        Span(took),
        Count((cli.conversations as f64 / took.as_secs_f64()) as u64),
        list(&outcomes),
        strangers.figures(),
        list(&counts),
        before.0,
        grown / 1024,
        Span(progress.longest()),
    );
    Ok(())
}

/// All conversations, with the attacks and everything else meanwhile. Fails with the first fault.
fn rush(
    cli: &Cli,
    seed: u64,
    broker: &Daemon,
    strangers: &mut Strangers,
    surroundings: &mut Surroundings,
    progress: &Progress,
) -> anyhow::Result<Outcomes> {
    let (began, done) = (Instant::now(), AtomicU64::new(0));
    // Conversations end early if anything fails, and everything else when they are over.
    let (failed, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let is_over = || over.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    let env = surroundings.env;
    std::thread::scope(|threads| {
        let (done, failed, is_over) = (&done, &failed, &is_over);
        let note =
            move |ok: bool| failed.store(!ok || failed.load(Ordering::Relaxed), Ordering::Relaxed);
        let start = |n: u64| {
            let mut client = Client::new(&broker.socket, seed.wrapping_add(n));
            let count = cli.conversations / CLIENTS + u64::from(n < cli.conversations % CLIENTS);
            threads.spawn(move || {
                let result = client.converse(count, done, failed);
                note(result.is_ok());
                result.map(|()| client.outcomes)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(start).collect();
        let attacks = threads.spawn(move || {
            let result = strangers.attack(is_over);
            note(result.is_ok());
            result
        });
        let shows = threads.spawn(move || {
            let result = surroundings::show(env, seed, is_over);
            note(result.is_ok());
            result
        });
        let (mut reported, mut disturbed) = (Instant::now(), !cli.kill_broker && !cli.starve);
        let mut watch = || -> anyhow::Result<()> {
            while !clients.iter().all(|client| client.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                let done = done.load(Ordering::Relaxed);
                if !disturbed && done > cli.conversations / 2 {
                    let signal = if cli.kill_broker { Signal::KILL } else { Signal::STOP };
                    broker.process.signal(signal);
                    disturbed = true;
                }
                progress.check(cli.patience.0)?;
                if !is_over() && !cli.calm {
                    surroundings.turn(broker)?;
                }
                if reported.elapsed() > Duration::from_secs(5) {
                    reported = Instant::now();
                    let rate = done as f64 / began.elapsed().as_secs_f64();
                    let left = (cli.conversations - done) as f64 / rate.max(1.0);
                    eprintln!(
                        "soak-control: {} of {}, {} to go",
                        Count(done),
                        Count(cli.conversations),
                        Span(Duration::from_secs_f64(left))
                    );
                }
            }
            Ok(())
        };
        let watched = watch();
        note(watched.is_ok());
        over.store(true, Ordering::Relaxed);
        if cli.starve {
            // Those who wait for its answers can end then.
            broker.process.signal(Signal::CONT);
        }
        let talked: Vec<_> =
            clients.into_iter().map(|c| c.join().expect("a client panicked")).collect();
        let attacked = attacks.join().expect("the thread of the strangers panicked");
        let shown = shows.join().expect("the thread that shows the streams panicked");
        watched?;
        let mut all = Outcomes::default();
        for outcomes in talked {
            for (outcome, count) in outcomes? {
                *all.entry(outcome).or_default() += count;
            }
        }
        attacked?;
        let [shown, with_names] = shown?;
        surroundings.counts.insert("streams shown".into(), shown);
        surroundings.counts.insert("of them with such names".into(), with_names);
        Ok(all)
    })
}

/// How late the reader read datagrams after they were published: "p50 20 us, p99 1 ms".
fn waits(path: &str) -> anyhow::Result<String> {
    let snapshot = wait_for(LIMIT, || Viewer::attach(path).ok()?.snapshot());
    let snapshot = snapshot.context("no figures")?;
    let its = snapshot.readers.iter().find(|r| r.label == "checker").context("no reader")?;
    let latencies = latencies(path, &[its.get(ReaderFact::Index) as u32])?;
    let histogram = &latencies.first().context("no latencies")?.histogram;
    let count: u64 = buckets(histogram).map(|bucket| bucket.count).sum();
    let quantile = |share: f64| {
        let mut below = 0;
        let bucket = buckets(histogram).find(|bucket| {
            below += bucket.count;
            below as f64 >= count as f64 * share
        });
        Span(Duration::from_nanos(bucket.map_or(0, |bucket| bucket.from_ns)))
    };
    Ok(format!("{} and {} after they were published (p50, p99)", quantile(0.5), quantile(0.99)))
}
