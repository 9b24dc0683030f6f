//! Reader pages with any content. Whatever a reader writes into its page, and whenever: the
//! publisher waits for it no longer than its budget, an honest lossless reader beside it loses
//! nothing before its own demotion, the account of an honest lossy reader closes, an honest sleeper
//! is woken, and no code that looks at a page panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_proto::latency::Histogram;
use ringweir_proto::layout::{Geometry, LatencyBlock, ReaderBlock};
use ringweir_proto::ring::gate::{demoted, granted, release};
use ringweir_proto::ring::{
    Budget, LosslessGate, Meta, Publisher, Resume, RingReader, Sleepers, Start, Step, Wake,
    WakeGate, WritableRing,
};
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: u64 = 16;
const LONGEST: usize = 256;
/// Time budget of each lossless reader, and the time charged at once, ns.
const BUDGET: u64 = 1000;
const STEP: u64 = 300;
/// Reader indices: first the dishonest readers, then the honest one.
const LIARS: u32 = 3;
const HONEST: u32 = 3;
const READERS: u32 = 4;
const VALUES: [u64; 10] =
    [0, 1, SLOTS, 1 << 32, (1 << 62) - 1, 1 << 62, (1 << 62) + 1, 1 << 63, u64::MAX - 1, u64::MAX];

struct Stage {
    publisher: Publisher,
    gate: LosslessGate,
    blocks: [ReaderBlock; READERS as usize],
    event: WakeGate,
    sleepers: Sleepers,
    /// Whether the honest reader sleeps, and whether it has been woken since.
    asleep: bool,
    woken: bool,
    /// For each reader: whether the stream waits for it now.
    lossless: [bool; READERS as usize],
    faithful: RingReader,
    casual: RingReader,
    published: u64,
}

/// The words of a page, as a process that has mapped it can write them.
fn words(block: &ReaderBlock) -> &[AtomicU64] {
    const { assert!(align_of::<ReaderBlock>() >= align_of::<AtomicU64>()) };
    // SAFETY: the slice covers exactly the block, which is alive and aligned for AtomicU64
    // (asserted above). The block consists of atomic words and of zeros that no code reads, so any
    // value may be stored in each word.
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(block).cast(), size_of::<ReaderBlock>() / 8)
    }
}

fn length(seq: u64) -> usize {
    (seq as usize * 37) % (LONGEST + 1)
}

impl Stage {
    fn new(bytes: u64) -> Self {
        let ring =
            WritableRing::on_heap(Geometry::new(SLOTS, 4096, LONGEST as u64).expect("sound"));
        let memory = ring.memory().clone();
        let mut stage = Self {
            publisher: Publisher::new(ring),
            gate: LosslessGate::new(Budget { bytes, time_ns: BUDGET }, READERS),
            blocks: Default::default(),
            event: WakeGate::default(),
            sleepers: Sleepers::new(READERS),
            asleep: false,
            woken: false,
            lossless: [false; READERS as usize],
            faithful: RingReader::new(memory.clone(), Start::Latest, Resume::Oldest),
            casual: RingReader::new(memory, Start::Oldest, Resume::Newest),
            published: 0,
        };
        stage.admit(HONEST, Start::Latest);
        stage
    }

    fn admit(&mut self, index: u32, start: Start) {
        let block = &self.blocks[index as usize];
        self.gate.admit(&mut self.publisher, index, start, block);
        assert!(granted(block).is_some_and(|seq| seq <= self.published));
        self.lossless[index as usize] = true;
    }

    fn look(&mut self) {
        let blocks = &self.blocks;
        self.gate.look(&mut self.publisher, |index| Some(&blocks[index as usize].read_seq));
    }

    /// Publishes one datagram, after waiting for lossless readers if necessary.
    fn publish(&mut self) {
        let mut waited = 0;
        while !self.publisher.fits(LONGEST) {
            self.look();
            if self.publisher.fits(LONGEST) {
                break;
            }
            assert!(self.gate.left_ns(&self.publisher, LONGEST) <= BUDGET);
            let mut ns = STEP;
            waited += STEP;
            assert!(
                waited <= u64::from(READERS) * (BUDGET + STEP),
                "waited for longer than all budgets together"
            );
            while let Some(index) =
                self.gate.charge(&self.publisher, LONGEST, std::mem::take(&mut ns))
            {
                let reported =
                    self.gate.demote(&mut self.publisher, index, &self.blocks[index as usize]);
                assert_eq!(demoted(&self.blocks[index as usize]), Some(reported));
                self.lossless[index as usize] = false;
            }
        }
        assert!(self.publisher.how_many_fit(LONGEST, 8) >= 1);
        let len = length(self.published);
        self.publisher
            .publish(&[self.published as u8; LONGEST][..len], Meta::default())
            .expect("fits");
        self.published += 1;
        let honest = &mut self.woken;
        let mut wake = |index: u32| *honest |= index == HONEST;
        match self.event.after_commit() {
            Wake::Nobody => {}
            Wake::One(index) => wake(index),
            Wake::Several => self.sleepers.settle(&self.event, wake),
        }
        assert!(!self.asleep || self.woken, "asleep, and not woken by what came");
        self.asleep = false;
    }

