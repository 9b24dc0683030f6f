//! The table: one line about the stream, one about each reader.

use super::columns::{COLUMNS, Moment};
use super::model::{Layer, Stream};
use super::text::rates;
use comfy_table::{CellAlignment, Table, presets};
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::{Bytes, Span};
use ringweir_proto::stats::{PumpCounter, StreamFact};
use std::time::Duration;

/// The stream's line, without its name: rates, geometry, readers, age.
pub fn facts(stream: &Stream) -> String {
    let fact = |f| stream.get(f);
    format!(
        "{}  depth {} dg / {}  readers {}/{}  age {}",
        rates(stream.rates),
        fact(StreamFact::Depth),
        Bytes(fact(StreamFact::Capacity)),
        fact(StreamFact::Readers),
        fact(StreamFact::ReadersMost),
        Span(stream.age),
    )
}

/// "LOST device 0  kernel 0  broker 0  reader 0", what was left out on purpose, and how near a
/// device's FIFO came to an overflow.
pub fn losses(stream: &Stream) -> String {
    let mut lost = Layer::ALL
        .iter()
        .fold("LOST".into(), |text, l| format!("{text}  {} {}", l.key(), stream.loss.get(*l)));
    let skipped = stream.snapshot.pump(PumpCounter::Skipped);
    if skipped > 0 {
        lost += &format!("   skipped on purpose {skipped}");
    }
    let span = |ns| Span(Duration::from_nanos(ns));
    let gap = stream.snapshot.pump(PumpCounter::DrainGapMax);
    match stream.get(StreamFact::DrainSlack) {
        0 if stream.snapshot.pump(PumpCounter::Drains) == 0 => lost,
        0 => format!("{lost}   drain gap max {}", span(gap)),
        slack => format!("{lost}   drain gap max {} (slack {})", span(gap), span(slack)),
    }
}

/// "STREAM demo gen 1".
pub fn name(stream: &Stream) -> String {
    format!(
        "STREAM {} gen {}",
        printable(&stream.snapshot.name),
        stream.get(StreamFact::Generation)
    )
}

/// Remarks about the figures: their age, and the source's last fault.
pub fn remarks(stream: &Stream) -> Vec<String> {
    let note = printable(&stream.snapshot.note);
    let source = if note.is_empty() { note } else { format!("source: {note}") };
    [stream.caveat(), source].into_iter().filter(|s| !s.is_empty()).collect()
}

/// A stream as text, with a line break at the end.
pub fn render(stream: &Stream, moment: Moment) -> String {
    let mut out = format!("{}  {}\n", name(stream), facts(stream));
    out += &format!("{}\n", losses(stream));
    for remark in remarks(stream) {
        out += &format!("!! {remark}\n");
    }
    if stream.readers.is_empty() {
        return out + "no readers attached\n";
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS.iter().map(|c| c.head));
    for reader in &stream.readers {
        table.add_row(COLUMNS.iter().map(|c| (c.cell)(reader, moment)));
    }
    for (shown, column) in table.column_iter_mut().zip(COLUMNS) {
        shown.set_padding((0, 2));
        if column.right {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{SECOND, outside, runs, snapshot};
    use super::*;
    use crate::process::Process;

    fn moment() -> Moment {
        Moment { now: 0, clock: |_, _| "12:41:07".into() }
    }

    #[test]
    fn a_table_as_people_see_it() {
        let readers = [
            ("ringrec", 4988, 0, false),
            ("monitor", 100, 65, true),
            ("egress", 5000, 4005, false),
        ];
        let a = snapshot(10 * SECOND, 4000, &[]);
        let mut b = snapshot(11 * SECOND, 5000, &readers);
        b.note = "no carrier".into();
        let process = |pid| if pid == 1001 { Process::Stopped('T') } else { Process::Runs('S') };
        let stream = Stream::new(&b, Some(&a), &outside(11 * SECOND + 42_000_000), process);
        let expected = "\
STREAM demo gen 1  1 kdg/s  256 kB/s  depth 1024 dg / 1 MiB  readers 3/64  age 42 ms
LOST  device 0  kernel 0  broker 0  reader 8010
!! source: no carrier
READER    PID         LAG  LAG BYTES       HIWATER   LOST  GAPS  LAST LOSS          STATE
ringrec  1000  12 / 12 ms      3 KiB    12 / 12 ms      0     0  –                  running
monitor  1001      LAPPED    1.2 MiB  4900 / 4.9 s  4005+     1  12:41:07 (65)      stopped (T)
egress   1002           0        0 B             0   4005     1  12:41:07 (4.0 k)   waiting
";
        let shown = render(&stream, moment());
        // The width of columns depends on their content, so only order and content are compared.
        let words = |text: &str| {
            text.lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&shown), words(&expected.replace("4.0 k", "4 k")), "{shown}");
        let heads: Vec<_> = shown.lines().skip(3).collect();
        let end = heads[0].find("LAST LOSS").unwrap();
        assert!(
            heads[1..].iter().all(|l| l.as_bytes()[end - 1] == b' ' && l.as_bytes()[end] != b' '),
            "{shown}"
        );
        assert!(shown.lines().all(|l| !l.ends_with(' ')), "{shown}");
    }

    #[test]
    fn no_readers_and_old_figures_are_shown() {
        let s = snapshot(10 * SECOND, 1, &[]);
        let stream = Stream::new(&s, None, &outside(20 * SECOND), runs);
        let shown = render(&stream, moment());
        assert!(
            shown.contains("!! broker busy (S), figures 10 s old\nno readers attached\n"),
            "{shown}"
        );
        assert!(shown.contains("– dg/s"), "{shown}");
    }

    #[test]
    fn a_device_shows_its_drain_gap_and_slack() {
        let mut s = snapshot(11 * SECOND, 5000, &[]);
        let text = |s: &ringweir_proto::stats::Snapshot| {
            losses(&Stream::new(s, None, &outside(11 * SECOND), |_| Process::Runs('S')))
        };
        assert!(!text(&s).contains("drain gap"), "no FIFO, no drain gap");
        s.set(StreamFact::DrainSlack, 16_384_000);
        s.set_pump(PumpCounter::DrainGapMax, 410_000);
        assert_eq!(
            text(&s),
            "LOST  device 0  kernel 0  broker 0  reader 0   drain gap max 410 us (slack 16.4 ms)"
        );
    }
}
