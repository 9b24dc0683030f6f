//! Tools.

mod account;
mod arguments;
pub mod cat;
pub mod ctl;
mod date;

mod broker_query;
mod output;
mod process;
pub mod send;
mod sink;
pub mod stat;
mod stop;
mod wait;
