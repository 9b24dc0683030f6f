//! `soak-control`: sends arbitrary requests to the control socket of a live broker. Ends in one
//! verdict line.
//!
//! Requests are valid, nearly valid or random bytes; cut, repeated, with descriptors, or abandoned
//! in the middle. The broker answers each, refuses it with a reason or hangs up, at once. It keeps
//! neither descriptors nor memory of them, and a reader beside them closes its account. Negative
//! controls: `--miscount`, `--kill-broker`; the verdict must then be FAIL.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use fastrand::Rng;
use ringweir::{Item, Options, Start};
use ringweir_cli::quantity::{Count, Span};
use ringweir_harness::{Environment, proc};
use ringweir_pattern::verify;
use ringweir_proto::control::{AttachRequest, DetachRequest, MESSAGE_MAX, Mode, Reply, Request};
use ringweir_proto::os::socket;
use ringweir_proto::ring;
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    /// Negative control: the reader forgets one datagram; the verdict must be FAIL
    #[arg(long)]
    miscount: bool,
    /// Negative control: kill the broker halfway; the verdict must be FAIL
    #[arg(long)]
    kill_broker: bool,
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
    let more = ["--lossless", "20ms", "--readers-max", "16", "--wait-readers", "1"];
    let broker = env.broker("soak-control", "gen:rate=20000/s,size=24..500", &more);
    let (path, pid) = (broker.socket.clone(), broker.process.pid());
    let reader = Options::new("checker").start(Start::Seq(0)).attach(broker.path())?;
    let miscount = cli.miscount;
    let reader = std::thread::spawn(move || read(reader, miscount));
    // First let the broker allocate what it allocates once.
    for (warm, seed) in [(1000, seed), (1000, !seed)] {
        Client::new(&path, seed).converse(warm, &AtomicU64::new(0), &AtomicBool::new(false))?;
    }
    let settled = || {
        ringweir_harness::wait_for(Duration::from_secs(5), || {
            (proc::open_fds(pid) < 100).then_some(())
        })
    };
    settled().context("the broker keeps descriptors")?;
    let before = (proc::open_fds(pid), proc::resident(pid));
    let (began, done, over) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
    let outcomes = std::thread::scope(|threads| -> anyhow::Result<Outcomes> {
        let start = |n: u64| {
            let mut client = Client::new(&path, seed.wrapping_add(n));
            let count = cli.conversations / CLIENTS + u64::from(n < cli.conversations % CLIENTS);
            let (done, over) = (&done, &over);
            threads.spawn(move || {
                let result = client.converse(count, done, over);
                over.store(result.is_err() || over.load(Ordering::Relaxed), Ordering::Relaxed);
                result.map(|()| client.outcomes)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(start).collect();
        let (mut reported, mut killed) = (Instant::now(), !cli.kill_broker);
        while !clients.iter().all(|client| client.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            let done = done.load(Ordering::Relaxed);
            if !killed && done > cli.conversations / 2 {
                broker.process.signal(Signal::KILL);
                killed = true;
            }
            if reported.elapsed() > Duration::from_secs(5) {
                reported = Instant::now();
                let rate = done as f64 / began.elapsed().as_secs_f64();
                let left =
                    Duration::from_secs_f64((cli.conversations - done) as f64 / rate.max(1.0));
                eprintln!(
                    "soak-control: {} of {}, {} to go",
                    Count(done),
                    Count(cli.conversations),
                    Span(left)
                );
            }
        }
        let mut all = Outcomes::default();
        for client in clients {
            for (outcome, count) in client.join().expect("a client panicked")? {
                *all.entry(outcome).or_default() += count;
            }
        }
        Ok(all)
    })?;
    let took = began.elapsed();
    let fds = ringweir_harness::wait_for(Duration::from_secs(5), || {
        (proc::open_fds(pid) <= before.0).then_some(())
    });
    ensure!(
        fds.is_some(),
        "the broker had {} descriptors open, now {}",
        before.0,
        proc::open_fds(pid)
    );
    let grown = proc::resident(pid).saturating_sub(before.1);
    ensure!(grown <= MEMORY, "the broker has {grown} bytes more than before");
    broker.process.signal(Signal::TERM);
    let published = broker.published();
    let (delivered, lost) = reader.join().expect("the reader panicked")?;
    ensure!(
        delivered + lost == published,
        "{published} published, {delivered} delivered + {lost} lost"
    );
    let words: Vec<_> =
        outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
    println!(
        "soak-control: PASS: {} conversations in {} ({}/s): {}; the broker's descriptors {} before \
        and after, its memory {} KiB more; \
         its reader: {published} published = {delivered} delivered + {lost} lost",
        cli.conversations,
        Span(took),
        Count((cli.conversations as f64 / took.as_secs_f64()) as u64),
        words.join(", "),
        before.0,
        grown / 1024,
    );
    Ok(())
}

/// Reads to the end, checking every byte: delivered and lost.
fn read(mut reader: ringweir::Reader, miscount: bool) -> anyhow::Result<(u64, u64)> {
    let mut buffer = vec![0; reader.geometry().max_datagram() as usize];
    let (mut next, mut delivered, mut lost, mut forget) = (0, 0, 0, u64::from(miscount));
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let seq = datagram.seq();
                let Ok(len) = datagram.copy_to(&mut buffer) else { continue };
                let header = verify::check(&buffer[..len]).with_context(|| format!("seq {seq}"))?;
                ensure!(
                    seq == next && header.number == seq,
                    "seq {seq} carries {}, {next} was next",
                    header.number
                );
                next += 1;
                delivered += 1 - std::mem::take(&mut forget);
            }
            Item::Gap(gap) => {
                ensure!(gap.first == next, "gap {gap:?} where {next} was next");
                next += gap.count;
                lost += gap.count;
            }
            Item::Empty => _ = reader.wait(Some(Duration::from_millis(200)))?,
            Item::Ended(ringweir::End::Stream) => return Ok((delivered, lost)),
            other => bail!("the reader received {other:?}"),
        }
    }
}

