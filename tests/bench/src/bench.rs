//! A running bench: its questions, its runs, and its records.
//!
//! Contract: a question is a list of cases. The cases of all contenders take turns within a round,
//! and rounds follow each other, so that changes of the machine affect all of them. A run during
//! which the host moved the processors is repeated.

use crate::contender::Contender;
use crate::job::Inject;
use crate::record::{Records, median};
use crate::runner::{self, Outcome, Run};
use crate::{line, machine};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How much to run.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Enough to see that all of it works.
    pub quick: bool,
    /// Times each case is run.
    pub rounds: u32,
    /// Only contenders whose name contains this.
    pub only_contender: Option<String>,
    /// A planted fault.
    pub inject: Option<Inject>,
}

/// One question.
pub struct Question {
    /// Short name.
    pub name: &'static str,
    /// What it answers.
    pub about: &'static str,
    pub(crate) run: fn(&mut Bench) -> anyhow::Result<()>,
}

/// A running bench.
pub struct Bench {
    /// How much.
    pub scope: Scope,
    /// The records so far.
    pub records: Records,
    /// Time of a cache line from core to core on this machine while the host moves no processors,
    /// ns.
    line: f64,
    began: Instant,
}

/// How often a run is tried if the host moves the processors meanwhile.
pub(crate) const TRIES: u32 = 3;

impl Bench {
    /// Begins with the record of the machine.
    pub fn begin(scope: Scope, mut records: Records) -> anyhow::Result<Self> {
        let mut lines: Vec<f64> = (0..9).map(|_| line::one_way_ns()).collect();
        let line = median(&mut lines);
        let mut machine = machine::describe();
        machine["line_ns"] = json!(line);
        machine["quick"] = json!(scope.quick);
        records.add(machine)?;
        Ok(Self { scope, records, line, began: Instant::now() })
    }

    /// Answers a question.
    pub fn ask(&mut self, question: &Question) -> anyhow::Result<()> {
        (question.run)(self)
    }

    /// Whether this contender takes part. One that cannot run here is noted once a question.
    pub(crate) fn takes_part(
        &mut self,
        question: &str,
        contender: &Contender,
    ) -> anyhow::Result<bool> {
        let name = contender.name;
        if !self.scope.only_contender.as_deref().is_none_or(|only| name.contains(only)) {
            return Ok(false);
        }
        let Some(why) = (contender.unavailable)() else { return Ok(true) };
        let noted =
            |r: &Value| r["kind"] == "skipped" && r["question"] == question && r["what"] == name;
        if !self.records.all.iter().any(noted) {
            self.skip(question, name, &why)?;
        }
        Ok(false)
    }

    /// Reports progress.
    pub(crate) fn progress(
        &self,
        question: &str,
        done: usize,
        of: usize,
        since: Instant,
        what: &str,
    ) {
        let left = since.elapsed().mul_f64((of - done) as f64 / done.max(1) as f64);
        let left = if done == 0 { "?".to_string() } else { format!("{} s", left.as_secs()) };
        eprintln!(
            "ringbench: {:>4} s  {question} {}/{of}, {left} to go: {what}",
            self.began.elapsed().as_secs(),
            done + 1
        );
    }

    /// Records what is not run, and why.
    pub(crate) fn skip(&mut self, question: &str, what: &str, why: &str) -> anyhow::Result<()> {
        eprintln!("ringbench: SKIPPED {question}: {what}: {why}");
        self.records
            .add(json!({ "kind": "skipped", "question": question, "what": what, "why": why }))
    }

    /// Whether a cache line took a time that is unusual for this machine.
    pub(crate) fn moved(&self, line: [f64; 2]) -> bool {
        line.iter().any(|ns| !(0.5 * self.line..=1.7 * self.line).contains(ns))
    }

    /// Runs all cases, round by round, and records each with what `figures` makes of it.
    pub(crate) fn rounds(
        &mut self,
        question: &str,
        cases: &[Run],
        figures: impl Fn(&Run, &Outcome) -> Value,
    ) -> anyhow::Result<()> {
        let (of, since) = (cases.len() * self.scope.rounds as usize, Instant::now());
        for round in 0..self.scope.rounds {
            for (n, case) in cases.iter().enumerate() {
                let done = round as usize * cases.len() + n;
                let what = format!(
                    "{}, {} bytes, {} readers, {}",
                    case.contender,
                    case.size,
                    case.readers,
                    case.wait.key()
                );
                self.progress(question, done, of, since, &what);
                let mut tries = 1;
                let outcome = loop {
                    let outcome = runner::run(case)?;
                    if tries == TRIES || self.scope.quick || !self.moved(outcome.line) {
                        break outcome;
                    }
                    tries += 1;
                };
                let mut record = json!({
                    "kind": "run",
                    "question": question,
                    "round": round,
                    "contender": case.contender,
                    "size": case.size,
                    "readers": case.readers,
                    "wait": case.wait.key(),
                    "rate": case.rate,
                    "seconds": outcome.seconds,
                    "published": outcome.published,
                    "line_ns": outcome.line,
                    "moved": self.moved(outcome.line),
                    "tries": tries,
                    "cpu_publisher_s": outcome.cpu[0],
                    "cpu_readers_s": outcome.cpu[1],
                    "cpu_others_s": outcome.cpu[2],
                });
                if let (Value::Object(to), Value::Object(more)) =
                    (&mut record, figures(case, &outcome))
                {
                    to.extend(more);
                }
                self.records.add(record)?;
            }
        }
        Ok(())
    }
}

/// Milliseconds.
pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
