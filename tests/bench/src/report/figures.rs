//! Figures from records, and how they are written.

use crate::record::{Records, median};
use serde_json::{Map, Value};

pub(super) type Record = Map<String, Value>;
/// A column: its title, the figure in it, and how that is written.
pub(super) type Head = (&'static str, &'static str, fn(f64) -> String);

pub(super) fn text<'r>(record: &'r Record, key: &str) -> &'r str {
    record.get(key).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn number(record: &Record, key: &str) -> f64 {
    record.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

/// The name of a run in tables: contender and, where it can do both, how it waits.
pub(super) fn name(record: &Record) -> String {
    match (text(record, "contender"), text(record, "wait")) {
        ("ring", "spin") => "ring, polled".into(),
        ("ring", "park") => "ring, parked".into(),
        (contender, _) => contender.into(),
    }
}

/// Distinct values in order of appearance.
pub(super) fn distinct<'r, T: PartialEq>(
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
pub(super) fn count(value: f64) -> String {
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

pub(super) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        v if v >= 1e9 => (v / 1e9, " s"),
        v if v >= 1e6 => (v / 1e6, " ms"),
        v if v >= 1e3 => (v / 1e3, " µs"),
        v => (v, " ns"),
    };
    let digits = if value >= 100.0 || value == value.round() { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}

pub(super) fn bytes(value: f64) -> String {
    match value {
        v if v >= 1048576.0 => format!("{:.0} MiB", v / 1048576.0),
        v if v >= 1024.0 => format!("{:.0} KiB", v / 1024.0),
        v => format!("{v:.0} B"),
    }
}

/// The median over the rounds of the ratio between `key` of one kind of run and that of another.
pub(super) fn ratio(
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

#[cfg(test)]
mod tests {
    use super::*;

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
