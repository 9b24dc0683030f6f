//! What tests of several processes share: programs, brokers, patience; and scenes: readers and brokers as real processes,
//! each test in a run directory of its own, with nothing left behind and nothing that can hang.

pub mod broker;
pub mod mailbox;
pub mod proc;
pub mod programs;
pub mod scene;

pub use broker::{Broker, PATIENCE, wait_until};
pub use mailbox::{Live, Mailbox, Report, Slot};
pub use scene::{Daemon, Process, Scene, wait_for};
