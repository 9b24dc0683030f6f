//! Models of a broker's death at every crash point and the adoption of its ring, while a reader
//! runs.
//!
//! Contract: the dying publisher and the adopter are one thread, since the kernel passes a lock
//! from one to the other. The datagram that the dead publisher began differs from the one that gets
//! its seq later, so publishing or reading any of it is detected. Each restart is reported once, at
//! the seq where its generation began, with the least that it cost.

#![allow(unsafe_code)]

use super::{CheckedReader, Plan, by_bytes, by_slots, bytes_of, check, meta_of};
use loom::thread;
use ringweir_proto::ring::crash::{Point, killed_at};
use ringweir_proto::ring::{
    Meta, Publisher, Restarted, Resume, RingMemory, Start, Step, WritableRing,
};
use std::sync::Arc;

/// Publishes `seq` and dies at `point`. Before the flush it is a datagram that is not in the plan;
/// from the flush on it is the plan's.
fn die(plan: Plan, mut publisher: Publisher, seq: u64, point: Point) {
    let killed = killed_at(point, || {
        if matches!(point, Point::K7 | Point::K8) {
            plan.publish(&mut publisher, seq..seq + 1);
        } else {
            let meta = Meta {
                channel: 0xdead,
                source_time: 0xdead,
                publish_time: 0xdead,
                original_len: 0,
            };
            publisher.publish(&[0xee; 16], meta).unwrap();
        }
    });
    assert!(killed, "{point:?} was not passed");
}

fn adopt(memory: &Arc<RingMemory>) -> (Publisher, Restarted) {
    // SAFETY: the previous publisher was consumed by `die`, or is used no more.
    let ring = unsafe { WritableRing::assume_unique(memory.clone()) };
    Publisher::adopt(ring, None).expect("fit to be adopted")
}

/// What races with the reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RacesWithReader {
    /// Death and adoption. The adopter publishes after the reader has finished.
    Adoption,
    /// Also what the adopter publishes. (Not where the dead publisher wrote into the same slot:
    /// loom does not get through a slot of eight words with three values each.)
    Everything,
}

/// With `before` datagrams published, the publisher dies at `point` of the next one and the adopter
/// publishes the rest, while a reader makes a step. The restart must cost at least `lost`
/// datagrams.
fn killed(plan: Plan, before: u64, raced: RacesWithReader, point: Point, lost: u64) {
    check(1, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory.clone(), Start::Oldest, Resume::Oldest);
        plan.publish(&mut publisher, 0..before);
        let reader = thread::spawn(move || {
            watch.step();
            watch
        });
        die(plan, publisher, before, point);
        let (mut publisher, adopted) = adopt(&memory);
        let first = before + u64::from(matches!(point, Point::K7 | Point::K8));
        let restarted = Restarted { generation: 2, first, lost, exact: false };
        assert_eq!(adopted, restarted);
        let rest = first..plan.lengths.len() as u64;
        let watch = if raced == RacesWithReader::Everything {
            plan.publish(&mut publisher, rest);
            reader.join().unwrap()
        } else {
            let watch = reader.join().unwrap();
            plan.publish(&mut publisher, rest);
            watch
        };
        publisher.end();
        watch.finish_after(&[restarted]);
    });
}

impl CheckedReader {
    /// Like [`CheckedReader::finish`], after these restarts.
    fn finish_after(mut self, restarts: &[Restarted]) {
        while self.restarts.len() < restarts.len() {
            if self.step() == Step::Ended {
                break;
            }
        }
        assert_eq!(self.restarts, restarts, "restarts reported");
        assert_eq!(self.balanced().restarts, restarts.len() as u64);
        self.finish();
    }
}

/// The third datagram of the dead publisher laps the first, and so does the adopter's.
const LAPPED: Plan = Plan { geometry: by_slots, lengths: &[5, 8, 8] };
/// The same only by bytes: what is half overwritten stays claimed.
const BYTES: Plan = Plan { geometry: by_bytes, lengths: &[16, 13, 16, 12] };
/// Nothing is lapped.
const ROOM: Plan = Plan { geometry: by_slots, lengths: &[8, 9] };

