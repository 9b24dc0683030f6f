//! Tools.

pub mod cat;
pub mod ctl;
mod date;
mod output;
mod process;
mod reach;
mod sink;
pub mod stat;
