//! What a pump does around its source: begin a round, wait for lossless readers, show what was
//! committed, wake readers, learn of readers that come and go.
//!
//! Contract: used by one thread at a time: the pump's, or that of a program that publishes itself
//! (`crate::publish`). Nothing here allocates, takes a lock or logs, and nothing blocks but
//! [`PumpCore::pause`]. Dropping it marks the ring as ended and wakes all readers, unless it never
//! started or its stream was abandoned: an adopted ring may still have readers then, who wait for
//! the next broker.

use super::back_pressure::BackPressure;
use super::handle::PumpHandle;
use crate::intake::for_pump::PumpIntake;
use crate::readers::commands::ReaderCommand;
use crate::readers::pump_list::{PumpReaders, Woken};
use crate::wake::slow_wake::SLOW_WAKE_NS;
use ringweir_proto::os::event;
use ringweir_proto::ring::Budget;
use ringweir_proto::stats::PumpCounter;
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;
use std::time::Duration;

/// A pump without its source.
pub struct PumpCore {
    /// The way into the ring.
    pub intake: PumpIntake,
    back_pressure: BackPressure,
    readers: PumpReaders,
    has_started: bool,
    /// How other threads control the pump.
    pub handle: Arc<PumpHandle>,
}

impl PumpCore {
    /// A pump into `intake`'s ring, which lets no reader attach lossless.
    pub fn new(intake: PumpIntake, readers: PumpReaders, handle: Arc<PumpHandle>) -> Self {
        let back_pressure = BackPressure::default();
        Self { intake, back_pressure, readers, has_started: false, handle }
    }

    /// Waits for up to `most` lossless readers, for as long as their `budget` allows.
    pub fn lossless(mut self, budget: Budget, most: u32) -> Self {
        self.back_pressure = BackPressure::new(budget, most);
        self
    }

    /// From now on dropping it ends the ring.
    pub fn start(&mut self) {
        self.has_started = true;
    }

    /// Begins a round at `now`, CLOCK_MONOTONIC ns. `Some`: nothing may be claimed now, because a
    /// lossless reader would lose what it has not read; try again after this time.
    #[inline(always)]
    pub fn begin(&mut self, now: u64) -> Option<Duration> {
        self.intake.begin(now);
        if self.intake.is_gated() {
            return self.back_pressure.check(&mut self.intake, &self.readers);
        }
        None
    }

    /// Ends a round: shows its commits to readers, and wakes those that sleep.
    #[inline(always)]
    pub fn flush(&mut self) {
        if self.intake.flush() {
            self.wake();
        }
    }

    #[inline]
    fn wake(&mut self) {
        match self.readers.wake() {
            Woken::NoReader => {}
            Woken::One => self.intake.count(PumpCounter::WakesInline, 1),
            Woken::OneSlow(reader) => {
                self.intake.count(PumpCounter::WakesInline, 1);
                self.intake.notice(format_args!(
                    "{}: each wake takes the pump over {} us, so the waker thread wakes it from \
                    now on",
                    reader.describe(),
                    SLOW_WAKE_NS / 1000
                ));
            }
            Woken::ByWaker => self.intake.count(PumpCounter::WakeEvents, 1),
        }
    }

    /// Learns of readers that have come and gone. Everything is flushed.
    #[inline]
    pub fn take_commands(&mut self) {
        while let Some(command) = self.readers.next_command() {
            match &command {
                ReaderCommand::Attach(entry) => self.back_pressure.attach(entry, &mut self.intake),
                ReaderCommand::Detach(index) => self.back_pressure.detach(*index, &mut self.intake),
            }
            self.readers.apply(command);
        }
    }

    /// Blocks until the pump's event is signalled or the time is over.
    #[cold]
    pub fn pause(&mut self, time: Duration) {
        let event = PollFd::from_borrowed_fd(self.handle.event(), PollFlags::IN);
        let _woken = poll(&mut [event], Some(&event::timespec(time)));
        self.handle.clear_event();
    }
}

impl Drop for PumpCore {
    /// Runs however the pump ends, even by a panic: no reader may sleep for datagrams that never
    /// come.
    fn drop(&mut self) {
        if self.has_started && !self.handle.is_abandoned() {
            self.intake.end();
            self.wake();
        }
    }
}
