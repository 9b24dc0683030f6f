//! Loom models of the ring: the production code, with every interleaving and every stale value
//! within small bounds.
//!
//! Run: `RUSTFLAGS="--cfg ringweir_loom" cargo test -p ringweir-proto --release --test loom`.
//!
//! Contract: a model is a plain function in `MODELS`. Each one runs unchanged, and
//! `every_site_is_killed` runs some again with one `Site` weakened and requires that they fail.
//! Rings have 2 slots (4 where bytes must lap before slots do), at most 2 readers, and at most 3
//! laps. What a reader gets is compared with what was published under its seq, and each gap must
//! cover a datagram that is really overwritten. So a missing ordering shows as a torn datagram or a
//! false loss.
#![cfg(ringweir_loom)]

mod lossless;
mod restart;
mod source;
mod wake;

use loom::thread;
use lossless::*;
use restart::*;
use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::site;
use ringweir_proto::ring::{
    Account, Cause, Descriptor, Gap, Layer, Meta, Publisher, Restarted, Resume, RingMemory,
    RingReader, Start, Step, WritableRing,
};
use ringweir_proto::sync::{Site, mutant};
use source::{gone_wakes_the_sleeper, source_gone};
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use wake::*;

/// What a model publishes: lengths by seq. Everything else about a datagram follows from its seq.
#[derive(Clone, Copy)]
struct Plan {
    geometry: fn() -> Geometry,
    lengths: &'static [usize],
}

fn bytes_of(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seq as u8 + 1) * 16 + i as u8).collect()
}

fn meta_of(seq: u64, len: usize) -> Meta {
    Meta {
        original_len: if seq % 2 == 1 { len as u32 + 7 } else { 0 },
        channel: seq as u16 + 3,
        source_time: seq + 100,
        publish_time: seq + 200,
    }
}

impl Plan {
    fn ring(&self) -> (Arc<RingMemory>, Publisher) {
        let ring = WritableRing::on_heap((self.geometry)());
        (ring.memory().clone(), Publisher::new(ring))
    }

    fn publish(&self, publisher: &mut Publisher, seqs: std::ops::Range<u64>) {
        for seq in seqs {
            let len = self.lengths[seq as usize];
            let got = publisher.publish(&bytes_of(seq, len), meta_of(seq, len)).unwrap();
            assert_eq!(got, seq);
        }
    }

    fn sum(&self, seqs: std::ops::Range<u64>) -> u64 {
        seqs.map(|s| self.lengths[s as usize] as u64).sum()
    }

    /// Virtual payload position of `seq`, calculated independently of the ring. It holds for
    /// datagrams claimed one by one.
    fn pos(&self, seq: u64) -> u64 {
        let capacity = (self.geometry)().capacity();
        let mut at = 0;
        for s in 0..=seq {
            let need = (self.lengths[s as usize] as u64).next_multiple_of(8);
            if at % capacity + need > capacity {
                at = (at / capacity + 1) * capacity;
            }
            if s == seq {
                return at;
            }
            at += need;
        }
        unreachable!()
    }
}

/// A reader that compares everything it gets with the plan.
struct CheckedReader {
    plan: Plan,
    reader: RingReader,
    /// First seq not yet delivered or reported.
    next: u64,
    bytes_known: bool,
    restarts: Vec<Restarted>,
}

impl CheckedReader {
    fn new(plan: Plan, memory: Arc<RingMemory>, start: Start, resume: Resume) -> Self {
        let reader = RingReader::new(memory, start, resume);
        let next = reader.read_cursor();
        Self { plan, reader, next, bytes_known: next == 0, restarts: Vec::new() }
    }

    fn balanced(&self) -> Account {
        let a = *self.reader.account();
        assert_eq!(
            a.start + a.delivered + a.lost,
            self.reader.read_cursor(),
            "account does not balance"
        );
        a
    }

    fn reported(&mut self, gap: &Gap) {
        let geometry = (self.plan.geometry)();
        if let Cause::Upstream { .. } | Cause::SourceGone = gap.cause {
            assert_eq!(
                gap.first, self.next,
                "an upstream loss comes before the datagram that tells it"
            );
            return;
        }
        assert_eq!(gap.first, self.next, "gap out of order");
        assert!(gap.count > 0, "empty gap");
        let end = gap.first + gap.count;
        assert!(end <= self.reader.write_cursor_seen());
        match gap.bytes {
            Some(bytes) => assert_eq!(bytes, self.plan.sum(gap.first..end), "bytes of the gap"),
            None => self.bytes_known = false,
        }
        let claimed = self.reader.memory().claimed_now();
        let there = claimed.slot_is_valid(&geometry, gap.first)
            && claimed.payload_is_valid(&geometry, self.plan.pos(gap.first));
        assert!(!there, "reported as lost while it is still there: {gap:?} {claimed:?}");
        self.next = end;
    }

