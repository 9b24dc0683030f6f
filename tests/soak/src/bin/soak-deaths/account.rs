//! The lines that readers report, and their sums. All readers must agree about every generation.

use anyhow::{Context, ensure};
use ringweir_proto::os::clock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long a lossless reader may stop a stream (back-pressure).
pub const BUDGET_NS: u64 = 200_000_000;

/// A line of a reader's report, as JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Line {
    /// Attached; the first seq.
    Attached { generation: u64, seq: u64 },
    /// Received a restart.
    Restarted { generation: u64, first: u64 },
    /// Received the first datagram of the generation at this time (CLOCK_MONOTONIC, ns).
    Reads { generation: u64, at: u64 },
    /// Closed the account of a generation: began + delivered + lost = ended.
    Closed { generation: u64, began: u64, delivered: u64, lost: u64, ended: u64 },
    /// The stream no longer waits for this reader.
    Demoted { held_ns: u64 },
    /// A child that it forked could not read.
    Forked,
    /// Ended normally; the longest time that it received nothing without a restart, ns.
    Left { torn: u64, longest: u64 },
}

impl Line {
    pub fn print(self) {
        // One write: if the reader is killed, only the last line can be incomplete.
        println!("{}", serde_json::to_string(&self).expect("plain numbers"));
    }
}

/// The sum of what all readers of one stream reported.
#[derive(Default)]
pub struct SoakAccount {
    /// First seq of each generation, from the first reader that reported it.
    firsts: BTreeMap<u64, u64>,
    /// When a broker was killed and when the next one was up, by the generation that began.
    pub outages: BTreeMap<u64, (u64, u64)>,
    /// Time to the first datagram, from the kill and from when the next broker was up.
    pub back: Vec<(Duration, Duration)>,
    /// Generations closed by readers.
    pub closed: u64,
    pub delivered: u64,
    pub lost: u64,
    pub torn: u64,
    /// Restarts that readers received.
    pub restarts: u64,
    /// Lossless readers that used up their budget.
    pub demoted: u64,
    /// Children of readers.
    pub forked: u64,
}

/// How far one reader came.
#[derive(Default)]
pub struct Progress {
    /// It ended normally.
    pub left: bool,
    /// Its last read cursor.
    pub cursor: u64,
    /// Restarts that it received.
    pub restarts: u64,
    /// The longest time that it received nothing without a restart.
    pub longest: Duration,
}

impl SoakAccount {
    /// Adds the report of a reader in `file`. If it was killed, the last line may be incomplete.
    /// `timed`: it was never stopped and does not pause, so its times count.
    pub fn add(&mut self, file: &Path, killed: bool, timed: bool) -> anyhow::Result<Progress> {
        let text = std::fs::read_to_string(file)?;
        let mut progress = Progress::default();
        let mut lines = text.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            if killed && lines.peek().is_none() && !line.ends_with('\n') {
                break;
            }
            let line = serde_json::from_str(line)
                .with_context(|| format!("{line:?} in {}", file.display()))?;
            self.line(line, timed, &mut progress)?;
        }
        Ok(progress)
    }

    fn line(&mut self, line: Line, timed: bool, progress: &mut Progress) -> anyhow::Result<()> {
        match line {
            Line::Attached { seq, .. } => progress.cursor = seq,
            Line::Restarted { generation, first } => {
                let known = *self.firsts.entry(generation).or_insert(first);
                ensure!(
                    known == first,
                    "generation {generation} begins at {known} for one reader, at {first} for \
                    another"
                );
                self.restarts += 1;
                progress.restarts += 1;
            }
            Line::Reads { generation, at } => {
                if let Some((killed, up)) = self.outages.get(&generation).filter(|_| timed) {
                    let since = |from: &u64| Duration::from_nanos(at.saturating_sub(*from));
                    self.back.push((since(killed), since(up)));
                }
            }
            Line::Closed { generation, began, delivered, lost, ended } => {
                ensure!(began + delivered + lost == ended, "{line:?}");
                let within = self.firsts.get(&(generation + 1)).is_none_or(|next| ended <= *next)
                    && self.firsts.get(&generation).is_none_or(|first| began >= *first);
                ensure!(within, "{line:?} is not within its generation: {:?}", self.firsts);
                self.closed += 1;
                self.delivered += delivered;
                self.lost += lost;
                progress.cursor = ended;
            }
            Line::Demoted { held_ns } => {
                ensure!(
                    held_ns >= BUDGET_NS,
                    "{line:?} before its budget of {BUDGET_NS} ns was used up"
                );
                self.demoted += 1;
            }
            Line::Forked => self.forked += 1,
            Line::Left { torn, longest } => {
                self.torn += torn;
                progress.longest = Duration::from_nanos(longest);
                progress.left = true;
            }
        }
        Ok(())
    }

    /// Notes that the broker of `generation` is up; the one before was killed at time `killed`.
    pub fn restarted(&mut self, generation: u64, killed: u64) {
        self.outages.insert(generation, (killed, clock::monotonic_ns()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(
        account: &mut SoakAccount,
        lines: &[Line],
        tail: &str,
        killed: bool,
    ) -> anyhow::Result<Progress> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect();
        std::fs::write(file.path(), text + tail).unwrap();
        account.add(file.path(), killed, true)
    }

    #[test]
    fn matching_reports_add_up_and_others_are_found() {
        let mut account = SoakAccount::default();
        let good = [
            Line::Attached { generation: 1, seq: 5 },
            Line::Closed { generation: 1, began: 5, delivered: 4, lost: 1, ended: 10 },
            Line::Restarted { generation: 2, first: 10 },
            Line::Closed { generation: 2, began: 10, delivered: 7, lost: 0, ended: 17 },
            Line::Left { torn: 0, longest: 0 },
        ];
        let progress = add(&mut account, &good, "", false).unwrap();
        assert_eq!(
            (progress.left, progress.cursor, account.delivered, account.lost, account.closed),
            (true, 17, 11, 1, 2)
        );
        assert!(!add(&mut account, &good[..3], "{\"Clo", true).unwrap().left);
        // The controls.
        for (lines, tail) in [
            (&[Line::Restarted { generation: 2, first: 11 }][..], ""),
            (&[Line::Closed { generation: 1, began: 5, delivered: 4, lost: 0, ended: 10 }], ""),
            (&[Line::Closed { generation: 1, began: 5, delivered: 6, lost: 0, ended: 11 }], ""),
            (&[], "{\"Clo"),
        ] {
            assert!(add(&mut account, lines, tail, false).is_err(), "{lines:?}");
        }
    }
}
