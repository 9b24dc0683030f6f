//! What a publish costs the pump's thread as readers are added: awake ones that it never has to
//! wake, and sleeping ones.
//!
//! Awake: readers attach as never sleeping and do not read, so that only the pump uses the
//! processor; it publishes as fast as it can. Asleep: each reader sleeps until each datagram, 20
//! per second, and reads it. The thread's processor time is the scheduler's count.

use crate::bench::{Bench, Question, ms};
use crate::holder::{HOLDER, PER_PROCESS, SLEEPERS_RATE};
use crate::job::{Job, STREAM, Wait, sleep_until};
use crate::line;
use crate::pump::look;
use crate::runner::{Worker, ring_options};
use anyhow::{Context, ensure};
use ringweir::view::Viewer;
use ringweir_harness::Environment;
use ringweir_proto::os::clock;
use serde_json::json;
use std::time::{Duration, Instant};

/// The question.
pub const QUESTION: Question = Question {
    name: "publish",
    about: "the pump thread's processor time a publish against 1 to 1024 readers",
    run,
};

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.scope.quick;
    let counts: &[usize] = if quick { &[1, 128] } else { &[1, 16, 256, 1024] };
    let since = Instant::now();
    let of = counts.len() * 2 * bench.scope.rounds as usize;
    let mut done = 0;
    for round in 0..bench.scope.rounds {
        for wait in [Wait::Spin, Wait::Park] {
            for &readers in counts {
                let state = if wait == Wait::Spin { "awake" } else { "asleep" };
                bench.progress(
                    QUESTION.name,
                    done,
                    of,
                    since,
                    &format!("{readers} readers {state}"),
                );
                done += 1;
                let window = match (wait, quick) {
                    (_, true) => ms(300),
                    (Wait::Spin, false) => ms(1000),
                    (Wait::Park, false) => ms(4000),
                };
                let before = line::one_way_ns();
                let (published, pump_ns) = once(readers, wait, window)
                    .with_context(|| format!("{readers} readers {state}"))?;
                let line = [before, line::one_way_ns()];
                let moved = bench.moved(line);
                bench.records.add(json!({
                    "kind": "run", "question": QUESTION.name, "round": round,
                    "contender": "ring", "size": 64, "readers": readers, "wait": state,
                    "published": published, "pump_ns": pump_ns,
                    "ns_per_publish": pump_ns as f64 / published as f64,
                    "line_ns": line, "moved": moved,
                }))?;
            }
        }
    }
    Ok(())
}

/// Datagrams published in the window, and what the pump's thread used in it, ns.
fn once(readers: usize, wait: Wait, window: Duration) -> anyhow::Result<(u64, u64)> {
    let env = Environment::new(window + Duration::from_secs(120));
    let rate = if wait == Wait::Spin { "max".to_string() } else { format!("{SLEEPERS_RATE}/s") };
    let options = ring_options(64, readers);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let broker = env.broker(STREAM, &format!("gen:check=sum,rate={rate},size=64"), &options);
    let mut hands = Vec::new();
    let mut left = readers;
    while left > 0 {
        let here = left.min(PER_PROCESS);
        let job = Job {
            contender: HOLDER.into(),
            reader: Some(0),
            dir: env.path(""),
            size: 64,
            readers: here,
            rate: None,
            wait,
            inject: None,
            cpu: None,
        };
        let mut hand = Worker::start(&env, &job)?;
        hand.ready()?;
        hands.push(hand);
        left -= here;
    }
    let watch = Viewer::attach(broker.path())?;
    let start = clock::monotonic_ns();
    let begin = start + 300_000_000;
    let end = begin + window.as_nanos() as u64;
    let times = format!("{start} {begin} {end}\n");
    hands.iter_mut().try_for_each(|hand| hand.go(&times))?;
    let pid = broker.process.pid();
    sleep_until(begin);
    let (cursor_from, ns_from) = look(&watch, pid)?;
    sleep_until(end);
    let (cursor_to, ns_to) = look(&watch, pid)?;
    let reports = hands.into_iter().map(Worker::report).collect::<Result<Vec<_>, _>>()?;
    let published = cursor_to - cursor_from;
    ensure!(published > 0, "nothing was published");
    if wait == Wait::Park {
        // Awake and asleep must really differ: each sleeping reader has received nearly all of it.
        let seen: u64 = reports.iter().map(|r| r.delivered).sum();
        ensure!(
            seen >= published.saturating_sub(3) * readers as u64,
            "{seen} wake-ups of {readers} readers for {published}"
        );
    }
    broker.end();
    Ok((published, ns_to - ns_from))
}
