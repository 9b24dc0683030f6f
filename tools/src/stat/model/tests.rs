//! Figures computed from made-up snapshots, which other tests use too.

use super::*;

pub const SECOND: u64 = 1_000_000_000;

/// A stream of 1024 slots and 1 MiB, with one reader for each of `readers`: label and (cursor,
/// lost, lapped).
pub fn snapshot(at: u64, written: u64, readers: &[(&str, u64, u64, bool)]) -> Snapshot {
    let mut s = Snapshot::new("demo", "gen:rate=1MB/s");
    for (fact, value) in [
        (StreamFact::SampledAt, at),
        (StreamFact::SampledRealtime, 1_800_000_000 * SECOND + at),
        (StreamFact::Generation, 1),
        (StreamFact::BrokerPid, 77),
        (StreamFact::Depth, 1024),
        (StreamFact::Capacity, 1 << 20),
        (StreamFact::WriteCursor, written),
        (StreamFact::ClaimedSeq, written + 64),
        (StreamFact::Readers, readers.len() as u64),
        (StreamFact::ReadersMost, 64),
    ] {
        s.set(fact, value);
    }
    s.set_pump(PumpCounter::Published, written);
    s.set_pump(PumpCounter::PublishedBytes, written * 256);
    for (i, (label, cursor, lost, lapped)) in readers.iter().enumerate() {
        let mut r = ReaderFigures::new(label);
        let lag = written - cursor;
        for (fact, value) in [
            (ReaderFact::Index, i as u64),
            (ReaderFact::Pid, 1000 + i as u64),
            (ReaderFact::ReadCursor, *cursor),
            (ReaderFact::Delivered, cursor - lost),
            (ReaderFact::BytesDelivered, (cursor - lost) * 256),
            (ReaderFact::Lost, *lost),
            (ReaderFact::Gaps, (*lost > 0).into()),
            (ReaderFact::LastGapCount, *lost),
            (ReaderFact::LastGapRealtime, if *lost > 0 { 1_800_000_000 * SECOND } else { 0 }),
            (ReaderFact::Lag, lag),
            (ReaderFact::LagBytes, lag * 256),
            (ReaderFact::LagTime, lag * 1_000_000),
            (ReaderFact::LagMax, lag),
            (ReaderFact::LagMaxBytes, lag * 256),
            (ReaderFact::LagMaxTime, lag * 1_000_000),
            (ReaderFact::Waiting, (lag == 0).into()),
            (ReaderFact::Lapped, (*lapped).into()),
        ] {
            r.set(fact, value);
        }
        s.readers.push(r);
    }
    s
}

pub fn outside(now: u64) -> Outside {
    Outside { now, hung_up: false, broker: Process::Runs('S') }
}

pub fn runs(_pid: u64) -> Process {
    Process::Runs('S')
}

#[test]
fn rates_come_from_two_snapshots_of_one_generation() {
    let a = snapshot(10 * SECOND, 1000, &[("x", 900, 0, false)]);
    let b = snapshot(12 * SECOND, 3000, &[("x", 2900, 0, false)]);
    let out = outside(12 * SECOND + 5);
    assert_eq!(Stream::new(&b, None, &out, runs).rates, None);
    let rates = Rates { datagrams: 1000.0, bytes: 256_000.0, window: Duration::from_secs(2) };
    let stream = Stream::new(&b, Some(&a), &out, runs);
    assert_eq!((stream.rates, stream.readers[0].rates), (Some(rates), Some(rates)));
    // The same snapshot twice, a counter that fell, another generation: no rate rather than a
    // wrong one.
    assert_eq!(Stream::new(&b, Some(&b), &out, runs).rates, None);
    assert_eq!(Stream::new(&a, Some(&b), &out, runs).rates, None);
    let mut other = a.clone();
    other.set(StreamFact::Generation, 2);
    assert_eq!(Stream::new(&b, Some(&other), &out, runs).rates, None);
    // Old figures have no rate.
    assert_eq!(Stream::new(&b, Some(&a), &outside(14 * SECOND), runs).rates, None);
}

#[test]
fn another_reader_with_the_same_index_has_no_rate_yet() {
    let a = snapshot(SECOND, 1000, &[("x", 900, 0, false)]);
    let mut b = snapshot(2 * SECOND, 2000, &[("y", 1900, 0, false)]);
    b.readers[0].set(ReaderFact::Pid, 5);
    assert_eq!(Stream::new(&b, Some(&a), &outside(2 * SECOND), runs).readers[0].rates, None);
}

