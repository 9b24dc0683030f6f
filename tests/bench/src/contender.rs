//! What a contender is, and what the bench's own publishers share.
//!
//! Contract: all contenders run as separate processes, publish the same datagrams in the same
//! batches (at most 64 datagrams or 256 KiB at once), and check them in the same way (`tally`).
//! Each does what is good practice for its mechanism; its `about` says what was chosen.

use crate::feed::{Batch, Feed};
use crate::job::{Job, Report, ready};

/// Who publishes.
#[derive(Clone, Copy)]
pub enum Publisher {
    /// The product: `ringd` with its `gen:` source.
    Ringd,
    /// A process of the bench.
    Process(fn(&Job) -> anyhow::Result<Report>),
}

/// One way of getting datagrams to other processes.
#[derive(Clone, Copy)]
pub struct Contender {
    /// Short name.
    pub name: &'static str,
    /// What it is and what was chosen.
    pub about: &'static str,
    /// The publishing end.
    pub publisher: Publisher,
    /// The reading end.
    pub read: fn(&Job) -> anyhow::Result<Report>,
    /// Largest datagram it can carry, and what sets the limit.
    pub most: Option<(usize, &'static str)>,
    /// Carries no payload: a floor for wake-ups, not a way to get data across.
    pub floor: bool,
    /// Why it cannot run on this machine, if it cannot; it is then reported as skipped.
    pub unavailable: fn() -> Option<String>,
    /// Whether its readers can poll instead of sleeping.
    pub polls: bool,
}

/// Publishes all batches through `send`; the publisher's report.
pub(crate) fn publish_batches(
    job: &Job,
    mut send: impl FnMut(Batch<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let go = ready()?;
    let mut feed = Feed::new(job, go);
    while let Some(batch) = feed.next_batch() {
        send(batch)?;
    }
    Ok(Report { published: feed.made, ..Report::default() })
}
