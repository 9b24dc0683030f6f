//! Adoption, beyond what loom and the process tests check: the cost of a restart if the source
//! numbers its datagrams, rings with more restarts than they remember, and objects with any byte
//! damaged.
//!
//! Contract: every number is compared, and each check has its negative control next to it.
#![allow(unsafe_code)]
#![cfg(not(ringweir_loom))]

use proptest::prelude::*;
use ringweir_proto::layout::{Geometry, RESTARTS};
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{self, RingObject, RingSpec};
use ringweir_proto::ring::{
    Cause, Gap, Layer, Meta, Publisher, Restarted, Resume, RingMemory, RingReader, Start, Step,
    Unfit, WritableRing,
};
use ringweir_proto::stats::PumpCounter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn geometry() -> Geometry {
    Geometry::new(64, 4096, 256).unwrap()
}

fn ring() -> (Arc<RingMemory>, Publisher) {
    let ring = WritableRing::on_heap(geometry());
    (ring.memory().clone(), Publisher::new(ring))
}

/// A new publisher takes over the ring of a dead one.
fn adopt(memory: &Arc<RingMemory>, position: Option<u32>) -> Result<(Publisher, Restarted), Unfit> {
    // SAFETY: the tests call this after the previous publisher was dropped, or is used no more.
    let ring = unsafe { WritableRing::assume_unique(memory.clone()) };
    Publisher::adopt(ring, position)
}

fn publish(publisher: &mut Publisher, count: u64) {
    for _ in 0..count {
        publisher.publish(b"datagram", Meta::default()).unwrap();
    }
}

/// Commits a datagram that is never flushed.
fn begin(publisher: &mut Publisher) {
    publisher.claim(8).unwrap().write(0, b"doomed..");
    publisher.commit(0, 8, Meta::default());
}

/// Reads everything: the number of datagrams, and all other steps in order.
fn drain(reader: &mut RingReader) -> (u64, Vec<Step>) {
    let (mut datagrams, mut reported) = (0, Vec::new());
    loop {
        match reader.step().unwrap() {
            Step::Datagram(_) => datagrams += 1,
            Step::Empty | Step::Ended => return (datagrams, reported),
            other => reported.push(other),
        }
    }
}

/// If the ring knows the device's numbers, the count of what was taken or lost and never reported
/// is exact, whatever it was.
#[test]
fn loss_of_a_numbered_source_is_exact() {
    let (memory, mut publisher) = ring();
    let mut reader = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
    // The device's numbers at the beginning; they wrap soon.
    let base = u32::MAX - 10;
    publisher.set_position(Some(base));
    publish(&mut publisher, 5);
    publisher.lost_upstream(Layer::Device, 7, true);
    publish(&mut publisher, 5);
    // The ring accounts for 17 numbers. Then come a loss of 4, two datagrams that are committed but
    // not flushed, and one that was taken without a trace in the ring.
    publisher.lost_upstream(Layer::Device, 4, true);
    begin(&mut publisher);
    begin(&mut publisher);
    let position = base.wrapping_add(17 + 4 + 2 + 1);
    drop(publisher);
    let (mut publisher, restarted) = adopt(&memory, Some(position)).unwrap();
    let first = Restarted { generation: 2, first: 10, lost: 7, exact: true };
    assert_eq!(restarted, first);
    // Again, with losses that the dead publisher had not reported either, and nothing published in
    // between.
    publisher.lost_upstream(Layer::Device, 3, true);
    drop(publisher);
    let (mut publisher, restarted) = adopt(&memory, Some(position.wrapping_add(3))).unwrap();
    let second = Restarted { generation: 3, first: 10, lost: 3, exact: true };
    assert_eq!(restarted, second);
    publish(&mut publisher, 1);
    publisher.lost_upstream(Layer::Device, 2, true);
    publish(&mut publisher, 1);
    let (datagrams, reported) = drain(&mut reader);
    assert_eq!(datagrams, 12);
    assert_eq!((reported[1], reported[2]), (Step::Restarted(first), Step::Restarted(second)));
    assert_eq!(reader.account().upstream_lost, 7 + 2);
    assert_eq!((reader.account().restarts, reader.account().restart_lost), (2, 10));
    // The layers' counters match what was reported to readers, and count nothing twice.
    assert_eq!(
        (memory.counter(PumpCounter::DeviceLost), memory.counter(PumpCounter::RestartLost)),
        (9, 10)
    );
    // Controls: a source that started again, one that does not report its position, and a ring
    // without a position.
    drop(publisher);
    for position in [Some(3), None] {
        let (_, restarted) = adopt(&memory, position).unwrap();
        assert!(!restarted.exact && restarted.lost == 0, "{position:?}: {restarted:?}");
    }
    let (memory, _) = ring();
    assert!(!adopt(&memory, Some(7)).unwrap().1.exact);
}

