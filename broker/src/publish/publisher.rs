//! A program's own datagrams, written straight into the ring.

#![allow(unsafe_code)]

use super::error::{PublishError, StartError};
use super::options::StreamOptions;
use super::service::Service;
use crate::intake::for_sources::Arrival;
use crate::process::signal_mask::AllBlocked;
use crate::pump::core::PumpCore;
use crate::pump::shared::{Shared, SharedCore};
use crate::readers::registry::Readers;
use crate::stream::builder::Host;
use crate::stream::pump_thread::SignalEnd;
use crate::stream::running::Stream;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Layer, RingMemory};
use ringweir_proto::stats::PumpCounter;
use std::fmt::Display;
use std::ptr::NonNull;
use std::sync::Arc;

/// Publishes a stream: the calling thread does the work of a pump.
///
/// ```
/// use ringweir_broker::Publisher;
/// # let directory = std::env::temp_dir().join(format!("ringweir-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let mut publisher = Publisher::builder("daq0")
///     .capacity(64 << 20)
///     .max_datagram(256 << 10)
///     # .run_dir(&directory)
///     .build()?;
///
/// // One copy, from your memory into the ring:
/// publisher.publish(b"a datagram")?;
///
/// // Or none: fill the ring's own memory.
/// let mut claim = publisher.claim(4096)?;
/// claim.bytes()[..5].copy_from_slice(b"hello");
/// claim.commit(5)?;
/// publisher.flush()?;
/// # drop(publisher);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Readers see a datagram after the flush that follows its commit: [`Self::publish`] and
/// [`Self::publish_batch`] flush, [`Claim::commit`] does not. A commit without a flush is shown
/// after about 64 commits, or when the program has been silent for 200 ms. A flush costs more than
/// a commit; flush once for all that came together.
///
/// No call waits for a lossy reader. Where readers may attach lossless
/// ([`StreamOptions::lossless`]), a call waits as long as their budget allows; the `try_` calls
/// return [`PublishError::WouldWait`] instead.
///
/// Readers attach, sleep, wake and leave without the program's help, also while it publishes
/// nothing, within 200 ms.
///
/// Dropping the publisher ends the stream: readers read what is there, then see the end. If the
/// process dies, its next start adopts the ring and continues, and readers get one notice of the
/// restart. What it would have published meanwhile is not known: report it with [`Self::lost`].
///
/// One thread uses a publisher at a time (`&mut self`); it can be moved to another. For several
/// threads, make one publisher and stream for each, or put one into a `Mutex`. After `fork()` the
/// child's calls return [`PublishError::Forked`], and what the child drops does nothing.
pub struct Publisher {
    core: Arc<SharedCore>,
    readers: Arc<Readers>,
    /// Keeps the memory of claims mapped.
    ring: Arc<RingMemory>,
    max_datagram: usize,
    summary: String,
    // Dropped in this order: the ring ends, then the control thread sees it and removes the stream.
    signal_end: Option<SignalEnd>,
    service: Service,
}

// What a program may do with it is decided here, not by its fields.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Publisher>();
};

impl StreamOptions {
    /// Starts the stream. The calling program publishes it.
    ///
    /// # Errors
    /// If a value is out of range, the name is served already, or the ring cannot be made.
    pub fn build(self) -> Result<Publisher, StartError> {
        Publisher::start(&self)
    }
}

/// Memory of the ring, to be filled and committed. Dropping it without a commit publishes nothing;
/// claiming the same length again then gives the same memory, with what was filled in so far.
pub struct Claim<'p> {
    publisher: &'p mut Publisher,
    start: NonNull<u8>,
    len: usize,
}

/// Whether a call waits for lossless readers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

impl Publisher {
    /// A stream with this name: [`StreamOptions::new`].
    pub fn builder(name: &str) -> StreamOptions {
        StreamOptions::new(name)
    }

    fn start(options: &StreamOptions) -> Result<Self, StartError> {
        let mut host = Host::in_program(options.make_run_dir()?);
        let _for_its_threads = AllBlocked::here();
        let mut start = || -> anyhow::Result<Self> {
            let (stream, core, signal_end) =
                Stream::builder(&options.config, &mut host).start_pushed()?;
            let (ring, summary) = (stream.memory().clone(), stream.summary().to_owned());
            let readers = stream.readers().clone();
            tracing::info!("{summary}");
            let service = Service::start(vec![stream])?;
            if let Some(shared) = &mut *core.lock() {
                shared.core.start();
            }
            Ok(Self {
                core,
                readers,
                max_datagram: ring.geometry().max_datagram() as usize,
                ring,
                summary,
                signal_end: Some(signal_end),
                service,
            })
        };
        start().map_err(|e| StartError::new(&options.config.name, &e))
    }

    /// What was granted, in one line: sizes, memory, scheduling class, and what was lost by a
    /// restart, if the ring was adopted.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The largest datagram, bytes.
    pub fn max_datagram(&self) -> usize {
        self.max_datagram
    }

