//! What ties a reader to its broker, and tying it to the next one when that broker dies.
//!
//! Contract: what comes with the answer is checked before it is used. Attempts to attach again are
//! never closer than [`Retry::LEAST`]; a reason that may pass within seconds is borne
//! [`Retry::REFUSED_MOST`] times, any other ends the reader.

use super::wait::watch;
use super::{End, Item, Options, Reader, Restart};
use crate::connect::Connection;
use crate::{Error, Reason};
use ringweir_proto::control::{AttachRequest, Attached, Mode, Reply, Request};
use ringweir_proto::os::OsError;
use ringweir_proto::os::object::{self, AttachedRing};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::ring::{RingMemory, RingReader, Start, gate};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// What ties a reader to its broker.
pub(super) struct Link {
    pub connection: Connection,
    pub page: ReaderPage,
    pub wake: OwnedFd,
    pub sleep_request: OwnedFd,
    pub generation: u64,
    /// Device and inode of the ring.
    pub ring: (u64, u64),
}

impl Link {
    /// Gets a place from the broker; also the ring it serves.
    fn ask(name: &str, options: &Options, mode: Mode) -> Result<(Self, OwnedFd), Error> {
        let connection = Connection::open(name)?;
        let request = AttachRequest { label: options.label.clone(), mode, parks: options.parks };
        let (reply, fds) = connection.ask(&Request::Attach(request), 4)?;
        let Reply::Attached(Attached { block_offset, generation, .. }) = reply else {
            return Err(connection.unexpected(&reply));
        };
        let [ring, page, wake, sleep_request] =
            <[OwnedFd; 4]>::try_from(fds).expect("ask checked their number");
        let page = ReaderPage::attach(&page, block_offset)?;
        let stat = rustix::fs::fstat(&ring).map_err(OsError::at("fstat ring"))?;
        let which = (stat.st_dev, stat.st_ino);
        Ok((Self { connection, page, wake, sleep_request, generation, ring: which }, ring))
    }

    pub fn open(
        name: &str,
        options: &Options,
        start: Start,
    ) -> Result<(Self, RingReader, AttachedRing), Error> {
        let mode = if options.lossless { Mode::Lossless { start } } else { Mode::Lossy };
        let (link, ring) = Self::ask(name, options, mode)?;
        let seen =
            object::attach(&ring, options.prefault).map_err(|e| Error::unreadable(name, e))?;
        let start = if options.lossless {
            link.granted(name, &seen.memory)?.map_or(start, Start::Seq)
        } else {
            start
        };
        let reader = RingReader::new(seen.memory.clone(), start, options.resume);
        Ok((link, reader, seen))
    }

    /// Waits for what the pump, which is at its next look, grants a lossless reader to begin at;
    /// `None`: the stream has ended, so that nothing goes any more.
    fn granted(&self, name: &str, memory: &RingMemory) -> Result<Option<u64>, Error> {
        let began = Instant::now();
        loop {
            if let Some(begin) = gate::granted(self.page.block()) {
                return Ok(Some(begin));
            }
            if memory.has_ended() {
                return Ok(None);
            }
            if self.connection.hung_up() {
                return Err(Error::HungUp { name: name.into() });
            }
            if began.elapsed() > GRANT_WITHIN {
                return Err(Error::NoAnswer { name: name.into() });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A pump that is at work looks a thousand times a second or is kicked.
const GRANT_WITHIN: Duration = Duration::from_secs(10);

/// Waiting longer and longer between attempts to attach again.
#[derive(Default)]
pub(super) struct Retry {
    not_before: Option<Instant>,
    pause: Duration,
    refused: u32,
}

impl Retry {
    pub const LEAST: Duration = Duration::from_millis(20);
    const MOST: Duration = Duration::from_secs(1);
    const REFUSED_MOST: u32 = 10;

    fn failed(&mut self) {
        self.pause = (self.pause * 2).clamp(Self::LEAST, Self::MOST);
        self.not_before = Some(Instant::now() + self.pause);
    }

    pub fn remaining(&self) -> Duration {
        self.not_before.map_or(Duration::ZERO, |t| t.saturating_duration_since(Instant::now()))
    }
}

impl Reader {
    /// The broker has hung up and everything it left is read.
    pub(super) fn after_broker(&mut self) -> Result<Item<'static>, Error> {
        if !self.options.reattach {
            return Ok(Item::Ended(End::BrokerGone));
        }
        if !self.retry.remaining().is_zero() {
            return Ok(Item::Empty);
        }
        match Link::ask(&self.name, &self.options, self.mode()) {
            Ok((link, _same)) if link.ring == self.link.ring => {
                self.tie(link)?;
                Ok(Item::Empty)
            }
            Ok((link, ring)) => {
                let seen = object::attach(&ring, self.options.prefault)
                    .map_err(|e| Error::unreadable(&self.name, e))?;
                self.ring =
                    RingReader::new(seen.memory.clone(), Start::Oldest, self.options.resume);
                self.identity = seen.identity;
                self.metadata = seen.metadata;
                self.sample_from = 0;
                self.tie(link)?;
                let (generation, first) = (self.ring.generation(), self.ring.read_cursor());
                Ok(Item::Restarted(Restart {
                    generation,
                    first,
                    adopted: false,
                    lost: 0,
                    exact: false,
                }))
            }
            Err(
                Error::StreamNotFound { .. }
                | Error::NotRunning { .. }
                | Error::HungUp { .. }
                | Error::NoAnswer { .. },
            ) => {
                self.retry.failed();
                Ok(Item::Empty)
            }
            // What may pass within seconds: a socket whose mode is not set yet, a broker that all
            // its readers rush at.
            Err(
                Error::NoAccess { .. }
                | Error::Refused { reason: Reason::Full | Reason::Resources, .. },
            ) if self.retry.refused < Retry::REFUSED_MOST => {
                self.retry.refused += 1;
                self.retry.failed();
                Ok(Item::Empty)
            }
            Err(e) => Err(e),
        }
    }

    /// How it asks the next broker: as it stands, unless the last one was not waiting for it any
    /// more.
    fn mode(&self) -> Mode {
        if self.lossless && gate::demoted(self.link.page.block()).is_none() {
            Mode::Lossless { start: Start::Seq(self.ring.read_cursor()) }
        } else {
            Mode::Lossy
        }
    }

    /// Leaves the broker that died for the next one.
    fn tie(&mut self, link: Link) -> Result<(), Error> {
        self.demotion = self.demoted();
        self.link = link;
        self.report();
        self.broker_gone = false;
        self.retry = Retry::default();
        self.retry_timer = None;
        // Whoever polls keeps the same fd: it only watches other ones now.
        self.poll_fd.as_ref().map_or(Ok(()), |poll_fd| watch(poll_fd, &self.link))
    }

    /// The same for a reader that has still to read, so long as its own ring is the one that is
    /// served: another one, and whatever else there is to say, waits until everything is read.
    #[cold]
    pub(super) fn attach_meanwhile(&mut self) {
        if !self.broker_gone || !self.options.reattach || !self.retry.remaining().is_zero() {
            return;
        }
        match Link::ask(&self.name, &self.options, self.mode()) {
            // One that cannot be watched says so when it is waited for.
            Ok((link, _same)) if link.ring == self.link.ring => drop(self.tie(link)),
            _ => self.retry.failed(),
        }
    }
}
