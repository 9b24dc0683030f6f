//! The reader beside the conversations and attacks: it checks every byte and its account, and is
//! watched for the time in which it receives nothing.

use anyhow::{Context, bail, ensure};
use ringweir::{Item, Reader};
use ringweir_pattern::verify;
use ringweir_proto::os::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the reader gets on, for the thread that watches it.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    /// When it received something last (CLOCK_MONOTONIC, ns).
    last: AtomicU64,
    /// The longest time without, ns.
    longest: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        let last = clock::monotonic_ns().into();
        Self(Arc::new(Inner { last, longest: AtomicU64::new(0) }))
    }
}

impl Progress {
    /// The reader has just received something.
    fn note(&self) {
        let now = clock::monotonic_ns();
        let last = self.0.last.swap(now, Ordering::Relaxed);
        self.0.longest.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
    }

    /// Fails if the reader has received nothing for longer than `patience`.
    pub fn check(&self, patience: Duration) -> anyhow::Result<()> {
        let last = self.0.last.load(Ordering::Relaxed);
        let since = Duration::from_nanos(clock::monotonic_ns().saturating_sub(last));
        ensure!(since <= patience, "the reader has received nothing for {since:?}");
        Ok(())
    }

    /// The longest time in which the reader received nothing.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.0.longest.load(Ordering::Relaxed))
    }
}

/// Reads to the end, checking every byte and all the time the library's account: delivered and
/// lost.
pub fn read(mut reader: Reader, miscount: bool, progress: &Progress) -> anyhow::Result<(u64, u64)> {
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
                if next.is_multiple_of(64) {
                    progress.note();
                }
            }
            Item::Gap(gap) => {
                ensure!(gap.first == next, "gap {gap:?} where {next} was next");
                next += gap.count;
                lost += gap.count;
                progress.note();
            }
            Item::Empty => {
                let account = reader.account();
                ensure!(
                    account.start + account.delivered + account.lost == next
                        && reader.read_cursor() == next,
                    "the library's account does not close at {next}: {account:?}"
                );
                reader.wait(Some(Duration::from_millis(200)))?;
            }
            Item::Ended(ringweir::End::Stream) => return Ok((delivered, lost)),
            other => bail!("the reader received {other:?}"),
        }
    }
}
