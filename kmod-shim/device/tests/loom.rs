//! Models of a device's FIFO: the transfer of datagrams, and the wake handshake.
//!
//! `RUSTFLAGS='--cfg ringweir_loom' cargo test -p ringweir-device --release --test loom`
#![cfg(ringweir_loom)]

use loom::thread;
use ringweir_device::{Channel, Drain, Feed, Fifo, Shape, arm, disarm, may_interrupt, site};
use ringweir_proto::sync::{AtomicU32, AtomicU64, Ordering, Site, mutant};
use std::panic::catch_unwind;
use std::sync::Arc;

/// Runs `model` over all interleavings with at most `preemptions` preemptions.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// The interrupt. It stays raised until it is taken, and synchronises fully, as system calls do.
#[derive(Default)]
struct Event {
    raised: loom::sync::Mutex<bool>,
    changed: loom::sync::Condvar,
}

impl Event {
    fn ring(&self) {
        *self.raised.lock().unwrap() = true;
        self.changed.notify_one();
    }
    fn wait(&self) {
        let mut raised = self.raised.lock().unwrap();
        while !*raised {
            raised = self.changed.wait(raised).unwrap();
        }
        *raised = false;
    }
}

/// A device with one channel, which has room for two datagrams of one word each.
struct Device {
    channel: Channel,
    words: Vec<AtomicU64>,
    interrupt_mask: AtomicU32,
    event: Event,
}

const SHAPE: Shape = Shape {
    device_id: 0,
    features: 0,
    fifo_offset: 0,
    fifo_bytes: 64,
    max_datagram: 8,
    channels: 1,
    rate: 0,
};

impl Device {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            channel: Channel::default(),
            words: (0..SHAPE.fifo_bytes / 8).map(|_| AtomicU64::new(0)).collect(),
            interrupt_mask: AtomicU32::new(0),
            event: Event::default(),
        })
    }

    fn fifo(&self) -> Fifo<'_> {
        Fifo { registers: &self.channel, words: &self.words }
    }

    fn store(&self, feed: &mut Feed) -> bool {
        let number = u64::from(feed.produced());
        feed.store(self.fifo(), &(number + 0x1111).to_le_bytes(), 0)
    }

    /// Takes and checks all entries. Returns their number.
    fn take(&self, drain: &mut Drain, next: &mut u64) -> u64 {
        let mut taken = 0;
        while let Some(entry) = drain.look(self.fifo()).expect("no garbage") {
            let mut bytes = [0; 8];
            drain.copy(self.fifo(), &entry, &mut bytes);
            assert!(!entry.renumbered, "a header out of nowhere");
            *next += u64::from(entry.lost);
            assert_eq!(u64::from_le_bytes(bytes), *next + 0x1111, "torn payload");
            drain.take(self.fifo(), &entry);
            *next += 1;
            taken += 1;
        }
        taken
    }
}

/// Three datagrams go through a FIFO with room for two: each is taken whole, or lost and counted.
fn fifo_hands_over() {
    check(3, || {
        let device = Device::new();
        let mut drain = Drain::new(&SHAPE, device.fifo());
        let consumer = thread::spawn({
            let device = device.clone();
            move || {
                let (mut taken, mut next) = (0, 0);
                for _ in 0..2 {
                    taken += device.take(&mut drain, &mut next);
                }
                (drain, taken, next)
            }
        });
        let mut feed = Feed::new(&SHAPE);
        let stored = (0..3).filter(|_| device.store(&mut feed)).count() as u64;
        let (mut drain, mut taken, mut next) = consumer.join().unwrap();
        taken += device.take(&mut drain, &mut next);
        next += drain.tail(device.fifo()).map_or(0, |tail| u64::from(tail.lost));
        assert_eq!(taken, stored, "everything stored is taken");
        assert_eq!(next, 3, "produced = taken + lost");
        assert_eq!(u64::from(feed.lost()), 3 - taken);
    });
}

/// A16: a sleeping consumer is woken, whichever way its going to sleep and two stores interleave.
fn fifo_wakes() {
    check(3, || {
        let device = Device::new();
        let consumer = thread::spawn({
            let device = device.clone();
            move || {
                let mut drain = Drain::new(&SHAPE, device.fifo());
                let (mut taken, mut next) = (0, 0);
                while taken < 2 {
                    taken += device.take(&mut drain, &mut next);
                    if taken < 2 && arm(&device.interrupt_mask, || drain.is_empty(device.fifo())) {
                        device.event.wait();
                    }
                }
            }
        });
        let mut feed = Feed::new(&SHAPE);
        for _ in 0..2 {
            assert!(device.store(&mut feed));
            if may_interrupt(&device.interrupt_mask) {
                // The interrupt handler.
                disarm(&device.interrupt_mask);
                device.event.ring();
            }
        }
        consumer.join().unwrap();
        assert_eq!(device.channel.lost.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn hands_over() {
    fifo_hands_over();
}

#[test]
fn wakes() {
    fifo_wakes();
}

/// The model that must fail when `site` is weakened.
fn killer(site: Site) -> fn() {
    if site == site::PRODUCER_STORE || site == site::PRODUCER_LOAD {
        fifo_hands_over
    } else {
        fifo_wakes
    }
}

/// Weakening a site must make its model fail; the tests above are the control.
#[test]
fn every_site_is_killed() {
    for site in site::ALL {
        let died = mutant::with(site, || catch_unwind(killer(site)));
        let why = died.expect_err(&format!("{site:?} is alive"));
        let why = why.downcast_ref::<String>().map_or("", String::as_str);
        // Loom gives up on a model that never ends, which does not count as a kill.
        assert!(!why.contains("exceeded"), "{site:?}: {why}");
        println!("{site:?}: {}", why.lines().next().unwrap_or(""));
    }
}
