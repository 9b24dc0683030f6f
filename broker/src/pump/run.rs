//! The pump: the hot loop of one stream.
//!
//! Contract: the only thread with real-time priority. In steady state it allocates nothing, takes
//! no lock, logs nothing and makes no system call but those of its source, its clock, and a wake
//! when a reader sleeps. It blocks in the kernel while its source is idle, unless it is set to
//! spin. Each round checks once for readers that come and go, and for the order to stop.

use super::back_pressure::BackPressure;
use super::handle::PumpHandle;
use crate::intake::for_pump::PumpIntake;
use crate::readers::commands::ReaderCommand;
use crate::readers::pump_list::{PumpReaders, Woken};
use crate::source::contract::{Fill, Source, SourceError, WaitFor};
use crate::wake::slow_wake::SLOW_WAKE_NS;
use ringweir_proto::os::{clock, event};
use ringweir_proto::ring::Budget;
use ringweir_proto::stats::PumpCounter;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Longest time in which a stopped pump publishes what is there.
const DRAIN_NS: u64 = 1_000_000_000;

/// One stream's pump.
pub struct Pump {
    intake: PumpIntake,
    source: Box<dyn Source>,
    back_pressure: BackPressure,
    readers: PumpReaders,
    handle: Arc<PumpHandle>,
    spin: bool,
    has_run: bool,
}

impl Pump {
    /// A pump from `source` into `intake`'s ring, which lets no reader attach lossless and sleeps
    /// while the source is idle.
    pub fn new(
        source: Box<dyn Source>,
        intake: PumpIntake,
        readers: PumpReaders,
        handle: Arc<PumpHandle>,
    ) -> Self {
        let back_pressure = BackPressure::default();
        Self { intake, source, back_pressure, readers, handle, spin: false, has_run: false }
    }

    /// Waits for up to `most` lossless readers, for as long as their `budget` allows.
    pub fn lossless(mut self, budget: Budget, most: u32) -> Self {
        self.back_pressure = BackPressure::new(budget, most);
        self
    }

    /// Sets whether the pump polls its source without sleeping.
    pub fn spin(mut self, spin: bool) -> Self {
        self.spin = spin;
        self
    }

    /// Pumps until the source ends, fails, or the stream is stopped. Then it marks the ring as
    /// ended and wakes all readers.
    pub fn run(mut self) -> Result<(), SourceError> {
        self.has_run = true;
        self.pump()
    }

    fn pump(&mut self) -> Result<(), SourceError> {
        while self.handle.is_waiting() && !self.handle.is_stopped() {
            self.take_commands();
            sleep(&self.handle, &mut self.intake, WaitFor::default(), None);
        }
        while !self.handle.is_stopped() {
            self.take_commands();
            self.intake.begin(clock::monotonic_ns());
            if self.intake.is_gated()
                && let Some(pause) = self.back_pressure.check(&mut self.intake, &self.readers)
            {
                self.pause(pause);
                continue;
            }
            match self.fill()? {
                Fill::Took => {}
                Fill::Ended => return Ok(()),
                Fill::Idle if self.spin => std::hint::spin_loop(),
                Fill::Idle => {
                    let (wait_for, watch) = (self.source.wait_for(), self.source.watch());
                    sleep(&self.handle, &mut self.intake, wait_for, watch);
                }
            }
        }
        self.take_the_rest()
    }

    /// The stream was stopped: publishes what the source has taken already, as far as lossless
    /// readers allow it within [`DRAIN_NS`].
    #[cold]
    fn take_the_rest(&mut self) -> Result<(), SourceError> {
        let Some(time) = self.source.stop_taking() else { return Ok(()) };
        let until = clock::monotonic_ns() + time.as_nanos() as u64;
        loop {
            let now = clock::monotonic_ns();
            self.intake.begin(now);
            self.take_commands();
            if self.intake.is_gated()
                && let Some(pause) = self.back_pressure.check(&mut self.intake, &self.readers)
            {
                if now >= until + DRAIN_NS {
                    return Ok(());
                }
                self.pause(pause);
                continue;
            }
            match self.fill()? {
                Fill::Ended => return Ok(()),
                Fill::Idle if now >= until => return Ok(()),
                Fill::Took if now >= until + DRAIN_NS => return Ok(()),
                Fill::Took => {}
                Fill::Idle => {
                    let source = self.source.wait_for().readable;
                    let mut fds: Vec<_> = source
                        .iter()
                        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
                        .collect();
                    let limit = event::timespec(Duration::from_nanos(until - now));
                    let _woken = poll(&mut fds, Some(&limit));
                }
            }
        }
    }

    /// Publishes what the source has now, also in front of its failure, and wakes readers.
    #[inline(always)]
    fn fill(&mut self) -> Result<Fill, SourceError> {
        let filled = self.source.fill(self.intake.for_source());
        if self.intake.flush() {
            self.wake();
        }
        filled
    }

    #[inline]
    fn wake(&mut self) {
        match self.readers.wake() {
            Woken::Nobody => {}
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

    #[inline]
    fn take_commands(&mut self) {
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
    fn pause(&mut self, time: Duration) {
        if self.spin {
            return std::hint::spin_loop();
        }
        let event = PollFd::from_borrowed_fd(self.handle.event(), PollFlags::IN);
        let _woken = poll(&mut [event], Some(&event::timespec(time)));
        self.handle.clear_event();
    }
}

/// Blocks until the pump's event is signalled, what the source waits for happens or what it watches
/// has news.
fn sleep(
    handle: &PumpHandle,
    intake: &mut PumpIntake,
    wait_for: WaitFor<'_>,
    watch: Option<BorrowedFd<'_>>,
) {
    let limit =
        wait_for.until.map(|t| Duration::from_nanos(t.saturating_sub(clock::monotonic_ns())));
    if limit == Some(Duration::ZERO) {
        return;
    }
    let limit = limit.map(event::timespec);
    let event = handle.event();
    let source = wait_for.readable.unwrap_or(event);
    let mut fds = [
        PollFd::from_borrowed_fd(event, PollFlags::IN),
        PollFd::from_borrowed_fd(source, PollFlags::IN),
        PollFd::from_borrowed_fd(watch.unwrap_or(event), PollFlags::IN),
    ];
    let polled = if watch.is_some() { 3 } else { 2 };
    // A failed poll (a signal, for example) is a wake-up like any other: the loop checks again.
    let _woken = poll(&mut fds[..polled], limit.as_ref());
    if !fds[0].revents().is_empty() {
        handle.clear_event();
    }
    intake.count(PumpCounter::Sleeps, 1);
}

impl Drop for Pump {
    /// Runs however the pump ends, even by a panic: no reader may sleep for datagrams that never
    /// come. A pump that never ran ends nothing: its stream did not start, and an adopted ring may
    /// still have readers, who wait for the next broker.
    fn drop(&mut self) {
        if self.has_run {
            self.intake.end();
            self.wake();
        }
    }
}
