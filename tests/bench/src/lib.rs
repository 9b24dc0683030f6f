//! `ringbench`: cost and yield of ringweir beside what people use today, on the machine where it
//! runs.
//!
//! Contract: publisher and readers are processes. Each reader checks every byte and every number
//! that it receives. A run in which anything is wrong makes the whole bench fail. A question is a
//! file in `questions`, a contender a file in `contenders`; both have a list. Runs alternate
//! between contenders within a round, and records are written one by one.

pub mod bench;
mod capture;
mod chart;
mod contender;
pub mod contenders;
mod feed;
mod holder;
pub mod job;
mod line;
mod machine;
pub mod perform;
mod pump;
pub mod questions;
pub mod record;
pub mod report;
mod runner;
mod segment;
mod tally;
