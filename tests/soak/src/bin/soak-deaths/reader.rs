//! One reader of the soak: checks every byte, every number and its books, generation by generation,
//! and writes them down.
//!
//! Contract: a line for each generation it has closed, for each restart it was told and for the
//! first datagram behind it. What is not as it must be ends it with an error. It ends when the
//! stream does, or when it is told to leave (SIGTERM).

use crate::account::Line;
use anyhow::{Context, bail, ensure};
use ringweir::{Cause, End, Item, Options, Reader, Restart, Start};
use ringweir_pattern::datagram::Header;
use ringweir_pattern::verify;
use ringweir_proto::os::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Copies out, as fast as it can.
    Prompt,
    /// Looks in place.
    InPlace,
    /// Pauses, and is lapped over and over.
    Dawdling,
    /// As the prompt one, but the stream waits for it.
    Lossless,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Prompt, Kind::Lossless, Kind::InPlace, Kind::Dawdling];

    /// How a reader of this kind attaches. With the newest: what is older may be of generations
    /// that it is told nothing of.
    fn options(self) -> Options {
        let label = match self {
            Kind::Prompt => "prompt",
            Kind::InPlace => "in-place",
            Kind::Dawdling => "dawdling",
            Kind::Lossless => "lossless",
        };
        let options = Options::new(label).start(Start::Latest);
        if self == Kind::Lossless { options.lossless() } else { options }
    }
}

/// What a source numbers its datagrams by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// From 0 in each generation, so they follow the seqs.
    Generation,
    /// The sender's own, which go on: what the kernel dropped is missing.
    Sender,
}

#[derive(clap::Args)]
pub struct Args {
    socket: String,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum)]
    numbers: Numbers,
    /// Forget a gap
    #[arg(long)]
    miscount: bool,
}

/// One generation as this reader sees it.
struct Chapter {
    generation: u64,
    began: u64,
    delivered: u64,
    lost: u64,
    /// Datagram read last: seq and number.
    last: Option<(u64, u64)>,
    /// Told as lost before the ring since then, and whether that is all.
    upstream: u64,
    exact: bool,
}

struct Witness {
    numbers: Numbers,
    chapter: Chapter,
    next: u64,
    torn: u64,
    forget: bool,
    /// The next datagram is the first of a generation that it was told of.
    turned: bool,
}

/// Attaching while the broker is killed all the time takes some attempts.
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
    let mut witness = Witness {
        numbers: args.numbers,
        chapter: Chapter::new(reader.generation(), start),
        next: start,
        torn: 0,
        forget: args.miscount,
        turned: false,
    };
    Line::Attached { generation: reader.generation(), seq: start }.say();
    let mut count = 0u64;
    while !leave.load(Ordering::Relaxed) {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let (seq, len) = (datagram.seq(), datagram.len());
                count += 1;
                if args.kind == Kind::Dawdling && count.is_multiple_of(1000) {
                    // With the datagram in its hand, which may be overwritten meanwhile.
                    std::thread::sleep(Duration::from_millis(1000));
                }
                let whole = match args.kind {
                    Kind::InPlace => {
                        datagram.view(|payload| payload.copy_to(0, &mut buffer[..len])).is_ok()
                    }
                    Kind::Prompt | Kind::Dawdling | Kind::Lossless => {
                        datagram.copy_to(&mut buffer).is_ok()
                    }
                };
                if !whole {
                    // Told as a gap by the next read.
                    witness.torn += 1;
                    continue;
                }
                witness.datagram(seq, &buffer[..len])?;
            }
            Item::Gap(gap) => witness.gap(&gap)?,
            Item::Restarted(restart) => witness.restarted(&restart, &reader)?,
            Item::Demoted(demoted) => {
                ensure!(args.kind == Kind::Lossless, "{demoted:?}, and it was lossy");
                Line::Demoted { held_ns: demoted.held_ns }.say();
            }
            Item::Empty => {
                reader.wait(Some(Duration::from_secs(1)))?;
            }
            Item::Ended(End::Stream) => break,
            Item::Ended(other) => bail!("ended by {other:?}"),
        }
    }
    if let Some(gap) = reader.release()? {
        witness.gap(&gap)?;
    }
    witness.close(&reader)?;
    Line::Left { torn: witness.torn }.say();
    Ok(())
}

impl Chapter {
    fn new(generation: u64, began: u64) -> Self {
        Self { generation, began, delivered: 0, lost: 0, last: None, upstream: 0, exact: true }
    }
}

impl Witness {
    fn datagram(&mut self, seq: u64, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(seq == self.next, "seq {seq} follows {} without a gap", self.next);
        let Header { number, .. } = verify::check(bytes).with_context(|| format!("seq {seq}"))?;
        let chapter = &mut self.chapter;
        if let Some((last_seq, last_number)) = chapter.last {
            let missing = if self.numbers == Numbers::Sender { chapter.upstream } else { 0 };
            let least = last_number + (seq - last_seq) + missing;
            ensure!(
                if chapter.exact { number == least } else { number > last_number },
                "seq {seq} is number {number} and seq {last_seq} was {last_number}, with {missing} \
                told as lost before the ring"
            );
        }
        chapter.last = Some((seq, number));
        (chapter.upstream, chapter.exact) = (0, true);
        chapter.delivered += 1;
        self.next = seq + 1;
        if std::mem::take(&mut self.turned) {
            Line::Reads { generation: chapter.generation, at: clock::monotonic_ns() }.say();
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
                    self.chapter.lost += gap.count;
                }
            }
            Cause::Upstream { exact, .. } => {
                self.chapter.upstream += gap.count;
                self.chapter.exact &= exact;
            }
            Cause::SourceGone => bail!("{gap:?}: no device here can go away"),
        }
        Ok(())
    }

    fn restarted(&mut self, restart: &Restart, reader: &Reader) -> anyhow::Result<()> {
        let next = self.chapter.generation + 1;
        ensure!(restart.generation == next, "{restart:?} where generation {next} was to come");
        ensure!(restart.adopted, "{restart:?}: the ring was not adopted");
        ensure!(restart.first == self.next, "{restart:?} where {} was next", self.next);
        self.close(reader)?;
        Line::Restarted { generation: next, first: restart.first }.say();
        self.chapter = Chapter::new(next, restart.first);
        self.turned = true;
        Ok(())
    }

    /// The books of this generation, mine and over all those of the library.
    fn close(&self, reader: &Reader) -> anyhow::Result<()> {
        let (account, cursor) = (reader.account(), reader.read_cursor());
        ensure!(
            account.start + account.delivered + account.lost == cursor,
            "its books at {cursor}: {account:?}"
        );
        let Chapter { generation, began, delivered, lost, .. } = self.chapter;
        ensure!(cursor == self.next, "it stands at {cursor}, and {} is next", self.next);
        ensure!(
            began + delivered + lost == cursor,
            "generation {generation}: from {began}, {delivered} delivered and {lost} lost are not \
            {cursor}"
        );
        Line::Closed { generation, began, delivered, lost, ended: cursor }.say();
        Ok(())
    }
}
