//! A reader that came by its place honestly and does everything wrong with it, until it is told to
//! end (SIGTERM) or has done enough; with `measure`, what that costs the broker.
//!
//! Contract: what it did, how often, is one line a misdeed on stdout at the end. It outlives
//! brokers. It fails only if it could do what nobody but the broker's own user may.

mod attacks;
mod measure;
mod place;

use attacks::{Attack, Culprit};
use clap::{Parser, Subcommand, ValueEnum};
use place::Place;
use ringweir_cli::quantity::Span;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Does everything wrong that a reader can.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  ringtest-hostile run /run/ringweir/demo.sock --only doze --only \
        fill\n  \
                        ringtest-hostile measure --seconds 2\n\nExit status: 0 done; 1 it could do \
                        what it should not be able to."
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Attach and misbehave
    Run(Run),
    /// Measure what each misdeed costs the pump: processor time per datagram with and without, in
    /// turns, in one run
    Measure(measure::Options),
}

#[derive(clap::Args)]
struct Run {
    /// Control socket
    socket: PathBuf,
    /// Only this misdeed, repeatable; else all, at random
    #[arg(long, value_enum)]
    only: Vec<Attack>,
    /// What to draw from; else drawn and said
    #[arg(long)]
    seed: Option<u64>,
    /// Time for each misdeed
    #[arg(long, default_value = "200ms")]
    slice: Span,
    /// End after so many slices
    #[arg(long)]
    slices: Option<u64>,
    /// Hold what is answered to attempts to write against what another user than the broker's is to
    /// be answered; else only if it is another user
    #[arg(long)]
    judge: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Run(run) => misbehave(&run),
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

fn misbehave(run: &Run) -> anyhow::Result<()> {
    let enough = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, enough.clone())?;
    let seed = run.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("ringtest-hostile: --seed {seed}");
    let choice = if run.only.is_empty() { Attack::value_variants() } else { &run.only };
    let mut culprit = Culprit {
        path: &run.socket,
        random: fastrand::Rng::with_seed(seed),
        judges: run.judge,
        silent: Default::default(),
        locked: Vec::new(),
    };
    let mut counts = vec![0u64; Attack::value_variants().len()];
    let (mut held, mut slices) = (None::<Place>, 0);
    while !enough.load(Ordering::Relaxed) && run.slices.is_none_or(|most| slices < most) {
        let Some(place) = held.take_if(|place| !place.lost()) else {
            held = Place::take(&run.socket, "hostile").ok();
            match &held {
                Some(place) => culprit.judges |= handshaking(place),
                // No broker, no place, or too many attempts in a second.
                None => std::thread::sleep(Duration::from_millis(20)),
            }
            continue;
        };
        let what = choice[culprit.random.usize(..choice.len())];
        counts[what as usize] += culprit.commit(what, &place, run.slice.0)?;
        slices += 1;
        held = Some(place);
    }
    for (what, count) in Attack::value_variants().iter().zip(counts) {
        println!("{} {count}", what.to_possible_value().expect("none is skipped").get_name());
    }
    Ok(())
}

/// Whether this is another user than the broker's, and not root.
fn handshaking(place: &Place) -> bool {
    let me = rustix::process::geteuid().as_raw();
    me != 0 && place.seen.identity.owner_uid != me
}
