//! How fast one thread copies on this machine, and how near to that the pump brings datagrams into
//! the ring.
//!
//! The floor copies what the generator copies (pieces of at most 16 KiB from a source in the cache)
//! into a buffer as large as the ring's payload, one datagram after the other, and does nothing
//! else. The ring is `ringd` with `gen:check=sum` and no reader; its own counters show what it
//! publishes. Both run as fast as they can on processor 0, in turns, and count per second of the
//! thread's own processor time, so that other load on the machine slows neither.

use super::throughput::SIZES;
use crate::bench::{Bench, Question, ms};
use crate::job::STREAM;
use crate::pump::look;
use crate::runner::{ring_capacity, ring_options};
use crate::{job, line};
use ringweir::view::Viewer;
use ringweir_harness::Environment;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::{Duration, Instant};

pub const QUESTION: Question = Question {
    name: "copy",
    about: "the copy into the ring beside the copy floor of this machine, by size",
    run,
};

/// Bytes that one thread copies as datagrams of `size` in a second of its processor time.
fn floor(size: usize, window: Duration) -> f64 {
    let measure = || {
        // Without the right to pin it, the scheduler places it.
        let _pinned = job::pin(0);
        let source = vec![0x5au8; size.min(16 << 10)];
        let mut ring = vec![1u8; ring_capacity(size)];
        let own_time = || {
            let t = clock_gettime(ClockId::ThreadCPUTime);
            t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
        };
        let (mut copied, began, used) = (0u64, Instant::now(), own_time());
        while began.elapsed() < window {
            for datagram in ring.chunks_exact_mut(size) {
                for piece in datagram.chunks_mut(source.len()) {
                    piece.copy_from_slice(std::hint::black_box(&source[..piece.len()]));
                }
                std::hint::black_box(&datagram);
                copied += size as u64;
            }
        }
        copied as f64 / (own_time() - used)
    };
    std::thread::scope(|scope| scope.spawn(measure).join()).unwrap_or(0.0)
}

/// Bytes that the pump publishes in a second of its thread's processor time.
fn pump(size: usize, window: Duration) -> anyhow::Result<f64> {
    let env = Environment::new(window + Duration::from_secs(60));
    let options = ring_options(size, 0);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let broker = env.broker(STREAM, &format!("gen:check=sum,rate=max,size={size}"), &options);
    let watch = Viewer::attach(broker.path())?;
    let pid = broker.process.pid();
    std::thread::sleep(ms(50));
    let (from, used_from) = look(&watch, pid)?;
    std::thread::sleep(window);
    let (to, used_to) = look(&watch, pid)?;
    broker.end();
    Ok((to - from) as f64 * size as f64 / ((used_to - used_from) as f64 / 1e9))
}

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.scope.quick;
    let sizes: &[usize] = if quick { &[64, 16 << 10] } else { &SIZES };
    let since = Instant::now();
    for round in 0..bench.scope.rounds {
        for (n, &size) in sizes.iter().enumerate() {
            let done = round as usize * sizes.len() + n;
            let of = sizes.len() * bench.scope.rounds as usize;
            bench.progress(QUESTION.name, done, of, since, &format!("{size} bytes"));
            let window = ms(if quick { 50 } else { 500 });
            let before = line::one_way_ns();
            let (floor, pump) = (floor(size, window), pump(size, window)?);
            let line = [before, line::one_way_ns()];
            let moved = bench.moved(line);
            bench.records.add(json!({
                "kind": "run", "question": QUESTION.name, "round": round,
                "contender": "ring", "size": size,
                "floor_bytes_per_s": floor, "bytes_per_s": pump, "ratio": pump / floor,
                "line_ns": line, "moved": moved,
            }))?;
        }
    }
    Ok(())
}
