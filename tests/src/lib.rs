//! What tests of several processes share: the programs, and scenes: readers and brokers as real
//! processes, each test in a run directory of its own, with nothing left behind and nothing that
//! can hang.

pub mod bench;
pub mod environment;
pub mod fpga;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod listener;
pub mod mailbox;
pub mod netns;
pub mod proc;
pub mod programs;
pub mod pry;
pub mod vm;

use std::io::Write;

/// Says that (part of) a test is not run here, and why; past the test harness, which keeps what a
/// passing test prints.
pub fn skipped(test: &str, reason: impl std::fmt::Display) {
    // Nobody to tell is nobody to mind.
    let _heard = std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes());
}

pub use environment::{Daemon, Environment, Process, wait_for};
pub use mailbox::{Live, Mailbox, Report, Slot};
