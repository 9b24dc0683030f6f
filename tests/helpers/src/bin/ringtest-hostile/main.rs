//! A hostile reader: it attaches normally and then attacks the broker, until SIGTERM or for a
//! number of slices. `measure` shows what that costs the broker.
//!
//! Contract: at its end it prints one line for each attack with the number of attempts. It
//! continues when a broker dies. It fails only if the kernel allowed what only the broker's own
//! user may do, or if the broker gave this user more than its share.

mod attachment;
mod attacks;
mod child;
mod measure;

use attachment::Attachment;
use attacks::{Attack, Attacker};
use clap::{Parser, Subcommand, ValueEnum};
use ringweir_cli::quantity::Span;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Attacks a broker in every way that a reader can.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  ringtest-hostile run /run/ringweir/demo.sock --only sleep-request \
        --only fill\n  ringtest-hostile measure --seconds 2\n\nExit status: 0 done; 1 an attack \
        succeeded that must not."
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Attach and attack
    Run(Run),
    /// Measure what each attack costs the pump: processor time per datagram, with and without it in
    /// turns
    Measure(measure::Options),
}

#[derive(clap::Args)]
struct Run {
    /// Control socket
    socket: PathBuf,
    /// Only this attack, repeatable [default: all, at random]
    #[arg(long, value_enum)]
    only: Vec<Attack>,
    /// Seed of the random choices [default: random, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Time for each attack
    #[arg(long, default_value = "200ms")]
    slice: Span,
    /// End after this number of slices
    #[arg(long)]
    slices: Option<u64>,
    /// Check the kernel's answers as for a user other than the broker's [default: only if it is
    /// one]
    #[arg(long)]
    judge: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Run(run) => attack(&run),
        What::Measure(options) => measure::measure(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringtest-hostile: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn attack(run: &Run) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.clone())?;
    let seed = run.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("ringtest-hostile: --seed {seed}");
    let choice = if run.only.is_empty() { Attack::value_variants() } else { &run.only };
    let mut attacker = Attacker {
        path: &run.socket,
        random: fastrand::Rng::with_seed(seed),
        judges: run.judge,
        silent: Default::default(),
        locked: Vec::new(),
        kept: Default::default(),
    };
    let limit = getrlimit(Resource::Nofile);
    // As many poll entries as this user may have.
    let _raised =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let mut counts = vec![0u64; Attack::value_variants().len()];
    let (mut held, mut slices) = (None::<Attachment>, 0);
    while !stop.load(Ordering::Relaxed) && run.slices.is_none_or(|most| slices < most) {
        let Some(attachment) = held.take_if(|attachment| !attachment.lost()) else {
            held = Attachment::new(&run.socket, "hostile").ok();
            match &held {
                Some(attachment) => attacker.judges |= is_other_user(attachment),
                // No broker, no free reader index, or too many attempts in a second.
                None => std::thread::sleep(Duration::from_millis(20)),
            }
            continue;
        };
        let what = choice[attacker.random.usize(..choice.len())];
        counts[what as usize] += attacker.commit(what, &attachment, run.slice.0)?;
        slices += 1;
        held = Some(attachment);
    }
    child::all_ended();
    for (what, count) in Attack::value_variants().iter().zip(counts) {
        println!("{} {count}", what.to_possible_value().expect("none is skipped").get_name());
    }
    Ok(())
}

/// Whether this is another user than the broker's, and not root.
fn is_other_user(attachment: &Attachment) -> bool {
    let me = rustix::process::geteuid().as_raw();
    me != 0 && attachment.seen.identity.owner_uid != me
}