    fn described(&self, d: &Descriptor) {
        let len = self.plan.lengths[d.seq as usize];
        let meta = meta_of(d.seq, len);
        let original = len.max(meta.original_len as usize);
        assert_eq!((d.seq, d.len, d.original_len), (self.next, len, original), "torn descriptor");
        assert_eq!(
            (d.channel, d.source_time, d.publish_time),
            (meta.channel, meta.source_time, meta.publish_time),
            "torn descriptor"
        );
    }

    /// Makes one step, including copying out and validating.
    fn step(&mut self) -> Step {
        let before = self.balanced();
        let step = self.reader.step().expect("not corrupt");
        self.balanced();
        match step {
            Step::Gap(gap) => self.reported(&gap),
            Step::Restarted(restarted) => {
                assert_eq!(restarted.first, self.next, "a restart out of order");
                let reported = self
                    .restarts
                    .last()
                    .is_some_and(|last| last.generation >= restarted.generation);
                assert!(!reported, "a restart reported twice");
                assert_eq!(
                    self.reader.read_cursor(),
                    restarted.first,
                    "a generation is closed where it ended"
                );
                self.restarts.push(restarted);
            }
            Step::Empty => {}
            Step::Ended => {
                assert_eq!(
                    self.next,
                    self.plan.lengths.len() as u64,
                    "the end is reported before everything else"
                )
            }
            Step::Datagram(d) => {
                self.described(&d);
                let mut bytes = vec![0; d.len];
                self.reader.copy_out(&d, 0, &mut bytes);
                let whole = self.reader.validate().is_ok();
                if whole {
                    assert_eq!(bytes, bytes_of(d.seq, d.len), "torn payload");
                    self.next += 1;
                }
                let held = self.balanced();
                let gap = self.reader.release().expect("not corrupt");
                let after = self.balanced();
                if whole {
                    assert_eq!(gap, None, "a whole copy is delivered");
                    assert_eq!(after.delivered, held.delivered + 1);
                    assert_eq!(after.bytes_delivered, before.bytes_delivered + d.len as u64);
                } else {
                    let gap = gap.expect("a torn datagram is a gap");
                    assert_eq!(gap.first, d.seq, "the gap begins with the torn datagram");
                    assert_eq!(after.delivered, held.delivered, "a torn datagram is not delivered");
                    self.reported(&gap);
                }
            }
        }
        step
    }

    /// Reads to the end and checks the account. The publisher has ended the stream and been joined.
    fn finish(mut self) {
        while self.step() != Step::Ended {}
        let a = self.balanced();
        let published = self.plan.lengths.len() as u64;
        assert_eq!(a.start + a.delivered + a.lost, published, "published = delivered + lost");
        assert_eq!(self.next, published);
        if self.bytes_known {
            assert_eq!(a.bytes_delivered + a.bytes_lost, self.plan.sum(0..published), "bytes");
        }
    }
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 5_000;
    builder.check(model);
}

/// Publishes `before` datagrams first, then the rest while a reader makes `steps` steps.
fn race(plan: Plan, before: u64, steps: usize, preemptions: usize, resume: Resume) {
    check(preemptions, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory, Start::Oldest, resume);
        plan.publish(&mut publisher, 0..before);
        let reader = thread::spawn(move || {
            for _ in 0..steps {
                watch.step();
            }
            watch
        });
        plan.publish(&mut publisher, before..plan.lengths.len() as u64);
        let watch = reader.join().unwrap();
        publisher.end();
        watch.finish();
    });
}

// ---- (a), (b): nothing torn, and the accounts close ----

/// Enough room for payload that only slots lap.
fn by_slots() -> Geometry {
    Geometry::with_claims(2, 128, 16, 1, 8).unwrap()
}

/// Four slots, so that the fourth datagram of two words laps the bytes of the first, but no slot.
fn by_bytes() -> Geometry {
    Geometry::with_claims(4, 56, 16, 1, 8).unwrap()
}

