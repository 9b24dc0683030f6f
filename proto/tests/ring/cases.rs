//! Single cases, each of which tests one sentence of a contract.

use ringweir_proto::layout::{DATAGRAM_MAX, DEPTH_MAX, Geometry, GeometryError};
use ringweir_proto::ring::{
    Cause, Descriptor, Gap, Layer, Meta, Publisher, Resume, RingMemory, RingReader, Start, Step,
    Torn, WritableRing,
};
use std::sync::Arc;

fn ring(depth: u64, capacity: u64, most: u64) -> (Arc<RingMemory>, Publisher) {
    let ring = WritableRing::on_heap(Geometry::with_claims(depth, capacity, most, 1, 8).unwrap());
    (ring.memory().clone(), Publisher::new(ring))
}

#[test]
fn impossible_geometries_are_refused() {
    use GeometryError as E;
    let least = |r: Result<Geometry, E>| match r {
        Err(E::Capacity { least, .. }) => least,
        other => panic!("{other:?}"),
    };
    for depth in [0, 1, 3, 6, DEPTH_MAX * 2, u64::MAX] {
        assert_eq!(Geometry::new(depth, 1 << 20, 64), Err(E::Depth(depth)));
    }
    assert_eq!(Geometry::new(2, 1 << 40, DATAGRAM_MAX + 1), Err(E::MaxDatagram(DATAGRAM_MAX + 1)));
    for (slots, bytes) in [(0, 8), (9, 8), (1, 0), (1, 4), (1, 12), (1, 1 << 21), (u64::MAX, 8)] {
        assert_eq!(
            Geometry::with_claims(16, 1 << 20, 64, slots, bytes),
            Err(E::Claim { slots, bytes })
        );
    }
    // Found by a fuzzer: numbers of a hostile header must be bounded before they are used in sums.
    let most = !7;
    assert!(matches!(
        Geometry::with_claims(16, most, 64, 8, most),
        Err(E::Capacity { capacity, .. }) if capacity == most
    ));
    assert_eq!(least(Geometry::with_claims(16, 1004, 64, 1, 8)), 3 * 64 + 8, "not a multiple of 8");
    assert_eq!(least(Geometry::with_claims(16, 192, 64, 1, 8)), 200, "three largest and a claim");
    assert_eq!(
        least(Geometry::with_claims(16, 512, 64, 1, 256)),
        640,
        "twice the claim and the largest"
    );
    assert_eq!(least(Geometry::with_claims(16, (1 << 40) + 8, 0, 1, 8)), 16, "more than 2^40");
    assert_eq!(least(Geometry::new(2, 8, 8)), 32);
    assert_eq!(Geometry::new(2, 0, 8), Err(E::Claim { slots: 1, bytes: 8 }));
    assert!(Geometry::with_claims(16, 200, 64, 1, 8).is_ok());
    let most = Geometry::new(DEPTH_MAX, 1 << 40, DATAGRAM_MAX).unwrap();
    assert_eq!(most.footprint(), 4096 + DEPTH_MAX * 64 + (1 << 40));
}

#[test]
fn spans_and_datagrams_that_are_too_long_are_refused() {
    let (_, mut publisher) = ring(16, 1024, 100);
    assert_eq!(publisher.claim(256).map(|c| c.len()), Ok(256));
    for len in [257, 1024, usize::MAX - 3, usize::MAX] {
        assert!(publisher.claim(len).is_err(), "{len}");
    }
    assert!(publisher.publish(&[0; 101], Meta::default()).is_err());
    assert_eq!(publisher.publish(&[0; 100], Meta::default()), Ok(0));
}

#[test]
fn commits_outside_the_claim_panic() {
    for (offset, len) in [(4, 4), (0, 9), (16, 8), (usize::MAX - 7, 8), (0, 101)] {
        let (_, mut publisher) = ring(16, 2048, 100);
        publisher.claim(if len == 101 { 200 } else { 8 }).unwrap();
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            publisher.commit(offset, len, Meta::default())
        }));
        assert!(tried.is_err(), "{offset} {len}");
    }
    let (_, mut publisher) = ring(16, 2048, 100);
    publisher.claim(32).unwrap();
    publisher.commit(16, 8, Meta::default());
    let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        publisher.commit(8, 8, Meta::default())
    }));
    assert!(back.is_err(), "over an earlier commit");
}

#[test]
fn validated_datagrams_stay_delivered() {
    let (memory, mut publisher) = ring(2, 64, 8);
    for held_on in [false, true] {
        let mut reader = RingReader::new(memory.clone(), Start::Latest, Resume::Oldest);
        let seq = publisher.publish(b"01234567", Meta::default()).unwrap();
        let Ok(Step::Datagram(d)) = reader.step() else { panic!("it is there") };
        let mut half = [0; 4];
        reader.copy_out(&d, 0, &mut half);
        assert_eq!(reader.validate(), Ok(()));
        for _ in 0..4 {
            publisher.publish(b"abcdefgh", Meta::default()).unwrap();
        }
        if held_on {
            // Reading on in a verified datagram: the second result covers the second half.
            reader.copy_out(&d, 4, &mut half);
            assert_eq!(reader.validate(), Err(Torn));
        }
        let gap = reader.release().unwrap();
        assert_eq!(gap.map(|g| g.first), held_on.then_some(seq));
        assert_eq!(reader.account().delivered, u64::from(!held_on));
    }
}

