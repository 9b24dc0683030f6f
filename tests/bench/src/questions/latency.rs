//! How long a datagram takes from the moment it is due until its reader has checked it, at a fixed
//! rate.
//!
//! Publishers poll the clock, so that all are equally on time; the floors (an eventfd, a futex,
//! both without data) are measured in the same way. Parked readers sleep in the kernel between
//! datagrams, spinning ones poll. A datagram is timed from when it was *due*: one that waits behind
//! a late one is late as well (coordinated omission).

use crate::bench::{Bench, Question, ms};
use crate::contenders::CONTENDERS;
use crate::job::Wait;
use crate::runner::Run;
use serde_json::json;

pub const QUESTION: Question = Question {
    name: "latency",
    about: "from due to verified at a fixed rate, parked and spinning, 64 bytes",
    run,
};

const SIZE: usize = 64;

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.scope.quick;
    let mut cases = Vec::new();
    for contender in CONTENDERS {
        if !bench.takes_part(QUESTION.name, contender)? {
            continue;
        }
        let parked: &[f64] = if quick { &[1e3] } else { &[1e3, 1e5] };
        let spinning: &[f64] = if quick { &[1e5] } else { &[1e3, 1e5, 1e6] };
        let spinning = if contender.polls { spinning } else { &[] };
        let all = parked
            .iter()
            .map(|rate| (*rate, Wait::Park))
            .chain(spinning.iter().map(|rate| (*rate, Wait::Spin)));
        cases.extend(all.map(|(rate, wait)| Run {
            contender: contender.name,
            size: SIZE,
            readers: 1,
            wait,
            rate: Some(rate),
            warm: ms(if quick { 20 } else { 200 }),
            window: ms(if quick { 100 } else { 2000 }),
            inject: bench.scope.inject,
        }));
    }
    bench.rounds(QUESTION.name, &cases, |_, outcome| {
        let all = outcome.latencies();
        let total: u64 = all.iter().map(|(_, n)| n).sum();
        let at = |share: f64| {
            let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
            let mut seen = 0;
            let found = all.iter().find(|(_, n)| {
                seen += n;
                seen >= rank
            });
            found.map(|(ns, _)| *ns)
        };
        json!({ "count": total, "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
            "lost_per_s": outcome.lost_per_s() })
    })
}
