//! Results for people: tables in Markdown with every target and whether it was met, and a chart for
//! each question.
//!
//! Contract: made of the records alone, so that `ringbench chart` makes the same of a file. A ratio
//! is the median of the ratios of the rounds, since the two runs of a round had the same machine; a
//! target whose figures are missing is "not measured".

use super::chart::{self, Axes, Panel, Point, Row, Series};
use super::record::{Records, Spread, median};
use anyhow::Context;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

type Record = Map<String, Value>;
/// A column: its title, the figure in it, and how that is written.
type Head = (&'static str, &'static str, fn(f64) -> String);

fn text<'r>(record: &'r Record, key: &str) -> &'r str {
    record.get(key).and_then(Value::as_str).unwrap_or("")
}

fn number(record: &Record, key: &str) -> f64 {
    record.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

/// What a run is called in tables: contender and, where it can do both, how it waits.
fn name(record: &Record) -> String {
    match (text(record, "contender"), text(record, "wait")) {
        ("ring", "spin") => "ring, polled".into(),
        ("ring", "park") => "ring, parked".into(),
        (contender, _) => contender.into(),
    }
}

/// Distinct values in order of appearance.
fn distinct<'r, T: PartialEq>(
    runs: impl Iterator<Item = &'r Record>,
    of: impl Fn(&Record) -> T,
) -> Vec<T> {
    let mut seen = Vec::new();
    runs.map(of).for_each(|value| {
        if !seen.contains(&value) {
            seen.push(value);
        }
    });
    seen
}

/// 12.3 M, 4.56 k: three digits.
fn count(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let digits =
        if value >= 100.0 || value == value.round() { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$}{unit}")
}

fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        v if v >= 1e9 => (v / 1e9, " s"),
        v if v >= 1e6 => (v / 1e6, " ms"),
        v if v >= 1e3 => (v / 1e3, " µs"),
        v => (v, " ns"),
    };
    let digits = if value >= 100.0 || value == value.round() { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}

fn bytes(value: f64) -> String {
    match value {
        v if v >= 1048576.0 => format!("{:.0} MiB", v / 1048576.0),
        v if v >= 1024.0 => format!("{:.0} KiB", v / 1024.0),
        v => format!("{v:.0} B"),
    }
}

/// The median over the rounds of `key` of the one kind of run to that of the other.
fn ratio(
    records: &Records,
    question: &str,
    key: &str,
    over: impl Fn(&Record) -> bool,
    under: impl Fn(&Record) -> bool,
) -> Option<f64> {
    let mut ratios = Vec::new();
    for a in records.runs(question).filter(|r| over(r)) {
        let round = |r: &&Record| number(r, "round") == number(a, "round") && under(r);
        let b = records.runs(question).find(round)?;
        ratios.push(number(a, key) / number(b, key));
    }
    (!ratios.is_empty()).then(|| median(&mut ratios))
}

/// A target, and what came of it.
struct Target {
    what: String,
    asked: String,
    found: Option<(String, bool)>,
}

