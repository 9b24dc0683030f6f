//! Models of a device behind the ring: the FIFO that is drained into it, its wake handshake, and its going away.

use super::wake::{Bell, House};
use super::{Plan, Watch, by_slots, check};
use loom::thread;
use ringweir_proto::fifo::{Channel, Drain, Feed, Fifo, Shape, arm, disarm, may_interrupt};
use ringweir_proto::ring::{Cause, Gap, Publisher, Resume, RingMemory, RingReader, Start, Step};
use ringweir_proto::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// The device goes away between two datagrams and comes back: told once, there, and nowhere else.
pub fn source_gone() {
    const PLAN: Plan = Plan { geometry: by_slots, lengths: &[0, 0] };
    check(2, || {
        let (memory, mut publisher) = PLAN.ring();
        let mut watch = Watch::new(PLAN, memory, Start::Oldest, Resume::Oldest);
        let reader = thread::spawn(move || {
            let mut told = Vec::new();
            for _ in 0..3 {
                told.extend(gone_at(watch.step()));
            }
            (watch, told)
        });
        PLAN.publish(&mut publisher, 0..1);
        publisher.source_gone();
        publisher.source_back();
        PLAN.publish(&mut publisher, 1..2);
        publisher.end();
        let (mut watch, mut told) = reader.join().unwrap();
        while told.len() < 2 {
            match watch.step() {
                Step::Ended => break,
                step => told.extend(gone_at(step)),
            }
        }
        assert_eq!(told, [1], "told of its going away where it went away");
        watch.finish();
    });
}

fn gone_at(step: Step) -> Option<u64> {
    match step {
        Step::Gap(Gap { first, count: 0, cause: Cause::SourceGone, .. }) => Some(first),
        _ => None,
    }
}

/// That the device is gone is news like a datagram.
pub fn gone_wakes_the_sleeper() {
    check(3, || {
        let memory = Arc::new(RingMemory::on_heap(by_slots()));
        let mut publisher = Publisher::new(memory.clone());
        let house = House::new(memory.clone());
        let reader = thread::spawn({
            let house = house.clone();
            move || {
                let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
                while gone_at(reader.step().unwrap()).is_none() {
                    house.enter_with(0, reader.write_cursor_seen(), reader.source_seen());
                    house.bells[0].wait();
                }
            }
        });
        publisher.source_gone();
        house.after_commit();
        reader.join().unwrap();
    });
}

/// A device of one channel, with room for two datagrams of a word each.
struct Device {
    channel: Channel,
    words: Vec<AtomicU64>,
    interrupt_mask: AtomicU32,
    bell: Bell,
}

const SHAPE: Shape =
    Shape { device_id: 0, features: 0, fifo_offset: 0, fifo_bytes: 64, max_datagram: 8, channels: 1, rate: 0 };

impl Device {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            channel: Channel::default(),
            words: (0..SHAPE.fifo_bytes / 8).map(|_| AtomicU64::new(0)).collect(),
            interrupt_mask: AtomicU32::new(0),
            bell: Bell::default(),
        })
    }

    fn fifo(&self) -> Fifo<'_> {
        Fifo { registers: &self.channel, words: &self.words }
    }

    fn store(&self, feed: &mut Feed) -> bool {
        let number = u64::from(feed.produced());
        feed.store(self.fifo(), &(number + 0x1111).to_le_bytes(), 0)
    }

    /// Takes what is there, and checks it; how many.
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

/// Three datagrams through a FIFO with room for two: each is taken whole, or lost and counted.
pub fn fifo_hands_over() {
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

/// A16: a consumer that sleeps is woken, however its going to sleep and two stores meet.
pub fn fifo_wakes() {
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
                        device.bell.wait();
                    }
                }
            }
        });
        let mut feed = Feed::new(&SHAPE);
        for _ in 0..2 {
            assert!(device.store(&mut feed));
            if may_interrupt(&device.interrupt_mask) {
                // The handler of the interrupt.
                disarm(&device.interrupt_mask);
                device.bell.ring();
            }
        }
        consumer.join().unwrap();
        assert_eq!(device.channel.lost.load(Ordering::Relaxed), 0);
    });
}
