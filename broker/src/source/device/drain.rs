//! The drain loop of a device that is present, the same for every transport.
//!
//! Contract: drains the FIFOs, one channel after the other, and never blocks. When they are empty,
//! it sleeps until an interrupt comes. It still checks them at least twice in the time a FIFO takes
//! to fill, so that a lost interrupt costs no data. Without interrupts it polls, with pauses that
//! grow up to a limit. Faults are named and counted: garbage (skipped; its exact amount is reported
//! as soon as the next good entry shows it), numbers that contradict each other, interrupts that
//! are lost or come without end, and datagrams longer than the ring's largest (cut).

use super::location::Location;
use super::transport::{Gone, Interrupts, Transport, disable_interrupts};
use crate::intake::for_sources::{Arrival, Intake};
use ringweir_device::{Drain, HAS_DATE, HAS_INTERRUPT, Shape};
use ringweir_proto::os::clock;
use ringweir_proto::ring::Layer;
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;

pub(super) const MS: u64 = 1_000_000;
/// How long a device may take to reset itself, and how long to start.
const START_NS: u64 = 1000 * MS;
/// Without interrupts: the first pause after a FIFO was found empty. It doubles with each empty
/// check, up to the longest pause.
const PAUSE_NS: u64 = 50_000;
/// The longest pause if the rate is unknown. Otherwise it is a quarter of the slack, but at most
/// [`PAUSE_MOST_NS`].
const PAUSE_UNKNOWN_NS: u64 = MS;
const PAUSE_MOST_NS: u64 = 10 * MS;
/// After this many interrupts without data, interrupts are ignored for [`STORM_NS`]. An interrupt
/// with data makes up for [`WORTH`] without, so a storm is noticed even if there is data as well.
const STORM: u32 = 64;
const WORTH: u32 = 4;
const STORM_NS: u64 = 100 * MS;
/// How long a disconnected device is drained at most. Its memory is still mapped, and the device
/// may still be storing.
const GOING_NS: u64 = 100 * MS;
/// How often the device's clock is compared with the system's.
const COMPARE_NS: u64 = 1000 * MS;

/// The phases of a device's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Found,
    Resetting { until: u64 },
    Reset,
    Starting { until: u64 },
    Running,
}

/// A device that is present.
pub(super) struct Link {
    pub(super) transport: Box<dyn Transport>,
    pub(super) shape: Shape,
    rate: Option<f64>,
    phase: Phase,
    /// The ring knows how many of the device's numbers are accounted for.
    positioned: bool,
    channels: Vec<Channel>,
    /// The next channel in turn.
    turn: u32,
    /// Interrupts are enabled, because the pump sleeps.
    pub(super) armed: bool,
    /// The end of that sleep.
    watch_until: u64,
    /// The device is disconnecting: why, and until when at most what it left in its memory is
    /// drained.
    going: Option<(Gone, u64)>,
    /// In the next round, check all channels, whatever the device's ready register says.
    look_at_all: bool,
    pause: u64,
    /// Interrupts are ignored until then.
    storm_until: u64,
    idle_interrupts: u32,
    silent_finds: u32,
    /// Date minus device time, and when they were compared.
    offset: u64,
    compared: Option<u64>,
}

struct Channel {
    drain: Drain,
    /// When the channel was last drained or found empty.
    looked: u64,
    lost: u32,
    lost_bytes: u32,
}

/// What the pump does next.
pub(super) enum Next {
    /// Flush, and begin the next round.
    Go,
    /// Wait until this moment, or for the interrupt if it is armed.
    Sleep(u64),
}

impl Link {
    pub(super) fn new(transport: Box<dyn Transport>, location: &Location) -> Self {
        let shape = *transport.window().shape();
        let rate = location.rate.or((shape.rate > 0).then_some(f64::from(shape.rate)));
        Self {
            transport,
            shape,
            rate,
            phase: Phase::Found,
            positioned: false,
            channels: Vec::new(),
            turn: 0,
            armed: false,
            watch_until: 0,
            going: None,
            look_at_all: true,
            pause: PAUSE_NS,
            storm_until: 0,
            idle_interrupts: 0,
            silent_finds: 0,
            offset: 0,
            compared: None,
        }
    }

