//! Results for people: tables in Markdown with every target and whether it was met, and a chart for
//! each question.
//!
//! Contract: made from the records alone, so that `ringbench chart` makes the same from a file. A
//! ratio is the median of the ratios of the rounds, because the two runs of a round had the same
//! machine. A target whose figures are missing is "not measured".

use super::charts::charts;
use super::figures::{Head, count, number, text, time};
use super::tables::{latency_table, packets_words, simple_table, throughput_table};
use super::targets::targets;
use crate::bench::TRIES;
use crate::contenders::CONTENDERS;
use crate::record::{Records, median};
use anyhow::Context;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

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
        "{total} runs, every byte and number verified, every reader's account closed. A cache line \
        took {} ns from core to core; in {moved} runs it \
         took more than 1.7 or less than 0.5 times that (the host had moved the processors, or \
         others used them); throughput and latency \
         runs are kept only after {} tries. Others used {:.2} processors in the \
         median run, {most:.2} at most. Figures are medians of the rounds; ratios are medians of \
         the rounds' ratios.\n",
        said("line_ns").split('.').next().unwrap_or(""),
        TRIES,
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
    out.push_str("\nContenders:\n\n");
    for contender in CONTENDERS {
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
                    .add(json!({ "kind": "run", "question": "publish", "contender": "ring",
                        "wait": "asleep", "round": round, "readers": readers,
                        "ns_per_publish": 1000.0 * slow * factor }))
                    .unwrap();
            }
            records
                .add(json!({ "kind": "run", "question": "latency", "contender": "ring",
                    "wait": "spin", "round": round, "rate": 1e5, "readers": 1,
                    "p50": 150, "p99": 200, "p999": 300, "max": 4000 }))
                .unwrap();
        }
        records
    }

    /// Measured targets are judged round by round; a target that was not measured is neither met
    /// nor missed.
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
}
