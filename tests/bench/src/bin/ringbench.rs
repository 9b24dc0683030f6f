//! `ringbench`: measures the floors of this machine, ringweir, and what people use today, in one
//! run.
//!
//! Records go to a file as JSON lines while it runs; at the end there are a table and a chart for
//! each question. Everything measured is checked: a wrong byte, a repeated or vanished datagram
//! ends the bench with status 1.

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use ringweir_bench::bench::{Bench, Scope};
use ringweir_bench::contenders;
use ringweir_bench::job::{self, Inject, Job};
use ringweir_bench::perform::perform;
use ringweir_bench::questions::QUESTIONS;
use ringweir_bench::record::Records;
use ringweir_bench::report;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures the ring beside the floors of this machine and what people use today.
#[derive(Parser)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    /// One minute: everything runs and is verified, but the figures mean little
    #[arg(long)]
    quick: bool,
    /// Only this question, repeatable (--list names them)
    #[arg(long, value_name = "QUESTION")]
    only: Vec<String>,
    /// Only contenders whose name contains this
    #[arg(long, value_name = "NAME")]
    contender: Option<String>,
    /// Times each case is run, in turns [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Write the records, JSON lines, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write results.jsonl, results.md and a chart for each question into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List questions and contenders
    #[arg(long)]
    list: bool,
    /// Negative control: plant a fault in front of one reader of each run; the bench must fail
    #[arg(long)]
    inject: Option<Inject>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Draw table and charts again from the records of an earlier bench
    Chart {
        /// Records
        file: PathBuf,
        /// Directory to write into
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
    /// (internal) be a process of a run
    #[command(hide = true)]
    Job {
        /// JSON
        job: String,
    },
}

const EXAMPLES: &str = "\
Examples:
  ringbench --out results                       # all questions, about a quarter of an hour; leave \
  the machine alone
  ringbench --quick                             # a minute, to see that all of it works
  ringbench --only throughput --contender ring --json ring.jsonl
  ringbench chart results/results.jsonl --out results

Exit status: 0 every byte was right, 1 a check failed or a run was not possible, 2 wrong usage.";

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringbench: FAIL: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Job { job }) => {
            let job: Job = serde_json::from_str(&job).context("job")?;
            return job::report(&perform(&job)?);
        }
        Some(Command::Chart { file, out }) => return report::write(&Records::read(&file)?, &out),
        None => {}
    }
    if cli.list {
        QUESTIONS.iter().for_each(|q| println!("question   {:<14} {}", q.name, q.about));
        contenders::CONTENDERS
            .iter()
            .for_each(|c| println!("contender  {:<14} {}", c.name, c.about));
        return Ok(());
    }
    let names = || QUESTIONS.iter().map(|q| q.name).collect::<Vec<_>>().join(", ");
    for only in &cli.only {
        ensure!(
            QUESTIONS.iter().any(|q| q.name == *only),
            "no question {only:?}; there are {}",
            names()
        );
    }
    if let Some(out) = &cli.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }
    let json = cli.json.clone().or_else(|| Some(cli.out.as_ref()?.join("results.jsonl")));
    let rounds = cli.rounds.unwrap_or(if cli.quick { 1 } else { 3 });
    ensure!(rounds > 0, "--rounds 0 measures nothing");
    let scope =
        Scope { quick: cli.quick, rounds, only_contender: cli.contender, inject: cli.inject };
    let mut bench = Bench::begin(scope, Records::new(json.as_deref())?)?;
    for question in QUESTIONS {
        if cli.only.is_empty() || cli.only.iter().any(|only| *only == question.name) {
            bench.ask(question)?;
        }
    }
    match &cli.out {
        Some(out) => report::write(&bench.records, out),
        None => Ok(std::io::stdout().write_all(report::markdown(&bench.records).as_bytes())?),
    }
}
