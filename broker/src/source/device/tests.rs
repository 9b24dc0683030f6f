//! The drain loop with a device in the same process: the account closes whatever the device does.
//!
//! Negative control: `unplugged_device_publishes_nothing` shows that a blank page would be
//! published if the magic number were not checked. For each misbehaviour a test first shows that
//! nothing is reported without it.

use super::hotplug::{Device, DeviceKind};
use super::location::Location;
use super::transport::{Gone, Interrupts, Opening, Transport, disable_interrupts};
use crate::source::contract::{Fill, Source, SourceError};
use crate::source::test_bench::{Bench, Got, wait};
use ringweir_device::{
    DeviceMemory, Feed, Fifo, HAS_DATE, HAS_INTERRUPT, HAS_TIME, MARK, Registers, Shape,
    may_interrupt,
};
use ringweir_proto::os::event;
use ringweir_proto::ring::Layer;
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

mod account;
mod gone;
mod server;

/// The state that device and transport share.
struct DeviceModel {
    window: DeviceMemory,
    interrupt: OwnedFd,
    /// Unplugged: no interrupts, blank memory, and the next check of the interrupt fails.
    torn_out: Mutex<bool>,
    /// Disconnected; the memory stays.
    hung_up: AtomicBool,
    /// It resets itself and then does not run.
    stuck: AtomicBool,
}

impl DeviceModel {
    fn new(shape: &Shape) -> Arc<Self> {
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Arc::new(Self {
            window: DeviceMemory::on_heap(shape).unwrap(),
            interrupt,
            torn_out: Mutex::new(false),
            hung_up: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
        })
    }

    fn registers(&self) -> &Registers {
        self.window.registers()
    }

