//! Random geometries and random runs, on the ring and on the reference: all numbers must be equal.

use crate::reference::{Expected, ExpectedStep, Reference};
use proptest::prelude::*;
use ringweir_proto::layout::{Geometry, GeometryError};
use ringweir_proto::ring::{
    Descriptor, Layer, Meta, Publisher, Resume, RingReader, Start, Step, WritableRing,
};

#[derive(Clone, Debug)]
enum Op {
    /// One claim, with its commits (length, and words skipped before it), whether it is filled in
    /// two steps, and how many bytes of it are not committed.
    Batch {
        lengths: Vec<(u32, u8)>,
        steps: bool,
        spare: u8,
    },
    Flush,
    /// A claim without a commit.
    ClaimOnly(u32),
    Upstream {
        layer: u8,
        count: u64,
        exact: bool,
    },
    Attach {
        at: u8,
        newest: bool,
    },
    Steps {
        reader: u8,
        n: u8,
    },
    Validate {
        reader: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    // Lengths are per mille of the largest, so that 0 and the largest come up often.
    let length = prop_oneof![Just(0), Just(1000), Just(999), 0..=1000u32];
    prop_oneof![
        6 => (prop::collection::vec((length.clone(), 0..3u8), 1..5), any::<bool>(), 0..20u8)
            .prop_map(|(lengths, steps, spare)| Op::Batch { lengths, steps, spare }),
        4 => Just(Op::Flush),
        1 => length.prop_map(Op::ClaimOnly),
        1 => (0..3u8, prop_oneof![1..9u64, Just(u64::from(u32::MAX) - 3)], any::<bool>())
            .prop_map(|(layer, count, exact)| Op::Upstream { layer, count, exact }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(at, newest)| Op::Attach { at, newest }),
        8 => (any::<u8>(), 1..12u8).prop_map(|(reader, n)| Op::Steps { reader, n }),
        3 => any::<u8>().prop_map(|reader| Op::Validate { reader }),
    ]
}

fn geometry() -> impl Strategy<Value = Geometry> {
    (1..5u32, 0..70u64, 1..5u64, 1..9u64, prop_oneof![Just(0u64), 0..400u64]).prop_map(
        |(log, most, slots, claim, more)| {
            let depth = 1 << log;
            let slots = slots.min(depth / 2);
            let refused = Geometry::with_claims(depth, 8 * claim, most, slots, 8 * claim);
            let Err(GeometryError::Capacity { least, .. }) = refused else { panic!("{refused:?}") };
            Geometry::with_claims(depth, (least + more).next_multiple_of(8), most, slots, 8 * claim)
                .unwrap()
        },
    )
}

fn fill(seq: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seq.wrapping_mul(0x9e37_79b9) ^ (i * 31)) as u8).collect()
}

struct Run {
    reference: Reference,
    publisher: Publisher,
    readers: Vec<(RingReader, Expected, Option<Descriptor>)>,
    losses_in_flight: u64,
}

impl Run {
    fn new(geometry: Geometry) -> Self {
        let ring = WritableRing::on_heap(geometry);
        let mut run = Self {
            reference: Reference::new(geometry),
            publisher: Publisher::new(ring),
            readers: Vec::new(),
            losses_in_flight: 0,
        };
        run.attach(Start::Oldest, Resume::Oldest);
        run.attach(Start::Latest, Resume::Newest);
        run
    }

    fn attach(&mut self, start: Start, resume: Resume) {
        let reader = RingReader::new(self.publisher.memory().clone(), start, resume);
        self.readers.push((reader, Expected::new(&self.reference, start, resume), None));
    }