/// A datagram that is left unread is found again, as often as it is left unread, and counted once.
/// If it is overwritten meanwhile, it is a gap. Controls: without being left unread it is passed
/// over, and if it is read and validated after all it is delivered.
#[test]
fn unread_datagrams_stay() {
    let (memory, mut publisher) = ring(4, 64, 8);
    let mut reader = RingReader::new(memory, Start::Oldest, Resume::Oldest);
    publisher.publish(b"a", Meta::default()).unwrap();
    publisher.publish(b"b", Meta::default()).unwrap();
    for _ in 0..3 {
        assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == 0));
        reader.leave_unread();
        assert_eq!(reader.account().delivered, 0);
    }
    assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == 0));
    reader.leave_unread();
    assert_eq!((reader.release(), reader.validate()), (Ok(None), Err(Torn)));
    assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == 0));
    assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == 1));
    reader.leave_unread();
    assert_eq!(reader.validate(), Ok(()));
    reader.leave_unread();
    assert_eq!((reader.step(), reader.account().delivered), (Ok(Step::Empty), 2));

    publisher.publish(b"c", Meta::default()).unwrap();
    assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == 2));
    reader.leave_unread();
    for _ in 0..8 {
        publisher.publish(b"d", Meta::default()).unwrap();
    }
    let Ok(Step::Gap(gap)) = reader.step() else { panic!("it was overwritten") };
    assert_eq!((gap.first, gap.cause), (2, Cause::Lapped));
    let account = reader.account();
    assert_eq!(account.delivered + account.lost, reader.read_cursor());
}

#[test]
fn validating_nothing_is_no_loss() {
    let (memory, mut publisher) = ring(4, 64, 8);
    let mut reader = RingReader::new(memory, Start::Oldest, Resume::Oldest);
    publisher.publish(b"a", Meta::default()).unwrap();
    publisher.publish(b"b", Meta::default()).unwrap();
    assert_eq!(reader.validate(), Err(Torn));
    for seq in 0..2 {
        assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == seq));
        assert_eq!(reader.release(), Ok(None));
        assert_eq!(reader.validate(), Err(Torn));
    }
    assert_eq!((reader.step(), reader.account().lost), (Ok(Step::Empty), 0));
}

/// No datagram can report losses after the last datagram: the reader gets them once, before the
/// end.
#[test]
fn losses_after_the_last_datagram_are_reported_with_the_end() {
    let ring = WritableRing::on_heap(Geometry::new(64, 4096, 64).unwrap());
    let memory = ring.memory().clone();
    let mut publisher = Publisher::new(ring);
    let mut reader = RingReader::new(memory, Start::Seq(0), Resume::Oldest);
    publisher.lost_upstream(Layer::Kernel, 2, true);
    publisher.publish(b"one", Meta::default()).unwrap();
    publisher.lost_upstream(Layer::Broker, 3, false);
    publisher.end();
    let mut reported = Vec::new();
    loop {
        match reader.step().unwrap() {
            Step::Gap(gap) => reported.push((gap.first, gap.count, gap.cause)),
            Step::Datagram(_) => {}
            Step::Restarted(_) => panic!("nobody restarted"),
            Step::Ended => break,
            Step::Empty => panic!("the stream has ended"),
        }
    }
    let upstream = |layer, exact| Cause::Upstream { layer, exact };
    assert_eq!(
        reported,
        [(0, 2, upstream(Layer::Kernel, true)), (1, 3, upstream(Layer::Broker, false))]
    );
    assert_eq!(reader.step().unwrap(), Step::Ended, "reported once");
}

/// That a device went away is reported at the right seq and once to every reader, even over laps. A
/// reader that has read up to there gets it at once.
#[test]
fn device_that_goes_away_is_reported_once_and_in_order() {
    let ring = WritableRing::on_heap(Geometry::new(16, 4096, 64).unwrap());
    let memory = ring.memory().clone();
    let mut publisher = Publisher::new(ring);
    let reader = |start| RingReader::new(memory.clone(), start, Resume::Oldest);
    let gone_at = |reader: &mut RingReader| match reader.step().unwrap() {
        Step::Gap(Gap { first, count: 0, cause: Cause::SourceGone, .. }) => Some(first),
        _ => None,
    };
    let (mut prompt, mut slow, mut lapped) =
        (reader(Start::Oldest), reader(Start::Oldest), reader(Start::Oldest));
    publisher.publish(b"one", Meta::default()).unwrap();
    assert!(matches!(prompt.step().unwrap(), Step::Datagram(_)));
    assert_eq!(prompt.step().unwrap(), Step::Empty);
    publisher.source_gone();
    publisher.source_gone();
    assert_eq!(gone_at(&mut prompt), Some(1));
    assert_eq!(prompt.step().unwrap(), Step::Empty, "reported once");
    assert_eq!(
        gone_at(&mut reader(Start::Latest)),
        Some(1),
        "a reader that comes while it is away"
    );
    publisher.source_back();
    assert_eq!(reader(Start::Latest).step().unwrap(), Step::Empty, "who comes afterwards is not");
    publisher.publish(b"two", Meta::default()).unwrap();
    assert!(matches!(prompt.step().unwrap(), Step::Datagram(_)));
    assert!(matches!(slow.step().unwrap(), Step::Datagram(_)));
    assert_eq!(gone_at(&mut slow), Some(1));
    assert!(matches!(slow.step().unwrap(), Step::Datagram(Descriptor { seq: 1, .. })));
    for _ in 0..40 {
        publisher.publish(b"more", Meta::default()).unwrap();
    }
    assert!(matches!(lapped.step().unwrap(), Step::Gap(Gap { cause: Cause::Lapped, .. })));
    assert!(gone_at(&mut lapped).is_some(), "though both datagrams around it are gone");
    while lapped.step().unwrap() != Step::Empty {}
    let a = lapped.account();
    assert_eq!(a.start + a.delivered + a.lost, 42);
}
