//! Tools.

pub mod ctl;
mod date;
mod output;
mod process;
mod reach;
pub mod stat;
