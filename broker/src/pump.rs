//! The pump: the hot loop of one stream. Source in, ring out, wake who sleeps.
//!
//! Contract: the only thread at real-time priority. In steady state it allocates nothing, takes no
//! lock, logs nothing and makes no system call but those of its source, its clock, and a wake when
//! somebody sleeps. It blocks in the kernel while its source is idle unless it was told to spin.
//! Housekeeping (readers coming and going, stopping) is one look at a queue a round.

use crate::back_pressure::BackPressure;
use crate::intake::Intake;
use crate::readers::{Event, ReaderEntry};
use crate::source::{Fill, Source, SourceError, WaitFor};
use ringweir_proto::os::{clock, event};
use ringweir_proto::ring::{Wake, WakeGate};
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::{AtomicU32, Ordering};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;
use std::time::Duration;

/// What the control thread tells the pump.
pub enum Command {
    /// Count this reader among those to be woken.
    Attach(Arc<ReaderEntry>),
    /// Forget it.
    Detach(u32),
}

/// What others hold of a pump.
pub struct PumpHandle {
    event: Event,
    stop: AtomicU32,
    hold: AtomicU32,
}

impl PumpHandle {
    /// A handle; with `hold`, the pump waits for [`Self::release`] before it takes anything in.
    pub fn new(event: Event, hold: bool) -> Self {
        Self { event, stop: AtomicU32::new(0), hold: AtomicU32::new(u32::from(hold)) }
    }

    /// Has the pump look at its queue, even if its source is silent.
    pub fn kick(&self) {
        self.event.ring();
    }

    /// Ends the stream: what was taken in is published, then the pump returns.
    pub fn stop(&self) {
        self.stop.store(1, Ordering::Release);
        self.kick();
    }

    /// Lets a held pump begin.
    pub fn release(&self) {
        self.hold.store(0, Ordering::Release);
        self.kick();
    }
}

/// Processor time from which waking a reader is dear; the usual is a tenth of it.
const SLOW_WAKE_NS: u64 = 25_000;
/// One of so many inline wakes is measured, and so many in a row of one reader must be dear.
const MEASURED: u32 = 16;
const SLOW_WAKES_IN_A_ROW: u32 = 3;

/// Finds out whose wakes are dear. By processor time, so that it does not matter whether the pump
/// is interrupted in one.
#[derive(Default)]
struct SlowWakeDetector {
    rung: u32,
    index: u32,
    in_a_row: u32,
}

impl SlowWakeDetector {
    /// Counts an inline wake; whether it is to be measured.
    fn rings(&mut self) -> bool {
        self.rung = self.rung.wrapping_add(1);
        self.rung.is_multiple_of(MEASURED)
    }

    /// Whether reader `index`, whose wake took so long just now, has been dear too often.
    fn is_slow_to_wake(&mut self, index: u32, took: u64) -> bool {
        let again = took >= SLOW_WAKE_NS && (self.in_a_row == 0 || self.index == index);
        (self.index, self.in_a_row) =
            (index, if again { self.in_a_row + 1 } else { (took >= SLOW_WAKE_NS).into() });
        let found = self.in_a_row >= SLOW_WAKES_IN_A_ROW;
        if found {
            self.in_a_row = 0;
        }
        found
    }
}

/// One stream's pump.
pub struct Pump {
    intake: Intake,
    source: Box<dyn Source>,
    back_pressure: BackPressure,
    gate: Arc<WakeGate>,
    commands: rtrb::Consumer<Command>,
    readers: Vec<Option<Arc<ReaderEntry>>>,
    parkers: u32,
    waker_event: Arc<Event>,
    handle: Arc<PumpHandle>,
    spin: bool,
    slow_wakes: SlowWakeDetector,
}

impl Pump {
    /// A pump from `source` into `intake`'s ring.
    #[allow(clippy::too_many_arguments, reason = "wiring, called once")]
    pub fn new(
        intake: Intake,
        source: Box<dyn Source>,
        back_pressure: BackPressure,
        gate: Arc<WakeGate>,
        commands: rtrb::Consumer<Command>,
        readers_max: u32,
        waker_event: Arc<Event>,
        handle: Arc<PumpHandle>,
        spin: bool,
    ) -> Self {
        let readers = (0..readers_max).map(|_| None).collect();
        Self {
            intake,
            source,
            back_pressure,
            gate,
            commands,
            readers,
            parkers: 0,
            waker_event,
            handle,
            spin,
            slow_wakes: SlowWakeDetector::default(),
        }
    }