    /// Reader `index` requests to sleep, having seen what its page says. The honest reader has seen
    /// everything.
    fn sleep_request(&mut self, index: u32) {
        let seen = if index == HONEST {
            self.published
        } else {
            self.blocks[index as usize].seen_seq.load(Ordering::Acquire)
        };
        let news = seen != self.published;
        let honest = &mut self.woken;
        *honest &= index != HONEST;
        self.sleepers.enter(&self.event, index, || news, |woken| *honest |= woken == HONEST);
        self.asleep |= index == HONEST;
    }

    fn read(reader: &mut RingReader) -> bool {
        let step = reader.step().expect("the ring is sound");
        let Step::Datagram(found) = step else { return !matches!(step, Step::Empty | Step::Ended) };
        let mut bytes = [0; LONGEST];
        reader.copy_out(&found, 0, &mut bytes[..found.len]);
        assert!(
            found.len == length(found.seq)
                && bytes[..found.len].iter().all(|b| *b == found.seq as u8)
        );
        assert_eq!(reader.release(), Ok(None));
        true
    }

    fn read_faithfully(&mut self) -> bool {
        let continued = Self::read(&mut self.faithful);
        release(&self.blocks[HONEST as usize], self.faithful.read_cursor());
        let lost = self.faithful.account().lost;
        assert!(
            lost == 0 || !self.lossless[HONEST as usize],
            "lost {lost} though it is waited for"
        );
        continued
    }

    fn act(&mut self, how: u8, who: u32, value: u64) {
        let value = if how & 0x80 == 0 { VALUES[value as usize % VALUES.len()] } else { value };
        match how & 7 {
            0 | 1 => (0..value % 24).for_each(|_| self.publish()),
            2 => {
                let block = words(&self.blocks[who as usize]);
                block[usize::from(how >> 3 & 15) * 2 % block.len()].store(value, Ordering::Release);
            }
            3 => {
                let block = words(&self.blocks[who as usize]);
                block.iter().for_each(|word| word.store(value, Ordering::Relaxed));
            }
            4 => _ = (0..value % 24).all(|_| self.read_faithfully()),
            5 => _ = (0..value % 24).all(|_| Self::read(&mut self.casual)),
            6 => {
                self.gate.remove(&mut self.publisher, who);
                self.lossless[who as usize] = false;
                match how >> 3 & 3 {
                    0 => {}
                    1 => self.admit(who, Start::Oldest),
                    2 => self.admit(who, Start::Latest),
                    _ => self.admit(who, Start::Seq(value)),
                }
            }
            _ => match how >> 3 & 3 {
                0 => self.sleep_request(HONEST),
                1 => self.sleep_request(who),
                2 => self.sleepers.set_slow_to_wake(who, value & 1 == 1),
                _ => {
                    let honest = &mut self.woken;
                    self.sleepers.remove(&self.event, who, |woken| *honest |= woken == HONEST);
                }
            },
        }
    }

    fn end(mut self) {
        self.publisher.end();
        while self.read_faithfully() {}
        while Self::read(&mut self.casual) {}
        for reader in [&self.faithful, &self.casual] {
            let account = reader.account();
            assert_eq!(account.start + account.delivered + account.lost, self.published);
        }
    }
}

/// A latency page with any content.
fn latencies(input: &[u8]) {
    let block = LatencyBlock::default();
    let value = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
    for (word, chunk) in
        block.buckets.iter().chain([&block.sum_ns, &block.max_ns]).rev().zip(input.chunks_exact(8))
    {
        word.store(value(chunk), Ordering::Relaxed);
    }
    let seen = Histogram::of(&block);
    let of_places = Histogram::from_occupied(seen.occupied(), seen.sum_ns, seen.max_ns);
    assert_eq!(of_places, seen);
    assert!(seen.quantile(0.5) <= seen.quantile(0.999) && seen.below(1000) <= seen.samples());
    assert_eq!(seen.since(&seen).samples(), 0);
}

fuzz_target!(|input: &[u8]| {
    let [window, acts @ ..] = input else { return };
    if *window == 255 {
        return latencies(acts);
    }
    let mut stage = Stage::new(u64::from(*window) * 32);
    for act in acts.chunks_exact(10) {
        let value = u64::from_le_bytes(act[2..].try_into().expect("8 bytes"));
        stage.act(act[0], u32::from(act[1]) % LIARS, value);
    }
    stage.end();
});
