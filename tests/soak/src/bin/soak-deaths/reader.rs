//! One reader of the soak: checks every byte, every number and its account of each generation.
//!
//! Contract: it prints a line for each generation that it closed, for each restart that it received
//! and for the first datagram after it. Any fault ends it with an error. It ends with the stream,
//! or at SIGTERM.

use crate::account::Line;
use crate::children::Children;
use anyhow::{Context, bail, ensure};
use ringweir::{Cause, End, Item, Options, Reader, Restart, Start};
use ringweir_cli::quantity::Span;
use ringweir_pattern::datagram::Header;
use ringweir_pattern::verify;
use ringweir_proto::os::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Copies datagrams out as fast as it can.
    Prompt,
    /// Reads datagrams in place.
    InPlace,
    /// Pauses, and is therefore lapped again and again.
    Pausing,
    /// As `Prompt`, but the stream waits for it.
    Lossless,
    /// As `Prompt`, but it forks now and then. The child may not read.
    Forking,
}

impl Kind {
    pub const ALL: [Kind; 5] =
        [Kind::Prompt, Kind::Lossless, Kind::InPlace, Kind::Pausing, Kind::Forking];

    /// How a reader of this kind attaches: with the newest datagram, because older ones may be of
    /// generations whose start it did not see.
    fn options(self) -> Options {
        let label = match self {
            Kind::Prompt => "prompt",
            Kind::InPlace => "in-place",
            Kind::Pausing => "pausing",
            Kind::Lossless => "lossless",
            Kind::Forking => "forking",
        };
        let options = Options::new(label).start(Start::Latest);
        if self == Kind::Lossless { options.lossless() } else { options }
    }
}

/// How a source numbers its datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// From 0 in each generation, like seqs.
    Generation,
    /// By the sender, across generations: datagrams that the kernel dropped are missing.
    Sender,
}

#[derive(clap::Args)]
pub struct Args {
    socket: String,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum)]
    numbers: Numbers,
    /// Longest time without anything
    #[arg(long)]
    patience: Span,
    /// Forget a gap
    #[arg(long)]
    miscount: bool,
}

/// This reader's account of one generation.
struct GenerationAccount {
    generation: u64,
    began: u64,
    delivered: u64,
    lost: u64,
    /// Seq and number of the last datagram.
    last: Option<(u64, u64)>,
    /// Datagrams reported as lost upstream since then, and whether that number is exact.
    upstream: u64,
    exact: bool,
}

struct Checker {
    numbers: Numbers,
    current: GenerationAccount,
    next: u64,
    torn: u64,
    forget: bool,
    /// The next datagram is the first one after a restart.
    restarted_now: bool,
}

/// Attaches. That takes some attempts, because the broker is killed all the time.
fn attach(args: &Args, leave: &AtomicBool) -> anyhow::Result<Option<Reader>> {
    let mut last = None;
    for _ in 0..3000 {
        if leave.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match args.kind.options().attach(&args.socket) {
            Ok(reader) => return Ok(Some(reader)),
            Err(e) => last = Some(e),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(last.expect("an attempt was made")).context("cannot attach for a minute")
}

pub fn read(args: &Args) -> anyhow::Result<()> {
    let leave = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, leave.clone())?;
    let Some(mut reader) = attach(args, &leave)? else { return Ok(()) };
    let mut buffer = vec![0; reader.geometry().max_datagram() as usize];
    let start = reader.account().start;
    let mut checker = Checker {
        numbers: args.numbers,
        current: GenerationAccount::new(reader.generation(), start),
        next: start,
        torn: 0,
        forget: args.miscount,
        restarted_now: false,
    };
    Line::Attached { generation: reader.generation(), seq: start }.print();
    let mut count = 0u64;
    let (mut empty_since, mut longest) = (None, Duration::ZERO);
    let mut children = Children::default();
    while !leave.load(Ordering::Relaxed) {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let (seq, len) = (datagram.seq(), datagram.len());
                count += 1;
                if let Some(since) = empty_since.take() {
                    longest = longest.max(Instant::elapsed(&since));
                }
                if args.kind == Kind::Pausing && count.is_multiple_of(1000) {
                    // The datagram may be overwritten during this pause.
                    std::thread::sleep(Duration::from_millis(1000));
                }
                let whole = match args.kind {
                    Kind::InPlace => {
                        datagram.view(|payload| payload.copy_to(0, &mut buffer[..len])).is_ok()
                    }
                    Kind::Prompt | Kind::Pausing | Kind::Lossless | Kind::Forking => {
                        datagram.copy_to(&mut buffer).is_ok()
                    }
                };
                if !whole {
                    // The next read reports it as a gap.
                    checker.torn += 1;
                    continue;
                }
                checker.datagram(seq, &buffer[..len])?;
                if args.kind == Kind::Forking && count.is_multiple_of(1000) {
                    children.fork(|| {
                        let read = reader.next();
                        matches!(read, Err(ringweir::Error::Forked { .. }))
                    })?;
                }
            }
            Item::Gap(gap) => checker.gap(&gap)?,
            Item::Restarted(restart) => {
                empty_since = None;
                checker.restarted(&restart, &reader)?;
            }
            Item::Demoted(demoted) => {
                ensure!(args.kind == Kind::Lossless, "a lossy reader received {demoted:?}");
                Line::Demoted { held_ns: demoted.held_ns }.print();
            }
            Item::Empty => {
                let since = empty_since.get_or_insert_with(Instant::now).elapsed();
                ensure!(since < args.patience.0, "it has received nothing for {since:?}");
                reader.wait(Some(Duration::from_secs(1).min(args.patience.0)))?;
            }
            Item::Ended(End::Stream) => break,
            Item::Ended(other) => bail!("ended by {other:?}"),
        }
    }
    if let Some(gap) = reader.release()? {
        checker.gap(&gap)?;
    }
    checker.close(&reader)?;
    children.all_ended()?;
    Line::Left { torn: checker.torn, longest: longest.as_nanos() as u64 }.print();
    Ok(())
}

