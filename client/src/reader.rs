//! The reader: attached to one stream, used by one thread at a time.
//!
//! Contract: [`Reader::next`] never blocks and makes no system call while datagrams come; [`Reader::wait`] sleeps without
//! using the processor. The account in the reader's page is kept up to date for `ringstat`. A broker that dies leaves the
//! reader its mapping: it drains what is there, then attaches to the restarted broker by itself.

use crate::connect::Connection;
use crate::{Datagram, Error};
use ringweir_proto::control::{AttachRequest, Attached, Mode, Reason, Reply, Request};
use ringweir_proto::latency::SAMPLE_EVERY_NS;
use ringweir_proto::layout::{DetachedBy, Geometry, Identity};
use ringweir_proto::os::object::{self, AttachedRing};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::{OsError, clock, event};
#[cfg(feature = "ffi")]
use ringweir_proto::ring::Torn;
use ringweir_proto::ring::{Account, Cause, Gap, Resume, RingReader, Start, Step};
use ringweir_proto::sync::Ordering;
use rustix::event::epoll;
use rustix::thread::NanosleepRelativeResult;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How to attach.
#[derive(Clone, Debug)]
pub struct Options {
    label: String,
    start: Start,
    resume: Resume,
    parks: bool,
    prefault: bool,
    reattach: bool,
    spin: Duration,
}

impl Options {
    /// Defaults: start with what is published from now on; after a lap go on near the oldest datagram; sleep when idle
    /// after 5 µs of polling; page tables filled at attach; attach again when the broker restarts. `label` (at most 32
    /// bytes) is what `ringstat` shows.
    pub fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            start: Start::Latest,
            resume: Resume::Oldest,
            parks: true,
            prefault: true,
            reattach: true,
            spin: Duration::from_micros(5),
        }
    }

    /// Where to begin.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to go on after a lap.
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = resume;
        self
    }

    /// How long [`Reader::wait`] polls before it sleeps. The longer, the lower the latency and the more processor time.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Never sleep: [`Reader::wait`] polls until there is something. If no reader of a stream sleeps, its pump saves a fence.
    pub fn always_spin(mut self) -> Self {
        self.parks = false;
        self
    }

    /// Whether to fill this process's page tables at attach, so that reading takes no page faults (default), or not, so
    /// that attaching to a large ring is quick.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Whether to attach to the restarted broker when this one dies (default), or to end with [`End::BrokerGone`].
    pub fn reattach(mut self, reattach: bool) -> Self {
        self.reattach = reattach;
        self
    }

    /// Attaches to the stream `name`, or to the control socket at a path (anything with a `/`).
    ///
    /// # Errors
    /// [`Error`] says what was wrong and what to do: no such stream (and which are running), nobody answers, not allowed,
    /// no place left, another release.
    pub fn attach(&self, name: &str) -> Result<Reader, Error> {
        let (link, ring, seen) = Link::open(name, self, self.start)?;
        let mut reader = Reader {
            name: name.into(),
            options: self.clone(),
            link,
            ring,
            identity: seen.identity,
            metadata: seen.metadata,
            sample_from: 0,
            broker_gone: false,
            empties: 0,
            retry: Retry::default(),
            poll_fd: None,
            retry_timer: None,
        };
        reader.report();
        Ok(reader)
    }
}

/// What [`Reader::next`] found.
#[derive(Debug)]
pub enum Read<'r> {
    /// The next datagram.
    Datagram(Datagram<'r>),
    /// Datagrams this reader will never see.
    Gap(Gap),
    /// The broker was restarted; this reader is attached to the new generation. Its account begins anew.
    Restarted(Restart),
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
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The broker ended it: its source was exhausted, or it was told to stop.
    Stream,
    /// The broker died, and this reader was told not to wait for the next.
    BrokerGone,
    /// Somebody who may took this reader's place back (`ringctl detach`): it is not to attach again by itself.
    Detached(DetachedBy),
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// There may be something to read.
    Woken,
    /// The time is over.
    TimedOut,
    /// A signal came.
    Interrupted,
}

