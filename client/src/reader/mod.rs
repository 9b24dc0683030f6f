//! The reader: attached to one stream, used by one thread at a time.
//!
//! Contract: [`Reader::next`] never blocks and makes no system call while datagrams come;
//! [`Reader::wait`] sleeps without using the processor. The account in the reader's page is kept up
//! to date for `ringstat`. A broker that dies leaves the reader its mapping: it drains what is
//! there, then attaches to the restarted broker by itself.

mod link;
mod options;
mod report;
mod wait;

pub use options::Options;
pub use wait::Waited;

use crate::{Datagram, Error};
use link::{Attempt, Link, Retry};
use ringweir_proto::layout::{DetachedBy, Geometry, Identity};
use ringweir_proto::ring::{Account, Cause, Demoted, Gap, Restarted, RingReader, Step, Torn, gate};
use ringweir_proto::sync::Ordering;
use std::os::fd::OwnedFd;

/// What [`Reader::next`] found.
///
/// A match on it is exhaustive on purpose: a program that passed over a new kind without knowing
/// would lose count. A new kind is a new major version.
#[derive(Debug)]
#[must_use]
pub enum Item<'r> {
    /// The next datagram.
    Datagram(Datagram<'r>),
    /// Datagrams this reader will never see.
    Gap(Gap),
    /// The broker was restarted; what follows is of the new generation.
    Restarted(Restart),
    /// This reader was lossless and has used up its budget: the stream does not wait for it any
    /// more. Told before the first gap that comes of it.
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
    /// Seq this reader begins at in it.
    pub first: u64,
    /// The new broker took over the ring: seqs, books and sizes go on, and everything before
    /// `first` has been told. Otherwise it made a fresh one: seqs and books begin anew, sizes and
    /// metadata may be others.
    pub adopted: bool,
    /// Datagrams without a seq that the restart cost: taken from the source, or counted as lost,
    /// and never told by the broker that died.
    pub lost: u64,
    /// False: at least `lost`; always so for a fresh ring.
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
    /// The broker ended it: its source was exhausted, or it was told to stop.
    Stream,
    /// The broker died, and this reader was told not to wait for the next.
    BrokerGone,
    /// Somebody who may took this reader's place back (`ringctl detach`): it is not to attach again
    /// by itself.
    Detached(DetachedBy),
}

/// The reading end of a stream.
pub struct Reader {
    name: String,
    options: Options,
    /// Whether the stream waits for it, as far as it was told.
    lossless: bool,
    /// To be told, of a place it does not have any more.
    demotion: Option<Demoted>,
    link: Link,
    ring: RingReader,
    identity: Identity,
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
    /// In the set of `poll_fd` while the broker is gone: fires when attaching again is due.
    retry_timer: Option<OwnedFd>,
}

impl Reader {
    /// Releases the datagram read last and finds the next thing. Never blocks: attaching to a
    /// restarted broker is moved on by each call.
    ///
    /// # Errors
    /// If the ring is damaged, if attaching again fails for a reason that will not pass, and
    /// [`Error::Forked`] in a child of the process that attached.
    #[allow(
        clippy::should_implement_trait,
        reason = "lends the datagram, which an iterator cannot"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Item<'_>, Error> {
        // Relaxed: the word is all there is to know. A sleeping reader is woken by the hang-up that
        // follows it.
        let detached_by = self.link.page.block().detached_by.load(Ordering::Relaxed);
        if detached_by != 0 {
            return self.detached(detached_by);
        }
        if self.ring.advance() {
            self.report_progress();
            return Ok(self.datagram());
        }
        self.other()
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
    fn other(&mut self) -> Result<Item<'_>, Error> {
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
                // The record may be here before the hang-up is noticed.
                self.broker_gone |= self.link.generation < restarted.generation;
                self.attach_meanwhile();
                self.report();
                Ok(Item::Restarted(restarted.into()))
            }
            Step::Ended => Ok(Item::Ended(End::Stream)),
            Step::Empty if self.broker_gone => self.after_broker(),
            _ => {
                // Who never waits learns of a dead broker here, now and then.
                self.empties = self.empties.wrapping_add(1);
                if self.empties.is_multiple_of(1 << 14) {
                    self.broker_gone = self.link.connection.hung_up();
                }
                Ok(Item::Empty)
            }
        }
    }

    /// That it is not waited for any more, once.
    fn demoted(&mut self) -> Option<Demoted> {
        if self.lossless {
            let told = gate::demoted(self.link.page.block())?;
            self.lossless = false;
            return Some(told);
        }
        self.demotion.take()
    }

    /// Its place was taken back. What is in the ring is not read any more, or a reader that lags
    /// would stay for ever.
    #[cold]
    fn detached(&mut self, by: u64) -> Result<Item<'static>, Error> {
        // A child of the process that attached finds its private page here: `crate::fork`.
        self.link.connection.same_process()?;
        if let Some(gap) = self.release()? {
            return Ok(Item::Gap(gap));
        }
        // Only the broker and this process can write the word: whatever it says, the place is not
        // to be used any more.
        let by = DetachedBy::unpack(by).unwrap_or(DetachedBy { pid: 0, uid: u32::MAX });
        Ok(Item::Ended(End::Detached(by)))
    }

    /// Name it was attached by.
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

    /// Key/value metadata of the stream.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// One value of the metadata.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Turns a publish time into a date: ns since 1970, as the clock stood when the ring was made.
    pub fn publish_date(&self, publish_time: u64) -> u64 {
        publish_time.wrapping_add(self.identity.realtime_offset_ns)
    }

    /// The books since this reader began in this ring ([`Restart::adopted`]): `start + delivered +
    /// lost = read cursor`.
    pub fn account(&self) -> &Account {
        self.ring.account()
    }

    /// Next seq to read; a datagram in hand counts as not read yet.
    pub fn read_cursor(&self) -> u64 {
        self.ring.read_cursor()
    }

    /// Settles the datagram read last without reading on: brings [`Reader::account`] and `ringstat`
    /// up to date before a pause. `Some`: it was torn.
    ///
    /// # Errors
    /// If the ring is damaged, and [`Error::Forked`].
    pub fn release(&mut self) -> Result<Option<Gap>, Error> {
        self.link.connection.same_process()?;
        let gap = self.ring.release()?;
        self.report();
        Ok(gap)
    }

    /// Settles the datagram read last as [`Reader::release`] does, for code that read it through
    /// [`Datagram::as_ptr`]: `Ok` says that it stayed whole, and counts as delivered.
    ///
    /// # Errors
    /// [`Torn`]: it was overwritten meanwhile, and what was read is void. The next call of
    /// [`Reader::next`] gives the gap that begins with it.
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
