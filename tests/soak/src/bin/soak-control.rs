//! `soak-control`: peers that say anything to the control socket of a live broker, one verdict line
//! at the end.
//!
//! Requests that are sound, nearly sound and not at all, cut, repeated, with descriptors, left in
//! the middle. Whatever comes is answered, refused in words or hung up on, at once; the broker
//! keeps neither descriptors nor memory of it, and a reader beside it all closes its account.
//! Negative controls: `--miscount`, `--kill-broker`; the verdict must then be FAIL.

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
    /// How many peers come, one after the other, each with one to three messages
    #[arg(long, default_value_t = 1_000_000)]
    conversations: u64,
    /// What to draw from; else drawn and said
    #[arg(long)]
    seed: Option<u64>,
    /// Have the reader forget one datagram, to see the verdict fail
    #[arg(long)]
    miscount: bool,
    /// Kill the broker halfway, to see the verdict fail
    #[arg(long)]
    kill_broker: bool,
}

/// Peers at a time.
const PEERS: u64 = 2;
/// More than this a broker that keeps nothing has no use for.
const MEMORY: u64 = 16 << 20;

fn main() -> ExitCode {
    let env = Environment::new(Duration::from_secs(24 * 3600));
    match soak(&Cli::parse(), &env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("soak-control: FAIL: {e:#}");
            // What a broker leaves that died; the scene bears nothing that is left.
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
    let reader = Options::new("witness").start(Start::Seq(0)).attach(broker.path())?;
    let miscount = cli.miscount;
    let reader = std::thread::spawn(move || read(reader, miscount));
    // What it makes once is made before it is looked.
    for (warm, seed) in [(1000, seed), (1000, !seed)] {
        Peer::new(&path, seed).converse(warm, &AtomicU64::new(0), &AtomicBool::new(false))?;
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
            let mut peer = Peer::new(&path, seed.wrapping_add(n));
            let count = cli.conversations / PEERS + u64::from(n < cli.conversations % PEERS);
            let (done, over) = (&done, &over);
            threads.spawn(move || {
                let result = peer.converse(count, done, over);
                over.store(result.is_err() || over.load(Ordering::Relaxed), Ordering::Relaxed);
                result.map(|()| peer.outcomes)
            })
        };
        let peers: Vec<_> = (0..PEERS).map(start).collect();
        let (mut said, mut killed) = (Instant::now(), !cli.kill_broker);
        while !peers.iter().all(|peer| peer.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            let done = done.load(Ordering::Relaxed);
            if !killed && done > cli.conversations / 2 {
                broker.process.signal(Signal::KILL);
                killed = true;
            }
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
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
        for peer in peers {
            for (outcome, count) in peer.join().expect("a peer panicked")? {
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
            other => bail!("the reader was told {other:?}"),
        }
    }
}

/// What became of conversations.
type Outcomes = BTreeMap<String, u64>;

/// One after the other, from one thread.
struct Peer<'p> {
    path: &'p Path,
    random: Rng,
    outcomes: Outcomes,
}

impl<'p> Peer<'p> {
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

    /// One conversation; what came of it.
    fn one(&mut self, null: &File) -> anyhow::Result<String> {
        let connection = socket::connect(self.path)?;
        let messages = if self.random.u8(..8) == 0 { self.random.usize(0..4) } else { 1 };
        for _ in 0..messages {
            let message = self.message();
            let brings =
                if self.random.u8(..16) == 0 { self.random.usize(1..=socket::FDS_MAX) } else { 0 };
            let fds = vec![null.as_fd(); brings];
            match socket::send(&connection, &message, &fds) {
                // Hung up on already.
                Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(e) => bail!("sending {} bytes: {e}", message.len()),
            }
        }
        if messages == 0 || self.random.u8(..32) == 0 {
            return Ok("left in the middle".into());
        }
        for _ in 0..2 {
            match socket::receive(&connection) {
                Ok(packet) if packet.bytes.is_empty() => return Ok("hung up on".into()),
                Ok(packet) => {
                    let fds = packet.fds.len();
                    let reply = Reply::decode(&packet.bytes).context("its answer is none")?;
                    return Ok(match reply {
                        Reply::Attached(_) if fds == 4 => "attached".into(),
                        Reply::Watching if fds == 1 => "watching".into(),
                        _ if fds > 0 => bail!("{fds} descriptors beside {reply:?}"),
                        Reply::Refused(refusal) => {
                            ensure!(
                                !refusal.text.is_empty(),
                                "refused without a word: {:?}",
                                refusal.reason
                            );
                            format!("refused ({:?})", refusal.reason)
                        }
                        Reply::Described(_) | Reply::Latency(_) => "answered".into(),
                        other => bail!("nobody asked for {other:?}"),
                    });
                }
                // It closed with our words unread: said once, and then what it answered.
                Err(Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => bail!("no answer for {} s", socket::ANSWER.as_secs()),
                Err(e) => bail!("receiving: {e}"),
            }
        }
        Ok("hung up on".into())
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
        // Nothing at all would be heard as the end.
        if bytes.is_empty() { vec![0] } else { bytes }
    }

    fn request(&mut self) -> Request {
        let index = self.random.u32(..) >> self.random.u32(..32);
        match self.random.u8(..9) {
            0 => Request::Watch,
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
