//! A chart for each question.

use super::figures::{Record, bytes, count, distinct, name, number, text, time};
use super::tables::latency_rows;
use crate::chart::{self, Axes, Panel, Point, Row, Series};
use crate::record::{Records, Spread};

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

/// A number of things that are counted: 1024, not "1.02 k".
fn plain(number: f64) -> String {
    number.to_string()
}

pub(super) fn charts(records: &Records) -> Vec<(&'static str, String)> {
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
            proved it";
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
        let axes = Axes { x: "readers attached", y: "a publish", x_text: plain, y_text: time };
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
        let axes = Axes { x: "readers", y: "s/Gbit", x_text: plain, y_text: plain };
        let lines = series(records, "packets", "readers", "cpu_s_per_gbit", |r| {
            Some(text(r, "contender").into())
        });
        let panel =
            Panel { title: "veth pair, the generator's own time left out".into(), series: lines };
        all.push(("packets", chart::lines("Processor time per gigabit captured", axes, &[panel])));
    }
    all
}
