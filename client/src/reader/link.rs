//! A reader's link to its broker, and how it attaches to the next broker when that one dies.
//!
//! Contract: everything that comes with an answer is checked before it is used. Attaching again
//! never blocks: an [`Attempt`] is a request in flight, whose socket is in the reader's poll set.
//! Attempts are at least [`Retry::LEAST`] apart. A refusal that may pass within seconds is
//! tolerated [`Retry::REFUSED_MOST`] times; any other refusal ends the reader.

use super::wait::watch;
use super::{End, Item, Options, Reader, Restart};
use crate::connect::{Connection, Waits};
use crate::{Error, Reason};
use ringweir_proto::control::{AttachRequest, Attached, Mode, Reply, Request};
use ringweir_proto::os::object::{self, AttachedRing};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::socket;
use ringweir_proto::ring::{RingMemory, RingReader, Start, gate};
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A reader's link to its broker.
pub(super) struct Link {
    /// Dropped before `page`: its registry entry holds the address of the page (`os::fork`).
    pub connection: Connection,
    pub page: ReaderPage,
    pub wake: OwnedFd,
    pub sleep_request: OwnedFd,
    pub generation: u64,
    /// Device and inode of the ring.
    pub ring: (u64, u64),
}

impl Link {
    /// The request to the broker.
    fn request(options: &Options, mode: Mode) -> Request {
        Request::Attach(AttachRequest { label: options.label.clone(), mode, parks: options.parks })
    }

    /// Checks what came with the answer. Also returns the fd of the ring.
    fn of(
        connection: Connection,
        reply: &Reply,
        fds: Vec<OwnedFd>,
    ) -> Result<(Self, OwnedFd), Error> {
        let Reply::Attached(Attached { block_offset, generation, .. }) = *reply else {
            return Err(connection.unexpected(reply));
        };
        let [ring, page, wake, sleep_request] =
            <[OwnedFd; 4]>::try_from(fds).expect("the answer's fds were counted");
        let page = ReaderPage::attach(&page, block_offset)?;
        let stat = rustix::fs::fstat(&ring).map_err(|e| Error::system("fstat ring", e))?;
        let which = (stat.st_dev, stat.st_ino);
        // From here on the connection is dropped before the page: see the order of the fields.
        connection.fd.guard(&page);
        Ok((Self { connection, page, wake, sleep_request, generation, ring: which }, ring))
    }

    pub fn open(
        name: &str,
        options: &Options,
        start: Start,
    ) -> Result<(Self, RingReader, AttachedRing), Error> {
        let mode = if options.lossless { Mode::Lossless { start } } else { Mode::Lossy };
        let connection = Connection::open(name, Waits::Yes)?;
        let (reply, fds) = connection.ask(&Self::request(options, mode), FDS)?;
        let (link, ring) = Self::of(connection, &reply, fds)?;
        let seen = Self::map(name, &ring, options)?;
        let start = if options.lossless {
            link.granted(name, &seen.memory)?.map_or(start, Start::Seq)
        } else {
            start
        };
        let reader = RingReader::new(seen.memory.clone(), start, options.resume);
        Ok((link, reader, seen))
    }

    fn map(name: &str, ring: &OwnedFd, options: &Options) -> Result<AttachedRing, Error> {
        let seen =
            object::attach(ring, options.prefault).map_err(|e| Error::unreadable(name, e))?;
        if !options.in_children {
            seen.leave_out_of_children();
        }
        Ok(seen)
    }