pub fn killed_at_k1() {
    killed(LAPPED, 2, RacesWithReader::Everything, Point::K1, 0);
}
pub fn killed_at_k2() {
    killed(ROOM, 1, RacesWithReader::Everything, Point::K2, 0);
}
pub fn killed_at_k3() {
    killed(BYTES, 3, RacesWithReader::Everything, Point::K3, 0);
}
pub fn killed_at_k4() {
    killed(BYTES, 3, RacesWithReader::Adoption, Point::K4, 0);
}
pub fn killed_at_k5() {
    killed(LAPPED, 2, RacesWithReader::Adoption, Point::K5, 1);
}
pub fn killed_at_k6() {
    killed(ROOM, 1, RacesWithReader::Everything, Point::K6, 1);
}
pub fn killed_at_k7() {
    killed(ROOM, 1, RacesWithReader::Everything, Point::K7, 0);
}
pub fn killed_at_k8() {
    killed(ROOM, 1, RacesWithReader::Everything, Point::K8, 0);
}

/// The publisher dies with a datagram that is not flushed, its adopter dies at `point`, and the
/// next adopter takes over the ring.
fn adopter_killed(point: Point, restarts: &'static [Restarted]) {
    check(1, move || {
        let (memory, mut publisher) = ROOM.ring();
        let mut watch = CheckedReader::new(ROOM, memory.clone(), Start::Oldest, Resume::Oldest);
        ROOM.publish(&mut publisher, 0..1);
        let reader = thread::spawn(move || {
            watch.step();
            watch
        });
        die(ROOM, publisher, 1, Point::K6);
        let died = killed_at(point, || {
            adopt(&memory);
        });
        assert!(died, "{point:?} was not passed");
        let (mut publisher, _) = adopt(&memory);
        ROOM.publish(&mut publisher, 1..2);
        let watch = reader.join().unwrap();
        publisher.end();
        watch.finish_after(restarts);
    });
}

const ONE: Restarted = Restarted { generation: 2, first: 1, lost: 1, exact: false };

pub fn adopter_killed_at_a1() {
    adopter_killed(Point::A1, &[ONE]);
}
pub fn adopter_killed_at_a2() {
    adopter_killed(Point::A2, &[ONE]);
}
pub fn adopter_killed_at_a3() {
    adopter_killed(Point::A3, &[ONE]);
}
pub fn adopter_killed_at_a4() {
    adopter_killed(Point::A4, &[ONE]);
}
/// Two restarts at the same seq. What the dead publisher had begun counts for the first.
pub fn adopter_killed_at_a5() {
    adopter_killed(Point::A5, &[ONE, Restarted { generation: 3, lost: 0, ..ONE }]);
}

/// Nothing is published after the restart, which is reported all the same, with its record.
pub fn restarted_in_silence() {
    const PLAN: Plan = Plan { geometry: by_slots, lengths: &[8] };
    check(2, || {
        let (memory, mut publisher) = PLAN.ring();
        let mut watch = CheckedReader::new(PLAN, memory.clone(), Start::Oldest, Resume::Oldest);
        PLAN.publish(&mut publisher, 0..1);
        let reader = thread::spawn(move || {
            for _ in 0..2 {
                watch.step();
            }
            watch
        });
        publisher.claim(8).unwrap().write(0, &bytes_of(1, 8));
        publisher.commit(0, 8, meta_of(1, 8));
        let (mut publisher, restarted) = adopt(&memory);
        let watch = reader.join().unwrap();
        publisher.end();
        assert_eq!(restarted, Restarted { generation: 2, first: 1, lost: 1, exact: false });
        watch.finish_after(&[restarted]);
    });
}

/// The new generation's datagram and the end come after the restart, however late the reader reads.
pub fn ended_after_a_restart() {
    check(1, || {
        let (memory, mut publisher) = ROOM.ring();
        let mut watch = CheckedReader::new(ROOM, memory.clone(), Start::Oldest, Resume::Oldest);
        ROOM.publish(&mut publisher, 0..1);
        let reader = thread::spawn(move || {
            for _ in 0..4 {
                if watch.step() == Step::Ended {
                    break;
                }
            }
            watch
        });
        let (mut publisher, restarted) = adopt(&memory);
        ROOM.publish(&mut publisher, 1..2);
        publisher.end();
        let watch = reader.join().unwrap();
        assert_eq!(watch.reader.account().restarts, watch.restarts.len() as u64);
        watch.finish_after(&[restarted]);
    });
}