/// The first datagram: nothing can have been lapped, so everything arrives.
fn first_datagram() {
    race(Plan { geometry: by_slots, lengths: &[11] }, 0, 2, 3, Resume::Oldest);
}

fn lapped_by_slots() {
    race(Plan { geometry: by_slots, lengths: &[5, 8, 8] }, 2, 1, 2, Resume::Oldest);
}

fn lapped_by_bytes() {
    race(Plan { geometry: by_bytes, lengths: &[16, 13, 16, 12] }, 3, 1, 3, Resume::Oldest);
}

/// Two laps happen before the reader starts to read. The third races with its search for the oldest
/// datagram.
const LAPS: Plan = Plan { geometry: by_slots, lengths: &[8, 3, 0, 8, 1, 8] };

fn third_lap() {
    race(LAPS, 5, 1, 1, Resume::Oldest);
}

fn third_lap_to_the_newest() {
    race(LAPS, 5, 1, 1, Resume::Newest);
}

/// The same search where positions decide, because bytes lap and slots do not.
fn lapped_by_bytes_before() {
    race(Plan { geometry: by_bytes, lengths: &[16, 13, 16, 12, 0] }, 4, 1, 2, Resume::Oldest);
}

/// Two readers with different policies, one lapped and one at the write cursor, are independent of
/// each other.
fn two_readers() {
    let plan = Plan { geometry: by_slots, lengths: &[0, 1, 0, 3] };
    check(2, move || {
        let (memory, mut publisher) = plan.ring();
        let lapped = CheckedReader::new(plan, memory.clone(), Start::Oldest, Resume::Newest);
        plan.publish(&mut publisher, 0..3);
        let chasing = CheckedReader::new(plan, memory, Start::Latest, Resume::Oldest);
        let readers = [lapped, chasing].map(|mut watch| {
            thread::spawn(move || {
                watch.step();
                watch
            })
        });
        plan.publish(&mut publisher, 3..4);
        let watches = readers.map(|r| r.join().unwrap());
        publisher.end();
        watches.into_iter().for_each(CheckedReader::finish);
    });
}

/// Losses before the ring are exact, whatever is lapped.
fn upstream_over_a_lap() {
    let plan = Plan { geometry: by_slots, lengths: &[0, 4, 1] };
    check(2, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory, Start::Oldest, Resume::Oldest);
        publisher.lost_upstream(Layer::Kernel, 3, true);
        plan.publish(&mut publisher, 0..2);
        publisher.lost_upstream(Layer::Device, 4, true);
        let reader = thread::spawn(move || {
            watch.step();
            watch
        });
        plan.publish(&mut publisher, 2..3);
        let mut watch = reader.join().unwrap();
        publisher.end();
        while watch.step() != Step::Ended {}
        assert_eq!(watch.balanced().upstream_lost, 7);
        watch.finish();
    });
}

// ---- (d): attaching while the publisher laps ----------------------------------------------------

fn attach(start: Start) {
    let plan = Plan { geometry: by_slots, lengths: &[8, 3, 7] };
    check(1, move || {
        let (memory, mut publisher) = plan.ring();
        plan.publish(&mut publisher, 0..2);
        let reader = thread::spawn(move || {
            let mut watch = CheckedReader::new(plan, memory, start, Resume::Oldest);
            let at = watch.balanced().start;
            match start {
                Start::Latest => assert!(at == 2 || at == 3),
                Start::Oldest => assert!(at <= 2, "the newest datagram is there at any time"),
                Start::Seq(seq) => assert_eq!(at, seq.min(watch.reader.write_cursor_seen())),
            }
            watch.step();
            watch
        });
        plan.publish(&mut publisher, 2..3);
        let watch = reader.join().unwrap();
        publisher.end();
        watch.finish();
    });
}

fn attach_at_the_oldest() {
    attach(Start::Oldest);
}

fn attach_at_the_latest() {
    attach(Start::Latest);
}

fn attach_at_a_seq_that_goes() {
    attach(Start::Seq(0));
}

fn attach_at_a_seq_to_come() {
    attach(Start::Seq(9));
}

// ---- (e): the end mark --------------------------------------------------------------------------

