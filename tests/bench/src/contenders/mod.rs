//! Who is compared: a contender is one file here and one line in [`CONTENDERS`].
//!
//! Contract: all run as separate processes, publish the same datagrams in the same batches (at most
//! 64 datagrams or 256 KiB at once), and check them in the same way (`tally`). Each does what is
//! good practice for its mechanism; its `about` says what was chosen.

mod event;
mod floors;
mod netlink;
mod pipe;
pub mod ring;
mod signal;
pub mod sockets;
mod udp;
mod unix;

use super::feed::{Batch, Feed};
use super::job::{Job, Report, pin, ready};
use anyhow::Context;

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
    /// Why it cannot run on this machine, if it cannot: it is skipped by name.
    pub unavailable: fn() -> Option<String>,
    /// Whether its readers can poll instead of sleeping.
    pub polls: bool,
}

/// The list.
pub static CONTENDERS: &[Contender] = &[
    ring::CONTENDER,
    unix::FANOUT,
    unix::DIRECT,
    pipe::CONTENDER,
    event::CONTENDER,
    signal::CONTENDER,
    udp::CONTENDER,
    netlink::CONTENDER,
    floors::EVENTFD,
    floors::FUTEX,
];

/// The contender of that name.
pub fn by_name(name: &str) -> anyhow::Result<&'static Contender> {
    let known = || CONTENDERS.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    CONTENDERS
        .iter()
        .find(|c| c.name == name)
        .with_context(|| format!("no contender {name:?}; there are {}", known()))
}

/// Does a job in this process.
pub fn perform(job: &Job) -> anyhow::Result<Report> {
    if let Some(cpu) = job.cpu {
        pin(cpu)?;
    }
    if job.contender == super::questions::publish::HOLDER {
        return super::questions::publish::hold(job);
    }
    if let Some(done) = super::capture::perform(job) {
        return done;
    }
    let contender = by_name(&job.contender)?;
    match (job.reader, contender.publisher) {
        (Some(_), _) => (contender.read)(job),
        (None, Publisher::Process(publish)) => publish(job),
        (None, Publisher::Ringd) => anyhow::bail!("ringd publishes for {}", contender.name),
    }
}

/// Publishes all batches through `send`; the publisher's report.
fn publish_batches(
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
