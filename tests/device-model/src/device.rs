//! The running device: one thread makes datagrams on time, obeys the registers, and misbehaves on
//! request.
//!
//! Contract: the thread looks at the registers each millisecond and whenever the doorbell rings. A
//! consumer that hangs up changes nothing: the device continues and overflows, as hardware would.
//! Every wait is bounded.

use super::account::{DeviceAccount, FaultCounts};
use super::faults::{Fault, Order, WORDS};
use super::model::{DeviceModel, Fate};
use super::port::{Place, Port};
use super::schedule::{Chase, Schedule};
use super::spec::{DeviceTime, Spec};
use anyhow::Context;
use ringweir_device::Shape;
use ringweir_proto::os::{clock, event};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the device has to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The device.
    pub spec: Spec,
    /// Where consumers find it.
    pub place: Place,
    /// Whether it catches up at once when it is late.
    pub strict: bool,
    /// Instead of a rate: makes each datagram when the one before was taken, after a pause below
    /// this.
    pub chase: Option<Duration>,
    /// Number of datagrams.
    pub count: Option<u64>,
    /// How long it makes datagrams, from when it first ran.
    pub duration: Option<Duration>,
    /// How long it waits for the consumer at the end.
    pub drain_limit: Duration,
    /// Faults to inject.
    pub orders: Vec<Order>,
}

/// Signals from outside, besides standard input.
pub struct Signals {
    /// The device is to end.
    pub stop: Arc<AtomicBool>,
    /// The device is to print its account.
    pub device_account: Arc<AtomicBool>,
    /// Readable when a signal has come.
    pub event: UnixStream,
}

/// Interval of looks at the registers without a doorbell, in ns.
const LOOK: u64 = 1_000_000;
/// Interval between two interrupts of a storm, in ns.
const STORM: u64 = 20_000;
/// Datagrams made in one go before it looks at anything else.
const BATCH: usize = 64;
/// How long it watches the consumer that it chases before it looks at anything else, in ns. A
/// consumer that takes longer than [`PATIENCE`] is watched only at each [`LOOK`].
const WATCH: u64 = 200_000;
const PATIENCE: u64 = 10_000_000;

struct Device<'j> {
    job: &'j Job,
    shape: Shape,
    born: u64,
    model: DeviceModel,
    port: Option<Port>,
    schedule: Schedule,
    chase: Option<Chase>,
    caught_up: u64,
    orders: Vec<Order>,
    faults: BTreeMap<String, FaultCounts>,
    started: Option<u64>,
    made: u64,
    next_look: u64,
    storm_until: u64,
    silent_until: u64,
    stalled_until: u64,
    /// Figures that the model does not count; completed at the end.
    figures: DeviceAccount,
    /// Standard input so far, until the end of a line; `None` once it has ended.
    input: Option<Vec<u8>>,
}

/// Runs the device until its job is done or it is stopped. Returns its account, which is also the
/// last line of `out`.
///
/// # Errors
/// If there can be no such device, or its place cannot be opened.
pub fn run(job: &Job, signals: &Signals, out: &mut impl Write) -> anyhow::Result<DeviceAccount> {
    let shape = job.spec.shape()?;
    let (port, window) = Port::open(&job.place, &shape)?;
    let mut orders = job.orders.clone();
    orders.sort_by_key(|order| std::cmp::Reverse(order.after));
    let mut device = Device {
        job,
        shape,
        born: clock::monotonic_ns(),
        model: DeviceModel::new(window, job.spec),
        port: Some(port),
        schedule: Schedule::new(job.spec.rate, job.spec.burst, job.strict),
        chase: job.chase.map(|longest| Chase::new(longest.as_nanos() as u64)),
        caught_up: 0,
        orders,
        faults: BTreeMap::new(),
        started: None,
        made: 0,
        next_look: 0,
        storm_until: 0,
        silent_until: 0,
        stalled_until: 0,
        figures: DeviceAccount::default(),
        input: may_be_typed_to().then(Vec::new),
    };
    device.announce_itself();
    let mut ended = None;
    while !signals.stop.load(Ordering::Relaxed) {
        let now = clock::monotonic_ns();
        device.step(now)?;
        if device.has_made_enough(now) {
            let since = *ended.get_or_insert(now);
            if device.model.is_drained() || now - since > job.drain_limit.as_nanos() as u64 {
                break;
            }
        }
        if signals.device_account.swap(false, Ordering::Relaxed) {
            say(out, &device.device_account());
        }
        if device.sleep(signals)? {
            device.read_input(out)?;
        }
    }
    let device_account = device.device_account();
    say(out, &device_account);
    Ok(device_account)
}

