//! The ring against a simple reference, and with real threads.
//!
//! Contract: every number that a reader gets must equal the reference's, not merely be plausible.
#![cfg(not(ringweir_loom))]

mod cases;
mod random;
mod reference;
mod threads;