/// For a source without numbers, the loss includes at least what was begun, and what was counted
/// but not reported (K10).
#[test]
fn loss_of_other_sources_is_a_lower_bound() {
    let (memory, mut publisher) = ring();
    let mut reader = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
    publisher.lost_upstream(Layer::Kernel, 2, true);
    publish(&mut publisher, 1);
    publisher.lost_upstream(Layer::Kernel, 5, true);
    begin(&mut publisher);
    drop(publisher);
    let (mut publisher, restarted) = adopt(&memory, None).unwrap();
    assert_eq!(restarted, Restarted { generation: 2, first: 1, lost: 6, exact: false });
    publish(&mut publisher, 1);
    let (datagrams, reported) = drain(&mut reader);
    let upstream = Cause::Upstream { layer: Layer::Kernel, exact: true };
    assert!(matches!(
        reported[..],
        [Step::Gap(Gap { count: 2, cause, .. }), Step::Restarted(r)]
            if cause == upstream && r == restarted
    ));
    assert_eq!(
        (datagrams, reader.account().upstream_lost, reader.account().restart_lost),
        (2, 2, 6)
    );
    assert_eq!(
        (memory.counter(PumpCounter::KernelLost), memory.counter(PumpCounter::RestartLost)),
        (2, 6)
    );
    // Control: nothing was begun, so nothing is lost.
    drop(publisher);
    assert_eq!(adopt(&memory, None).unwrap().1.lost, 0);
}

/// A reader that was stopped for more restarts than the ring remembers gets the oldest ones as one
/// restart, with the sum of their costs.
#[test]
fn more_restarts_than_are_recorded_are_reported_as_one() {
    for restarts in [3, RESTARTS as u64 - 1, RESTARTS as u64 + 5] {
        let (memory, mut publisher) = ring();
        let mut reader = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
        for _ in 0..restarts {
            publish(&mut publisher, 1);
            begin(&mut publisher);
            publisher = adopt(&memory, None).unwrap().0;
        }
        let (datagrams, reported) = drain(&mut reader);
        let reported: Vec<_> = reported
            .iter()
            .map(|t| if let Step::Restarted(r) = t { *r } else { panic!("{t:?}") })
            .collect();
        let remembered = restarts.min(RESTARTS as u64 - 1);
        assert_eq!((datagrams, reported.len() as u64), (restarts, remembered));
        assert_eq!(
            reported[0],
            Restarted {
                generation: restarts + 2 - remembered,
                first: restarts + 1 - remembered,
                lost: restarts + 1 - remembered,
                exact: false
            }
        );
        assert_eq!(reported.iter().map(|r| r.lost).sum::<u64>(), restarts);
        assert_eq!((reader.generation(), reader.read_cursor()), (restarts + 1, restarts));
        // A reader that attaches now begins in the generation of its first datagram, and gets the
        // later restarts in the same way.
        let mut late = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
        let (datagrams, reported) = drain(&mut late);
        assert_eq!((datagrams, late.generation()), (restarts, restarts + 1));
        assert!(!reported.is_empty() && reported.len() as u64 <= remembered, "{reported:?}");
        let mut latest = RingReader::new(memory, Start::Latest, Resume::Oldest);
        assert_eq!((drain(&mut latest), latest.generation()), ((0, Vec::new()), restarts + 1));
    }
}

#[test]
fn a_ring_whose_stream_has_ended_is_not_adopted() {
    let (memory, mut publisher) = ring();
    publisher.end();
    assert_eq!(adopt(&memory, None).map(|_| ()), Err(Unfit::Ended));
}