fn targets(records: &Records) -> Vec<Target> {
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

fn throughput_table(records: &Records, out: &mut String) {
    let runs = || records.runs("throughput");
    for readers in distinct(runs(), |r| number(r, "readers")) {
        let sizes = distinct(runs(), |r| number(r, "size"));
        let _ = writeln!(
            out,
            "\n**{readers} readers**: verified datagrams per second and reader (with losses: + \
            lost/s)\n"
        );
        let heads: Vec<String> = sizes.iter().map(|s| bytes(*s)).collect();
        let _ = writeln!(out, "| | {} |\n|---|{}", heads.join(" | "), "---|".repeat(sizes.len()));
        for who in distinct(runs(), name) {
            let _ = write!(out, "| {who} |");
            for size in &sizes {
                let is = |r: &Record| {
                    name(r) == who && number(r, "size") == *size && number(r, "readers") == readers
                };
                let lost = Spread::of(runs(), "lost_per_s", is).map_or(0.0, |s| s.median);
                let cell = match Spread::of(runs(), "delivered_per_s", is) {
                    None => "–".into(),
                    Some(s) if lost > 0.0 => format!("{} + {}", count(s.median), count(lost)),
                    Some(s) => count(s.median),
                };
                let _ = write!(out, " {cell} |");
            }
            out.push('\n');
        }
    }
}

fn latency_table(records: &Records, out: &mut String) {
    let _ = writeln!(out, "\n| | rate | p50 | p99 | p99.9 | most |\n|---|---|---|---|---|---|");
    for (label, _, marks) in latency_rows(records) {
        let [a, b, c, d] = marks.map(time);
        let (who, rate) = label.rsplit_once(", ").unwrap_or((&label, ""));
        let _ = writeln!(out, "| {who} | {rate} | {a} | {b} | {c} | {d} |");
    }
}

fn latency_rows(records: &Records) -> Vec<(String, bool, [f64; 4])> {
    let runs = || records.runs("latency");
    let mut cases = distinct(runs(), |r| (number(r, "rate"), name(r)));
    cases.sort_by(|a, b| a.0.total_cmp(&b.0));
    let row = |(rate, who): (f64, String)| {
        let is = |r: &Record| name(r) == who && number(r, "rate") == rate;
        let mark = |key| Spread::of(runs(), key, is).map_or(0.0, |s| s.median);
        let marks = [mark("p50"), mark("p99"), mark("p999"), mark("max")];
        (format!("{who}, {}/s", count(rate)), who.starts_with("ring"), marks)
    };
    cases.into_iter().map(row).collect()
}

fn simple_table(records: &Records, question: &str, heads: &[Head], out: &mut String) {
    let titles: Vec<&str> = heads.iter().map(|h| h.0).collect();
    let _ = writeln!(out, "\n| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(heads.len()));
    let key = |r: &Record| {
        (
            text(r, "contender").to_string(),
            text(r, "wait").to_string(),
            number(r, "size"),
            number(r, "readers"),
        )
    };
    for case in distinct(records.runs(question), key) {
        let mut label = vec![case.0.clone(), case.1.clone()];
        if case.2 > 0.0 {
            label.push(bytes(case.2));
        }
        if case.3 > 0.0 {
            label.push(format!("{} readers", case.3));
        }
        label.retain(|part| !part.is_empty());
        let _ = write!(out, "| {} |", label.join(", "));
        for (_, figure, written) in heads {
            let found = Spread::of(records.runs(question), figure, |r| key(r) == case);
            let cell = found.map_or("–".into(), |s| {
                format!("{} ({}–{})", written(s.median), written(s.least), written(s.most))
            });
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
}

/// Where the broker gains and where it does not.
fn packets_words(records: &Records, out: &mut String) {
    out.push('\n');
    let mut counts = distinct(records.runs("packets"), |r| number(r, "readers"));
    counts.sort_by(f64::total_cmp);
    for n in counts {
        let of = |ours: bool| {
            move |r: &Record| {
                number(r, "readers") == n && text(r, "contender").starts_with("ring") == ours
            }
        };
        let Some(ratio) = ratio(records, "packets", "cpu_s_per_gbit", of(true), of(false)) else {
            continue;
        };
        let gain = if ratio < 1.0 { "a gain" } else { "no gain" };
        let _ = writeln!(
            out,
            "- {n} readers: broker and readers use {ratio:.2} × what as many packet sockets use: \
            {gain}."
        );
    }
}

fn series(
    records: &Records,
    question: &str,
    x: &str,
    y: &str,
    of: impl Fn(&Record) -> Option<String>,
) -> Vec<Series> {
    let names = distinct(records.runs(question), &of).into_iter().flatten();
    names
        .map(|name| {
            let is = |r: &Record| of(r).as_ref() == Some(&name);
            let mut xs = distinct(records.runs(question).filter(|r| is(r)), |r| number(r, x));
            xs.sort_by(f64::total_cmp);
            let point = |at: f64| {
                let s = Spread::of(records.runs(question), y, |r| is(r) && number(r, x) == at)?;
                Some(Point { x: at, y: s.median, least: s.least, most: s.most })
            };
            Series {
                points: xs.into_iter().filter_map(point).collect(),
                strong: name.starts_with("ring"),
                name,
            }
        })
        .collect()
}

fn charts(records: &Records) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let asked = |question: &str| records.runs(question).next().is_some();
    if asked("throughput") {
        let readers = distinct(records.runs("throughput"), |r| number(r, "readers"));
        let shown = readers.iter().filter(|n| [1.0, 3.0, 4.0].contains(*n) || readers.len() == 1);
        let panel = |n: &f64| Panel {
            title: format!("{n} {}", if *n == 1.0 { "reader" } else { "readers" }),
            series: series(records, "throughput", "size", "delivered_per_s", |r| {
                (number(r, "readers") == *n).then(|| name(r))
            }),
        };
        let axes = Axes { x: "bytes a datagram", y: "per second", x_text: bytes, y_text: count };
        let panels: Vec<Panel> = shown.map(panel).collect();
        all.push((
            "throughput",
            chart::lines("Verified datagrams per second and reader, flat out", axes, &panels),
        ));
    }
    if asked("latency") {
        let rows = latency_rows(records).into_iter().map(|(label, strong, marks)| Row {
            label,
            strong,
            marks,
        });
        let about = "64 bytes, one reader; from the moment a datagram was due until its reader had \
            proved it: p50, p99, p99.9, most";
        all.push((
            "latency",
            chart::ranges("Latency at a fixed rate", about, time, &rows.collect::<Vec<_>>()),
        ));
    }
    if asked("copy") {
        let axes = Axes { x: "bytes a datagram", y: "bytes/s", x_text: bytes, y_text: count };
        let mut lines =
            series(records, "copy", "size", "bytes_per_s", |_| Some("ring: pump".into()));
        lines.extend(series(records, "copy", "size", "floor_bytes_per_s", |_| {
            Some("copy floor".into())
        }));
        let panel =
            Panel { title: "one thread, ring of 4 MiB or 8 datagrams".into(), series: lines };
        all.push((
            "copy",
            chart::lines("The copy into the ring beside the copy floor", axes, &[panel]),
        ));
    }
    if asked("publish") {
        let axes = Axes { x: "readers attached", y: "a publish", x_text: count, y_text: time };
        let lines = series(records, "publish", "readers", "ns_per_publish", |r| {
            Some(format!("ring: {}", text(r, "wait")))
        });
        let panel = Panel {
            title: "awake: flat out; asleep: 20 datagrams a second, all woken each time".into(),
            series: lines,
        };
        all.push((
            "publish",
            chart::lines("Processor time of the pump thread a publish", axes, &[panel]),
        ));
    }
    if asked("packets") {
        let axes = Axes { x: "readers", y: "s/Gbit", x_text: count, y_text: |v| format!("{v}") };
        let lines = series(records, "packets", "readers", "cpu_s_per_gbit", |r| {
            Some(text(r, "contender").into())
        });
        let panel =
            Panel { title: "veth pair, the generator's own time left out".into(), series: lines };
        all.push(("packets", chart::lines("Processor time per gigabit captured", axes, &[panel])));
    }
    all
}

/// The report in Markdown.
pub fn markdown(records: &Records) -> String {
    let nothing = Value::Null;
    let machine = records.all.first().unwrap_or(&nothing);
    let said = |key: &str| match &machine[key] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let mut out = String::from("# ringbench\n\n");
    let virtual_ = if machine["virtual"] == true {
        ", a virtual machine: its host may move the processors"
    } else {
        ""
    };
    let _ = writeln!(
        out,
        "{}, {} processors, L3 {}{virtual_}; {}; governor: {}. Commit {}, {} build, {}.\n",
        said("cpu"),
        said("cores"),
        said("l3"),
        said("kernel"),
        said("governor"),
        said("commit"),
        said("build"),
        said("time")
    );
    let _ = writeln!(out, "```sh\n{}\n```\n", said("command"));
    if machine["quick"] == true {
        out.push_str(
            "**A quick run: it shows that everything works; its figures mean little.**\n\n",
        );
    }
    let runs =
        || records.all.iter().filter_map(Value::as_object).filter(|r| text(r, "kind") == "run");
    let (total, moved) =
        (runs().count(), runs().filter(|r| r.get("moved") == Some(&Value::Bool(true))).count());
    let mut others: Vec<f64> = runs()
        .filter(|r| number(r, "seconds") > 0.0)
        .map(|r| number(r, "cpu_others_s") / number(r, "seconds"))
        .collect();
    let most = others.iter().copied().fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "{total} runs, every byte and number verified, every reader's books closed. A cache line \
        took {} ns from core to core; in {moved} runs it \
         took more than 1.7 or less than 0.5 times that (the host had moved the processors, or \
         others used them); throughput and latency \
         runs are kept only after {} tries. Others used {:.2} processors in the \
         median run, {most:.2} at most. Figures are medians of the rounds; ratios are medians of \
         the rounds' ratios.\n",
        said("line_ns").split('.').next().unwrap_or(""),
        super::questions::TRIES,
        median(&mut others)
    );
    out.push_str("| asked | target | found | met |\n|---|---|---|---|\n");
    for target in targets(records) {
        let (found, met) = target.found.map_or(("not measured".into(), "–"), |(f, met)| {
            (f, if met { "yes" } else { "**no**" })
        });
        let _ = writeln!(out, "| {} | {} | {found} | {met} |", target.what, target.asked);
    }
    for (question, _) in charts(records) {
        let _ = writeln!(out, "\n## {question}\n\n![{question}]({question}.svg)");
        match question {
            "throughput" => throughput_table(records, &mut out),
            "latency" => latency_table(records, &mut out),
            "copy" => {
                let heads: [Head; 3] = [
                    ("ring, bytes/s", "bytes_per_s", count),
                    ("floor, bytes/s", "floor_bytes_per_s", count),
                    ("ratio", "ratio", |v| format!("{v:.2}")),
                ];
                simple_table(records, question, &heads, &mut out);
            }
            "publish" => {
                simple_table(records, question, &[("a publish", "ns_per_publish", time)], &mut out)
            }
            _ => {
                let heads: [Head; 2] = [
                    ("processor s/Gbit", "cpu_s_per_gbit", |v| format!("{v:.3}")),
                    ("lost", "lost_share", |v| format!("{:.2} %", v * 100.0)),
                ];
                simple_table(records, question, &heads, &mut out);
                packets_words(records, &mut out);
            }
        }
    }
    let skipped = records.skipped();
    if !skipped.is_empty() {
        out.push_str("\nNot run:\n\n");
        skipped.iter().for_each(|line| out.push_str(&format!("- {line}\n")));
    }
    out.push_str("\nWho is who:\n\n");
    for contender in super::contenders::CONTENDERS {
        let _ = writeln!(out, "- **{}**: {}", contender.name, contender.about);
    }
    out
}

/// Writes `results.md` and a chart for each question into `dir`.
pub fn write(records: &Records, dir: &Path) -> anyhow::Result<()> {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    write("results.md", markdown(records))?;
    charts(records)
        .into_iter()
        .try_for_each(|(question, svg)| write(&format!("{question}.svg"), svg))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(asleep: f64) -> Records {
        let mut records = Records::new(None).unwrap();
        records.add(json!({ "kind": "machine", "line_ns": 40.0 })).unwrap();
        for round in 0..3 {
            let slow = 1.0 + f64::from(round);
            for (readers, factor) in [(1, 1.0), (1024, asleep)] {
                records
                    .add(json!({ "kind": "run", "question": "publish", "contender": "ring", "wait": "asleep", "round": round,
                        "readers": readers, "ns_per_publish": 1000.0 * slow * factor }))
                    .unwrap();
            }
            records
                .add(json!({ "kind": "run", "question": "latency", "contender": "ring", "wait": "spin", "round": round,
                    "rate": 1e5, "readers": 1, "p50": 150, "p99": 200, "p999": 300, "max": 4000 }))
                .unwrap();
        }
        records
    }

    /// What was measured is judged round by round; what was not is not met, and not missed either.
    #[test]
    fn targets_are_met_missed_or_not_measured() {
        let line = |records: &Records, what: &str| {
            let text = markdown(records);
            text.lines()
                .find(|l| l.contains(what))
                .map(String::from)
                .unwrap_or_else(|| panic!("no {what} in {text}"))
        };
        assert!(line(&records(3.9), "1024 sleepers").ends_with("| 3.90 × | yes |"));
        assert!(line(&records(4.1), "1024 sleepers").ends_with("| 4.10 × | **no** |"));
        assert!(line(&records(4.1), "1024 awake").ends_with("| not measured | – |"));
        assert!(line(&records(1.0), "spinning, p50 at 100 k/s").ends_with("| 3.75 × | yes |"));
    }

    #[test]
    fn figures_are_written_with_three_digits() {
        assert_eq!(
            [0.0, 7.0, 999.0, 1234.0, 18.25e6, 2e9].map(count),
            ["0", "7", "999", "1.23 k", "18.2 M", "2 G"]
        );
        assert_eq!([40.0, 1500.0, 2.5e6].map(time), ["40 ns", "1.5 µs", "2.5 ms"]);
        assert_eq!([64.0, 16384.0, 1048576.0].map(bytes), ["64 B", "16 KiB", "1 MiB"]);
    }
}
