//! Models of a source that goes away and comes back.

use super::wake::BrokerSide;
use super::{CheckedReader, Plan, by_slots, check};
use loom::thread;
use ringweir_proto::ring::{Cause, Gap, Publisher, Resume, RingReader, Start, Step, WritableRing};

/// The device goes away between two datagrams and comes back: this is reported once, at that seq.
pub fn source_gone() {
    const PLAN: Plan = Plan { geometry: by_slots, lengths: &[0, 0] };
    check(2, || {
        let (memory, mut publisher) = PLAN.ring();
        let mut watch = CheckedReader::new(PLAN, memory, Start::Oldest, Resume::Oldest);
        let reader = thread::spawn(move || {
            let mut reported = Vec::new();
            for _ in 0..3 {
                reported.extend(gone_at(watch.step()));
            }
            (watch, reported)
        });
        PLAN.publish(&mut publisher, 0..1);
        publisher.source_gone();
        publisher.source_back();
        PLAN.publish(&mut publisher, 1..2);
        publisher.end();
        let (mut watch, mut reported) = reader.join().unwrap();
        while reported.len() < 2 {
            match watch.step() {
                Step::Ended => break,
                step => reported.extend(gone_at(step)),
            }
        }
        assert_eq!(reported, [1], "reported where it went away");
        watch.finish();
    });
}

fn gone_at(step: Step) -> Option<u64> {
    match step {
        Step::Gap(Gap { first, count: 0, cause: Cause::SourceGone, .. }) => Some(first),
        _ => None,
    }
}

/// A sleeping reader is woken when the device goes away, as by a datagram.
pub fn gone_wakes_the_sleeper() {
    check(3, || {
        let ring = WritableRing::on_heap(by_slots());
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        let house = BrokerSide::new(memory.clone());
        let reader = thread::spawn({
            let house = house.clone();
            move || {
                let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
                while gone_at(reader.step().unwrap()).is_none() {
                    house.enter_with(0, reader.write_cursor_seen(), reader.source_seen());
                    house.events[0].wait();
                }
            }
        });
        publisher.source_gone();
        house.after_commit();
        reader.join().unwrap();
    });
}
