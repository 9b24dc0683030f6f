//! Tables in Markdown.

use super::figures::{Head, Record, bytes, count, distinct, name, number, ratio, text, time};
use crate::record::{Records, Spread};
use std::fmt::Write;

pub(super) fn throughput_table(records: &Records, out: &mut String) {
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

pub(super) fn latency_table(records: &Records, out: &mut String) {
    let _ = writeln!(out, "\n| | rate | p50 | p99 | p99.9 | most |\n|---|---|---|---|---|---|");
    for (label, _, marks) in latency_rows(records) {
        let [a, b, c, d] = marks.map(time);
        let (who, rate) = label.rsplit_once(", ").unwrap_or((&label, ""));
        let _ = writeln!(out, "| {who} | {rate} | {a} | {b} | {c} | {d} |");
    }
}

pub(super) fn latency_rows(records: &Records) -> Vec<(String, bool, [f64; 4])> {
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

pub(super) fn simple_table(records: &Records, question: &str, heads: &[Head], out: &mut String) {
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
pub(super) fn packets_words(records: &Records, out: &mut String) {
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
