//! Records: one JSON object a line, in the order of the runs, nothing averaged; and the medians
//! read from them.

use anyhow::Context;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The middle one (of an even number, the mean of the two); 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// All records of a bench: held in memory, and written as they come.
pub struct Records {
    /// The records so far.
    pub all: Vec<Value>,
    file: Option<File>,
}

impl Records {
    /// No records yet; they are written to `path`.
    pub fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self { all: Vec::new(), file: path.map(create).transpose()? })
    }

    /// Reads a file of records.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let line = |(n, line): (usize, &str)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), n + 1))
        };
        let all = text.lines().enumerate().map(line).collect::<Result<_, _>>()?;
        Ok(Self { all, file: None })
    }

    /// Adds a record.
    pub fn add(&mut self, record: Value) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{record}").context("cannot write the records")?;
        }
        self.all.push(record);
        Ok(())
    }

    /// Runs of a question. Of each case, the last try counts, even if the host moved the
    /// processors.
    pub fn runs<'r>(&'r self, question: &'r str) -> impl Iterator<Item = &'r Map<String, Value>> {
        let all = self.all.iter().filter_map(Value::as_object);
        all.filter(move |r| r["kind"] == "run" && r["question"] == question)
    }

    /// What was not run, and why: distinct, in order.
    pub fn skipped(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for record in self.all.iter().filter(|r| r["kind"] == "skipped") {
            let text = format!(
                "{}: {}",
                record["what"].as_str().unwrap_or(""),
                record["why"].as_str().unwrap_or("")
            );
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        seen
    }
}

/// A figure over rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

impl Spread {
    /// The spread of `key` in the runs for which `are` holds; `None` if there are none.
    pub fn of<'r>(
        runs: impl Iterator<Item = &'r Map<String, Value>>,
        key: &str,
        are: impl Fn(&Map<String, Value>) -> bool,
    ) -> Option<Self> {
        let mut values: Vec<f64> =
            runs.filter(|r| are(r)).filter_map(|r| r.get(key)?.as_f64()).collect();
        let median = median(&mut values);
        Some(Self { median, least: *values.first()?, most: *values.last()? })
    }
}