/// A reader that gets the end has got everything before it ([`CheckedReader::step`] asserts it).
fn ended() {
    let plan = Plan { geometry: by_slots, lengths: &[8, 9] };
    check(3, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory, Start::Oldest, Resume::Oldest);
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                watch.step();
            }
            watch
        });
        plan.publish(&mut publisher, 0..2);
        publisher.end();
        reader.join().unwrap().finish();
    });
}

// ---- (g): batches and fills in steps ------------------------------------------------------------

/// One flush makes two commits of one claim visible. The second laps the slot that is being read.
fn batch() {
    let plan = Plan { geometry: by_slots, lengths: &[3, 8, 5] };
    check(2, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory, Start::Oldest, Resume::Oldest);
        plan.publish(&mut publisher, 0..1);
        let reader = thread::spawn(move || {
            watch.step();
            assert!([1, 3].contains(&watch.reader.write_cursor_seen()), "half a batch was shown");
            watch
        });
        let mut claim = publisher.claim(16).unwrap();
        claim.write(0, &bytes_of(1, 8));
        claim.write(8, &bytes_of(2, 5));
        publisher.commit(0, 8, meta_of(1, 8));
        publisher.commit(8, 5, meta_of(2, 5));
        assert_eq!(publisher.unflushed(), 2);
        publisher.flush();
        let watch = reader.join().unwrap();
        publisher.end();
        watch.finish();
    });
}

/// A datagram that is filled in two steps, with a new claim for the second, over bytes that are
/// being read.
fn filled_in_steps() {
    let plan = Plan { geometry: by_bytes, lengths: &[16, 16, 16, 16] };
    check(2, move || {
        let (memory, mut publisher) = plan.ring();
        let mut watch = CheckedReader::new(plan, memory, Start::Oldest, Resume::Oldest);
        plan.publish(&mut publisher, 0..3);
        let reader = thread::spawn(move || {
            watch.step();
            watch
        });
        let bytes = bytes_of(3, 16);
        publisher.claim(16).unwrap().write(0, &bytes[..8]);
        publisher.claim(16).unwrap().write(8, &bytes[8..]);
        publisher.commit(0, 16, meta_of(3, 16));
        publisher.flush();
        let watch = reader.join().unwrap();
        publisher.end();
        watch.finish();
    });
}

// ---- (f): what validation settles ---------------------------------------------------------------

/// A reader validates, reads on and validates again: the second validation covers what was read in
/// between.
fn read_on_after_validating() {
    let plan = Plan { geometry: by_bytes, lengths: &[8, 16, 16, 16] };
    check(3, move || {
        let (memory, mut publisher) = plan.ring();
        let mut reader = RingReader::new(memory, Start::Oldest, Resume::Oldest);
        plan.publish(&mut publisher, 0..4);
        // Stepped before the race begins, so that the race concerns only the payload.
        let Ok(Step::Datagram(d)) = reader.step() else { panic!("it is there") };
        let reader = thread::spawn(move || {
            let _ = reader.validate();
            let mut bytes = [0; 8];
            reader.copy_out(&d, 0, &mut bytes);
            let whole = reader.validate().is_ok();
            assert!(!whole || bytes[..] == bytes_of(0, 8), "torn payload");
            let gap = reader.release().unwrap();
            assert_eq!(gap.map(|g| g.first), (!whole).then_some(0));
            assert_eq!(reader.account().delivered, u64::from(whole));
        });
        publisher.claim(8).unwrap().write(0, &[0xff; 8]);
        reader.join().unwrap();
    });
}

// ---- the runs -----------------------------------------------------------------------------------

