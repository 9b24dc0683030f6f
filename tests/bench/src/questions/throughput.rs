//! How many datagrams per second reach each reader, verified: ringweir beside what people use now.
//!
//! Every contender publishes as fast as it can. Contenders that lose are shown with both what they
//! deliver and what they lose; verified datagrams per second and reader are compared.

use crate::bench::{Bench, Question, ms};
use crate::contenders::CONTENDERS;
use crate::job::Wait;
use crate::runner::Run;
use serde_json::json;

pub const QUESTION: Question = Question {
    name: "throughput",
    about: "verified datagrams per second and reader, flat out, by size and readers",
    run,
};

/// Sizes in bytes.
pub const SIZES: [usize; 5] = [64, 1 << 10, 16 << 10, 256 << 10, 1 << 20];
/// Numbers of readers.
pub const READERS: [usize; 5] = [1, 2, 4, 8, 16];

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.scope.quick;
    let (sizes, readers): (&[usize], &[usize]) =
        if quick { (&[64, 16 << 10], &[1, 3]) } else { (&SIZES, &READERS) };
    let mut cases = Vec::new();
    for &size in sizes {
        for &readers in readers {
            for contender in CONTENDERS.iter().filter(|c| !c.floor) {
                if !bench.takes_part(QUESTION.name, contender)? {
                    continue;
                }
                if let Some((most, why)) = contender.most.filter(|(most, _)| size > *most) {
                    let what = format!("{} with {size} bytes", contender.name);
                    bench.skip(QUESTION.name, &what, &format!("at most {most} bytes: {why}"))?;
                    continue;
                }
                let polled = contender.polls.then_some(Wait::Spin);
                for wait in polled.into_iter().chain([Wait::Park]) {
                    cases.push(Run {
                        contender: contender.name,
                        size,
                        readers,
                        wait,
                        rate: None,
                        warm: ms(if quick { 10 } else { 60 }),
                        window: ms(if quick { 40 } else { 250 }),
                        inject: bench.scope.inject,
                    });
                }
            }
        }
    }
    bench.rounds(QUESTION.name, &cases, |case, outcome| {
        let delivered = outcome.delivered_per_s();
        json!({
            "delivered_per_s": delivered,
            "lost_per_s": outcome.lost_per_s(),
            "bytes_per_s": delivered * case.size as f64,
        })
    })
}