    /// Waits until the pump, at its next look, grants the seq at which a lossless reader begins.
    /// `None`: the stream has ended, so nothing is overwritten any more.
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

/// A running pump looks a thousand times a second, or is woken to look.
const GRANT_WITHIN: Duration = Duration::from_secs(10);

/// Ring, reader page, wake events and sleep request.
const FDS: usize = 4;

/// A request to attach to the next broker that has been sent but not answered yet.
pub(super) struct Attempt {
    pub connection: Connection,
    deadline: Instant,
    /// Whether its socket is in the set of `Reader::poll_fd`.
    pub polled: bool,
}

impl Attempt {
    /// Sends the request. Does not block.
    fn start(name: &str, options: &Options, mode: Mode) -> Result<Self, Error> {
        let connection = Connection::open(name, Waits::No)?;
        connection.send(&Link::request(options, mode));
        Ok(Self { connection, deadline: Instant::now() + socket::ANSWER, polled: false })
    }

    /// Time that the broker still has to answer.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Growing pauses between attempts to attach again.
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
    /// Called when the broker has hung up and everything it left has been read.
    pub(super) fn after_broker(&mut self) -> Result<Item<'static>, Error> {
        if !self.options.reattach {
            return Ok(Item::Ended(End::BrokerGone));
        }
        let Some(outcome) = self.attempt() else { return Ok(Item::Empty) };
        match outcome {
            Ok((link, _same)) if link.ring == self.link.ring => {
                self.replace_link(link)?;
                Ok(Item::Empty)
            }
            Ok((link, ring)) => {
                let seen = Link::map(&self.name, &ring, &self.options)?;
                self.ring =
                    RingReader::new(seen.memory.clone(), Start::Oldest, self.options.resume);
                self.metadata = seen.metadata;
                self.sample_from = 0;
                self.replace_link(link)?;
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
            // These may pass within seconds: the socket's mode is not set yet, or all readers
            // attach to the new broker at once.
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

    /// Takes the next step of attaching to the next broker without blocking: sends the request when
    /// it is due, or receives the answer when it has come. `None`: not finished yet.
    fn attempt(&mut self) -> Option<Result<(Link, OwnedFd), Error>> {
        let attempt = match self.attempt.take() {
            Some(attempt) => attempt,
            None if !self.retry.remaining().is_zero() => return None,
            None => match Attempt::start(&self.name, &self.options, self.mode()) {
                Ok(attempt) => attempt,
                Err(e) => return Some(Err(e)),
            },
        };
        match attempt.connection.answer(FDS) {
            Ok((reply, fds)) => Some(Link::of(attempt.connection, &reply, fds)),
            Err(Error::NoAnswer { .. }) if !attempt.remaining().is_zero() => {
                self.attempt = Some(attempt);
                None
            }
            Err(e) => Some(Err(e)),
        }
    }

    /// The mode in which it attaches to the next broker: lossless if it is lossless and the last
    /// broker has not demoted it.
    fn mode(&self) -> Mode {
        if self.lossless && gate::demoted(self.link.page.block()).is_none() {
            Mode::Lossless { start: Start::Seq(self.ring.read_cursor()) }
        } else {
            Mode::Lossy
        }
    }

    /// Replaces the link to the dead broker by the link to the next one.
    fn replace_link(&mut self, link: Link) -> Result<(), Error> {
        self.demotion = self.demoted();
        self.link = link;
        self.report();
        self.broker_gone = false;
        self.retry = Retry::default();
        self.retry_timer = None;
        // Programs that poll keep the same fd; only the fds in its set change. The connection may
        // be in the set already.
        let _not_in = epoll::delete(&self.poll_fd, &self.link.connection.fd);
        watch(&self.poll_fd, &self.link)
    }

    /// As `after_broker`, for a reader that still has datagrams to read: attaches if the next
    /// broker serves the same ring. A different ring, and any error, is handled when everything has
    /// been read.
    #[cold]
    pub(super) fn attach_meanwhile(&mut self) {
        if !self.broker_gone || !self.options.reattach {
            return;
        }
        let Some(outcome) = self.attempt() else { return };
        match outcome {
            // An error of `replace_link` is ignored here: the fds that it could not watch fail when
            // they are waited for.
            Ok((link, _same)) if link.ring == self.link.ring => drop(self.replace_link(link)),
            _ => self.retry.failed(),
        }
    }
}