impl GenerationAccount {
    fn new(generation: u64, began: u64) -> Self {
        Self { generation, began, delivered: 0, lost: 0, last: None, upstream: 0, exact: true }
    }
}

impl Checker {
    fn datagram(&mut self, seq: u64, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(seq == self.next, "seq {seq} follows {} without a gap", self.next);
        let Header { number, .. } = verify::check(bytes).with_context(|| format!("seq {seq}"))?;
        let current = &mut self.current;
        if let Some((last_seq, last_number)) = current.last {
            let missing = if self.numbers == Numbers::Sender { current.upstream } else { 0 };
            let least = last_number + (seq - last_seq) + missing;
            ensure!(
                if current.exact { number == least } else { number > last_number },
                "seq {seq} is number {number} and seq {last_seq} was {last_number}, with {missing} \
                reported as lost upstream"
            );
        }
        current.last = Some((seq, number));
        (current.upstream, current.exact) = (0, true);
        current.delivered += 1;
        self.next = seq + 1;
        if std::mem::take(&mut self.restarted_now) {
            Line::Reads { generation: current.generation, at: clock::monotonic_ns() }.print();
        }
        Ok(())
    }

    fn gap(&mut self, gap: &ringweir::Gap) -> anyhow::Result<()> {
        match gap.cause {
            Cause::Lapped => {
                ensure!(
                    gap.first == self.next && gap.count > 0,
                    "{gap:?} where {} was next",
                    self.next
                );
                self.next += gap.count;
                if !std::mem::take(&mut self.forget) {
                    self.current.lost += gap.count;
                }
            }
            Cause::Upstream { exact, .. } => {
                self.current.upstream += gap.count;
                self.current.exact &= exact;
            }
            Cause::SourceGone => bail!("{gap:?}: no device here can go away"),
        }
        Ok(())
    }

    fn restarted(&mut self, restart: &Restart, reader: &Reader) -> anyhow::Result<()> {
        let next = self.current.generation + 1;
        ensure!(restart.generation == next, "{restart:?} where generation {next} was to come");
        ensure!(restart.adopted, "{restart:?}: the ring was not adopted");
        ensure!(restart.first == self.next, "{restart:?} where {} was next", self.next);
        self.close(reader)?;
        Line::Restarted { generation: next, first: restart.first }.print();
        self.current = GenerationAccount::new(next, restart.first);
        self.restarted_now = true;
        Ok(())
    }

    /// Closes the account of this generation, and checks the library's account.
    fn close(&self, reader: &Reader) -> anyhow::Result<()> {
        let (account, cursor) = (reader.account(), reader.read_cursor());
        ensure!(
            account.start + account.delivered + account.lost == cursor,
            "the library's account does not close at {cursor}: {account:?}"
        );
        let GenerationAccount { generation, began, delivered, lost, .. } = self.current;
        ensure!(
            cursor == self.next,
            "the read cursor is {cursor}, but {} is the next seq",
            self.next
        );
        ensure!(
            began + delivered + lost == cursor,
            "generation {generation}: start {began} + {delivered} delivered + {lost} lost is not \
            {cursor}"
        );
        Line::Closed { generation, began, delivered, lost, ended: cursor }.print();
        Ok(())
    }
}
