//! One stream: its parts put together, its threads, and how it ends.

pub mod builder;
mod listener;
pub mod log;
pub mod pump_thread;
mod ring;
pub mod running;
