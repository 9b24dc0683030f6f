//! The pump: the hot loop of one stream.
//!
//! Contract: the only thread with real-time priority. In steady state it allocates nothing, takes
//! no lock, logs nothing and makes no system call but those of its source, its clock, and a wake
//! when a reader sleeps. It blocks in the kernel while its source is idle, unless it is set to
//! spin. Each round checks once for readers that come and go, and for the order to stop.

use super::core::PumpCore;
use crate::source::contract::{Fill, Source, SourceError, WaitFor};
use ringweir_proto::os::{clock, event};
use ringweir_proto::stats::PumpCounter;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Longest time in which a stopped pump publishes what is there.
const DRAIN_NS: u64 = 1_000_000_000;

/// One stream's pump.
pub struct Pump {
    core: PumpCore,
    source: Box<dyn Source>,
    spin: bool,
}

impl Pump {
    /// A pump from `source`, which sleeps while the source is idle.
    pub fn new(core: PumpCore, source: Box<dyn Source>) -> Self {
        Self { core, source, spin: false }
    }

    /// Sets whether the pump polls its source without sleeping.
    pub fn spin(mut self, spin: bool) -> Self {
        self.spin = spin;
        self
    }

    /// Pumps until the source ends, fails, or the stream is stopped. Then it marks the ring as
    /// ended and wakes all readers.
    pub fn run(mut self) -> Result<(), SourceError> {
        self.core.start();
        while self.core.handle.is_waiting() && !self.core.handle.is_stopped() {
            self.core.take_commands();
            sleep(&mut self.core, WaitFor::default(), None);
        }
        while !self.core.handle.is_stopped() {
            self.core.take_commands();
            if let Some(pause) = self.core.begin(clock::monotonic_ns()) {
                self.pause(pause);
                continue;
            }
            match self.fill()? {
                Fill::Took => {}
                Fill::Ended => return Ok(()),
                Fill::Idle if self.spin => std::hint::spin_loop(),
                Fill::Idle => self.sleep_for_source(),
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
            self.core.take_commands();
            if let Some(pause) = self.core.begin(now) {
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
                    let WaitFor { readable, until: next } = self.source.wait_for();
                    let mut fds: Vec<_> = readable
                        .into_iter()
                        .chain(self.source.watch())
                        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                        .collect();
                    let left = next.map_or(until, |next| next.min(until)).saturating_sub(now);
                    let limit = event::timespec(Duration::from_nanos(left));
                    let _woken = poll(&mut fds, Some(&limit));
                }
            }
        }
    }

    /// Publishes what the source has now, also in front of its failure, and wakes readers.
    #[inline(always)]
    fn fill(&mut self) -> Result<Fill, SourceError> {
        let filled = self.source.fill(self.core.intake.for_source());
        self.core.flush();
        filled
    }

    #[cold]
    fn pause(&mut self, time: Duration) {
        if self.spin {
            return std::hint::spin_loop();
        }
        self.core.pause(time);
    }

    fn sleep_for_source(&mut self) {
        let (wait_for, watch) = (self.source.wait_for(), self.source.watch());
        sleep(&mut self.core, wait_for, watch);
    }
}

/// Blocks until the pump's event is signalled, what the source waits for happens or what it watches
/// has news.
fn sleep(core: &mut PumpCore, wait_for: WaitFor<'_>, watch: Option<BorrowedFd<'_>>) {
    let limit =
        wait_for.until.map(|t| Duration::from_nanos(t.saturating_sub(clock::monotonic_ns())));
    if limit == Some(Duration::ZERO) {
        return;
    }
    let limit = limit.map(event::timespec);
    let event = core.handle.event();
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
        core.handle.clear_event();
    }
    core.intake.count(PumpCounter::Sleeps, 1);
}
