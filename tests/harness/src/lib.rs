//! What tests with several processes share: environments, the project's programs, and figures of
//! processes. Readers and brokers are real processes. Each test has its own run directory, leaves
//! nothing behind, and cannot hang.

pub mod environment;
pub mod hostile;
pub mod hostile_broker;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod log_pipe;
pub mod netns;
pub mod proc;
pub mod programs;
pub mod terminal;
pub mod user;

pub use environment::{Daemon, Environment, Process, wait_for};
