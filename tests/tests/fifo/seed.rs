//! The seed case: 1 and 2 Mbit/s through 2 KiB of FIFO, a broker launched with `chrt -f 60`, a
//! machine that is busy with other work, and 1 to 32 readers in separate processes. The device
//! loses nothing; each reader's stream has the device's hash. Its controls are in `overflow`.
//!
//! `RINGWEIR_SEED_SECONDS=600` makes each of the eight runs as long as the case says; 5 s
//! otherwise.

use super::stage::{Outcome, Plan, Stage, report};
use super::strain::{Jitter, MACHINE, Strain};
use ringweir_needs::{needs_realtime, skip};
use std::sync::PoisonError;
use std::time::Duration;

/// One run; and how late a thread of the broker's priority woke meanwhile, in ms.
fn run(rate: &str, readers: usize, seconds: u64) -> (Outcome, f64) {
    let device = format!("--rate {rate} --size 128 --fifo 2KiB --for {seconds}s");
    let plan = Plan {
        name: "seed",
        // Hardware does not wait.
        device_front: "chrt -f 80",
        device: &device,
        broker_front: "chrt -f 60",
        readers,
        ..Plan::default()
    };
    let stage = Stage::lasting(plan, Duration::from_secs(seconds + 60));
    let strain = Strain::default().busy(None).busy(None).writing(&stage.env.path("written"));
    let jitter = Jitter::measure(60);
    let outcome = stage.end();
    drop(strain);
    (outcome, jitter.end())
}

#[test]
fn a_small_fifo_is_drained_in_time_beside_other_work() {
    if !needs_realtime() {
        return;
    }
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let seconds = std::env::var("RINGWEIR_SEED_SECONDS")
        .map_or(5, |s| s.parse().expect("RINGWEIR_SEED_SECONDS"));
    for rate in ["1Mbit/s", "2Mbit/s"] {
        for readers in [1, 2, 8, 32] {
            let mut overflows = Vec::new();
            for _attempt in 0..2 {
                let (outcome, jitter) = run(rate, readers, seconds);
                // This holds whatever the machine did.
                outcome
                    .check()
                    .unwrap_or_else(|e| panic!("{rate}, {readers} readers: {e}\n{}", outcome.said));
                assert_eq!(outcome.stories.len(), readers);
                assert!(outcome.said.contains("sched FIFO/60 ok"), "{}", outcome.said);
                let (gap, slack) = outcome.gap_and_slack();
                let late = outcome.device_account.late_max_us / 1e3;
                let line = format!(
                    "{rate}, 2 KiB, {readers} readers, {seconds} s: {} made, {} lost by the \
                    device; \
                    worst drain gap {gap:.2} ms of {slack:.2} ms slack; a thread at the same \
                    priority woke up to {jitter:.2} ms late, the device {late:.2} ms",
                    outcome.device_account.produced, outcome.device_account.lost,
                );
                report(format_args!("{line}"));
                if outcome.device_account.lost == 0 {
                    assert!(
                        outcome.stories.iter().all(|s| s.delivered
                            == outcome.device_account.produced
                            && s.device == 0)
                    );
                    overflows.clear();
                    break;
                }
                overflows.push((line, jitter.max(late) >= slack));
            }
            if let [(_, first), (line, second)] = &overflows[..] {
                assert!(
                    *first && *second,
                    "overflow, although the machine was quick enough: {overflows:?}"
                );
                skip(format_args!(
                    "this machine cannot show it: twice its own jitter was beyond the slack: {line}"
                ));
            }
        }
    }
}
