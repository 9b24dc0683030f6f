//! Random tests of the gate: whatever is claimed, a lossless reader within its budget loses
//! nothing, and one that has read everything except the datagram that it holds never blocks the
//! publisher.
#![cfg(not(ringweir_loom))]

use proptest::prelude::*;
use ringweir_proto::layout::{Geometry, ReaderBlock};
use ringweir_proto::ring::gate::{demoted, granted, release};
use ringweir_proto::ring::{
    Budget, LosslessGate, Meta, Publisher, Resume, RingReader, Start, Step, WritableRing,
};

const SECOND: u64 = 1_000_000_000;

struct Lossless {
    block: ReaderBlock,
    reader: RingReader,
}

/// A publisher with a gate and lossless readers.
struct Bench {
    publisher: Publisher,
    gate: LosslessGate,
    readers: Vec<Lossless>,
}

impl Bench {
    fn new(geometry: Geometry, budget: Budget) -> Self {
        let publisher = Publisher::new(WritableRing::on_heap(geometry));
        Self { publisher, gate: LosslessGate::new(budget, 8), readers: Vec::new() }
    }

    fn attach(&mut self, start: Start) -> &mut Lossless {
        let (block, index) = (ReaderBlock::default(), self.readers.len() as u32);
        self.gate.admit(&mut self.publisher, index, start, &block);
        let begin = granted(&block).expect("admitted");
        let reader =
            RingReader::new(self.publisher.memory().clone(), Start::Seq(begin), Resume::Oldest);
        self.readers.push(Lossless { block, reader });
        self.readers.last_mut().unwrap()
    }

    /// Whether one more datagram of `bytes` fits, after reading the cursors again.
    fn fits(&mut self, bytes: usize) -> bool {
        let Self { publisher, gate, readers } = self;
        gate.look(publisher, |index| Some(&readers[index as usize].block.read_seq));
        publisher.fits(bytes)
    }

    /// Publishes like a source that receives several datagrams at once: it claims `most` of them in
    /// one go, and those that do not fit one by one.
    fn batch(&mut self, lengths: &[usize], stride: usize, max: usize) {
        let span = self.publisher.memory().geometry().max_span() as usize;
        let most = self.publisher.how_many_fit(max, lengths.len().min(span / 4 / stride).max(1));
        let (now, later) = lengths[..most].split_at(most / 2);
        let _room = self.publisher.claim(most * stride).unwrap();
        let mut at = 0;
        for len in now.iter().map(|len| (*len).min(stride)) {
            self.publisher.commit(at, len, Meta::default());
            at += len.next_multiple_of(8);
        }
        for len in later {
            let _room = self.publisher.claim(*len).unwrap();
            self.publisher.commit(0, *len, Meta::default());
        }
        self.publisher.flush();
    }
}

