//! Everything that a device can do wrong: the stream continues, the fault is named, and nothing is
//! unaccounted for.

use super::stage::{Outcome, Plan, Stage, report};
use super::strain::MACHINE;
use ringweir_harness::proc;
use rustix::process::Signal;
use std::sync::PoisonError;
use std::time::Duration;

fn stage(name: &str, device: &str) -> Stage {
    Stage::new(Plan { name, device, readers: 2, ..Plan::default() })
}

/// Injects `words` while the broker is stopped, so that the FIFO has entries to damage; the rest of
/// two seconds is normal.
fn misbehaves(name: &str, words: &[&str]) -> Outcome {
    let mut stage = stage(name, "--rate 1000/s --size 24..300 --fifo 64KiB --for 2s");
    stage.flows(200);
    stage.broker.process.stop();
    std::thread::sleep(Duration::from_millis(60));
    for word in words {
        stage.device.say(word);
        std::thread::sleep(Duration::from_millis(40));
    }
    stage.broker.process.signal(Signal::CONT);
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{words:?}: {e}\n{}", outcome.said));
    for word in words {
        let word = word.split('=').next().unwrap_or_default();
        assert_eq!(outcome.device_account.faults.get(word).map(|m| m.times), Some(1), "{word}");
    }
    assert!(outcome.stories.iter().all(|s| s.gone == 1), "{:?}", outcome.stories);
    outcome
}

/// Garbage in the FIFO and in its index is skipped and named, and the skipped datagrams are
/// reported exactly. Control: the same stop without a fault.
#[test]
fn garbage_is_named_skipped_and_reported_exactly() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let well = misbehaves("well", &[]);
    assert_eq!(
        (well.counter("source_faults"), well.counter("broker_lost")),
        (0, 0),
        "{}",
        well.said
    );
    for (name, word, named, faults) in [
        ("index", "producer-out-of-range", "producer index 0x", 1),
        ("unaligned", "producer-unaligned", "no multiple of 8", 2),
        ("mark", "bad-mark", "no entry at 0x", 1),
        ("length", "length-over", "entry of 65537 bytes at 0x", 1),
    ] {
        let outcome = misbehaves(name, &[word]);
        assert!(outcome.said.contains(named), "{word}: {}", outcome.said);
        assert_eq!(outcome.counter("source_faults"), faults, "{word}: {}", outcome.said);
        assert!(outcome.counter("broker_lost") > 0, "{word}: {:?}", outcome.device_account);
        for story in &outcome.stories {
            assert_eq!(story.inexact, 0, "{word}");
            let missing: u64 = story.channels.iter().map(|c| c.missing).sum();
            assert_eq!(missing, story.broker + story.device, "{word}: {story:?}");
        }
    }
}

/// Skipped numbers, which no datagram ever had, are not an exact loss but at least one; and nothing
/// that was stored is missing.
#[test]
fn skipped_numbers_are_named_and_nothing_stored_is_missing() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let outcome = misbehaves("numbers", &["skip-sequence=5"]);
    assert!(outcome.said.contains("its numbers contradict each other"), "{}", outcome.said);
    for story in &outcome.stories {
        assert_eq!(
            (story.inexact, story.broker, story.device, story.channels[0].missing),
            (1, 0, 0, 5),
            "{story:?}"
        );
    }
}

/// A device that pauses for a while is not a fault, and nothing is lost.
#[test]
fn a_stalled_device_continues() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let outcome = misbehaves("stalls", &["stall=500ms"]);
    assert_eq!(
        (outcome.counter("source_faults"), outcome.device_account.lost),
        (0, 0),
        "{}",
        outcome.said
    );
    assert!(
        outcome.device_account.produced < 1700,
        "it did not stall: {:?}",
        outcome.device_account
    );
}

/// Missing interrupts cost time, but no datagram. Control: `garbage_is_named_…`, where no interrupt
/// is missing.
#[test]
fn lost_interrupts_are_found_and_cost_nothing() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let mut stage = stage("silent", "--rate 1000/s --size 24..300 --fifo 256KiB --for 3s");
    stage.flows(200);
    stage.device.say("lost-interrupt=1s");
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    assert!(outcome.device_account.interrupts_withheld > 1, "{:?}", outcome.device_account);
    assert!(outcome.counter("interrupts_lost") >= 1, "{}", outcome.stats);
    assert!(outcome.said.contains("data waited, and no interrupt came"), "{}", outcome.said);
    assert_eq!(outcome.device_account.lost, 0, "{:?}", outcome.device_account);
}

/// Endless interrupts cost the broker little, with and without data.
#[test]
fn a_storm_of_interrupts_is_named_and_bounded() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    for (name, rate) in [("storm", "1000/s"), ("storm-idle", "20/s")] {
        let mut stage =
            stage(name, &format!("--rate {rate} --size 24..300 --fifo 256KiB --for 4s"));
        stage.flows(10);
        let pid = stage.broker.process.pid();
        let second = Duration::from_secs(1);
        let spent = || {
            let before = proc::cpu_ns(pid);
            std::thread::sleep(second);
            (proc::cpu_ns(pid) - before) as f64 / 1e7
        };
        let calm = spent();
        stage.device.say("interrupt-storm=1500ms");
        let storm = spent();
        let outcome = stage.end();
        outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
        assert!(
            outcome.said.contains("interrupt after interrupt brings nothing"),
            "{}",
            outcome.said
        );
        let (stormed, idle) =
            (outcome.device_account.interrupts_stormed, outcome.counter("interrupts_idle"));
        report(format_args!(
            "interrupt storm beside {rate}: {stormed} in 1.5 s, {idle} awakenings for nothing; \
            ringd uses {storm:.1} % of a \
             processor, {calm:.1} % without"
        ));
        assert!(idle >= 64 && stormed > 500, "{stormed} stormed, {idle} idle");
        // If it were woken for each, this would be about as many.
        assert!(storm < 50.0, "{storm} % of a processor");
        assert_eq!(outcome.device_account.lost, 0);
    }
}