    /// The sequence number of the next datagram. It is not 0 at the start if the ring was adopted.
    /// In a child of `fork()` it is 0.
    pub fn next_seq(&self) -> u64 {
        if self.is_in_child() {
            return 0;
        }
        self.core.lock().as_mut().map_or(0, |shared| shared.core.intake.publisher().next_seq())
    }

    /// Whether this process is a child of the one that made the publisher, which alone may use it.
    #[inline]
    pub fn is_in_child(&self) -> bool {
        self.service.is_in_child()
    }

    /// Publishes one datagram.
    ///
    /// # Errors
    /// [`PublishError::TooLong`], [`PublishError::Forked`], [`PublishError::NotServed`].
    #[inline]
    pub fn publish(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        self.publish_as(bytes, Arrival::default())
    }

    /// Publishes one datagram, with its channel, the time when the source saw it, and its length
    /// before it was cut.
    ///
    /// # Errors
    /// As [`Self::publish`].
    #[inline]
    pub fn publish_as(&mut self, bytes: &[u8], arrival: Arrival) -> Result<(), PublishError> {
        self.put(bytes, arrival, Waits::Yes, true)
    }

    /// The same without waiting for lossless readers.
    ///
    /// # Errors
    /// As [`Self::publish`], and [`PublishError::WouldWait`].
    #[inline]
    pub fn try_publish(&mut self, bytes: &[u8], arrival: Arrival) -> Result<(), PublishError> {
        self.put(bytes, arrival, Waits::No, true)
    }

    /// Publishes several datagrams and shows them together. Returns how many.
    ///
    /// # Errors
    /// As [`Self::publish`]. Those before the one that failed are published; [`Self::next_seq`]
    /// tells how many.
    pub fn publish_batch<'b>(
        &mut self,
        datagrams: impl IntoIterator<Item = &'b [u8]>,
    ) -> Result<usize, PublishError> {
        let mut count = 0;
        for bytes in datagrams {
            if let Err(e) = self.put(bytes, Arrival::default(), Waits::Yes, false) {
                // A fork would be reported again; nothing else can fail here.
                let _reported = self.flush();
                return Err(e);
            }
            count += 1;
        }
        self.flush()?;
        Ok(count)
    }

    #[inline]
    fn put(
        &mut self,
        bytes: &[u8],
        arrival: Arrival,
        waits: Waits,
        flush: bool,
    ) -> Result<(), PublishError> {
        self.check(bytes.len())?;
        self.with_room(waits, |core, is_new| {
            // All of a batch that go together have one time, but not that of an earlier claim.
            if is_new || flush {
                core.intake.set_now(clock::monotonic_ns());
            }
            core.intake.for_source().claim(bytes.len())?.write(0, bytes);
            core.intake.for_source().commit(0, bytes.len(), arrival);
            if flush {
                core.flush();
            }
            Ok(!flush)
        })
    }

    /// Claims memory of the ring for one datagram of up to `len` bytes. Its old content is lost to
    /// readers from now on.
    ///
    /// # Errors
    /// [`PublishError::TooLong`], [`PublishError::Forked`].
    #[inline]
    pub fn claim(&mut self, len: usize) -> Result<Claim<'_>, PublishError> {
        self.claim_for(len, Waits::Yes)
    }

    /// The same without waiting for lossless readers.
    ///
    /// # Errors
    /// As [`Self::claim`], and [`PublishError::WouldWait`].
    #[inline]
    pub fn try_claim(&mut self, len: usize) -> Result<Claim<'_>, PublishError> {
        self.claim_for(len, Waits::No)
    }

    #[inline]
    fn claim_for(&mut self, len: usize, waits: Waits) -> Result<Claim<'_>, PublishError> {
        self.check(len)?;
        let mut start = NonNull::dangling();
        self.with_room(waits, |core, _| {
            start = NonNull::from(&mut *core.intake.for_source().claim(len)?.bytes()).cast();
            Ok(true)
        })?;
        Ok(Claim { publisher: self, start, len })
    }

    /// Shows all commits to readers, and wakes those that sleep.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    #[inline]
    pub fn flush(&mut self) -> Result<(), PublishError> {
        self.check(0)?;
        if let Some(shared) = &mut *self.core.lock() {
            shared.core.flush();
            shared.in_round = false;
        }
        Ok(())
    }

    /// Reports that `count` datagrams were lost before the next one, in `layer`. With `exact` false
    /// the count is a lower bound. Readers learn of it before the next datagram.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    pub fn lost(&mut self, layer: Layer, count: u64, exact: bool) -> Result<(), PublishError> {
        self.with_core(|core| core.intake.for_source().lost(layer, count, exact))
    }

    /// Reports that what the datagrams come from is gone. Readers see it at this point of the
    /// stream, and `why` is logged.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    pub fn source_gone(&mut self, why: impl Display) -> Result<(), PublishError> {
        self.with_core(|core| core.intake.for_source().device_gone(why))?;
        self.flush()
    }

    /// Reports that it is back; `how` is logged.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    pub fn source_back(&mut self, how: impl Display) -> Result<(), PublishError> {
        self.with_core(|core| core.intake.for_source().device_back(how))?;
        self.flush()
    }

    /// Counts a fault and logs its text, at most 200 bytes of it, rate limited.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    pub fn fault(&mut self, text: impl Display) -> Result<(), PublishError> {
        self.with_core(|core| core.intake.for_source().fault(text))
    }

    /// The link type of the datagrams in a capture file (a number of <https://www.tcpdump.org>'s
    /// list): `ringcat -w` writes it.
    ///
    /// # Errors
    /// [`PublishError::Forked`].
    pub fn set_link_type(&mut self, number: u16) -> Result<(), PublishError> {
        self.with_core(|core| core.intake.for_source().set_link_type(number))
    }

    /// How many readers are attached. In a child of `fork()` it is 0.
    pub fn readers(&self) -> usize {
        if self.is_in_child() { 0 } else { self.readers.count() }
    }

    /// How often and for how long the stream has waited for lossless readers. In a child of
    /// `fork()` both are 0.
    pub fn waited(&self) -> (u64, std::time::Duration) {
        if self.is_in_child() {
            return Default::default();
        }
        let counter = |counter| self.ring.counter(counter);
        let time = std::time::Duration::from_nanos(counter(PumpCounter::HeldTime));
        (counter(PumpCounter::Holds), time)
    }

    fn with_core(&mut self, act: impl FnOnce(&mut PumpCore)) -> Result<(), PublishError> {
        self.check(0)?;
        if let Some(shared) = &mut *self.core.lock() {
            act(&mut shared.core);
        }
        Ok(())
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), PublishError> {
        if self.is_in_child() {
            return Err(PublishError::Forked);
        }
        if len > self.max_datagram {
            return Err(PublishError::TooLong { asked: len, most: self.max_datagram });
        }
        Ok(())
    }

    /// Calls `act` once the ring has room for one more datagram, with whether a round begins with
    /// it. It returns whether the round continues, and sets the time of what it commits.
    #[inline]
    fn with_room(
        &mut self,
        waits: Waits,
        act: impl FnOnce(&mut PumpCore, bool) -> Result<bool, PublishError>,
    ) -> Result<(), PublishError> {
        let mut shared = self.core.lock();
        // It is there: only dropping the publisher takes it.
        let Some(Shared { core, in_round }) = &mut *shared else {
            return Err(PublishError::NotServed);
        };
        let mut is_new = false;
        while !(*in_round && core.intake.for_source().has_room()) {
            *in_round = false;
            if core.handle.is_stopped() {
                return Err(PublishError::NotServed);
            }
            // Commands are taken when everything is flushed.
            core.flush();
            core.take_commands();
            self.core.count_round();
            // Only waiting takes time.
            let now = if core.intake.is_gated() { clock::monotonic_ns() } else { 0 };
            match core.begin(now) {
                None => (*in_round, is_new) = (true, true),
                Some(_) if waits == Waits::No => return Err(PublishError::WouldWait),
                Some(pause) => core.pause(pause),
            }
        }
        *in_round = act(core, is_new)?;
        Ok(())
    }
}