    /// Pumps until the source ends, fails, or the stream is stopped; then marks the ring as ended
    /// and wakes everybody.
    pub fn run(mut self) -> Result<(), SourceError> {
        self.pump()
    }

    fn pump(&mut self) -> Result<(), SourceError> {
        while self.handle.hold.load(Ordering::Acquire) != 0
            && self.handle.stop.load(Ordering::Acquire) == 0
        {
            self.housekeeping();
            self.sleep(true);
        }
        while self.handle.stop.load(Ordering::Acquire) == 0 {
            self.housekeeping();
            self.intake.begin(clock::monotonic_ns());
            if self.intake.is_gated()
                && let Some(pause) = self.back_pressure.look(&mut self.intake, &self.readers)
            {
                self.pause(pause);
                continue;
            }
            let filled = self.source.fill(&mut self.intake);
            if self.intake.flush() {
                self.wake();
            }
            match filled? {
                Fill::Took => {}
                Fill::Ended => return Ok(()),
                Fill::Idle if self.spin => std::hint::spin_loop(),
                Fill::Idle => self.sleep(false),
            }
        }
        Ok(())
    }

    #[inline]
    fn wake(&mut self) {
        if self.parkers == 0 {
            return;
        }
        match self.gate.after_commit() {
            Wake::Nobody => {}
            Wake::One(index) => {
                self.intake.count(PumpCounter::WakesInline, 1);
                if let Some(Some(entry)) = self.readers.get(index as usize) {
                    if self.slow_wakes.rings() {
                        let before = clock::thread_cpu_ns();
                        entry.wake.ring();
                        if self.slow_wakes.is_slow_to_wake(index, clock::thread_cpu_ns() - before) {
                            entry.mark_slow_to_wake();
                            let (label, peer) = (&entry.label, &entry.peer);
                            self.intake.notice(format_args!(
                                "waking reader {label} (place {index}, pid {}, uid {}) takes the \
                                pump over {} us each time: \
                                 the waker does it from now on",
                                peer.pid,
                                peer.uid,
                                SLOW_WAKE_NS / 1000
                            ));
                        }
                    } else {
                        entry.wake.ring();
                    }
                }
            }
            Wake::Several => {
                self.intake.count(PumpCounter::WakeEvents, 1);
                self.waker_event.ring();
            }
        }
    }

    #[inline]
    fn housekeeping(&mut self) {
        while let Ok(command) = self.commands.pop() {
            match command {
                Command::Attach(entry) => {
                    self.parkers += u32::from(entry.parks);
                    let index = entry.index as usize;
                    self.back_pressure.attach(&entry, &mut self.intake);
                    entry.now_known();
                    self.readers[index] = Some(entry);
                }
                Command::Detach(index) => {
                    self.back_pressure.detach(index, &mut self.intake);
                    if let Some(entry) = self.readers[index as usize].take() {
                        self.parkers -= u32::from(entry.parks);
                    }
                }
            }
        }
    }

    /// Blocks until the bell rings or the time is over.
    #[cold]
    fn pause(&mut self, time: Duration) {
        if self.spin {
            return std::hint::spin_loop();
        }
        let event = self.handle.event.fd();
        let _woken = poll(
            &mut [PollFd::from_borrowed_fd(event, PollFlags::IN)],
            Some(&event::timespec(time)),
        );
        self.handle.event.drain();
    }

    /// Blocks until the bell rings or, unless the stream is held, what the source waits for
    /// happens.
    fn sleep(&mut self, held: bool) {
        let wait_for = if held { WaitFor::default() } else { self.source.wait_for() };
        let limit =
            wait_for.until.map(|t| Duration::from_nanos(t.saturating_sub(clock::monotonic_ns())));
        if limit == Some(Duration::ZERO) {
            return;
        }
        let limit = limit.map(event::timespec);
        let event = self.handle.event.fd();
        let source = wait_for.readable.unwrap_or(event);
        let mut fds = [
            PollFd::from_borrowed_fd(event, PollFlags::IN),
            PollFd::from_borrowed_fd(source, PollFlags::IN),
        ];
        // A failed poll (a signal, say) is a wake-up like any other: the loop looks again.
        let _woken = poll(&mut fds, limit.as_ref());
        if !fds[0].revents().is_empty() {
            self.handle.event.drain();
        }
        self.intake.count(PumpCounter::Sleeps, 1);
    }
}

impl Drop for Pump {
    /// However it ended, by a panic too: nobody may sleep for datagrams that never come.
    fn drop(&mut self) {
        self.intake.publisher().end();
        self.wake();
    }
}

#[cfg(test)]
mod tests;
