//! The broker of ringweir: it brings datagrams into shared-memory rings that any number of
//! processes read in place. This crate is the program `ringd`, and the library for programs that
//! publish datagrams of their own.
//!
//! - [`Publisher`]: your program calls it with each datagram. One copy into the ring, or none.
//! - [`Broker`]: your program implements [`source::Source`], and the broker calls it.
//!
//! Both serve a stream as `ringd` does: readers attach with `ringcat` or the client library,
//! `ringstat` shows them, access is checked, a restart adopts the ring.
//!
//! # Inside
//!
//! Contract: modules depend on each other in one direction only. From the bottom: `wake`,
//! `process`, `setup` and `intake` need none of the others; `source` and `readers` stand on them,
//! then `pump`, `stream`, `control`; on these `publish`, which is the library, and `check`,
//! `file_page` and `program`, which is the command line. Only `program` touches what belongs to the
//! whole process: arguments, signals, exit status.
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
mod publish;
mod pump;
mod readers;
mod setup;
pub mod source;
mod stream;
mod wake;

pub use intake::for_sources::Arrival;
pub use publish::broker::{Broker, BrokerBuilder, SourceFailed};
pub use publish::error::{PublishError, StartError};
pub use publish::options::StreamOptions;
pub use publish::publisher::{Claim, Publisher};
pub use ringweir_proto::ring::Layer;