/// How many conversations had each outcome.
type Outcomes = BTreeMap<String, u64>;

/// A client that makes one conversation after the other.
struct Client<'p> {
    path: &'p Path,
    random: Rng,
    outcomes: Outcomes,
}

impl<'p> Client<'p> {
    fn new(path: &'p Path, seed: u64) -> Self {
        Self { path, random: Rng::with_seed(seed), outcomes: Outcomes::new() }
    }

    fn converse(&mut self, count: u64, done: &AtomicU64, over: &AtomicBool) -> anyhow::Result<()> {
        let null = File::open("/dev/null")?;
        for n in 0..count {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let outcome = self.one(&null).with_context(|| format!("conversation {n}"))?;
            *self.outcomes.entry(outcome).or_default() += 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One conversation; returns its outcome.
    fn one(&mut self, null: &File) -> anyhow::Result<String> {
        let connection = socket::connect(self.path)?;
        let messages = if self.random.u8(..8) == 0 { self.random.usize(0..4) } else { 1 };
        for _ in 0..messages {
            let message = self.message();
            let brings =
                if self.random.u8(..16) == 0 { self.random.usize(1..=socket::FDS_MAX) } else { 0 };
            let fds = vec![null.as_fd(); brings];
            match socket::send(&connection, &message, &fds) {
                // The broker has hung up already.
                Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
                // The broker has asked the kernel to let no descriptors through.
                Err(Errno::PERM) if brings > 0 => {
                    return Ok("descriptors refused by the kernel".into());
                }
                Err(e) => bail!("sending {} bytes: {e}", message.len()),
            }
        }
        if messages == 0 || self.random.u8(..32) == 0 {
            return Ok("abandoned".into());
        }
        for _ in 0..2 {
            match socket::receive(&connection) {
                Ok(packet) if packet.bytes.is_empty() => return Ok("hung up".into()),
                Ok(packet) => {
                    let fds = packet.fds.len();
                    let reply =
                        Reply::decode(&packet.bytes).context("its answer cannot be decoded")?;
                    return Ok(match reply {
                        Reply::Attached(_) if fds == 4 => "attached".into(),
                        Reply::Viewing if fds == 1 => "watching".into(),
                        _ if fds > 0 => bail!("{fds} descriptors beside {reply:?}"),
                        Reply::Refused(refusal) => {
                            ensure!(
                                !refusal.text.is_empty(),
                                "refused without a reason: {:?}",
                                refusal.reason
                            );
                            format!("refused ({:?})", refusal.reason)
                        }
                        Reply::Described(_) | Reply::Latency(_) => "answered".into(),
                        other => bail!("unexpected answer {other:?}"),
                    });
                }
                // It closed with our message unread: reported once, then comes its answer.
                Err(Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => bail!("no answer for {} s", socket::ANSWER.as_secs()),
                Err(e) => bail!("receiving: {e}"),
            }
        }
        Ok("hung up".into())
    }

    fn message(&mut self) -> Vec<u8> {
        let mut bytes = match self.random.u8(..16) {
            0 => {
                let len = self.random.usize(1..200);
                std::iter::repeat_with(|| self.random.u8(..)).take(len).collect()
            }
            1 => Reply::refuse(ringweir_proto::control::Reason::Full, "you are full").encode(),
            _ => self.request().encode(),
        };
        if self.random.bool() {
            return bytes;
        }
        for _ in 0..self.random.usize(1..5) {
            let at = self.random.usize(..bytes.len().max(1)).min(bytes.len());
            match self.random.u8(..7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.random.u8(..8),
                1 if at < bytes.len() => {
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.random.usize(..5)]
                }
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.random.u8(..)),
                4 => bytes.extend_from_within(at..),
                5 => {
                    let whole = self.random.usize(..=MESSAGE_MAX + 100);
                    bytes.resize(whole.max(1), self.random.u8(..));
                }
                _ => {
                    // Lengths and numbers.
                    let word = [u64::MAX, 1 << 63, 1 << 32, u64::from(u32::MAX), 4096]
                        [self.random.usize(..5)];
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
                }
            }
        }
        // An empty message would mean the end.
        if bytes.is_empty() { vec![0] } else { bytes }
    }

    fn request(&mut self) -> Request {
        let index = self.random.u32(..) >> self.random.u32(..32);
        match self.random.u8(..9) {
            0 => Request::View,
            1 => Request::Describe,
            2 => Request::Latency { index },
            3 => Request::DrainGaps,
            4 => Request::Reload,
            5 => Request::Detach(DetachRequest { index, attached_realtime: self.random.u64(..) }),
            _ => {
                let label = std::iter::repeat_with(|| self.random.char(..)).take(20).collect();
                let seq = self.random.u64(..) >> self.random.u32(..64);
                let starts = [ring::Start::Oldest, ring::Start::Latest, ring::Start::Seq(seq)];
                let start = starts[self.random.usize(..3)];
                let mode = if self.random.bool() { Mode::Lossy } else { Mode::Lossless { start } };
                Request::Attach(AttachRequest { label, mode, parks: self.random.bool() })
            }
        }
    }
}
