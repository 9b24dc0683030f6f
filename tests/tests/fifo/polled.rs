//! Devices without interrupts, and devices with several channels.

use super::stage::{Plan, Stage, report};
use super::strain::MACHINE;
use ringweir_harness::proc;
use std::sync::PoisonError;
use std::time::Duration;

/// Polled with back-off: everything arrives. The cost is low while there is data, and lower while
/// there is none.
#[test]
fn a_polled_device_loses_nothing_and_costs_little() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let device = "--rate 1Mbit/s --size 128 --fifo 64KiB --for 5s";
    let mut stage =
        Stage::new(Plan { name: "polled", place: "--file", device, readers: 2, ..Plan::default() });
    assert!(stage.broker.process.stderr().contains("polled"), "{}", stage.broker.process.stderr());
    stage.flows(100);
    let pid = stage.broker.process.pid();
    let spent = |time: u64| {
        let before = proc::cpu_ns(pid);
        std::thread::sleep(Duration::from_millis(time));
        (proc::cpu_ns(pid) - before) as f64 / (time as f64 * 1e4)
    };
    let at_rate = spent(1000);
    stage.device.say("stall=2s");
    std::thread::sleep(Duration::from_millis(200));
    let idle = spent(1500);
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    let (gap, slack) = outcome.gap_and_slack();
    report(format_args!(
        "polled, 1Mbit/s, 64 KiB: {} made, {} lost by the device; worst drain gap {gap:.2} ms of \
        {slack:.2} ms slack; ringd uses \
         {at_rate:.1} % of a processor at rate, {idle:.1} % idle",
        outcome.device_account.produced, outcome.device_account.lost
    ));
    assert!(idle < 5.0, "{idle} % of a processor for nothing");
    assert_eq!((outcome.counter("interrupts"), outcome.counter("source_faults")), (0, 0));
}

/// The channels' streams do not mix: each has its own pattern, numbers and hash.
#[test]
fn channels_are_never_mixed() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for (name, place, channels) in
        [("three", "--socket", 3), ("all", "--socket", 32), ("polled7", "--file", 7)]
    {
        let device =
            format!("--rate 3000/s --size 24..300 --fifo 16KiB --channels {channels} --for 2s");
        let outcome =
            Stage::new(Plan { name, place, device: &device, readers: 2, ..Plan::default() }).end();
        outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
        for story in &outcome.stories {
            assert_eq!(story.channels.len(), channels, "{story:?}");
            assert!(story.channels.iter().all(|c| c.delivered > 0), "{story:?}");
        }
        // The control: the hashes of two channels are swapped.
        let mut crossed = outcome;
        let (first, rest) = crossed.stories[0].channels.split_first_mut().unwrap();
        std::mem::swap(&mut first.crc32, &mut rest[0].crc32);
        assert!(crossed.check().is_err());
    }
}
