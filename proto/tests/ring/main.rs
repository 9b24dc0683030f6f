//! The ring against a reference that a child could follow, and against real threads.
//!
//! Contract: what a reader is told must be equal in every number, not merely plausible.
#![cfg(not(ringweir_loom))]

mod cases;
mod random;
mod reference;
mod threads;
