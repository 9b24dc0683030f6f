//! Models of the wake: no wake-up is lost, whether a reader requests to sleep, is taken together
//! with another, or is entered late.
//!
//! Contract: eventfds are flags under a lock. A lost wake-up is a thread that waits for ever, which
//! loom reports as a deadlock.

use super::{by_slots, check};
use loom::thread;
use ringweir_proto::ring::{
    Meta, Publisher, Resume, RingMemory, RingReader, Sleepers, Start, Step, Wake, WakeGate,
    WritableRing,
};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::sync::Arc;

/// An eventfd. It stays signalled until it is taken, and synchronises fully, as system calls do.
#[derive(Default)]
pub struct Event {
    rung: loom::sync::Mutex<bool>,
    heard: loom::sync::Condvar,
}

impl Event {
    pub fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Reader pages, events and the broker's two ends of the gate.
pub struct BrokerSide {
    pub memory: Arc<RingMemory>,
    pub gate: WakeGate,
    /// The waker's list. The lock stands for its being owned by one thread.
    pub sleepers: loom::sync::Mutex<Sleepers>,
    pub events: [Event; 2],
    pub waker: Event,
    /// The event of the reader's sleep requests, the write cursor that it saw, and whether the
    /// waker may stop.
    pub sleep_request: Event,
    pub seen: AtomicU64,
    pub quit: AtomicU64,
}

impl BrokerSide {
    pub fn new(memory: Arc<RingMemory>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            gate: WakeGate::default(),
            sleepers: loom::sync::Mutex::new(Sleepers::new(2)),
            events: Default::default(),
            waker: Event::default(),
            sleep_request: Event::default(),
            seen: AtomicU64::new(0),
            quit: AtomicU64::new(0),
        })
    }
    /// The publisher's part after a flush.
    pub fn after_commit(&self) {
        match self.gate.after_commit() {
            Wake::Nobody => {}
            Wake::One(index) => self.events[index as usize].ring(),
            Wake::Several => self.waker.ring(),
        }
    }
    /// The waker's part after a sleep request.
    pub fn enter(&self, index: u32, seen: u64) {
        self.enter_with(index, seen, 0);
    }
    /// Like `enter`; `source` is the source's word as the reader saw it.
    pub fn enter_with(&self, index: u32, seen: u64, source: u64) {
        let memory = &self.memory;
        let news = || {
            memory.write_cursor() != seen || memory.source_word() != source || memory.has_ended()
        };
        self.sleepers
            .lock()
            .unwrap()
            .enter(&self.gate, index, news, |i| self.events[i as usize].ring());
    }
    pub fn settle(&self) {
        self.sleepers.lock().unwrap().settle(&self.gate, |i| self.events[i as usize].ring());
    }
}

pub fn datagram(reader: &mut RingReader) -> bool {
    match reader.step().unwrap() {
        Step::Datagram(_) => reader.release().unwrap().is_none(),
        Step::Gap(_) => true,
        Step::Restarted(_) => panic!("nobody died"),
        Step::Empty => false,
        Step::Ended => panic!("nobody ended it"),
    }
}

/// Reader, waker and publisher, each in a separate thread. The first `impatient` sleeps time out at
/// once, and the reader requests to sleep again.
pub fn sleeper_and_waker(impatient: usize) {
    check(2, move || {
        let ring = WritableRing::on_heap(by_slots());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let house = BrokerSide::new(memory.clone());
        let reader = thread::spawn({
            let house = house.clone();
            move || {
                let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
                let mut patience = impatient;
                while !datagram(&mut reader) {
                    house.seen.store(reader.write_cursor_seen(), Ordering::Relaxed);
                    house.sleep_request.ring();
                    match patience {
                        0 => house.events[0].wait(),
                        _ => patience -= 1,
                    }
                }
                house.quit.store(1, Ordering::Relaxed);
                house.sleep_request.ring();
            }
        });
        let waker = thread::spawn({
            let house = house.clone();
            move || loop {
                house.sleep_request.wait();
                if house.quit.load(Ordering::Relaxed) == 1 {
                    return;
                }
                house.enter(0, house.seen.load(Ordering::Relaxed));
            }
        });
        publisher.publish(&[], Meta::default()).unwrap();
        house.after_commit();
        reader.join().unwrap();
        waker.join().unwrap();
    });
}

pub fn one_sleeper() {
    sleeper_and_waker(0);
}

pub fn one_sleeper_with_a_timeout() {
    sleeper_and_waker(1);
}

/// One sleeper and two datagrams in a row: an entry that the publisher has taken must not count for
/// the next sleep. The reader's thread enters itself right after its sleep request, since a sleeper
/// has nothing else to do.
pub fn one_sleeper_twice() {
    check(2, || {
        let ring = WritableRing::on_heap(by_slots());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let house = BrokerSide::new(memory.clone());
        let reader = thread::spawn({
            let house = house.clone();
            move || {
                let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
                while reader.read_cursor() < 2 {
                    if !datagram(&mut reader) {
                        house.enter(0, reader.write_cursor_seen());
                        house.events[0].wait();
                    }
                }
            }
        });
        for _ in 0..2 {
            publisher.publish(&[], Meta::default()).unwrap();
            house.after_commit();
        }
        reader.join().unwrap();
    });
}

/// Two sleepers: the publisher takes one inline, or signals the event of the waker, which settles
/// both.
pub fn two_sleepers() {
    check(2, || {
        let ring = WritableRing::on_heap(by_slots());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let house = BrokerSide::new(memory.clone());
        let readers = [0, 1].map(|index| {
            let (house, memory) = (house.clone(), memory.clone());
            thread::spawn(move || {
                let mut seen = memory.write_cursor();
                while seen == 0 {
                    house.enter(index, seen);
                    house.events[index as usize].wait();
                    seen = memory.write_cursor();
                }
            })
        });
        let waker = thread::spawn({
            let house = house.clone();
            move || loop {
                house.waker.wait();
                if house.quit.load(Ordering::Relaxed) == 1 {
                    return;
                }
                house.settle();
            }
        });
        publisher.publish(&[], Meta::default()).unwrap();
        house.after_commit();
        readers.into_iter().for_each(|r| r.join().unwrap());
        house.quit.store(1, Ordering::Relaxed);
        house.waker.ring();
        waker.join().unwrap();
    });
}

/// A sleeping reader is woken by the end of the stream, as by a datagram.
pub fn end_wakes_the_sleeper() {
    check(3, || {
        let ring = WritableRing::on_heap(by_slots());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let house = BrokerSide::new(memory.clone());
        let reader = thread::spawn({
            let house = house.clone();
            move || {
                let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
                while reader.step().unwrap() != Step::Ended {
                    house.enter(0, reader.write_cursor_seen());
                    house.events[0].wait();
                }
            }
        });
        publisher.end();
        house.after_commit();
        reader.join().unwrap();
    });
}
