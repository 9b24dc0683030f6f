//! The reader: attached to one stream, used by one thread at a time.
//!
//! Contract: [`Reader::next`] never blocks and makes no system call while datagrams come;
//! [`Reader::wait`] sleeps without using the processor. The account in the reader's page is kept up
//! to date for `ringstat`. When the broker dies the reader keeps its mapping: it drains what is
//! there, then attaches to the restarted broker by itself.

mod dates;
mod link;
mod options;
mod report;
mod wait;

pub use options::Options;
pub use wait::Waited;

use crate::{Datagram, Error};
use dates::Dates;
use link::{Attempt, Link, Retry};
use ringweir_proto::layout::{DetachedBy, Geometry};
use ringweir_proto::ring::{
    Account, Cause, Demoted, Gap, LinkType, Restarted, RingReader, Step, Torn, gate,
};
use ringweir_proto::sync::Ordering;
use std::os::fd::OwnedFd;

/// What [`Reader::next`] found.
///
/// A match on it is exhaustive on purpose: a program that unknowingly ignored a new kind would lose
/// count. A new kind requires a new major version.
#[derive(Debug)]
#[must_use]
pub enum Item<'r> {
    /// The next datagram.
    Datagram(Datagram<'r>),
    /// Datagrams this reader will never see.
    Gap(Gap),
    /// The broker was restarted; what follows belongs to the new generation.
    Restarted(Restart),
    /// This reader was lossless and has used up its budget: the stream does not wait for it any
    /// more. Returned before the first gap that results from it.
    Demoted(Demoted),
    /// Nothing new.
    Empty,
    /// Nothing new, and there never will be.
    Ended(End),
}

/// A new generation of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its number.
    pub generation: u64,
    /// Seq at which this reader begins in it.
    pub first: u64,
    /// True: the new broker took over the ring. Seqs, account and sizes continue, and everything
    /// before `first` has been reported. False: it made a fresh ring. Seqs and account begin anew,
    /// and sizes and metadata may differ.
    pub adopted: bool,
    /// Datagrams without a seq that the restart cost: the broker that died had taken them from the
    /// source, or counted them as lost, but had not reported them yet.
    pub lost: u64,
    /// Whether `lost` is exact. False: it is a lower bound; always so for a fresh ring.
    pub exact: bool,
}

impl From<Restarted> for Restart {
    fn from(restarted: Restarted) -> Self {
        let Restarted { generation, first, lost, exact } = restarted;
        Self { generation, first, adopted: true, lost, exact }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum End {
    /// The broker ended it: its source was exhausted, or the broker was stopped.
    Stream,
    /// The broker died, and this reader does not attach to the next one ([`Options::reattach`]).
    BrokerGone,
    /// An administrator detached this reader (`ringctl detach`). It does not attach again by
    /// itself.
    Detached(DetachedBy),
}

/// The reading end of a stream.
pub struct Reader {
    name: String,
    options: Options,
    /// Whether the stream waits for it, until its demotion is noticed.
    lossless: bool,
    /// A demotion by the last broker that is still to be reported.
    demotion: Option<Demoted>,
    link: Link,
    ring: RingReader,
    dates: Dates,
    metadata: Vec<(String, String)>,
    /// The first datagram published at or after this (CLOCK_MONOTONIC ns) is the next whose latency
    /// is sampled.
    sample_from: u64,
    broker_gone: bool,
    empties: u32,
    retry: Retry,
    /// A request to the next broker that is not answered yet.
    attempt: Option<Attempt>,
    poll_fd: OwnedFd,
    /// In the set of `poll_fd` while there is no broker: fires when the next attempt to attach is
    /// due.
    retry_timer: Option<OwnedFd>,
}

impl Reader {
    /// Releases the datagram read last and returns the next item. Never blocks: each call only
    /// takes the next step of attaching to a restarted broker.
    ///
    /// # Errors
    /// If the ring is damaged, if attaching again fails for a permanent reason, and
    /// [`Error::Forked`] in a child of the process that attached.
    #[allow(
        clippy::should_implement_trait,
        reason = "lends the datagram, which an iterator cannot"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Item<'_>, Error> {
        // Relaxed: no other data depends on this word. The hang-up that follows it wakes a sleeping
        // reader.
        let detached_by = self.link.page.block().detached_by.load(Ordering::Relaxed);
        if detached_by != 0 {
            return self.detached(detached_by);
        }
        if self.ring.advance() {
            self.report_progress();
            return Ok(self.datagram());
        }
        self.next_slow()
    }

    #[inline(always)]
    fn datagram(&mut self) -> Item<'_> {
        let published = self.ring.current().publish_time;
        if published >= self.sample_from {
            self.sample_latency(published);
        }
        Item::Datagram(Datagram { ring: &mut self.ring })
    }