/// A ring in /dev/shm, as a broker leaves it that dies with a datagram begun but not flushed.
struct Corpse {
    name: String,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Drop for Corpse {
    fn drop(&mut self) {
        // It may have been removed by who adopted it.
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Corpse {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("/ringweir-test-adopt.{}.{n}", std::process::id());
        let (object, ring) = RingObject::create(&name, &spec()).unwrap();
        let mut publisher = Publisher::new(ring);
        publish(&mut publisher, 100);
        publisher = adopt(object.memory(), None).unwrap().0;
        publish(&mut publisher, 50);
        begin(&mut publisher);
        let path = PathBuf::from(format!("/dev/shm{name}"));
        let bytes = std::fs::read(&path).unwrap();
        Self { name, path, bytes }
    }

    /// Adopts it with these bytes, publishes into it and reads it. False: it was refused.
    fn adopted(&self, bytes: &[u8]) -> bool {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&self.path, bytes).unwrap();
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let Ok((object, ring)) = RingObject::adopt(&self.name, &spec()) else { return false };
        let memory = object::attach(object.read_only(), false).unwrap().memory;
        let Ok((mut publisher, restarted)) = Publisher::adopt(ring, Some(9)) else {
            return false;
        };
        let mut latest = RingReader::new(memory.clone(), Start::Latest, Resume::Oldest);
        publish(&mut publisher, 200);
        assert_eq!(publisher.next_seq(), restarted.first + 200);
        // Whatever an old slot contains, a reader gets a step or an error, and never panics.
        let mut reader = RingReader::new(memory, Start::Oldest, Resume::Oldest);
        for _ in 0..300 {
            if reader.step().is_err() {
                break;
            }
        }
        let mut had = 0;
        while let Ok(Step::Datagram(_) | Step::Gap(_) | Step::Restarted(_)) = latest.step() {
            had += 1;
        }
        assert!(had > 0, "what the adopter publishes is read");
        true
    }
}

fn spec() -> RingSpec<'static> {
    let (memory, huge_pages) = (Memory::Shm, false);
    RingSpec {
        name: "adopt",
        geometry: geometry(),
        generation: 1,
        metadata: &[],
        memory,
        huge_pages,
    }
}

/// The control of the tests below.
#[test]
fn a_ring_as_it_was_left_is_adopted() {
    let corpse = Corpse::new();
    assert!(corpse.adopted(&corpse.bytes));
    assert!(!corpse.path.exists(), "the broker that gives it up removes it");
}

/// Found by fuzzing: a sum that the adopter adds to must not be near its wrap.
#[test]
fn a_sum_that_would_wrap_is_damage() {
    let corpse = Corpse::new();
    let next = u64::from_le_bytes(corpse.bytes[640..648].try_into().unwrap());
    let bytes_before = 4096 + (next as usize - 1) % 64 * 64 + 56;
    for word in [bytes_before, 768 + 24] {
        let mut bytes = corpse.bytes.clone();
        bytes[word..word + 8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        assert!(!corpse.adopted(&bytes), "{word}");
    }
}

/// Words of the header near 2^64: a reader finds damage or nothing, and nothing overflows. Control:
/// the undamaged ring is read completely.
#[test]
fn cursors_near_the_end_of_the_numbers_do_not_overflow() {
    let corpse = Corpse::new();
    let seen = |edit: &dyn Fn(&mut [u8])| {
        let mut bytes = corpse.bytes.clone();
        edit(&mut bytes);
        std::fs::write(&corpse.path, &bytes).unwrap();
        let file = std::fs::File::open(&corpse.path).unwrap();
        let memory = object::attach(&file, false).unwrap().memory;
        [Start::Oldest, Start::Latest, Start::Seq(3), Start::Seq(u64::MAX)].map(|start| {
            [Resume::Oldest, Resume::Newest].map(|resume| {
                let mut reader = RingReader::new(memory.clone(), start, resume);
                let mut steps = 0;
                while steps < 300
                    && !matches!(reader.step(), Ok(Step::Empty | Step::Ended) | Err(_))
                {
                    steps += 1;
                }
                steps
            })
        })
    };
    let sound = seen(&|_| {});
    assert!(sound[0][0] > 10, "{sound:?}");
    // The claim line, the write cursor, the generation, and the first restart record.
    let words = [512, 520, 640, 776, 1536 + 32, 1536 + 40, 1536 + 48];
    for value in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 62) + 1, u64::MAX - 63] {
        for one in words {
            for other in words {
                seen(&|bytes| {
                    bytes[one..one + 8].copy_from_slice(&value.to_le_bytes());
                    bytes[other..other + 8].copy_from_slice(&(value - 1).to_le_bytes());
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any words of the header or of the slots are damaged: the ring is refused or adopted, without
    /// a panic and without access outside the memory.
    #[test]
    fn no_damage_makes_an_adopter_panic(
        damage in prop::collection::vec(
            (prop_oneof![3 => 64usize..2048 / 8, 1 => 512usize..1536], any::<u64>(), 0u32..64),
            1..4,
        )
    ) {
        let corpse = Corpse::new();
        let mut bytes = corpse.bytes.clone();
        for (word, value, shift) in damage {
            let value = (value >> shift).to_le_bytes();
            bytes[word * 8..word * 8 + 8].copy_from_slice(&value);
        }
        corpse.adopted(&bytes);
    }
}
