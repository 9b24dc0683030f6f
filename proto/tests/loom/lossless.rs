//! Models of the gate: a lossless reader loses nothing while the stream waits for it, learns of its
//! demotion, and releases the stream when it detaches.
//!
//! Contract: like the broker's intake, the publisher checks before each datagram whether it fits,
//! and checks again as long as it does not. A budget is time, which a model does not have: it is
//! used up when the model says so.

use super::{CheckedReader, Plan, by_bytes, by_slots, check};
use loom::thread;
use ringweir_proto::layout::ReaderBlock;
use ringweir_proto::ring::gate::{demoted, granted, release};
use ringweir_proto::ring::{Budget, Cause, LosslessGate, Publisher, Resume, Start, Step};
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::ops::Range;
use std::sync::Arc;

const BUDGET: Budget = Budget { bytes: u64::MAX, time_ns: 1000 };

/// The lossless reader's end: the checked reader and its page.
struct Lossless {
    watch: CheckedReader,
    block: Arc<ReaderBlock>,
}

impl Lossless {
    /// Makes one step and releases what was read.
    fn step(&mut self) -> Step {
        let step = self.watch.step();
        release(&self.block, self.watch.reader.read_cursor());
        step
    }

    /// Reads until everything below `next` was delivered or reported.
    fn read_up_to(&mut self, next: u64) {
        while self.watch.next < next {
            if self.step() == Step::Empty {
                thread::yield_now();
            }
        }
    }

    fn finish(self) {
        assert_eq!(self.watch.balanced().lost, 0, "a lossless reader lost");
        self.watch.finish();
    }
}

/// The publisher's end.
struct Gated {
    publisher: Publisher,
    gate: LosslessGate,
    block: Arc<ReaderBlock>,
}

impl Gated {
    fn fits(&mut self, len: usize) -> bool {
        let block = self.block.clone();
        self.publisher.fits(len) || {
            self.gate.look(&mut self.publisher, |_| Some(&block.read_seq));
            self.publisher.fits(len)
        }
    }

    /// Publishes each datagram as soon as it fits, and calls `let_go` while one does not.
    fn publish(&mut self, plan: Plan, seqs: Range<u64>, mut let_go: impl FnMut(&mut Self)) {
        for seq in seqs {
            while !self.fits(plan.lengths[seq as usize]) {
                let_go(self);
                thread::yield_now();
            }
            plan.publish(&mut self.publisher, seq..seq + 1);
        }
    }
}

/// A ring with a lossless reader from seq 0, and `before` datagrams in it.
fn lossless(plan: Plan, before: u64) -> (Gated, Lossless) {
    let (memory, mut publisher) = plan.ring();
    let (block, mut gate) = (Arc::new(ReaderBlock::default()), LosslessGate::new(BUDGET, 2));
    gate.admit(&mut publisher, 0, Start::Oldest, &block);
    assert_eq!(granted(&block), Some(0));
    let watch = CheckedReader::new(plan, memory, Start::Seq(0), Resume::Oldest);
    plan.publish(&mut publisher, 0..before);
    (Gated { publisher, gate, block: block.clone() }, Lossless { watch, block })
}

fn waited_for(plan: Plan, before: u64, read: u64, preemptions: usize) {
    check(preemptions, move || {
        let (mut gated, mut reader) = lossless(plan, before);
        let reader = thread::spawn(move || {
            reader.read_up_to(read);
            reader
        });
        gated.publish(plan, before..plan.lengths.len() as u64, |_| {});
        let reader = reader.join().unwrap();
        gated.publisher.end();
        reader.finish();
    });
}

pub fn waits_for_the_lossless() {
    waited_for(Plan { geometry: by_slots, lengths: &[5, 8, 8, 0] }, 2, 2, 1);
}

pub fn waits_for_its_bytes() {
    waited_for(Plan { geometry: by_bytes, lengths: &[16, 13, 16, 12] }, 3, 1, 2);
}

