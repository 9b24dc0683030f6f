//! Verdicts on made-up streams, each with one problem.

use super::*;
use crate::process::Process;
use crate::stat::model::tests::{SECOND, outside, snapshot};
use ringweir_proto::stats::{PumpCounter, Snapshot};

struct Proc(Option<f64>, Option<bool>);

impl Seen for Proc {
    fn load(&self, _pid: u64) -> Option<f64> {
        self.0
    }
    fn pump_is_realtime(&self) -> Option<bool> {
        self.1
    }
}

const QUIET: Proc = Proc(Some(0.02), Some(false));

fn look(s: &Snapshot, stopped: Option<u64>) -> Stream {
    let process =
        |pid| if Some(pid) == stopped { Process::Stopped('T') } else { Process::Runs('S') };
    Stream::new(s, None, &outside(s.get(StreamFact::SampledAt)), process)
}

/// Judges one second in which 1000 datagrams are published into a ring of 1024 slots. The cursors
/// of each reader before and after that second are given.
fn judged(readers: &[(&str, u64, u64)], stopped: Option<u64>, proc: &Proc) -> Verdict {
    let at = |second: u64, written: u64, pick: fn(&(&str, u64, u64)) -> u64| {
        let lapped = |cursor: u64| written - cursor > 960;
        let them: Vec<_> = readers.iter().map(|r| (r.0, pick(r), 0, lapped(pick(r)))).collect();
        snapshot(second * SECOND, written, &them)
    };
    let (before, now) = (at(10, 4000, |r| r.1), at(11, 5000, |r| r.2));
    judge(Some(&look(&before, stopped)), &look(&now, stopped), proc)
}

fn kinds(v: &Verdict) -> Vec<(&str, &str)> {
    v.findings.iter().map(|f| (f.label.as_deref().unwrap_or(f.layer), f.kind)).collect()
}

#[test]
fn readers_that_keep_up_limit_nothing() {
    let v = judged(&[("a", 4000, 5000), ("b", 3990, 4980)], None, &QUIET);
    assert!(!v.limited && v.findings.is_empty(), "{}", v.text());
    assert!(v.text().contains("furthest behind is b (pid 1001), 20 dg / 20 ms"), "{}", v.text());
    // A reader that is far behind but catching up is no problem either.
    let v = judged(&[("c", 3100, 4600)], None, &QUIET);
    assert!(!v.limited, "{}", v.text());
    assert!(judged(&[], None, &QUIET).text().contains("no readers"));
}

#[test]
fn a_stopped_reader_is_named_with_the_time_left() {
    // 500 behind, and 500 more each second. 15/16 of 1024 are 960, so 460 are left: 0.92 s.
    let v = judged(&[("a", 4000, 5000), ("m", 4000, 4500)], Some(1001), &QUIET);
    assert_eq!(kinds(&v), [("m", "stopped")]);
    let seconds = v.findings[0].lapped_in_ns.unwrap() as f64 / 1e9;
    assert!((seconds - 0.92).abs() < 0.01, "{seconds}");
    assert!(
        v.findings[0].what.contains("stopped (T): 500 dg / 500 ms behind, 49 % of the ring"),
        "{}",
        v.text()
    );
    assert!(v.findings[0].advice.contains("kill -CONT 1001"));
}

#[test]
fn a_slow_reader_is_busy_or_waits() {
    let slow = [("m", 4000, 4400)];
    let v = judged(&slow, None, &Proc(Some(0.98), None));
    assert_eq!(kinds(&v), [("m", "slow")]);
    assert!(
        v.text().contains("takes 400 dg/s of 1 kdg/s and is busy (98 % of a processor)"),
        "{}",
        v.text()
    );
    let v = judged(&slow, None, &QUIET);
    assert!(
        v.text().contains("waits for something else (uses 2 % of a processor)"),
        "{}",
        v.text()
    );
    assert!(v.findings[0].advice.contains("a disk, a pipe"));
}

/// It is named, but limits nothing. Control: with plausible figures the same reader is lapped.
#[test]
fn an_implausible_reader_is_named_and_not_trusted() {
    let verdict = |lies: u64| {
        let mut now =
            snapshot(11 * SECOND, 5000, &[("a", 5000, 0, false), ("liar", 3000, 0, true)]);
        let before = snapshot(10 * SECOND, 4000, &[("a", 4000, 0, false), ("liar", 3000, 0, true)]);
        now.readers[1].set(ReaderFact::Implausible, lies);
        now.readers[1].set(ReaderFact::Uid, 65534);
        judge(Some(&look(&before, None)), &look(&now, None), &QUIET)
    };
    let v = verdict(1);
    assert_eq!((kinds(&v), v.limited), (vec![("liar", "implausible")], false));
    assert!(
        v.text().contains("liar (pid 1001, uid 65534)") && v.text().contains("ahead of the stream"),
        "{}",
        v.text()
    );
    assert_eq!(v.furthest.as_ref().unwrap().label, "a");
    let v = verdict(0);
    assert_eq!((kinds(&v), v.limited), (vec![("liar", "lapped")], true));
}

