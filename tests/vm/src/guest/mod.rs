//! Inside the guest: its init, and the scenarios.
//!
//! Contract: each scenario runs in a separate process. Init also fails it if it does not end in
//! time, if it leaves processes behind, or if the kernel reported a fault meanwhile.

pub mod broker;
pub mod bus;
pub mod harness;
pub mod init;
pub mod kernel;
pub mod log;
pub mod programs;
pub mod scenario;
pub mod shim;
pub mod uio;

use anyhow::Context;
use scenario::Scenario;
use std::process::ExitCode;

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
pub fn by_name(name: &str) -> Option<Scenario> {
    SUBJECTS.iter().copied().flatten().find(|s| s.name == name).copied()
}

/// Runs a scenario in this process.
pub fn perform(name: &str, argument: &str) -> ExitCode {
    ringweir_harness::programs::at("/bin".into());
    let done = by_name(name)
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