/// The stream does not wait for a lossy reader beside the lossless one.
pub fn lossy_beside_lossless() {
    let plan = Plan { geometry: by_slots, lengths: &[0, 1, 0] };
    check(1, move || {
        let (mut gated, mut reader) = lossless(plan, 2);
        let mut lossy = CheckedReader::new(
            plan,
            gated.publisher.memory().clone(),
            Start::Oldest,
            Resume::Oldest,
        );
        let reader = thread::spawn(move || {
            reader.read_up_to(1);
            reader
        });
        let lossy = thread::spawn(move || {
            lossy.step();
            lossy
        });
        gated.publish(plan, 2..3, |_| {});
        let (reader, lossy) = (reader.join().unwrap(), lossy.join().unwrap());
        gated.publisher.end();
        reader.finish();
        lossy.finish();
    });
}

/// What is granted at the attach is still there when the reader reads it.
pub fn granted_is_kept() {
    let plan = Plan { geometry: by_slots, lengths: &[8, 3, 7] };
    check(2, move || {
        let (memory, mut publisher) = plan.ring();
        plan.publish(&mut publisher, 0..2);
        let block = Arc::new(ReaderBlock::default());
        let reader = thread::spawn({
            let block = block.clone();
            move || {
                let begin = loop {
                    match granted(&block) {
                        Some(begin) => break begin,
                        None => thread::yield_now(),
                    }
                };
                let watch = CheckedReader::new(plan, memory, Start::Seq(begin), Resume::Oldest);
                let mut reader = Lossless { watch, block };
                reader.read_up_to(begin + 1);
                reader
            }
        });
        let mut gate = LosslessGate::new(BUDGET, 1);
        gate.admit(&mut publisher, 0, Start::Oldest, &block);
        let mut gated = Gated { publisher, gate, block };
        gated.publish(plan, 2..3, |_| {});
        let reader = reader.join().unwrap();
        gated.publisher.end();
        reader.finish();
    });
}

/// A lossless reader that is lapped finds its demotion in its page. (The third datagram is claimed
/// in one go, so that only the fence of the demotion precedes it.)
pub fn demotion_is_reported() {
    let plan = Plan { geometry: by_slots, lengths: &[5, 8, 0] };
    check(2, move || {
        let (mut gated, mut reader) = lossless(plan, 2);
        let reader = thread::spawn(move || {
            let step = reader.watch.reader.step().unwrap();
            let lapped = matches!(step, Step::Gap(gap) if gap.cause == Cause::Lapped);
            if lapped {
                assert!(demoted(&reader.block).is_some(), "lapped, and the reason is not reported");
            }
        });
        if !gated.fits(0) {
            let over = gated.gate.charge(&gated.publisher, 0, BUDGET.time_ns);
            assert_eq!(over, Some(0));
            let block = gated.block.clone();
            assert_eq!(gated.gate.demote(&mut gated.publisher, 0, &block).held_ns, BUDGET.time_ns);
        }
        assert!(gated.fits(0), "nobody is waited for any more");
        plan.publish(&mut gated.publisher, 2..3);
        reader.join().unwrap();
    });
}

/// A reader that detaches while the stream waits for it releases the stream, and everything that it
/// had read was whole.
pub fn detaching_releases_the_stream() {
    let plan = Plan { geometry: by_slots, lengths: &[5, 8, 8] };
    check(2, move || {
        let (mut gated, mut reader) = lossless(plan, 2);
        let gone = Arc::new(AtomicU64::new(0));
        let reader = thread::spawn({
            let gone = gone.clone();
            move || {
                let step = reader.watch.reader.step().unwrap();
                assert!(matches!(step, Step::Datagram(d) if d.seq == 0), "it was waited for");
                assert!(reader.watch.reader.validate().is_ok());
                // Stands for hanging up, which the broker learns from the kernel.
                gone.store(1, Ordering::Release);
            }
        });
        gated.publish(plan, 2..3, |gated| {
            if gone.load(Ordering::Acquire) == 1 {
                gated.gate.remove(&mut gated.publisher, 0);
            }
        });
        reader.join().unwrap();
    });
}
