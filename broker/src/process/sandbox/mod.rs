//! What the broker gives up once everything is open: capabilities, new privileges, the file system,
//! and the system calls it never makes.
//!
//! Contract: each thread confines itself when everything it needs is open. So a pump can be started
//! with a real-time class and with rights that no thread has afterwards; threads started later
//! inherit the confinement. What stays allowed follows from the configured sources. Nothing here
//! fails a start: what the kernel cannot do is reported. `--no-sandbox` turns all of it off.

mod confine;
mod files;
pub mod needs;
mod syscalls;
#[cfg(test)]
mod tests;

pub use confine::{Confined, Sandbox};
pub use needs::Needs;
