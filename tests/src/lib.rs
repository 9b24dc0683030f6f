//! What tests of several processes share: the programs, and scenes: readers and brokers as real processes,
//! each test in a run directory of its own, with nothing left behind and nothing that can hang.

pub mod mailbox;
pub mod netns;
pub mod proc;
pub mod programs;
pub mod scene;

pub use mailbox::{Live, Mailbox, Report, Slot};
pub use scene::{Daemon, Process, Scene, wait_for};
