//! The broker as a library: a program that publishes its own datagrams, or that runs its own
//! sources.
//!
//! Contract: everything here is public API. Nothing of it concerns the whole process: no signal
//! handlers, no sandbox, no exit, no text but through `tracing`. A stream of a program is served
//! like one of `ringd`: the same socket, access rights, statistics, restart and adoption.

pub mod broker;
pub mod error;
pub mod options;
pub mod publisher;
mod service;