#[test]
fn loss_is_kept_in_layers() {
    let mut s = snapshot(
        SECOND,
        5000,
        &[("a", 5000, 7, false), ("b", 100, 3, true), ("c", 4990, 0, false)],
    );
    s.set_pump(PumpCounter::DeviceLost, 1);
    s.set_pump(PumpCounter::KernelLost, 2);
    s.set_pump(PumpCounter::BrokerLost, 4);
    let stream = Stream::new(&s, None, &outside(SECOND), runs);
    // b: slots below 5064 - 1024 = 4040 are overwritten, and its cursor is 100.
    assert_eq!(stream.readers.iter().map(|r| r.pending).collect::<Vec<_>>(), [0, 3940, 0]);
    assert_eq!(Layer::ALL.map(|l| stream.loss.get(l)), [1, 2, 4, 7 + 3 + 3940]);
    assert!(stream.loss.any());
    let clean =
        Stream::new(&snapshot(SECOND, 10, &[("a", 10, 0, false)]), None, &outside(SECOND), runs);
    assert!(!clean.loss.any());
}

/// The losses of an implausible reader are not counted. Control: the same figures of a plausible
/// one are.
#[test]
fn losses_of_an_implausible_reader_are_not_counted() {
    let mut s = snapshot(SECOND, 5000, &[("liar", 5000, 4000, false), ("b", 5000, 7, false)]);
    let stream = |s: &Snapshot| Stream::new(s, None, &outside(SECOND), runs);
    assert_eq!(stream(&s).loss.get(Layer::Reader), 4007);
    s.readers[0].set(ReaderFact::Implausible, 1);
    let seen = stream(&s);
    assert_eq!(
        (seen.loss.get(Layer::Reader), seen.readers[0].state),
        (7, ReaderState::Implausible)
    );
    s.readers[0].set(ReaderFact::Implausible, 9);
    assert_eq!(stream(&s).readers[0].implausible(), None, "of a release that knows more");
}

#[test]
fn a_reader_lapped_by_bytes_has_lost_one_at_least() {
    let s = snapshot(SECOND, 500, &[("a", 100, 0, true)]);
    let stream = Stream::new(&s, None, &outside(SECOND), runs);
    assert_eq!((stream.readers[0].pending, stream.readers[0].lag_share), (1, 1.0));
    assert!(stream.loss.any());
}

#[test]
fn lag_is_a_share_of_slots_or_bytes_whichever_is_more() {
    let mut s = snapshot(SECOND, 1000, &[("a", 744, 0, false)]);
    let share = |s: &Snapshot| Stream::new(s, None, &outside(SECOND), runs).readers[0].lag_share;
    assert_eq!(share(&s), 0.25);
    s.readers[0].set(ReaderFact::LagBytes, 3 << 18);
    assert_eq!(share(&s), 0.75);
}

#[test]
fn the_worst_state_of_a_reader_is_shown() {
    let s = snapshot(SECOND, 500, &[("a", 500, 0, false), ("b", 400, 0, false), ("c", 0, 0, true)]);
    let states = |out: &Outside, p: Process| {
        Stream::new(&s, None, out, |_| p)
            .readers
            .iter()
            .map(|r| r.state.to_string())
            .collect::<Vec<_>>()
    };
    let fresh = outside(SECOND);
    assert_eq!(states(&fresh, Process::Runs('R')), ["waiting", "running", "LAPPED"]);
    assert_eq!(states(&fresh, Process::Stopped('T')), ["stopped (T)"; 3]);
    // It may be in another pid namespace, so the broker's figures count.
    assert_eq!(states(&fresh, Process::Unseen), ["waiting", "running", "LAPPED"]);
    // Its connection may live on in a process that it forked.
    assert_eq!(states(&fresh, Process::Gone), ["gone"; 3]);
}

#[test]
fn caveats_name_the_cause_and_the_age() {
    let s = snapshot(10 * SECOND, 1, &[]);
    let caveat = |out: Outside| Stream::new(&s, None, &out, runs).caveat();
    let late = outside(13 * SECOND + SECOND / 5);
    assert_eq!(caveat(outside(11 * SECOND)), "");
    assert_eq!(
        caveat(Outside { broker: Process::Stopped('T'), ..late }),
        "broker stopped (T), figures 3.2 s old"
    );
    assert_eq!(caveat(late), "broker busy (S), figures 3.2 s old");
    assert_eq!(caveat(Outside { hung_up: true, ..late }), "broker gone, figures 3.2 s old");
    assert!(caveat(Outside { broker: Process::Gone, ..late }).starts_with("broker silent"));
    let mut ended = s.clone();
    ended.set(StreamFact::Ended, 1);
    assert_eq!(
        Stream::new(&ended, None, &Outside { hung_up: true, ..late }, runs).caveat(),
        "stream ended"
    );
}
