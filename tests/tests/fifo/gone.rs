//! The device goes away and comes back, over a socket and in a file; the broker goes away and comes
//! back.

use super::stage::{Outcome, Plan, Stage};
use super::strain::MACHINE;
use std::sync::PoisonError;
use std::time::Duration;

const TIMES: u64 = 3;

fn unplugged(name: &str, place: &str, device: &str, times: u64) -> Outcome {
    let mut stage = Stage::new(Plan { name, place, device, readers: 2, ..Plan::default() });
    stage.flows(100);
    for n in 1..=times {
        stage.device.say("disappear");
        let away = || stage.broker.process.stderr().matches("is gone").count() as u64 >= n;
        assert!(ringweir_harness::wait_for(super::stage::LIMIT, || away().then_some(())).is_some());
        assert_eq!(stage.stats()["facts"]["source_away"], 1);
        stage.device.say("reappear");
        let back = || stage.broker.process.stderr().matches("is back").count() as u64 >= n;
        assert!(ringweir_harness::wait_for(super::stage::LIMIT, || back().then_some(())).is_some());
        let seq = stage.stats()["facts"]["write_cursor"].as_u64().unwrap();
        stage.flows(seq + 100);
    }
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    outcome
}

/// Readers are notified once each time, and read on in the same generation, with consecutive seqs.
/// Control: for a device that stays, they are notified once, at its end, and not at all if nothing
/// reports that it ended.
#[test]
fn a_disappearing_device_is_reported_once_and_its_return_continues_the_stream() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for (name, place, times, reported) in [
        ("away", "--socket", TIMES, TIMES + 1),
        ("stays", "--socket", 0, 1),
        ("away-file", "--file", TIMES, TIMES),
        ("stays-file", "--file", 0, 0),
    ] {
        let count = if times == 0 { 1000 } else { 5000 };
        let device =
            format!("--rate 1000/s --size 24..300 --fifo 64KiB --count {count} --device-time");
        let outcome = unplugged(name, place, &device, times);
        assert_eq!(outcome.counter("source_gone"), reported, "{}", outcome.said);
        for story in &outcome.stories {
            assert_eq!(
                (story.gone, story.restarts, story.device, story.broker),
                (reported, 0, 0, 0),
                "{name}: {story:?}"
            );
        }
        assert_eq!(outcome.device_account.faults.get("disappear").map_or(0, |d| d.times), times);
    }
}

/// The broker is killed, the device overflows, and another broker continues where the device's
/// registers say. What was lost meanwhile is reported to the datagram, as the device's loss.
#[test]
fn the_next_broker_continues_where_the_killed_one_stopped() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let device = "--rate 1000/s --size 100 --fifo 2KiB --for 5s";
    let mut stage = Stage::new(Plan { name: "heir", device, readers: 2, ..Plan::default() });
    stage.flows(200);
    // Killed when it holds no datagram.
    stage.device.say("stall=600ms");
    std::thread::sleep(Duration::from_millis(300));
    let stage = stage.replace_broker(Duration::from_millis(800));
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    assert!(outcome.device_account.lost > 100, "{:?}", outcome.device_account);
    assert_eq!(
        (outcome.device_account.consumers, outcome.device_account.resets),
        (2, 1),
        "{:?}",
        outcome.device_account
    );
    for story in &outcome.stories {
        assert_eq!((story.restarts, story.gone), (1, 1), "{story:?}");
        assert_eq!(story.channels[0].missing, story.device, "{story:?}");
    }
    assert_eq!(outcome.counter("source_faults"), 0, "{}", outcome.said);
}
