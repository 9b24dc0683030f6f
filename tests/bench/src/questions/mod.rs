//! The questions: each is one file here and one line in [`QUESTIONS`].

mod copy;
mod latency;
mod packets;
mod publish;
mod throughput;

use crate::bench::Question;

/// The list.
pub static QUESTIONS: &[Question] = &[
    copy::QUESTION,
    throughput::QUESTION,
    latency::QUESTION,
    publish::QUESTION,
    packets::QUESTION,
];