    fn fifo(&self, channel: u32) -> Fifo<'_> {
        self.window.fifo(channel)
    }

    /// Does what the control register orders.
    fn obey(&self) {
        let status = match self.registers().control.control.load(Ordering::Acquire) {
            ringweir_device::DO_RESET => ringweir_device::IS_RESETTING,
            ringweir_device::DO_RUN if !self.stuck.load(Ordering::Relaxed) => {
                ringweir_device::IS_RUNNING
            }
            _ => 0,
        };
        self.registers().status.status.store(status, Ordering::Release);
    }

    fn store(&self, channel: u32, feed: &mut Feed, payload: &[u8], time: u64) -> bool {
        let stored = feed.store(self.fifo(channel), payload, time);
        let ready = &self.registers().status.ready;
        ready.store(ready.load(Ordering::Relaxed) | 1 << channel, Ordering::Release);
        if stored && may_interrupt(&self.registers().control.interrupt_mask) {
            event::ring(&self.interrupt).unwrap();
        }
        stored
    }

    /// Unplugs the device, like a card that is pulled: its registers read as zero.
    fn tear_out(&self) {
        *self.torn_out.lock().unwrap() = true;
        let identity = &self.registers().identity;
        identity.magic.store(0, Ordering::Release);
        for channel in 0..self.window.shape().channels {
            let fifo = self.fifo(channel);
            fifo.registers.producer.store(0, Ordering::Release);
            fifo.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

struct Test {
    model: Arc<DeviceModel>,
    interrupts: bool,
}

impl Transport for Test {
    fn window(&self) -> &DeviceMemory {
        &self.model.window
    }
    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        self.interrupts.then(|| self.model.interrupt.as_fd())
    }
    fn take(&self) -> Result<Interrupts, Gone> {
        disable_interrupts(&self.model.window);
        if *self.model.torn_out.lock().unwrap() {
            return Err(Gone("pulled".into()));
        }
        if !self.is_present() {
            return Err(Gone("it disconnected".into()));
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.model.interrupt, &mut count) {
            Ok(_) => Ok(Interrupts::signalled(u64::from_ne_bytes(count))),
            Err(Errno::AGAIN) => Ok(Interrupts::default()),
            Err(e) => panic!("{e}"),
        }
    }
    fn doorbell(&self) {
        self.model.obey();
    }
    fn is_intact(&self) -> bool {
        self.model.window.is_there()
    }
    fn is_present(&self) -> bool {
        !self.model.hung_up.load(Ordering::Relaxed) && self.is_intact()
    }
    fn describe(&self) -> String {
        "a test".into()
    }
}

thread_local! {
    /// The device that the next opening finds. `None`: there is none.
    static SLOT: RefCell<Option<Arc<DeviceModel>>> = const { RefCell::new(None) };
}

/// Devices in [`SLOT`].
static KIND: DeviceKind = DeviceKind { name: "test", opener, families: &[], writes: &[] };

/// Opens the device in [`SLOT`], with datagrams of at most `most` bytes.
fn open_slot(most: usize) -> Device {
    let location = Location { path: "slot".into(), ..Location::default() };
    Device::open(&KIND, location, most).unwrap()
}

fn opener(_location: &Location) -> Result<Opening, SourceError> {
    let model =
        SLOT.with(|slot| slot.borrow().clone()).ok_or_else(|| SourceError::new("empty slot"))?;
    let interrupts = model.window.shape().features & HAS_INTERRUPT != 0;
    Ok(Opening::now(Test { model, interrupts }))
}

const SHAPE: Shape = Shape {
    device_id: 0,
    features: HAS_INTERRUPT,
    fifo_offset: 0x2000,
    fifo_bytes: 1024,
    max_datagram: 512,
    channels: 1,
    rate: 1_000_000,
};

/// A device in the slot, opened, and the ring into which it is drained.
struct Rig {
    model: Arc<DeviceModel>,
    feeds: Vec<Feed>,
    device: Device,
    bench: Bench,
    got: Vec<Got>,
}

impl Rig {
    fn new(shape: Shape) -> Self {
        Self::with_most(shape, 512)
    }

    fn with_most(shape: Shape, most: usize) -> Self {
        let model = DeviceModel::new(&shape);
        SLOT.set(Some(model.clone()));
        let device = open_slot(most);
        let feeds = (0..shape.channels).map(|_| Feed::new(&shape)).collect();
        let mut rig =
            Self { model, feeds, device, bench: Bench::new(1 << 20, 512), got: Vec::new() };
        rig.run();
        rig
    }

    fn store(&mut self, channel: u32, len: usize) -> bool {
        let number = self.feeds[channel as usize].produced();
        let payload: Vec<u8> =
            (0..len).map(|i| (number as usize * 7 + i) as u8 ^ channel as u8).collect();
        self.model.store(
            channel,
            &mut self.feeds[channel as usize],
            &payload,
            u64::from(number) + 1000,
        )
    }

    /// Runs until it is idle, three times, each a tenth of a second later.
    fn run(&mut self) {
        for _ in 0..3 {
            let (got, fill) = self.bench.run(&mut self.device);
            self.got.extend(got);
            self.bench.now += 100_000_000;
            assert_eq!(fill, Fill::Idle);
        }
    }

    /// Checks: produced = lost in the device + dropped by the broker + published, and every loss is
    /// reported.
    fn closes(&mut self) {
        self.store(0, 8);
        self.run();
        let produced: u64 = self.feeds.iter().map(|f| u64::from(f.produced())).sum();
        let reported = |layer| {
            self.got
                .iter()
                .flat_map(|g| &g.lost_before)
                .filter(move |l| l.0 == layer)
                .map(|l| l.1)
                .sum::<u64>()
        };
        let (device, broker) = (reported(Layer::Device), reported(Layer::Broker));
        assert_eq!(
            self.got.len() as u64 + device + broker,
            produced,
            "device {device} broker {broker}"
        );
        assert_eq!(self.bench.count(PumpCounter::DeviceLost), device);
        assert_eq!(self.bench.count(PumpCounter::BrokerLost), broker);
    }
}

#[test]
fn overflow_is_reported_in_order() {
    let mut rig = Rig::new(SHAPE);
    for round in 0..50 {
        for _ in 0..round % 20 {
            rig.store(0, 8 * (round % 13));
        }
        rig.run();
    }
    assert!(rig.bench.count(PumpCounter::DeviceLost) > 0, "the FIFO was too small at times");
    rig.closes();
    assert_eq!(rig.bench.count(PumpCounter::SourceFaults), 0);
    let lengths: usize = rig.got.iter().map(|g| g.bytes.len()).sum();
    assert!(lengths > 0 && rig.got.iter().all(|g| g.channel == 0 && g.source_time == 0));
}

#[test]
fn channels_keep_to_themselves_and_take_turns() {
    let mut rig = Rig::new(Shape { channels: 5, ..SHAPE });
    for round in 0..40 {
        for channel in 0..5 {
            for _ in 0..=(round + channel as usize) % 4 {
                rig.store(channel, 40);
            }
        }
        rig.run();
    }
    for got in &rig.got {
        assert!(
            got.bytes
                .windows(2)
                .all(|w| (w[0] ^ got.channel as u8).wrapping_add(1) == w[1] ^ got.channel as u8)
        );
    }
    assert!((0..5).all(|channel| rig.got.iter().any(|g| g.channel == channel)));
    rig.closes();
}

/// Control: a device whose ready register omits a channel is drained all the same, because of the
/// check after arming.
#[test]
fn a_ready_register_that_lies_costs_a_round() {
    let mut rig = Rig::new(Shape { channels: 2, ..SHAPE });
    rig.store(1, 40);
    rig.model.registers().status.ready.store(0, Ordering::Relaxed);
    rig.run();
    assert_eq!(rig.got.len(), 1);
}

#[test]
fn garbage_is_named_and_its_loss_is_exact() {
    type Spoil = fn(&DeviceModel);
    let spoils: [(Spoil, &str); 4] = [
        (|b| b.fifo(0).registers.producer.store(0x9000_0000, Ordering::Release), "producer index"),
        (|b| b.fifo(0).words[0].store(7, Ordering::Relaxed), "no entry"),
        (
            |b| b.fifo(0).words[0].store(u64::from(MARK) | 9999 << 32, Ordering::Relaxed),
            "entry of 9999 bytes",
        ),
        (|b| b.fifo(0).registers.producer.store(12, Ordering::Release), "producer index"),
    ];
    for (spoil, name) in spoils {
        let mut rig = Rig::new(SHAPE);
        for _ in 0..3 {
            rig.store(0, 32);
        }
        let right = rig.model.fifo(0).registers.producer.load(Ordering::Relaxed);
        spoil(&rig.model);
        let (got, _) = rig.bench.run(&mut rig.device);
        rig.got.extend(got);
        // A device that recovers has a correct index again.
        rig.model.fifo(0).registers.producer.store(right, Ordering::Release);
        rig.run();
        assert!(rig.bench.count(PumpCounter::SourceFaults) > 0, "{name}");
        let reported = rig.bench.notices();
        assert!(
            reported.iter().any(|t| t.contains(name) && t.contains("channel 0")),
            "{name}: {reported:?}"
        );
        rig.closes();
    }
}

#[test]
fn longer_than_the_ring_allows_is_cut_and_reported() {
    let mut rig = Rig::with_most(SHAPE, 64);
    for len in [63, 64, 65, 512, 0] {
        rig.store(0, len);
        rig.run();
    }
    let seen: Vec<_> = rig.got.iter().map(|g| (g.bytes.len(), g.original_len)).collect();
    assert_eq!(seen, [(63, 63), (64, 64), (64, 65), (64, 512), (0, 0)]);
}

#[test]
fn device_time_becomes_a_date() {
    let mut rig = Rig::new(Shape { features: HAS_INTERRUPT | HAS_TIME, ..SHAPE });
    let before = ringweir_proto::os::clock::realtime_ns();
    rig.store(0, 8);
    rig.run();
    // The device's clock was 0 when it was compared, so its 1000 is one microsecond later.
    let date = rig.got[0].source_time;
    assert!(date > before - 10_000_000_000 && date < before + 10_000_000_000, "{date} {before}");
    let mut rig = Rig::new(Shape { features: HAS_INTERRUPT | HAS_TIME | HAS_DATE, ..SHAPE });
    rig.store(0, 8);
    rig.run();
    assert_eq!(rig.got[0].source_time, 1000, "a date is left as it is");
}

#[test]
fn an_idle_device_sleeps_and_its_interrupt_wakes() {
    let mut rig = Rig::new(SHAPE);
    assert!(!wait(&rig.device, 0), "nothing to wake it");
    rig.store(0, 8);
    assert!(wait(&rig.device, 1000), "the interrupt");
    rig.run();
    assert_eq!((rig.got.len(), rig.bench.count(PumpCounter::Interrupts)), (1, 1));
    assert!(rig.device.wait_for().until.is_some(), "and it looks by itself, now and then");
    // Without interrupts there is nothing to wait for.
    let mut rig = Rig::new(Shape { features: 0, ..SHAPE });
    rig.store(0, 8);
    rig.run();
    assert_eq!(rig.got.len(), 1);
    assert!(rig.device.wait_for().readable.is_none() && rig.device.wait_for().until.is_some());
}

#[test]
fn a_lost_interrupt_is_found_out_and_costs_nothing() {
    let mut rig = Rig::new(SHAPE);
    for _ in 0..3 {
        rig.store(0, 8);
        let mut count = [0; 8];
        assert!(
            rustix::io::read(&rig.model.interrupt, &mut count).is_ok(),
            "somebody else took it"
        );
        rig.run();
    }
    assert_eq!(
        (rig.got.len(), rig.bench.count(PumpCounter::InterruptsLost)),
        (3, 2),
        "the first may have been under way"
    );
    assert!(rig.bench.notices().iter().any(|t| t.contains("no interrupt came")));
    rig.closes();
}

/// Control: a pump that polls all the time finds data before its interrupt, and reports no loss.
#[test]
fn spinning_misses_no_interrupt() {
    let mut rig = Rig::new(SHAPE);
    for _ in 0..5 {
        rig.store(0, 8);
        assert!(
            rustix::io::read(&rig.model.interrupt, &mut [0; 8]).is_ok(),
            "it comes after the look"
        );
        let (got, _) = rig.bench.run(&mut rig.device);
        assert_eq!(got.len(), 1);
        rig.bench.now += 1000;
    }
    assert_eq!(rig.bench.count(PumpCounter::InterruptsLost), 0);
}

#[test]
fn a_storm_of_interrupts_is_not_listened_to() {
    let mut rig = Rig::new(SHAPE);
    for _ in 0..64 {
        event::ring(&rig.model.interrupt).unwrap();
        let (_, fill) = rig.bench.run(&mut rig.device);
        assert_eq!(fill, Fill::Idle);
        rig.bench.now += 1000;
    }
    assert_eq!(rig.bench.count(PumpCounter::InterruptsIdle), 64);
    assert!(rig.device.wait_for().readable.is_none(), "polled");
    rig.store(0, 8);
    rig.bench.now += 10_000_000;
    let (got, _) = rig.bench.run(&mut rig.device);
    assert_eq!(got.len(), 1, "and data continues");
    rig.bench.now += 200_000_000;
    rig.run();
    assert!(rig.device.wait_for().readable.is_some(), "the storm is over");
}

#[test]
fn unplugging_and_return_are_reported() {
    let mut rig = Rig::new(SHAPE);
    for times in 1..=3 {
        rig.store(0, 40);
        rig.run();
        rig.store(0, 40);
        SLOT.set(None);
        rig.model.tear_out();
        rig.run();
        assert_eq!(rig.bench.gone.len(), times, "reported once");
        let taken = rig.got.len();
        rig.model = DeviceModel::new(&SHAPE);
        rig.feeds = vec![Feed::new(&SHAPE)];
        SLOT.set(Some(rig.model.clone()));
        rig.run();
        rig.store(0, 16);
        rig.run();
        assert_eq!(rig.got.len(), taken + 1, "the new one is drained");
        assert!(rig.got[taken].lost_before.is_empty(), "it owes nothing of the old one's");
    }
    assert_eq!(rig.bench.count(PumpCounter::SourceGone), 3);
    assert_eq!(
        rig.bench.gone,
        [1, 3, 5],
        "in its place: between what came before and what comes after"
    );
}

/// The device is unplugged in the middle of a datagram.
#[test]
fn unplugged_device_publishes_nothing() {
    let mut rig = Rig::new(SHAPE);
    rig.store(0, 40);
    let identity = &rig.model.registers().identity;
    identity.magic.store(u32::MAX, Ordering::Release);
    SLOT.set(None);
    rig.run();
    assert!(rig.got.is_empty(), "an entry that looks whole, from a device that is not there");
    assert_eq!(rig.bench.gone.len(), 1);
}

#[test]
fn a_device_that_does_not_start_is_refused() {
    struct Deaf(Test);
    impl Transport for Deaf {
        fn window(&self) -> &DeviceMemory {
            self.0.window()
        }
        fn interrupt(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn take(&self) -> Result<Interrupts, Gone> {
            Ok(Interrupts::default())
        }
        fn doorbell(&self) {}
        fn describe(&self) -> String {
            String::new()
        }
    }
    fn opener(_: &Location) -> Result<Opening, SourceError> {
        Ok(Opening::now(Deaf(Test { model: DeviceModel::new(&SHAPE), interrupts: false })))
    }
    static DEAF: DeviceKind = DeviceKind { name: "test", opener, families: &[], writes: &[] };
    let refused = Device::open(&DEAF, Location::default(), 64).err().unwrap().to_string();
    assert!(refused.contains("does not reset itself within a second (status 0x0)"), "{refused}");
}

#[test]
fn the_slack_is_size_over_rate() {
    let rig = Rig::new(SHAPE);
    assert_eq!(rig.device.slack(), Some(std::time::Duration::from_micros(1024)));
    assert!(
        rig.device
            .describe()
            .starts_with("FIFO slack 1.02 ms (1 KiB at 1 MB/s), 1 channel, a test"),
        "{}",
        rig.device.describe()
    );
    let rig = Rig::new(Shape { rate: 0, ..SHAPE });
    assert_eq!(rig.device.slack(), None);
    assert!(rig.device.describe().contains("its rate not known (rate=)"));
}

/// The rate limits the drain gap: an idle hour is not a gap of an hour. Control: an overflow is
/// still visible.
#[test]
fn a_drain_gap_is_what_the_fifo_had_been_filling_for() {
    let mut rig = Rig::new(SHAPE);
    rig.bench.now += 3_600_000_000_000;
    rig.store(0, 40);
    rig.run();
    assert_eq!(rig.bench.count(PumpCounter::DrainGapMax), 56_000, "56 bytes at 1 MB/s");
    for _ in 0..100 {
        rig.store(0, 40);
    }
    rig.bench.now += 3_600_000_000_000;
    rig.run();
    assert_eq!(
        rig.bench.count(PumpCounter::DrainGapMax),
        5_600_000,
        "100 times that, though 18 fit"
    );
}

#[test]
fn arguments_are_parsed_and_wrong_ones_named() {
    let error = |argument| Location::parse(argument, &["map", "memory"]).unwrap_err().to_string();
    assert!(error("rate=5dg/s:/dev/x").contains("fills by bytes"));
    assert!(error("rate=fast:/dev/x").contains("fast"));
    assert!(error("map=9:/dev/x").contains("0 to 4"));
    assert!(error("memory=x:/dev/x").contains("not a path such as"));
    assert!(error("depth=3:/dev/x").contains("there are rate=, map=, memory="));
    assert!(error("ringshim0").contains("no path"));
    assert!(Location::parse("map=1:/dev/x", &[]).is_err(), "an option of another kind");
    // The path contains a PCI address, which has colons.
    let memory = "/sys/bus/pci/devices/0000:03:00.0/resource2";
    let location =
        Location::parse(&format!("memory={memory}:/dev/uio0"), &["map", "memory"]).unwrap();
    assert_eq!((location.memory.as_deref(), location.path.as_str()), (Some(memory), "/dev/uio0"));
    let location =
        Location::parse("rate=1Mbit/s,map=1,memory=/sys/x:/dev/uio0", &["map", "memory"]).unwrap();
    assert_eq!(
        (location.rate, location.map, location.path.as_str()),
        (Some(125_000.0), 1, "/dev/uio0")
    );
}