/// What ties a reader to its broker.
struct Link {
    connection: Connection,
    page: ReaderPage,
    wake: OwnedFd,
    doze: OwnedFd,
    generation: u64,
}

impl Link {
    fn open(name: &str, options: &Options, start: Start) -> Result<(Self, RingReader, AttachedRing), Error> {
        let connection = Connection::open(name)?;
        let request = AttachRequest { label: options.label.clone(), mode: Mode::Lossy, parks: options.parks };
        let (reply, fds) = connection.ask(&Request::Attach(request), 4)?;
        let Reply::Attached(Attached { block_offset, generation, .. }) = reply else {
            return Err(connection.unexpected(&reply));
        };
        let [ring, page, wake, doze] = <[OwnedFd; 4]>::try_from(fds).expect("ask checked their number");
        let seen = object::attach(&ring, options.prefault)?;
        let page = ReaderPage::attach(&page, block_offset)?;
        let reader = RingReader::new(seen.memory.clone(), start, options.resume);
        Ok((Self { connection, page, wake, doze, generation }, reader, seen))
    }
}

/// Waiting longer and longer between attempts to attach again.
#[derive(Default)]
struct Retry {
    not_before: Option<Instant>,
    pause: Duration,
    refused: u32,
}

impl Retry {
    const LEAST: Duration = Duration::from_millis(20);
    const MOST: Duration = Duration::from_secs(1);
    const REFUSED_MOST: u32 = 10;

    fn failed(&mut self) {
        self.pause = (self.pause * 2).clamp(Self::LEAST, Self::MOST);
        self.not_before = Some(Instant::now() + self.pause);
    }

    fn remaining(&self) -> Duration {
        self.not_before.map_or(Duration::ZERO, |t| t.saturating_duration_since(Instant::now()))
    }
}

/// The reading end of a stream.
pub struct Reader {
    name: String,
    options: Options,
    link: Link,
    ring: RingReader,
    identity: Identity,
    metadata: Vec<(String, String)>,
    /// The first datagram published at or after this (CLOCK_MONOTONIC ns) is the next whose latency is sampled.
    sample_from: u64,
    broker_gone: bool,
    empties: u32,
    retry: Retry,
    poll_fd: Option<OwnedFd>,
    /// In the set of `poll_fd` while the broker is gone: fires when attaching again is due.
    retry_timer: Option<OwnedFd>,
}