/// Whether standard input may be read: a terminal stops a background process that reads it.
fn may_be_typed_to() -> bool {
    let ours = rustix::process::getpgrp();
    rustix::termios::tcgetpgrp(std::io::stdin()).map_or(true, |in_front| in_front == ours)
}

fn say(out: &mut impl Write, device_account: &DeviceAccount) {
    let line = serde_json::to_string(device_account).expect("an account is plain figures");
    // A closed output is no reason to fail.
    let _written = writeln!(out, "{line}").and_then(|()| out.flush());
}

impl Device<'_> {
    /// Announces the device, after its registers have their power-on values.
    fn announce_itself(&self) {
        let Shape { channels, fifo_bytes, rate, .. } = self.shape;
        eprintln!(
            "ringfpga: there is a device at {}: {channels} FIFO of {fifo_bytes} bytes, {rate} B/s \
             each",
            self.job.place
        );
    }

    fn time(&self) -> u64 {
        match self.job.spec.time {
            DeviceTime::None | DeviceTime::Counter => clock::monotonic_ns() - self.born,
            DeviceTime::Date => clock::realtime_ns(),
        }
    }

    fn has_made_enough(&self, now: u64) -> bool {
        let over = |limit: Duration| {
            self.started.is_some_and(|since| now - since >= limit.as_nanos() as u64)
        };
        self.job.count.is_some_and(|count| self.made >= count)
            || self.job.duration.is_some_and(over)
    }

    /// Whether it makes datagrams now.
    fn works(&self, now: u64) -> bool {
        self.port.is_some()
            && now >= self.stalled_until
            && self.model.is_running()
            && !self.has_made_enough(now)
    }

    /// Does everything that is due at `now`.
    fn step(&mut self, now: u64) -> anyhow::Result<()> {
        while let Some((started, order)) = self.started.zip(self.orders.last().copied()) {
            if now - started < order.after.as_nanos() as u64 {
                break;
            }
            self.orders.pop();
            self.misbehave(order.what, now)?;
        }
        let events = self.port.as_mut().map_or(Ok(Default::default()), Port::look)?;
        self.figures.consumers += u64::from(events.came);
        self.figures.refused += events.refused;
        self.figures.doorbells += u64::from(events.rung);
        if events.came || events.went {
            eprintln!("ringfpga: consumer {}", if events.came { "connected" } else { "hung up" });
        }
        let stalled = now < self.stalled_until;
        if self.port.is_some() && !stalled && (events.rung || now >= self.next_look) {
            self.next_look = now + LOOK;
            let ran = self.model.is_running();
            self.model.look(self.time());
            if self.model.is_running() && !ran || self.model.is_running() && self.started.is_none()
            {
                self.started.get_or_insert(now);
                self.schedule.restart();
            }
            if self.model.has_jumped() {
                self.announce(now);
            }
        }
        if now < self.storm_until && self.port.as_ref().is_some_and(Port::interrupt) {
            self.figures.interrupts_stormed += 1;
        }
        for _ in 0..BATCH {
            if !self.works(now) || !self.schedule.due(now) || !self.catches_up() {
                break;
            }
            self.schedule.spend(self.model.next_len());
            self.made += 1;
            match self.model.produce(self.time()) {
                Fate::Stored => self.announce(now),
                Fate::Spoiled(how) => {
                    self.faults.entry(Fault::Spoil(how).name().into()).or_default().spoiled += 1;
                    self.announce(now);
                }
                Fate::Lost => {}
            }
        }
        Ok(())
    }

    /// While it chases: lets the consumer take everything, and then lets the pause go by. It polls,
    /// because sleeping is far too coarse. Returns false if the consumer has not taken everything
    /// yet.
    fn catches_up(&mut self) -> bool {
        let Some(chase) = &mut self.chase else { return true };
        let until = clock::monotonic_ns() + WATCH;
        while !self.model.is_drained() {
            if clock::monotonic_ns() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
        self.caught_up = clock::monotonic_ns();
        let then = self.caught_up + chase.pause();
        while clock::monotonic_ns() < then {
            std::hint::spin_loop();
        }
        true
    }

    /// Interrupts the consumer, if it has allowed that.
    fn announce(&mut self, now: u64) {
        if !self.job.spec.interrupts || !self.model.raises() {
            return;
        }
        if now < self.silent_until {
            self.figures.interrupts_withheld += 1;
        } else if self.port.as_ref().is_some_and(Port::interrupt) {
            self.figures.interrupts += 1;
        }
    }

    fn misbehave(&mut self, what: Fault, now: u64) -> anyhow::Result<()> {
        eprintln!("ringfpga: {}", what.name());
        let until = |time: Duration| now.saturating_add(time.as_nanos() as u64);
        let mut stranded = 0;
        match what {
            Fault::ProducerOutOfRange => stranded = self.model.upset(false),
            Fault::ProducerUnaligned => stranded = self.model.upset(true),
            Fault::Spoil(how) => self.model.spoil_next(how),
            Fault::SkipSequence(count) => self.model.skip(count),
            Fault::InterruptStorm(time) => self.storm_until = until(time),
            Fault::LostInterrupt(time) => self.silent_until = until(time),
            Fault::Stall(time) => {
                self.stalled_until = until(time);
                self.schedule.restart();
            }
            Fault::Disappear => {
                self.model.vanish();
                self.port = None;
            }
            Fault::Reappear => {
                // If it has not disappeared yet, it does so now: a slot holds one device.
                self.model.vanish();
                self.port = None;
                let (port, window) = Port::open(&self.job.place, &self.shape)?;
                self.port = Some(port);
                self.model.replug(window);
                self.announce_itself();
                self.schedule.restart();
            }
        }
        let entry = self.faults.entry(what.name().into()).or_default();
        entry.times += 1;
        entry.stranded += stranded;
        if self.model.has_jumped() {
            self.announce(now);
        }
        Ok(())
    }

    /// Sleeps until something is due or happens; returns whether standard input can be read.
    fn sleep(&self, signals: &Signals) -> anyhow::Result<bool> {
        let now = clock::monotonic_ns();
        let mut until = now + LOOK;
        if self.port.is_some() {
            until = until.min(self.next_look.max(self.stalled_until));
        }
        if self.works(now) && (self.chase.is_none() || now < self.caught_up + PATIENCE) {
            until = until.min(self.schedule.ready_at());
        }
        if now < self.storm_until {
            until = until.min(now + STORM);
        }
        let mut fds = vec![PollFd::new(&signals.event, PollFlags::IN)];
        let stdin = std::io::stdin();
        if self.input.is_some() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        if let Some(port) = &self.port {
            port.watch(&mut fds);
        }
        let limit = event::timespec(Duration::from_nanos(until.saturating_sub(now)));
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(e) => return Err(e).context("poll"),
        }
        if !fds[0].revents().is_empty() {
            // The flags say which signal came.
            let _rung =
                rustix::net::recv(&signals.event, &mut [0; 64], rustix::net::RecvFlags::DONTWAIT);
        }
        Ok(self.input.is_some() && !fds[1].revents().is_empty())
    }

    /// Obeys the lines on standard input.
    fn read_input(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        let Some(mut line) = self.input.take() else { return Ok(()) };
        let mut bytes = [0; 4096];
        let Ok(got @ 1..) = rustix::io::read(std::io::stdin(), &mut bytes) else { return Ok(()) };
        for byte in &bytes[..got] {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).trim().to_string();
            match (&text[..], text.parse::<Fault>()) {
                ("", _) => {}
                ("account", _) => say(out, &self.device_account()),
                (_, Ok(what)) => self.misbehave(what, clock::monotonic_ns())?,
                (_, Err(_)) => eprintln!("ringfpga: {text:?} is none of: account, {WORDS}"),
            }
        }
        self.input = Some(line);
        Ok(())
    }

    fn device_account(&mut self) -> DeviceAccount {
        let now = clock::monotonic_ns();
        let seconds = |since: u64| (now - since) as f64 / 1e9;
        let channels = self.model.device_account();
        let mut device_account = DeviceAccount {
            elapsed_s: seconds(self.born),
            running_s: self.started.map_or(0.0, seconds),
            resets: self.model.resets(),
            late_max_us: self.schedule.late_max() as f64 / 1e3,
            late_over_1ms: self.schedule.late_often(),
            forgiven_ms: self.schedule.forgiven() as f64 / 1e6,
            faults: self.faults.clone(),
            ..self.figures.clone()
        };
        for channel in &channels {
            device_account.produced += channel.produced;
            device_account.stored += channel.stored;
            device_account.lost += channel.lost;
            device_account.left += channel.left;
        }
        device_account.channels = channels;
        device_account
    }
}
