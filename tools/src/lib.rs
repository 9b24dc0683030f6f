//! Tools.

mod arguments;
mod books;
pub mod cat;
pub mod ctl;
mod date;
pub mod manual;
mod output;
mod process;
mod reach;
pub mod send;
mod sink;
pub mod stat;
mod stop;