impl Reader {
    /// Releases the datagram read last and finds the next thing. Never blocks, but for attaching to a restarted broker.
    ///
    /// # Errors
    /// Only if the ring is damaged, or attaching again fails for a reason that will not pass.
    #[allow(clippy::should_implement_trait, reason = "lends the datagram, which an iterator cannot")]
    #[inline]
    pub fn next(&mut self) -> Result<Read<'_>, Error> {
        // Relaxed: the word is all there is to know. Whoever sleeps is woken by the hang-up that follows it.
        let detached_by = self.link.page.block().detached_by.load(Ordering::Relaxed);
        if detached_by != 0 {
            return self.detached(detached_by);
        }
        let step = self.ring.step()?;
        self.report_progress();
        match step {
            Step::Datagram(what) => {
                if what.publish_time >= self.sample_from {
                    self.sample_latency(what.publish_time);
                }
                Ok(Read::Datagram(Datagram { ring: &mut self.ring, what }))
            }
            other => self.other(other),
        }
    }

    /// Once for each millisecond of the stream, not of the reader: one that falls behind samples all it was late for.
    #[cold]
    fn sample_latency(&mut self, published: u64) {
        self.sample_from = published.saturating_add(SAMPLE_EVERY_NS);
        self.link.page.latency().count(clock::monotonic_ns().saturating_sub(published));
    }

    #[cold]
    fn other(&mut self, step: Step) -> Result<Read<'static>, Error> {
        match step {
            Step::Gap(gap) => {
                self.report();
                Ok(Read::Gap(gap))
            }
            Step::Ended => Ok(Read::Ended(End::Stream)),
            Step::Empty if self.broker_gone => self.after_broker(),
            _ => {
                // Who never waits learns of a dead broker here, now and then.
                self.empties = self.empties.wrapping_add(1);
                if self.empties.is_multiple_of(1 << 14) {
                    self.broker_gone = self.link.connection.hung_up();
                }
                Ok(Read::Empty)
            }
        }
    }

    /// Its place was taken back. What is in the ring is not read any more, or a reader that lags would stay for ever.
    #[cold]
    fn detached(&mut self, by: u64) -> Result<Read<'static>, Error> {
        if let Some(gap) = self.release()? {
            return Ok(Read::Gap(gap));
        }
        // Only the broker and this process can write the word: whatever it says, the place is not to be used any more.
        let by = DetachedBy::unpack(by).unwrap_or(DetachedBy { pid: 0, uid: u32::MAX });
        Ok(Read::Ended(End::Detached(by)))
    }

    /// The broker has hung up and everything it left is read.
    fn after_broker(&mut self) -> Result<Read<'static>, Error> {
        if !self.options.reattach {
            return Ok(Read::Ended(End::BrokerGone));
        }
        if !self.retry.remaining().is_zero() {
            return Ok(Read::Empty);
        }
        match Link::open(&self.name, &self.options, Start::Oldest) {
            Ok((link, ring, seen)) => {
                self.link = link;
                self.ring = ring;
                self.identity = seen.identity;
                self.metadata = seen.metadata;
                self.sample_from = 0;
                self.broker_gone = false;
                self.retry = Retry::default();
                self.retry_timer = None;
                // Whoever polls keeps the same fd: it only watches other ones now.
                if let Some(poll_fd) = &self.poll_fd {
                    watch(poll_fd, &self.link)?;
                }
                self.report();
                Ok(Read::Restarted(Restart { generation: self.link.generation, first: self.ring.read_cursor() }))
            }
            Err(
                Error::StreamNotFound { .. } | Error::NotRunning { .. } | Error::HungUp { .. } | Error::NoAnswer { .. },
            ) => {
                self.retry.failed();
                Ok(Read::Empty)
            }
            // What may pass within seconds: a socket whose mode is not set yet, a broker that all its readers rush at.
            Err(Error::NoAccess { .. } | Error::Refused { reason: Reason::Full | Reason::Resources, .. })
                if self.retry.refused < Retry::REFUSED_MOST =>
            {
                self.retry.refused += 1;
                self.retry.failed();
                Ok(Read::Empty)
            }
            Err(e) => Err(e),
        }
    }

    /// Waits until there is something to read, the broker hangs up, a signal arrives or the timeout passes (`None`: for
    /// ever), and now and then for nothing; [`Reader::next`] then says which. Sleeps in the kernel, unless attached with [`Options::always_spin`].
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.wait_and_say(timeout).map(drop)
    }

    /// As [`Self::wait`], and says how it ended.
    pub(crate) fn wait_and_say(&mut self, timeout: Option<Duration>) -> Result<Waited, Error> {
        let began = Instant::now();
        let over = |limit: Duration| began.elapsed() >= limit;
        let limit = timeout.unwrap_or(Duration::MAX);
        if self.broker_gone {
            // Not std's sleep: a signal must end it.
            return Ok(match rustix::thread::nanosleep(&event::timespec(self.retry.remaining().min(limit))) {
                NanosleepRelativeResult::Interrupted(_) => Waited::Interrupted,
                _ if self.retry.remaining().is_zero() => Waited::Woken,
                _ => Waited::TimedOut,
            });
        }
        let spin = if self.options.parks { self.options.spin.min(limit) } else { limit };
        let mut rounds = 0u32;
        while !self.has_news() {
            if over(spin) {
                if !self.options.parks || over(limit) {
                    return Ok(Waited::TimedOut);
                }
                let left = timeout.map(|t| t.saturating_sub(began.elapsed()));
                return match self.park(left)? {
                    Waited::Interrupted if over(limit) => Ok(Waited::TimedOut),
                    other => Ok(other),
                };
            }
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(1 << 14) && self.link.connection.hung_up() {
                self.broker_gone = true;
                return Ok(Waited::Woken);
            }
        }
        Ok(Waited::Woken)
    }

    /// Whether [`Reader::next`] would find more than nothing.
    fn has_news(&self) -> bool {
        let memory = self.ring.memory();
        self.link.page.block().detached_by.load(Ordering::Relaxed) != 0
            || memory.write_cursor() != self.ring.write_cursor_seen()
            || memory.has_ended()
            || self.ring.read_cursor() != self.ring.write_cursor_seen()
    }

    /// Sleeps; `Interrupted` for a signal and for the end of the time, which the caller tells apart.
    fn park(&mut self, timeout: Option<Duration>) -> Result<Waited, Error> {
        if !self.arm()? {
            return Ok(Waited::Woken);
        }
        let ready = event::wait(self.link.wake.as_fd(), self.link.connection.fd.as_fd(), timeout)
            .map_err(OsError::at("poll for a wake-up"))?;
        // The ring itself is taken before the next sleep: now there is something to read.
        self.settle(event::Ready { first: false, ..ready })?;
        Ok(if ready.first || ready.second { Waited::Woken } else { Waited::Interrupted })
    }

    fn settle(&mut self, ready: event::Ready) -> Result<(), Error> {
        self.link.page.block().waiting.store(0, Ordering::Relaxed);
        self.broker_gone |= ready.second;
        if ready.first {
            event::take(&self.link.wake).map_err(OsError::at("take wake-up"))?;
        }
        Ok(())
    }

    /// Says that this reader is about to sleep on [`Reader::fd`]. True: sleep, and a wake-up will come; false: there may be
    /// something to read already: call [`Reader::next`]. Call it each time before polling; calling it twice does no harm.
    /// While the broker is gone the fd becomes readable when attaching again is due.
    ///
    /// # Errors
    /// If the doze bell cannot be rung, or the process is out of fds.
    pub fn arm(&mut self) -> Result<bool, Error> {
        self.settle(event::Ready { first: true, second: self.link.connection.hung_up() })?;
        if self.has_news() {
            return Ok(false);
        }
        if self.broker_gone {
            return self.arm_retry();
        }
        let block = self.link.page.block();
        block.waiting.store(1, Ordering::Relaxed);
        block.seen_seq.store(self.ring.write_cursor_seen(), Ordering::Relaxed);
        // The waker reads `seen_seq` after it has read this bell: the system calls order the two.
        event::ring(&self.link.doze).map_err(OsError::at("ring doze bell"))?;
        Ok(true)
    }

    /// Has [`Reader::fd`] wait for the next attempt to attach, instead of a socket that hung up and stays readable.
    fn arm_retry(&mut self) -> Result<bool, Error> {
        let left = self.retry.remaining();
        let Some(poll_fd) = &self.poll_fd else { return Ok(false) };
        if left.is_zero() || !self.options.reattach {
            return Ok(false);
        }
        if self.retry_timer.is_none() {
            // It may have been taken out before.
            let _not_in = epoll::delete(poll_fd, &self.link.connection.fd);
            let timer = event::timer().map_err(OsError::at("timerfd_create"))?;
            epoll::add(poll_fd, &timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(OsError::at("epoll_ctl"))?;
            self.retry_timer = Some(timer);
        }
        let timer = self.retry_timer.as_ref().expect("just made");
        event::fire_in(timer, left).map_err(OsError::at("timerfd_settime"))?;
        Ok(true)
    }

    /// An fd that becomes readable when an armed reader ([`Reader::arm`]) has something to read or its broker is gone: for
    /// poll, select or epoll. It stays the same across restarts of the broker; never read from it.
    ///
    /// # Errors
    /// If the process is out of fds.
    pub fn fd(&mut self) -> Result<BorrowedFd<'_>, Error> {
        if self.poll_fd.is_none() {
            let fd = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
            watch(&fd, &self.link)?;
            self.poll_fd = Some(fd);
        }
        Ok(self.poll_fd.as_ref().expect("just made").as_fd())
    }

    /// Name it was attached by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes of the ring.
    pub fn geometry(&self) -> &Geometry {
        self.ring.memory().geometry()
    }

    /// Generation it is attached to.
    pub fn generation(&self) -> u64 {
        self.link.generation
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

    /// The books of this generation: `start + delivered + lost = read cursor`.
    pub fn account(&self) -> &Account {
        self.ring.account()
    }

    /// Next seq to read; a datagram in hand counts as not read yet.
    pub fn read_cursor(&self) -> u64 {
        self.ring.read_cursor()
    }

    /// Settles the datagram read last without reading on: brings [`Reader::account`] and `ringstat` up to date before a
    /// pause. `Some`: it was torn.
    ///
    /// # Errors
    /// Only if the ring is damaged.
    pub fn release(&mut self) -> Result<Option<Gap>, Error> {
        let gap = self.ring.release()?;
        self.report();
        Ok(gap)
    }

    /// Settles the datagram read last as [`Reader::release`] does, but a torn one is only said to be torn: its gap is told
    /// by the next read.
    #[cfg(feature = "ffi")]
    pub(crate) fn finish(&mut self) -> Result<(), Torn> {
        self.ring.validate()?;
        let settled = self.ring.release();
        debug_assert_eq!(settled, Ok(None), "it was just found whole");
        self.report_progress();
        Ok(())
    }

    /// What changes with every datagram. Relaxed: figures for people, each a word.
    #[inline(always)]
    fn report_progress(&self) {
        let (block, account) = (self.link.page.block(), self.ring.account());
        block.read_seq.store(self.ring.read_cursor(), Ordering::Relaxed);
        block.delivered.store(account.delivered, Ordering::Relaxed);
        block.bytes_delivered.store(account.bytes_delivered, Ordering::Relaxed);
        block.read_bytes.store(self.ring.read_bytes().unwrap_or(u64::MAX), Ordering::Relaxed);
        block.lag_max.store(account.lag_max, Ordering::Relaxed);
    }

    /// Everything.
    #[cold]
    fn report(&mut self) {
        let (block, account) = (self.link.page.block(), self.ring.account());
        block.start_seq.store(account.start, Ordering::Relaxed);
        block.lost.store(account.lost, Ordering::Relaxed);
        block.gaps.store(account.gaps, Ordering::Relaxed);
        block.bytes_lost.store(account.bytes_lost, Ordering::Relaxed);
        block.upstream_lost.store(account.upstream_lost, Ordering::Relaxed);
        if let Some(Gap { first, count, cause: Cause::Lapped, .. }) = account.last_gap
            && (block.last_gap_first.load(Ordering::Relaxed), block.last_gap_count.load(Ordering::Relaxed))
                != (first, count)
        {
            block.last_gap_first.store(first, Ordering::Relaxed);
            block.last_gap_count.store(count, Ordering::Relaxed);
            block.last_gap_time.store(clock::realtime_ns(), Ordering::Relaxed);
        }
        self.report_progress();
    }
}

fn watch(poll_fd: &OwnedFd, link: &Link) -> Result<(), Error> {
    for fd in [link.wake.as_fd(), link.connection.fd.as_fd()] {
        let data = epoll::EventData::new_u64(0);
        epoll::add(poll_fd, fd, data, epoll::EventFlags::IN).map_err(OsError::at("epoll_ctl"))?;
    }
    Ok(())
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("name", &self.name).field("account", self.ring.account()).finish_non_exhaustive()
    }
}