    fn apply(&mut self, op: &Op) {
        let geometry = self.reference.geometry;
        let len = |mille: u32| (geometry.max_datagram() * u64::from(mille) / 1000) as usize;
        match op {
            Op::Batch { lengths, steps, spare } => self.batch(lengths, *steps, usize::from(*spare)),
            Op::Flush => {
                self.publisher.flush();
                self.reference.flush();
            }
            Op::ClaimOnly(mille) => {
                self.publisher.claim(len(*mille)).unwrap();
                self.reference.claim(len(*mille) as u64);
            }
            Op::Upstream { layer, count, exact } => {
                // By contract, losses of 2^32 or more in one lap are ambiguous.
                self.losses_in_flight += count;
                if self.losses_in_flight > u64::from(u32::MAX) {
                    return;
                }
                let layer = [Layer::Device, Layer::Kernel, Layer::Broker][usize::from(*layer)];
                self.publisher.lost_upstream(layer, *count, *exact);
                self.reference.lost += count;
                self.reference.layer = layer;
                self.reference.exact &= exact;
                self.reference.exact_ever &= exact;
            }
            Op::Attach { at, newest } => {
                let start = match at % 4 {
                    0 => Start::Latest,
                    1 => Start::Oldest,
                    _ => Start::Seq((self.reference.next + 3) * u64::from(*at) / 255),
                };
                self.attach(start, if *newest { Resume::Newest } else { Resume::Oldest });
            }
            Op::Steps { reader, n } => {
                let index = usize::from(*reader) % self.readers.len();
                for _ in 0..*n {
                    self.step(index);
                }
            }
            Op::Validate { reader } => {
                let index = usize::from(*reader) % self.readers.len();
                let (reader, expected, held) = &mut self.readers[index];
                let mut bytes = vec![0; held.map_or(0, |d| d.len)];
                if let Some(d) = held {
                    reader.copy_out(d, 0, &mut bytes);
                }
                let whole = reader.validate();
                assert_eq!(whole, expected.validate(&self.reference));
                if whole.is_ok() {
                    assert_eq!(bytes, expected.held.as_ref().unwrap().bytes);
                }
            }
        }
    }

    fn batch(&mut self, lengths: &[(u32, u8)], steps: bool, spare: usize) {
        let geometry = self.reference.geometry;
        let mut places = Vec::new();
        let mut end = 0usize;
        for (mille, skip) in lengths {
            let (at, len) = (
                end + 8 * usize::from(*skip),
                geometry.max_datagram() as usize * *mille as usize / 1000,
            );
            let after = (at + len).next_multiple_of(8);
            if after as u64 > geometry.max_span() {
                break;
            }
            places.push((at, len));
            end = after;
        }
        let asked = (end + spare).min(geometry.max_span() as usize);
        let pos = self.reference.claim(asked as u64);
        let mut claim = self.publisher.claim(asked).unwrap();
        assert_eq!(claim.len(), asked.next_multiple_of(8));
        for (i, (at, len)) in places.iter().enumerate() {
            let bytes = fill(self.reference.next + i as u64, *len);
            if steps {
                claim.write(*at, &bytes[..len / 16 * 8]);
            } else {
                claim.bytes()[*at..at + len].copy_from_slice(&bytes);
            }
        }
        if steps {
            // The same claim is made again for the rest.
            let mut claim = self.publisher.claim(asked).unwrap();
            for (i, (at, len)) in places.iter().enumerate() {
                let (bytes, half) = (fill(self.reference.next + i as u64, *len), len / 16 * 8);
                claim.write(at + half, &bytes[half..]);
            }
        }
        for (at, len) in places {
            let seq = self.reference.next;
            let meta = Meta {
                original_len: if seq.is_multiple_of(3) { len as u32 + 1 } else { 0 },
                channel: seq as u16,
                source_time: seq * 3,
                publish_time: seq * 5 + 1,
            };
            self.publisher.commit(at, len, meta);
            self.reference.commit(pos + at as u64, fill(seq, len), meta);
        }
        assert_eq!(self.publisher.unflushed(), self.reference.next - self.reference.flushed);
    }

