//! The targets, and whether the records meet them.

use super::figures::{Record, bytes, count, name, number, ratio, text};
use crate::record::{Records, Spread};

/// A target and its result.
pub(super) struct Target {
    pub what: String,
    pub asked: String,
    /// The figure, and whether it meets the target; `None` if it was not measured.
    pub found: Option<(String, bool)>,
}

pub(super) fn targets(records: &Records) -> Vec<Target> {
    let mut all = Vec::new();
    let mut add = |what: String, asked: String, found: Option<(String, bool)>| {
        all.push(Target { what, asked, found })
    };
    let publish = |state: &'static str| {
        let is =
            move |n: f64| move |r: &Record| text(r, "wait") == state && number(r, "readers") == n;
        ratio(records, "publish", "ns_per_publish", is(1024.0), is(1.0))
    };
    let most = |value: Option<f64>, limit: f64| value.map(|v| (format!("{v:.2} ×"), v <= limit));
    let least = |value: Option<f64>, limit: f64| value.map(|v| (format!("{v:.1} ×"), v >= limit));
    add("a publish, 1024 awake readers to 1".into(), "≤ 1.1 ×".into(), most(publish("awake"), 1.1));
    add(
        "pump thread a publish, 1024 sleepers to 1".into(),
        "≤ 4 ×".into(),
        most(publish("asleep"), 4.0),
    );
    for size in [16384.0, 262144.0, 1048576.0] {
        let found = Spread::of(records.runs("copy"), "ratio", |r| number(r, "size") == size);
        let found = found.map(|s| (format!("{:.2}", s.median), s.median >= 0.9));
        add(
            format!("copy into the ring to the copy floor, {}", bytes(size)),
            "≥ 0.9".into(),
            found,
        );
    }
    let latency = |contender: &'static str, wait: &'static str, rate: f64| {
        move |r: &Record| {
            text(r, "contender") == contender
                && text(r, "wait") == wait
                && number(r, "rate") == rate
        }
    };
    let parked = ratio(
        records,
        "latency",
        "p50",
        latency("ring", "park", 1e3),
        latency("eventfd floor", "park", 1e3),
    );
    add(
        "parked wake, p50 at 1 k/s, to the eventfd floor".into(),
        "≤ 1.3 ×".into(),
        most(parked, 1.3),
    );
    let line = records.all.first().map_or(0.0, |m| m["line_ns"].as_f64().unwrap_or(0.0));
    for rate in [1e5, 1e6] {
        let spinning = Spread::of(records.runs("latency"), "p50", latency("ring", "spin", rate));
        let found = most(spinning.filter(|_| line > 0.0).map(|s| s.median / line), 4.0);
        add(
            format!("spinning, p50 at {}/s, to a cache line's way ({line:.0} ns)", count(rate)),
            "≤ 4 ×".into(),
            found,
        );
    }
    let throughput = |who: &'static str, size: f64, readers: f64| {
        move |r: &Record| {
            name(r) == who && number(r, "size") == size && number(r, "readers") == readers
        }
    };
    for (who, size, readers, limit, asked) in [
        ("ring, polled", 64.0, 1.0, 60.0, "≥ 60 ×, aiming at 150 ×"),
        ("ring, polled", 16384.0, 4.0, 10.0, "≥ 10 ×"),
        ("ring, parked", 16384.0, 4.0, 10.0, "≥ 10 ×"),
    ] {
        let (ours, theirs) =
            (throughput(who, size, readers), throughput("device+fanout", size, readers));
        let found = least(ratio(records, "throughput", "delivered_per_s", ours, theirs), limit);
        add(
            format!("{who}, to device+fanout, {}, {readers} readers", bytes(size)),
            asked.into(),
            found,
        );
    }
    for (size, limit) in [(64.0, 18e6), (1024.0, 5e6), (16384.0, 1.5e6), (262144.0, 1e5)] {
        let found = Spread::of(
            records.runs("throughput"),
            "delivered_per_s",
            throughput("ring, polled", size, 1.0),
        );
        let found = found.map(|s| (format!("{}/s", count(s.median)), s.median >= limit));
        add(format!("one polled reader, {}", bytes(size)), format!("≥ {}/s", count(limit)), found);
    }
    all
}
