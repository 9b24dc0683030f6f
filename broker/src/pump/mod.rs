//! The pump of a stream: source in, ring out, sleeping readers woken.

pub mod back_pressure;
pub mod core;
pub mod handle;
pub mod run;
pub mod shared;
#[cfg(test)]
mod tests;