    /// Continues starting the device. `Some`: call again at that moment. `None`: it runs, or,
    /// without `run`, it is ready to run. A device that runs already is left as it is.
    pub(super) fn start(&mut self, now: u64, run: bool) -> Result<Option<u64>, Gone> {
        let registers = self.transport.window().registers();
        // Acquire: what a running device wrote before is visible. Partner: the device's store of
        // `status`. Release, below: what was written before the order is visible to the device.
        // Partner: its load of `control`.
        let status = registers.status.status.load(Ordering::Acquire);
        let order = |control: u32| {
            registers.control.control.store(control, Ordering::Release);
            self.transport.doorbell();
        };
        let late = |what: &str, until: u64| match now < until {
            true => Ok(Some(now + MS)),
            false => Err(Gone(format!(
                "the device does not {what} within a second (status {status:#x})"
            ))),
        };
        match self.phase {
            Phase::Running => return Ok(None),
            Phase::Found if status & ringweir_device::IS_RUNNING == 0 => {
                order(ringweir_device::DO_RESET);
                self.phase = Phase::Resetting { until: now + START_NS };
                return Ok(Some(now + MS));
            }
            Phase::Found => {}
            Phase::Resetting { until } if status & ringweir_device::IS_RESETTING == 0 => {
                return late("reset itself", until);
            }
            Phase::Resetting { .. } | Phase::Reset if !run => {
                self.phase = Phase::Reset;
                return Ok(None);
            }
            Phase::Resetting { .. } | Phase::Reset => {
                order(ringweir_device::DO_RUN);
                self.phase = Phase::Starting { until: now + START_NS };
                return Ok(Some(now + MS));
            }
            Phase::Starting { until }
                if status & (ringweir_device::IS_RUNNING | ringweir_device::IS_RESETTING)
                    != ringweir_device::IS_RUNNING =>
            {
                return late("start", until);
            }
            Phase::Starting { .. } => {}
        }
        let window = self.transport.window();
        let channel = |index| {
            let fifo = window.fifo(index);
            // Touch every page, so that no drain causes a page fault.
            let _touched = fifo
                .words
                .iter()
                .step_by(512)
                .fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed));
            let load =
                |register: &ringweir_proto::sync::AtomicU32| register.load(Ordering::Relaxed);
            let drain = Drain::new(&self.shape, fifo);
            Channel {
                drain,
                looked: now,
                lost: load(&fifo.registers.lost),
                lost_bytes: load(&fifo.registers.lost_bytes),
            }
        };
        self.channels = (0..self.shape.channels).map(channel).collect();
        self.phase = Phase::Running;
        Ok(None)
    }

    /// How many of its numbers the consumers have accounted for, over all channels. `None`: it does
    /// not run yet, or was reset.
    pub(super) fn position(&self) -> Option<u32> {
        let accounted = self.channels.iter().map(|c| c.drain.accounted());
        (self.phase == Phase::Running).then(|| accounted.fold(0, u32::wrapping_add))
    }

    pub(super) fn round(
        &mut self,
        intake: &mut Intake,
        kind: &str,
        most: usize,
    ) -> Result<Next, Gone> {
        let now = intake.now();
        if !std::mem::replace(&mut self.positioned, true) {
            intake.set_position(self.position());
        }
        let slept = std::mem::take(&mut self.armed);
        let interrupts = match if slept { self.transport.take() } else { Ok(Interrupts::default()) }
        {
            Ok(interrupts) => interrupts,
            Err(gone) => {
                self.goes(now, gone)?;
                Interrupts::default()
            }
        };
        intake.count(PumpCounter::Interrupts, interrupts.count);
        intake.count(PumpCounter::InterruptJumps, interrupts.jumps);
        self.compare_clocks(now);
        let took = match self.drain(intake, kind, most) {
            Ok(took) => took,
            Err(torn_out) => return Err(self.going.take().map_or(torn_out, |(why, _)| why)),
        };
        if slept && self.going.is_none() {
            self.check_interrupts(intake, kind, interrupts.count > 0, took != Took::Nothing);
        }
        if let Some((why, _)) =
            self.going.take_if(|(_, until)| took == Took::Nothing || now >= *until)
        {
            self.report_tails(intake);
            return Err(why);
        }
        match took {
            Took::Datagrams => {
                self.pause = PAUSE_NS;
                return Ok(Next::Go);
            }
            // Sleep, so that a device that writes only garbage does not use up this processor.
            Took::Garbage => return Ok(Next::Sleep(now + MS)),
            Took::Nothing => {}
        }
        self.report_tails(intake);
        let slack = self.rate.map(|rate| (f64::from(self.shape.fifo_bytes) / rate * 1e9) as u64);
        if self.transport.interrupt().is_none()
            || self.shape.features & HAS_INTERRUPT == 0
            || now < self.storm_until
        {
            // No interrupt reports a disconnection, so check for it.
            if !self.transport.is_present() {
                self.goes(now, Gone("it disconnected, or its registers are gone".into()))?;
                return Ok(Next::Go);
            }
            let longest =
                slack.map_or(PAUSE_UNKNOWN_NS, |slack| (slack / 4).clamp(PAUSE_NS, PAUSE_MOST_NS));
            let pause = self.pause.min(longest);
            self.pause = (pause * 2).min(longest);
            return Ok(Next::Sleep(now + pause));
        }
        let (window, channels) = (self.transport.window(), &self.channels);
        let empty = || (0..).zip(channels).all(|(index, c)| c.drain.is_empty(window.fifo(index)));
        if !self.transport.arm(&empty) {
            self.look_at_all = true;
            return Ok(Next::Go);
        }
        self.armed = true;
        self.watch_until = now + slack.map_or(100 * MS, |slack| (slack / 2).clamp(MS, 100 * MS));
        Ok(Next::Sleep(self.watch_until))
    }

    /// The device disconnects. As long as its memory is still there, what it has stored is drained.
    /// `Err`: the memory is not there.
    fn goes(&mut self, now: u64, why: Gone) -> Result<(), Gone> {
        if !self.transport.is_intact() {
            return Err(why);
        }
        // A disconnected device may continue storing forever, so set a limit.
        self.going.get_or_insert((why, now + GOING_NS));
        Ok(())
    }

    /// Reports losses after the last entry.
    fn report_tails(&mut self, intake: &mut Intake) {
        let window = self.transport.window();
        for (index, channel) in (0..).zip(&mut self.channels) {
            if let Some(tail) = channel.drain.tail(window.fifo(index)) {
                intake.lost(Layer::Device, tail.lost.into(), true);
            }
        }
    }

    /// Checks after a sleep whether the device's interrupts came as they should.
    fn check_interrupts(
        &mut self,
        intake: &mut Intake,
        kind: &str,
        interrupted: bool,
        found: bool,
    ) {
        match (interrupted, found) {
            (true, true) => {
                self.idle_interrupts = self.idle_interrupts.saturating_sub(WORTH);
                self.silent_finds = 0;
            }
            // The sleep ended early, or there was none: the interrupt may be about to come.
            (false, _) if intake.now() < self.watch_until => {}
            (false, false) => {}
            (false, true) => {
                // Once, the interrupt may have been about to come here too.
                self.silent_finds += 1;
                if self.silent_finds > 1 {
                    intake.count(PumpCounter::InterruptsLost, 1);
                    intake.fault(format_args!(
                        "{kind}: data waited, and no interrupt came: found by looking"
                    ));
                }
            }
            (true, false) => {
                intake.count(PumpCounter::InterruptsIdle, 1);
                self.idle_interrupts += 1;
                if self.idle_interrupts == STORM {
                    self.idle_interrupts = 0;
                    self.storm_until = intake.now() + STORM_NS;
                    intake.fault(format_args!(
                        "{kind}: interrupt after interrupt brings nothing: polled for {} ms \
                        instead",
                        STORM_NS / MS
                    ));
                }
            }
        }
    }

    fn compare_clocks(&mut self, now: u64) {
        if !self.shape.timed()
            || self.shape.features & HAS_DATE != 0
            || self.compared.is_some_and(|then| now < then + COMPARE_NS)
        {
            return;
        }
        if let Some(time) = self.transport.window().device_time() {
            self.compared = Some(now);
            self.offset = clock::realtime_ns().wrapping_sub(time);
        }
    }

    /// One round over the channels.
    fn drain(&mut self, intake: &mut Intake, kind: &str, most: usize) -> Result<Took, Gone> {
        let count = self.shape.channels;
        let all = std::mem::take(&mut self.look_at_all) || self.going.is_some() || count == 1;
        // The register is a hint. The FIFO indices decide, and the check after arming finds what it
        // missed. Acquire: partner: the device's store of `ready`.
        let ready = if all {
            u32::MAX
        } else {
            self.transport.window().registers().status.ready.load(Ordering::Acquire)
        };
        let mut took = Took::Nothing;
        for step in 0..count {
            if !intake.has_room() {
                break;
            }
            let index = (self.turn + step) % count;
            if ready >> index & 1 == 1 {
                took = took.max(self.drain_one(index, intake, kind, most)?);
            }
        }
        self.turn = (self.turn + 1) % count;
        Ok(took)
    }

    fn drain_one(
        &mut self,
        index: u32,
        intake: &mut Intake,
        kind: &str,
        most: usize,
    ) -> Result<Took, Gone> {
        let torn_out = || Gone("its memory was torn out".into());
        let (transport, shape) = (&self.transport, &self.shape);
        let fifo = transport.window().fifo(index);
        let channel = &mut self.channels[index as usize];
        let mut took = Took::Nothing;
        while intake.has_room() {
            let entry = match channel.drain.look(fifo) {
                Ok(None) => break,
                Ok(Some(entry)) => entry,
                Err(garbage) => {
                    if !transport.is_intact() {
                        return Err(torn_out());
                    }
                    intake.fault(format_args!(
                        "{kind}: channel {index}: {garbage}; what the FIFO held is skipped"
                    ));
                    return Ok(took.max(Took::Garbage));
                }
            };
            if took == Took::Nothing {
                intake.drained(channel.filling(fifo, shape, self.rate, intake.now()));
            }
            let len = entry.len.min(most);
            let mut claim = intake.claim(len).map_err(|e| Gone(e.to_string()))?;
            channel.drain.copy(fifo, &entry, &mut claim.bytes()[..len]);
            // Check this before using anything of what was read.
            if !transport.is_intact() {
                return Err(torn_out());
            }
            if entry.renumbered {
                intake.set_position(None);
                self.positioned = false;
                intake.lost(Layer::Device, 1, false);
                intake.fault(format_args!(
                    "{kind}: channel {index}: its numbers contradict each other: counted anew"
                ));
            }
            if entry.lost > 0 {
                intake.lost(Layer::Device, entry.lost.into(), true);
            }
            if entry.discarded > 0 {
                intake.lost(Layer::Broker, entry.discarded.into(), true);
            }
            let source_time = entry.time.map_or(0, |time| time.wrapping_add(self.offset));
            let original_len = if len < entry.len { entry.len as u32 } else { 0 };
            intake.commit(0, len, Arrival { original_len, channel: index as u16, source_time });
            channel.drain.take(fifo, &entry);
            took = Took::Datagrams;
        }
        channel.looked = intake.now();
        Ok(took)
    }
}

/// The best result of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Took {
    Nothing,
    Garbage,
    Datagrams,
}

impl Channel {
    /// The drain gap: for how long the FIFO had been filling, in ns. See `proto/DESIGN.md` §11.
    fn filling(
        &mut self,
        fifo: ringweir_device::Fifo<'_>,
        shape: &Shape,
        rate: Option<f64>,
        now: u64,
    ) -> u64 {
        let since = now.saturating_sub(self.looked);
        let lost = fifo.registers.lost.load(Ordering::Relaxed);
        let lost_bytes = fifo.registers.lost_bytes.load(Ordering::Relaxed);
        let more = u64::from(lost.wrapping_sub(self.lost)) * u64::from(shape.front())
            + u64::from(lost_bytes.wrapping_sub(self.lost_bytes));
        (self.lost, self.lost_bytes) = (lost, lost_bytes);
        let Some(rate) = rate else { return since };
        since.min(((u64::from(self.drain.level()) + more) as f64 / rate * 1e9) as u64)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The device continues running, and counts what it loses until a broker drains it again.
        disable_interrupts(self.transport.window());
    }
}