impl Claim<'_> {
    /// The memory. What is in it is what was published there a lap before.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        if self.publisher.is_in_child() {
            // The ring is not mapped there.
            return &mut [];
        }
        // SAFETY: this is the process that made the claim. `start` and `len` are those of a claim,
        // whose range the ring has checked. The memory stays mapped while the publisher has the
        // ring. Until the next claim, which needs the publisher that `self` borrows exclusively,
        // nothing else in this process accesses the range: the control thread only counts readers,
        // and no reader of this process uses this mapping. Other processes read it through their
        // own mappings and discard what they read.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Commits the first `len` bytes as the next datagram. [`Publisher::flush`] shows it. If a
    /// lossless reader has attached since the claim, this may wait for it.
    ///
    /// # Errors
    /// [`PublishError::PastTheClaim`], [`PublishError::Forked`], [`PublishError::NotServed`].
    #[inline]
    pub fn commit(self, len: usize) -> Result<(), PublishError> {
        self.commit_as(len, Arrival::default())
    }

    /// The same with channel, time and original length.
    ///
    /// # Errors
    /// As [`Self::commit`].
    #[inline]
    pub fn commit_as(self, len: usize, arrival: Arrival) -> Result<(), PublishError> {
        if len > self.len {
            return Err(PublishError::PastTheClaim { asked: len, claimed: self.len });
        }
        self.publisher.check(0)?;
        // The claim has announced its bytes and not its slot, which a lossless reader that came
        // meanwhile may still need.
        self.publisher.with_room(Waits::Yes, |core, _| {
            // A claim may have been open for a long time.
            core.intake.set_now(clock::monotonic_ns());
            core.intake.for_source().commit(0, len, arrival);
            Ok(true)
        })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.is_in_child() {
            // The ring, the socket and the threads are the parent's.
            std::mem::forget(self.signal_end.take());
            return;
        }
        // Ends the ring and wakes all readers.
        if let Some(mut shared) = self.core.lock().take() {
            shared.core.flush();
        }
        self.signal_end = None;
        if let Err(e) = self.service.wait() {
            tracing::error!("{e:#}");
        }
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("stream", &self.summary).finish_non_exhaustive()
    }
}