    fn step(&mut self, index: usize) {
        let (reader, expected, held) = &mut self.readers[index];
        let reported = expected.step(&self.reference);
        *held = None;
        match reader.step().expect("not corrupt") {
            Step::Empty => assert_eq!(reported, ExpectedStep::Empty),
            Step::Gap(gap) => assert_eq!(ExpectedStep::Gap(gap), reported),
            Step::Restarted(_) => panic!("nobody restarted"),
            Step::Ended => panic!("nobody ended it"),
            Step::Datagram(d) => {
                assert_eq!(reported, ExpectedStep::Datagram { seq: d.seq });
                let e = expected.held.as_ref().unwrap();
                let original = e.bytes.len().max(e.meta.original_len as usize);
                assert_eq!(
                    (d.len, d.original_len, d.channel),
                    (e.bytes.len(), original, e.meta.channel)
                );
                assert_eq!(
                    (d.source_time, d.publish_time),
                    (e.meta.source_time, e.meta.publish_time)
                );
                *held = Some(d);
            }
        }
        let a = reader.account();
        assert_eq!(a.start + a.delivered + a.lost, reader.read_cursor());
        assert_eq!(
            (a.start, a.delivered, a.lost),
            (expected.start, expected.delivered, expected.lost)
        );
        assert_eq!(
            (a.bytes_delivered, a.bytes_lost),
            (expected.bytes_delivered, expected.bytes_lost)
        );
        assert_eq!((a.gaps, a.upstream_lost), (expected.gaps, expected.upstream_lost));
        assert_eq!(reader.read_bytes(), expected.bytes);
    }

    /// Flushes everything. Then `published = start + delivered + lost` must hold for every reader,
    /// once it has read to the end.
    fn close(mut self) {
        self.publisher.flush();
        self.reference.flush();
        for index in 0..self.readers.len() {
            while self.readers[index].1.seq < self.reference.next
                || self.readers[index].1.held.is_some()
            {
                self.step(index);
            }
            let a = self.readers[index].0.account();
            assert_eq!(a.start + a.delivered + a.lost, self.reference.next);
        }
        self.publisher.end();
        for (reader, expected, _) in &mut self.readers {
            // Losses after the last datagram are reported before the end.
            let last = u64::from(
                (self.reference.lost - expected.upstream.unwrap_or(self.reference.lost)) as u32,
            );
            if last > 0 {
                let Ok(Step::Gap(gap)) = reader.step() else {
                    panic!("{last} lost after the last datagram")
                };
                assert_eq!((gap.first, gap.count), (self.reference.next, last));
            }
            assert_eq!(reader.step(), Ok(Step::Ended));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ring_behaves_like_the_reference(
        geometry in geometry(), ops in prop::collection::vec(op(), 1..120)
    ) {
        let mut run = Run::new(geometry);
        ops.iter().for_each(|op| run.apply(op));
        run.close();
    }

    /// However tight the geometry, a flushed datagram stays readable while the next span is claimed
    /// and filled.
    #[test]
    fn the_newest_stays_readable_while_the_next_is_claimed(
        geometry in geometry(), lengths in prop::collection::vec((0..=1000u64, 0..=1000u64), 1..60)
    ) {
        let ring = WritableRing::on_heap(geometry);
        let memory = ring.memory().clone();
        let mut publisher = Publisher::new(ring);
        for (mille, span) in lengths {
            let datagram = fill(0, (geometry.max_datagram() * mille / 1000) as usize);
            let seq = publisher.publish(&datagram, Meta::default()).unwrap();
            let claimed = (geometry.max_span() * span / 1000) as usize;
            publisher.claim(claimed).unwrap().bytes().fill(0xff);
            let mut reader = RingReader::new(memory.clone(), Start::Seq(seq), Resume::Oldest);
            prop_assert!(matches!(reader.step(), Ok(Step::Datagram(d)) if d.seq == seq));
            prop_assert_eq!(reader.validate(), Ok(()));
        }
    }
}