impl Lossless {
    /// Reads one datagram; false: there is none. It never gets a gap.
    fn read(&mut self) -> bool {
        let step = self.reader.step().unwrap();
        release(&self.block, self.reader.read_cursor());
        match step {
            Step::Datagram(_) => true,
            Step::Empty => false,
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Publish(Vec<u16>),
    Read(usize, u8),
    Attach(bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => prop::collection::vec(any::<u16>(), 1..20).prop_map(Act::Publish),
        4 => (any::<usize>(), 0..20u8).prop_map(|(who, n)| Act::Read(who, n)),
        1 => any::<bool>().prop_map(Act::Attach),
    ];
    prop::collection::vec(act, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn lossless_readers_are_never_lapped(
        (depth, max, more) in (1..8u32, 1..200u64, 0..1000u64),
        window in prop_oneof![Just(u64::MAX), 0..2000u64],
        acts in acts(),
    ) {
        let least = 4 * (max + 8) + 64;
        let geometry = Geometry::new(1 << depth, (least + more).next_multiple_of(8), max).unwrap();
        let mut bench = Bench::new(geometry, Budget { bytes: window, time_ns: SECOND });
        bench.attach(Start::Latest);
        for act in acts {
            match act {
                Act::Attach(oldest) if bench.readers.len() < 8 => {
                    bench.attach(if oldest { Start::Oldest } else { Start::Latest });
                }
                Act::Attach(_) => {}
                Act::Read(who, n) => {
                    let who = who % bench.readers.len();
                    for _ in 0..n {
                        bench.readers[who].read();
                    }
                }
                Act::Publish(lengths) => {
                    let max = max as usize;
                    let lengths: Vec<usize> =
                        lengths.iter().map(|n| usize::from(*n) % (max + 1)).collect();
                    if bench.fits(max) {
                        bench.batch(&lengths, (max / 3).next_multiple_of(8).max(8), max);
                    }
                }
            }
        }
        for reader in &mut bench.readers {
            while reader.read() {}
            let account = reader.reader.account();
            prop_assert_eq!(account.lost, 0);
            prop_assert_eq!(account.start + account.delivered, bench.publisher.next_seq());
        }
        // Everything is read except the datagrams that the readers hold, so the longest claim fits.
        let longest = geometry.max_span() as usize;
        prop_assert!(bench.fits(longest), "a reader with one datagram in hand holds the publisher \
            up");
    }
}

fn small() -> Bench {
    Bench::new(Geometry::new(8, 4096, 64).unwrap(), Budget { bytes: u64::MAX, time_ns: SECOND })
}

fn fill(bench: &mut Bench) -> u64 {
    while bench.fits(64) {
        bench.publisher.publish(&[7; 64], Meta::default()).unwrap();
    }
    bench.publisher.next_seq()
}

#[test]
fn a_budget_is_used_up_and_then_the_stream_continues() {
    let mut bench = small();
    bench.attach(Start::Latest);
    assert_eq!(fill(&mut bench), 8, "a ring full");
    assert_eq!(bench.gate.charge(&bench.publisher, 64, SECOND - 1), None);
    assert_eq!(bench.gate.left_ns(&bench.publisher, 64), 1);
    assert_eq!(bench.gate.charge(&bench.publisher, 64, 1), Some(0));
    assert_eq!(demoted(&bench.readers[0].block), None);
    let reported = bench.gate.demote(&mut bench.publisher, 0, &bench.readers[0].block);
    assert_eq!(reported.held_ns, SECOND);
    assert_eq!(demoted(&bench.readers[0].block), Some(reported));
    assert!(bench.gate.is_empty() && bench.publisher.fits(64));
    for _ in 0..8 {
        bench.publisher.publish(&[8; 64], Meta::default()).unwrap();
    }
    let reader = &mut bench.readers[0].reader;
    assert!(matches!(reader.step(), Ok(Step::Gap(_))), "lossy now");
}

/// A reader that is slow all the time does not get its budget again; one that has caught up does.
#[test]
fn a_budget_is_renewed_by_catching_up_alone() {
    let mut bench = small();
    bench.attach(Start::Latest);
    for _ in 0..9 {
        fill(&mut bench);
        assert_eq!(bench.gate.charge(&bench.publisher, 64, SECOND / 10), None);
        bench.readers[0].read();
        bench.readers[0].read();
    }
    fill(&mut bench);
    assert_eq!(bench.gate.charge(&bench.publisher, 64, SECOND / 10), Some(0), "a tenth ten times");

    let mut bench = small();
    bench.attach(Start::Latest);
    for _ in 0..100 {
        fill(&mut bench);
        assert_eq!(bench.gate.charge(&bench.publisher, 64, SECOND / 10), None);
        while bench.readers[0].read() {}
        assert!(bench.fits(64));
    }
}

/// A false cursor in a page harms only its own reader.
#[test]
fn a_cursor_that_lies_holds_nothing_and_frees_nothing_of_others() {
    let mut bench = small();
    for _ in 0..2 {
        bench.attach(Start::Latest);
    }
    fill(&mut bench);
    release(&bench.readers[0].block, u64::MAX - 1);
    assert!(!bench.fits(64), "the other one is still waited for");
    while bench.readers[1].read() {}
    assert!(bench.fits(64));
    // The cursor goes back again, but what was released stays released.
    release(&bench.readers[0].block, 0);
    fill(&mut bench);
    while bench.readers[1].read() {}
    assert!(!bench.fits(64), "it stands at the last cursor that could be");
    assert_eq!(bench.gate.charge(&bench.publisher, 64, SECOND), Some(0), "and pays for it alone");
}

#[test]
fn the_oldest_that_is_granted_leaves_room_to_continue() {
    // The smallest possible window: 64 + 2 * 1024 bytes, half of which is 16 datagrams.
    let mut bench =
        Bench::new(Geometry::new(64, 4096, 64).unwrap(), Budget { bytes: 0, time_ns: SECOND });
    for _ in 0..50 {
        bench.publisher.publish(&[7; 64], Meta::default()).unwrap();
    }
    for (start, begin) in
        [(Start::Latest, 50), (Start::Oldest, 34), (Start::Seq(45), 45), (Start::Seq(99), 50)]
    {
        assert_eq!(bench.attach(start).reader.read_cursor(), begin, "{start:?}");
    }
    assert!(bench.fits(64));
}
