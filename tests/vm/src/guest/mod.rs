//! Inside the guest: its init, and the scenarios.
//!
//! Contract: a scenario is a function with a name, in the file of its subject, in that file's list;
//! it runs in a process of its own and fails by an error or a panic. Init fails it as well if it
//! does not end in time, if it leaves processes behind, or if the kernel has complained meanwhile.

pub mod broker;
pub mod bus;
pub mod harness;
pub mod init;
pub mod kernel;
pub mod log;
pub mod programs;
pub mod shim;
pub mod uio;

use super::talk::{Said, line};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

/// The serial port on which guest and host talk.
const PORT: &str = "/dev/ttyS1";

/// Something to be run in a guest.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What the host asks for.
    pub name: &'static str,
    /// Runs it, with the host's argument.
    pub run: fn(&str) -> Result<()>,
}

/// Every scenario, by subject.
const SUBJECTS: &[&[Scenario]] = &[
    broker::SCENARIOS,
    bus::SCENARIOS,
    harness::SCENARIOS,
    kernel::SCENARIOS,
    programs::SCENARIOS,
    shim::SCENARIOS,
    uio::SCENARIOS,
];

/// The scenario of that name.
pub fn scenario(name: &str) -> Option<Scenario> {
    SUBJECTS.iter().copied().flatten().find(|s| s.name == name).copied()
}

/// Runs a scenario in this process.
pub fn perform(name: &str, argument: &str) -> ExitCode {
    ringweir_harness::programs::at("/bin".into());
    let done = scenario(name)
        .with_context(|| format!("no scenario has the name {name:?}"))
        .and_then(|s| (s.run)(argument));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn port() -> Result<File> {
    File::options().read(true).write(true).open(PORT).context(PORT)
}

/// Has the host print something.
pub fn say(words: impl Into<String>) -> Result<()> {
    Ok(port()?.write_all(line(&Said::Words(words.into())).as_bytes())?)
}

/// Has the host do what only it can; its answer.
pub fn ask(what: impl Into<String>) -> Result<String> {
    let mut port = port()?;
    port.write_all(line(&Said::Ask(what.into())).as_bytes())?;
    let mut answer = String::new();
    BufReader::new(port).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