/// A model with its name.
type Model = (&'static str, fn());

/// Runs an unchanged model, once in this process. It is a test itself and the control of its
/// mutants.
fn as_it_stands((name, model): Model) {
    type Once = Arc<OnceLock<()>>;
    static RUNS: OnceLock<Mutex<HashMap<&str, Once>>> = OnceLock::new();
    let run = RUNS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(name)
        .or_default()
        .clone();
    run.get_or_init(|| {
        let began = Instant::now();
        model();
        println!("{name} holds ({:.1?})", began.elapsed());
    });
}

macro_rules! models {
    ($($name:ident)*) => {
        const MODELS: &[Model] = &[$((stringify!($name), $name)),*];
        mod models {
            $(#[test] fn $name() { super::as_it_stands((stringify!($name), super::$name)); })*
        }
    };
}
models! {
    first_datagram lapped_by_slots lapped_by_bytes lapped_by_bytes_before third_lap
    third_lap_to_the_newest two_readers upstream_over_a_lap attach_at_the_oldest
    attach_at_the_latest attach_at_a_seq_that_goes attach_at_a_seq_to_come ended batch
    filled_in_steps read_on_after_validating one_sleeper one_sleeper_with_a_timeout
    one_sleeper_twice two_sleepers end_wakes_the_sleeper source_gone gone_wakes_the_sleeper
    killed_at_k1 killed_at_k2 killed_at_k3 killed_at_k4 killed_at_k5 killed_at_k6 killed_at_k7
    killed_at_k8 adopter_killed_at_a1 adopter_killed_at_a2 adopter_killed_at_a3 adopter_killed_at_a4
    adopter_killed_at_a5 restarted_in_silence ended_after_a_restart waits_for_the_lossless
    waits_for_its_bytes lossy_beside_lossless granted_is_kept
    demotion_is_reported detaching_releases_the_stream
}

/// The models that must fail when `site` is weakened.
fn killers(site: Site) -> &'static [&'static str] {
    match site {
        site::COMMIT_STORE | site::COMMIT_LOAD => &["first_datagram", "ended"],
        site::CLAIM_FENCE | site::VALIDATE_FENCE | site::VALIDATE_SKIPPED => {
            &["lapped_by_slots", "lapped_by_bytes", "filled_in_steps", "read_on_after_validating"]
        }
        site::CLAIM_LATE => &["lapped_by_slots", "filled_in_steps", "read_on_after_validating"],
        site::WAKE_FENCE | site::SLEEP_FENCE | site::LOOK_AGAIN_SKIPPED => &[
            "one_sleeper",
            "one_sleeper_twice",
            "two_sleepers",
            "end_wakes_the_sleeper",
            "gone_wakes_the_sleeper",
        ],
        site::END_STORE | site::END_LOAD => &["ended"],
        site::GONE_STORE | site::GONE_LOAD => &["source_gone"],
        site::RESTART_STORE | site::RESTART_LOAD => &["restarted_in_silence"],
        site::ADOPTED_HALF => &["killed_at_k5", "killed_at_k6", "restarted_in_silence"],
        site::ADOPTED_CLAIM_BACK => &["killed_at_k3", "killed_at_k4", "killed_at_k5"],
        site::RESTART_UNREPORTED | site::RESTART_TWICE => {
            &["killed_at_k2", "restarted_in_silence", "adopter_killed_at_a5"]
        }
        site::BOUNDARY_IGNORED => &["killed_at_k2", "ended_after_a_restart"],
        site::GATE_OPEN => {
            &["waits_for_the_lossless", "waits_for_its_bytes", "lossy_beside_lossless"]
        }
        site::RELEASED_EARLY => &["waits_for_the_lossless"],
        site::GRANT_NOT_KEPT => &["granted_is_kept"],
        site::DEMOTE_FENCE | site::DEMOTION_UNREPORTED => &["demotion_is_reported"],
        site::LAP_MISCOUNTED => &["lapped_by_slots", "third_lap"],
        other => panic!("no model for {other:?}"),
    }
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Weakening a site must make each of its models fail, and each of these models must hold when
/// nothing is weakened.
#[test]
fn every_site_is_killed() {
    // This silences only the expected panics, since loom runs all threads of a model on this
    // thread.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            loud(info)
        }
    }));
    let mut alive = Vec::new();
    for site in site::ALL {
        for name in killers(site) {
            let model = *MODELS.iter().find(|m| m.0 == *name).expect("killers are models");
            as_it_stands(model);
            let began = Instant::now();
            QUIET.set(true);
            let died = mutant::with(site, || catch_unwind(model.1));
            QUIET.set(false);
            let why = match &died {
                Ok(()) => "NOT AT ALL",
                Err(why) => match (why.downcast_ref::<String>(), why.downcast_ref::<&str>()) {
                    (Some(why), _) => why.lines().next().unwrap_or(""),
                    (_, why) => why.copied().unwrap_or(""),
                },
            };
            println!("{site:?} killed by {name} ({:.1?}): {why}", began.elapsed());
            // Loom gives up on a model that never ends, which does not count as a kill.
            if died.is_ok() || why.contains("exceeded") {
                alive.push((site, name));
            }
        }
    }
    assert!(alive.is_empty(), "mutants alive: {alive:?}");
}