    #[cold]
    fn next_slow(&mut self) -> Result<Item<'_>, Error> {
        if let Some(demoted) = self.demoted() {
            return Ok(Item::Demoted(demoted));
        }
        let step = self.ring.step()?;
        if let Step::Gap(gap @ Gap { cause: Cause::Lapped, .. }) = step
            && let Some(demoted) = self.demoted()
        {
            self.ring.report_later(gap);
            return Ok(Item::Demoted(demoted));
        }
        self.report_progress();
        match step {
            Step::Datagram(_) => Ok(self.datagram()),
            Step::Gap(gap) => {
                self.report();
                Ok(Item::Gap(gap))
            }
            Step::Restarted(restarted) => {
                // The reader may see the record of the restart before it notices the hang-up.
                self.broker_gone |= self.link.generation < restarted.generation;
                self.attach_meanwhile();
                self.report();
                Ok(Item::Restarted(restarted.into()))
            }
            Step::Ended => Ok(Item::Ended(End::Stream)),
            Step::Empty if self.broker_gone => self.after_broker(),
            _ => {
                // A reader that never waits notices a dead broker here: it checks now and then.
                self.empties = self.empties.wrapping_add(1);
                if self.empties.is_multiple_of(1 << 14) {
                    self.broker_gone = self.link.connection.hung_up();
                }
                Ok(Item::Empty)
            }
        }
    }

    /// Returns the demotion, once.
    fn demoted(&mut self) -> Option<Demoted> {
        if self.lossless {
            let demoted = gate::demoted(self.link.page.block())?;
            self.lossless = false;
            return Some(demoted);
        }
        self.demotion.take()
    }

    /// Ends a reader that was detached. It does not read the rest of the ring: otherwise a reader
    /// that lags would stay for ever.
    #[cold]
    fn detached(&mut self, by: u64) -> Result<Item<'static>, Error> {
        // A child of the process that attached gets here too, through its private page:
        // `ringweir_proto::os::fork`.
        self.link.connection.same_process()?;
        if let Some(gap) = self.release()? {
            return Ok(Item::Gap(gap));
        }
        // Only the broker and this process can write the word. Whatever its value, the reader index
        // must not be used any more.
        let by = DetachedBy::unpack(by).unwrap_or(DetachedBy { pid: 0, uid: u32::MAX });
        Ok(Item::Ended(End::Detached(by)))
    }

    /// Name by which it was attached.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes of the ring.
    pub fn geometry(&self) -> &Geometry {
        self.ring.memory().geometry()
    }

    /// Generation it reads.
    pub fn generation(&self) -> u64 {
        self.ring.generation()
    }

    /// Whether its broker is gone, and it is not attached to the next one yet. [`Reader::wait`] and
    /// [`Reader::arm`] notice it.
    pub fn is_without_broker(&self) -> bool {
        self.broker_gone
    }

    /// Whether `other` reads the very same ring: then their seqs mean the same datagrams.
    pub fn reads_ring_of(&self, other: &Reader) -> bool {
        self.link.ring == other.link.ring
    }

    /// Whether the stream has ended: nothing more is published, unless the next broker takes the
    /// ring over. There may still be something to read.
    pub fn stream_has_ended(&self) -> bool {
        self.ring.memory().has_ended()
    }

    /// Key/value metadata of the stream.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// One value of the metadata.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// What the stream's datagrams are in a capture, as far as the source has given it by now.
    pub fn link_type(&self) -> LinkType {
        self.ring.memory().link_type()
    }

    /// Turns a publish time into a date: ns since 1970, as the clock stands now. So dates are right
    /// once the clock has been set, also those of datagrams published before. While a machine
    /// sleeps, the clock of publish times stands still: datagrams from before get dates that are
    /// late by as long as it slept.
    pub fn publish_date(&self, publish_time: u64) -> u64 {
        publish_time.wrapping_add(self.dates.offset())
    }

    /// The account since this reader began in this ring ([`Restart::adopted`]): `start + delivered
    /// + lost = read cursor`.
    pub fn account(&self) -> &Account {
        self.ring.account()
    }

    /// Next seq to read; a datagram in hand counts as not read yet.
    pub fn read_cursor(&self) -> u64 {
        self.ring.read_cursor()
    }

    /// Releases the datagram read last without reading the next one. This brings
    /// [`Reader::account`] and `ringstat` up to date before a pause. `Some`: the datagram was torn.
    ///
    /// # Errors
    /// If the ring is damaged, and [`Error::Forked`].
    pub fn release(&mut self) -> Result<Option<Gap>, Error> {
        self.link.connection.same_process()?;
        let gap = self.ring.release()?;
        self.report();
        Ok(gap)
    }

    /// Releases the datagram read last as [`Reader::release`] does, for code that read it through
    /// [`Datagram::as_ptr`]. `Ok`: it was not overwritten, and counts as delivered.
    ///
    /// # Errors
    /// [`Torn`]: it was overwritten meanwhile, and what was read is void. The next call of
    /// [`Reader::next`] returns the gap that begins with it.
    #[inline]
    pub fn settle(&mut self) -> Result<(), Torn> {
        self.ring.validate()?;
        let settled = self.ring.release();
        debug_assert_eq!(settled, Ok(None), "it was just found whole");
        self.report_progress();
        Ok(())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("name", &self.name)
            .field("account", self.ring.account())
            .finish_non_exhaustive()
    }
}
