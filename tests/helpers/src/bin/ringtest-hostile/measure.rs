//! What attacks cost the pump: its processor time per datagram, with and without each, in turns.

use crate::attachment::Attachment;
use crate::attacks::Attack;
use anyhow::Context;
use clap::ValueEnum;
use ringweir_cli::quantity::Span;
use ringweir_harness::{Daemon, Environment, proc, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_proto::stats::PumpCounter;
use rustix::process::Signal;
use std::process::Stdio;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Duration of each turn
    #[arg(long, default_value = "1s")]
    turn: Span,
    /// Number of turns with and without each attack
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Honest readers, which sleep when there is nothing to read; with 0 the pump wakes only the
    /// hostile one
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Sources [default: one that publishes each datagram alone, and one without pauses]
    #[arg(long)]
    source: Vec<String>,
    /// Only this attack, repeatable
    #[arg(long, value_enum)]
    only: Vec<Attack>,
}

const LIMIT: Duration = Duration::from_secs(3600);

/// What the pump has used and done so far.
#[derive(Clone, Copy)]
struct Meter {
    cpu_ns: u64,
    datagrams: u64,
    wakes: u64,
}

impl Meter {
    fn read(broker: &Daemon, seen: &Attachment) -> anyhow::Result<Self> {
        let cpu_ns =
            proc::thread_cpu_ns(broker.process.pid(), "pump:").context("no thread of a pump")?;
        let count = |counter| seen.seen.memory.counter(counter);
        let wakes = count(PumpCounter::WakesInline) + count(PumpCounter::WakeEvents);
        Ok(Self { cpu_ns, datagrams: seen.written(), wakes })
    }
}

/// Sums over turns.
#[derive(Default)]
struct Cost {
    cpu_ns: u64,
    datagrams: u64,
    wakes: u64,
}

impl Cost {
    fn add(&mut self, before: Meter, after: Meter) {
        self.cpu_ns += after.cpu_ns - before.cpu_ns;
        self.datagrams += after.datagrams - before.datagrams;
        self.wakes += after.wakes - before.wakes;
    }

    fn ns(&self) -> f64 {
        self.cpu_ns as f64 / self.datagrams.max(1) as f64
    }

    fn wakes(&self) -> f64 {
        self.wakes as f64 * 1000.0 / self.datagrams.max(1) as f64
    }
}

pub fn measure(options: &Options) -> anyhow::Result<()> {
    let defaults =
        ["gen:rate=10000/s,size=64..512".to_string(), "gen:rate=max,size=64..512".to_string()];
    let sources = if options.source.is_empty() { &defaults[..] } else { &options.source };
    let attacks = if options.only.is_empty() { Attack::value_variants() } else { &options.only };
    println!(
        "processor time of the pump per datagram, without and with a hostile reader beside {} \
        honest ones, {} turns of {} each",
        options.readers, options.turns, options.turn
    );
    for source in sources {
        println!(
            "{source}\n  {:10} {:>12} {:>12} {:>6}  wakes per 1000 datagrams",
            "attack", "without ns", "with ns", "ratio"
        );
        let (mut worst, mut worst_name) = (0.0, String::new());
        for attack in attacks {
            let name =
                attack.to_possible_value().context("none is skipped")?.get_name().to_string();
            let (without, with) = one(options, source, &name)?;
            let ratio = with.ns() / without.ns();
            println!(
                "  {name:10} {:>12.1} {:>12.1} {ratio:>6.2}  {:.0} -> {:.0}",
                without.ns(),
                with.ns(),
                without.wakes(),
                with.wakes()
            );
            if ratio > worst {
                (worst, worst_name) = (ratio, name);
            }
        }
        println!("  at most x {worst:.2} ({worst_name})");
    }
    Ok(())
}

fn one(options: &Options, source: &str, attack: &str) -> anyhow::Result<(Cost, Cost)> {
    let env = Environment::new(LIMIT);
    let mailbox = Mailbox::create(options.readers.max(1));
    let id = ringweir_harness::environment::NOBODY.to_string();
    let args =
        ["--allow-uid", &id, "--max-datagram", "512", "--capacity", "4MiB", "--depth", "8192"];
    let broker = env.broker("hostile-measure", source, &args);
    let mut readers = Vec::new();
    for slot in 0..options.readers {
        let mut command = env.command("ringtest-reader");
        command.args([
            broker.path(),
            "--mailbox",
            mailbox.id(),
            "--slot",
            &slot.to_string(),
            "--from",
            "latest",
        ]);
        readers.push(env.start(command));
        wait_for(LIMIT, || (mailbox.slot(slot).live(Live::Delivered) > 0).then_some(()))
            .context("no reader")?;
    }
    let seen = Attachment::new(&broker.socket, "meter")?;
    let root = rustix::process::geteuid().is_root();
    let (mut without, mut with) = (Cost::default(), Cost::default());
    for _ in 0..options.turns {
        let before = Meter::read(&broker, &seen)?;
        std::thread::sleep(options.turn.0);
        without.add(before, Meter::read(&broker, &seen)?);
        let mut command = if root {
            env.command_as_nobody("ringtest-hostile")
        } else {
            env.command("ringtest-hostile")
        };
        command.args(["run", broker.path(), "--only", attack]).stdout(Stdio::null());
        let mut attacker = env.start(command);
        // Wait until the attack has begun.
        std::thread::sleep(Duration::from_millis(200));
        let before = Meter::read(&broker, &seen)?;
        std::thread::sleep(options.turn.0);
        with.add(before, Meter::read(&broker, &seen)?);
        attacker.signal(Signal::TERM);
        let status = attacker.wait();
        anyhow::ensure!(status.success(), "{attack}: {status}: {}", attacker.stderr());
    }
    for reader in &mut readers {
        reader.kill();
    }
    broker.end();
    Ok((without, with))
}
