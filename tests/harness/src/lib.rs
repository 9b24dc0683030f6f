//! What tests of several processes share: an environment of their own, the project's programs, and
//! figures of processes. Readers and brokers are real processes; each test has a run directory of
//! its own, leaves nothing behind, and cannot hang.

pub mod environment;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod netns;
pub mod proc;
pub mod programs;

pub use environment::{Daemon, Environment, Process, wait_for};
