//! `ringcat`, `ringstat`, `ringctl` and `ringsend`: a module each, and what they share.
//!
//! Contract: the programs in `bin` only call `main` of their module. The programs' modules do not
//! use each other, except for `ctl`, which shows a stream as `stat` does. There is no import
//! circle.

// Both fail if nobody can be written to; see `ringweir_cli::stderr` and `stdout`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod account;
mod arguments;
mod broker_query;
pub mod cat;
mod completion;
pub mod ctl;
mod date;
mod json_line;
mod machine;
mod messages;
pub mod output;
mod process;
mod proof;
pub mod send;
mod seq_window;
mod sink;
pub mod stat;
pub mod stop;
mod usage;
mod wait;
