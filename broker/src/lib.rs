//! The broker: it brings datagrams from sources into shared-memory rings.
//!
//! Contract: modules depend on each other in one direction only. From the bottom: `wake`,
//! `process`, `setup` and `intake` need none of the others; `source` and `readers` stand on them,
//! then `pump`, `stream`, `control`, `check`, `file_page`, and `program`, which is the command line.
//! Only `program` touches what belongs to the whole process: arguments, signals, exit status.
//!
//! The framings are public for the fuzzers.

// Both fail if nobody can be written to; see `ringweir_cli::stderr` and `stdout`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod control;
mod file_page;
mod intake;
mod process;
pub mod program;
mod pump;
mod readers;
mod setup;
mod source;
mod stream;
mod wake;

pub use source::framing;
