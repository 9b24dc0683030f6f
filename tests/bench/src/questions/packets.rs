//! Processor time per gigabit captured: N processes with a packet socket each, against one `ringd
//! packet:` and N readers.
//!
//! It runs on a veth pair between two network namespaces. The kernel delivers to N sockets in the
//! sender's context. So the figure is the cost of everything (traffic, captures, the kernel's
//! softirq threads) minus that of the same traffic without a capture. With one reader the broker
//! can only add a copy, and the table says so.

use crate::bench::{Bench, Question, ms};
use crate::capture::{BLOCK, BLOCKS, HEADERS, PORT, READER, SOCKET, TIMEOUT_MS, TRAFFIC};
use crate::job::{Job, STREAM, Wait, sleep_until};
use crate::runner::{Worker, closed};
use crate::{line, machine};
use anyhow::Context;
use ringweir_harness::netns::{self, Wire};
use ringweir_harness::{Daemon, Environment};
use ringweir_proto::os::clock;
use serde_json::json;
use std::time::{Duration, Instant};

/// The question.
pub const QUESTION: Question = Question {
    name: "packets",
    about: "processor time per gigabit: N packet sockets against one ringd and N readers",
    run,
};

const SIZE: usize = 1400;

/// Who captures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Nobody,
    Sockets,
    Ring,
}

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    if let Err(why) = netns::missing(&[]) {
        return bench.skip(QUESTION.name, "everything", &why);
    }
    let quick = bench.scope.quick;
    let counts: &[usize] = if quick { &[1, 2] } else { &[1, 2, 4, 8] };
    let (rate, window) = if quick { (5e3, ms(300)) } else { (40e3, ms(3000)) };
    let since = Instant::now();
    let of = counts.len() * bench.scope.rounds as usize;
    for round in 0..bench.scope.rounds {
        for (n, &readers) in counts.iter().enumerate() {
            bench.progress(
                QUESTION.name,
                round as usize * counts.len() + n,
                of,
                since,
                &format!("{readers} readers"),
            );
            let before = line::one_way_ns();
            let alone = once(bench, Way::Nobody, 0, rate, window)?;
            for (way, name) in
                [(Way::Sockets, "N packet sockets"), (Way::Ring, "ring: ringd packet: + N readers")]
            {
                let done = once(bench, way, readers, rate, window)
                    .with_context(|| format!("{readers} of {name}"))?;
                let gbit = done.published as f64 * (SIZE + HEADERS) as f64 * 8.0 / 1e9;
                let line = [before, line::one_way_ns()];
                let moved = bench.moved(line);
                bench.records.add(json!({
                    "kind": "run", "question": QUESTION.name, "round": round,
                    "contender": name, "readers": readers, "rate": rate,
                    "published": done.published, "cpu_s": done.cpu, "cpu_alone_s": alone.cpu,
                    "cpu_s_per_gbit": (done.cpu - alone.cpu) / gbit,
                    "lost_share": done.lost as f64 / (done.published * readers as u64) as f64,
                    "line_ns": line, "moved": moved,
                }))?;
            }
        }
    }
    Ok(())
}

struct Done {
    published: u64,
    /// Lost, by all readers together.
    lost: u64,
    /// Processor time of everything that took part, s.
    cpu: f64,
}

fn softirq_threads() -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|c| c.starts_with("ksoftirqd"))
    })
    .collect()
}

fn once(
    bench: &Bench,
    way: Way,
    readers: usize,
    rate: f64,
    window: Duration,
) -> anyhow::Result<Done> {
    let wire = Wire::new().context("network namespaces")?;
    let env = Environment::new(window + Duration::from_secs(60));
    // Without it, the near end would answer that the port is closed. It is never read: once full,
    // it only drops.
    let _sink = wire
        .near
        .within(|| std::net::UdpSocket::bind((Wire::NEAR, PORT)))
        .context("a sink for the traffic")?;
    let broker = (way == Way::Ring).then(|| ringd(&env, &wire, readers));
    let job = |contender: &str, reader: Option<usize>| Job {
        contender: contender.into(),
        reader,
        dir: env.path(""),
        size: SIZE,
        readers,
        rate: Some(rate),
        wait: Wait::Park,
        inject: bench.scope.inject,
        cpu: None,
    };
    let mut traffic = Worker::start_in(&env, &job(TRAFFIC, None), Some(&wire.far))?;
    traffic.ready()?;
    let mut captures = Vec::new();
    for n in 0..readers {
        let name = if way == Way::Ring { READER } else { SOCKET };
        captures.push(Worker::start_in(&env, &job(name, Some(n)), Some(&wire.near))?);
    }
    captures.iter_mut().try_for_each(Worker::ready)?;
    let mut pids: Vec<u32> = captures.iter().map(|hand| hand.process.pid()).collect();
    pids.push(traffic.process.pid());
    pids.extend(broker.as_ref().map(|b| b.process.pid()));
    pids.extend(softirq_threads());
    let cpu = || pids.iter().map(|pid| machine::process_ns(*pid)).sum::<u64>() as f64 / 1e9;

    let start = clock::monotonic_ns() + 20_000_000;
    let end = start + window.as_nanos() as u64;
    let before = cpu();
    let times = format!("{start} {start} {end}\n");
    captures.iter_mut().try_for_each(|hand| hand.go(&times))?;
    traffic.go(&times)?;
    // Until the last block has been handed over and read.
    sleep_until(end + 100_000_000);
    let used = cpu() - before;
    let published = traffic.report()?.published;
    let mut lost = 0;
    for hand in captures {
        lost += closed(hand.report()?, published)?.lost;
    }
    if let Some(broker) = broker {
        broker.end();
    }
    Ok(Done { published, lost, cpu: used })
}

fn ringd(env: &Environment, wire: &Wire, readers: usize) -> Daemon {
    let mut command = env.command("ringd");
    let source =
        format!("packet:vb,block={}KiB,blocks={BLOCKS},timeout={TIMEOUT_MS}ms", BLOCK >> 10);
    command
        .arg("--run-dir")
        .arg(env.run_dir())
        .args(["run", "--name", STREAM, "--source", &source]);
    command.args([
        "--depth",
        "15000",
        "--capacity",
        "8MiB",
        "--max-datagram",
        "2KiB",
        "--readers-max",
    ]);
    command.arg(readers.max(64).to_string());
    wire.near.enter(&mut command);
    env.broker_of(STREAM, command)
}