#[test]
fn the_reader_that_loses_most_comes_first() {
    let v = judged(&[("ok", 4000, 5000), ("slow", 4000, 4400), ("lost", 3000, 3000)], None, &QUIET);
    assert_eq!(kinds(&v), [("lost", "lapped"), ("slow", "slow")]);
    assert_eq!(
        (v.findings[0].lapped_in_ns, v.furthest.as_ref().unwrap().label.as_str()),
        (Some(0), "lost")
    );
    assert!(v.findings[0].lost_per_second > 500.0, "{}", v.text());
}

#[test]
fn layers_before_the_ring_are_reported_while_they_lose() {
    let mut before = snapshot(10 * SECOND, 4000, &[]);
    let mut now = snapshot(11 * SECOND, 5000, &[]);
    (before.source, now.source) = ("udp:1.2.3.4:5".into(), "udp:1.2.3.4:5".into());
    now.set_pump(PumpCounter::KernelLost, 70);
    let judge_now = |proc| judge(Some(&look(&before, None)), &look(&now, None), proc);
    let v = judge_now(&QUIET);
    assert_eq!(kinds(&v), [("kernel", "losing")]);
    assert!(
        v.text().contains("loses 70 dg/s (70 so far)") && v.text().contains("rcvbuf=SIZE"),
        "{}",
        v.text()
    );
    assert!(v.text().contains("chrt -f 60"));
    assert!(
        !judge_now(&Proc(None, Some(true))).text().contains("chrt"),
        "it has real-time priority"
    );
    // Control: the same number, lost earlier.
    let v = judge(
        Some(&look(&now, None)),
        &look(
            &{
                let mut s = now.clone();
                s.set(StreamFact::SampledAt, 12 * SECOND);
                s
            },
            None,
        ),
        &QUIET,
    );
    assert!(
        !v.limited && v.text().contains("kernel lost 70 earlier, nothing in the last 1 s"),
        "{}",
        v.text()
    );
}

#[test]
fn a_broker_that_does_nothing_comes_first() {
    let s = snapshot(10 * SECOND, 4000, &[]);
    let out = crate::stat::model::Outside { broker: Process::Stopped('T'), ..outside(14 * SECOND) };
    let v = judge(None, &Stream::new(&s, None, &out, |_| Process::Unseen), &QUIET);
    assert_eq!(kinds(&v), [("broker", "broker_stopped")]);
    assert!(v.text().contains("kill -CONT 77"), "{}", v.text());
    let gone = crate::stat::model::Outside { hung_up: true, ..outside(14 * SECOND) };
    assert_eq!(
        kinds(&judge(None, &Stream::new(&s, None, &gone, |_| Process::Unseen), &QUIET)),
        [("broker", "broker_gone")]
    );
}

#[test]
fn readers_that_hold_the_stream_back_are_named() {
    let made = |second: u64, held: u64, demoted: u64| {
        let mut s = snapshot(second * SECOND, second * 100, &[("rec", second * 100, 0, false)]);
        s.set(StreamFact::SampledRealtime, second * SECOND);
        for (fact, value) in [
            (ReaderFact::Lossless, (demoted == 0).into()),
            (ReaderFact::Held, held),
            (ReaderFact::DemotedRealtime, demoted),
        ] {
            s.readers[0].set(fact, value);
        }
        s.set_pump(PumpCounter::Demotions, 2 * u64::from(demoted > 0));
        s
    };
    let judged = |before: &Snapshot, now: &Snapshot| {
        judge(Some(&look(before, None)), &look(now, None), &QUIET)
    };
    let v = judged(&made(10, 5, 0), &made(11, SECOND / 4 + 5, 0));
    assert_eq!(kinds(&v), [("rec", "holding")]);
    assert!(
        v.text().contains(
            "rec (pid 1000) is lossless and waiting: the stream waited for it for 250 ms of 1 s"
        ),
        "{}",
        v.text()
    );
    let v = judged(&made(10, 5, 0), &made(11, 5, 0));
    assert!(!v.limited, "not now: {}", v.text());
    let v = judged(&made(10, SECOND, 0), &made(12, SECOND, 11 * SECOND));
    let text = v.text();
    assert!(
        text.contains(
            "rec (pid 1000) was demoted 1 s ago: as a lossless reader it had made the stream wait \
            for 1 s"
        ),
        "{text}"
    );
    assert!(text.contains("1 lossless readers were demoted and have left"), "{text}");
}
