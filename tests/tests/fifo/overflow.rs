//! The controls of the seed case: a broker that cannot run overflows the device, and the accounts
//! still close.

use super::stage::{Outcome, Plan, Stage, report};
use super::strain::{MACHINE, Strain};
use rustix::process::Signal;
use std::sync::PoisonError;
use std::time::Duration;

fn plan<'a>(name: &'a str, device: &'a str, broker_front: &'a str) -> Plan<'a> {
    Plan { name, device, broker_front, readers: 2, ..Plan::default() }
}

fn all_reported(outcome: &Outcome) {
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    for story in &outcome.stories {
        assert_eq!(
            (story.device, story.broker, story.inexact),
            (outcome.device_account.lost, 0, 0),
            "{story:?}"
        );
        assert_eq!(
            story.channels.iter().map(|c| c.missing).sum::<u64>(),
            story.device,
            "{story:?}"
        );
    }
    assert_eq!(outcome.counter("device_lost"), outcome.device_account.lost);
}

/// The broker is stopped for longer than the slack, with one channel and with four.
#[test]
fn a_stopped_broker_overflows_the_device_and_every_loss_is_reported() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    for (name, device) in [
        ("stopped", "--rate 1Mbit/s --size 128 --fifo 2KiB --for 3s"),
        (
            "stopped4",
            "--rate 1Mbit/s --size 24..300 --fifo 1KiB --channels 4 --device-time --for 3s",
        ),
    ] {
        let stage = Stage::new(plan(name, device, ""));
        stage.flows(200);
        for _ in 0..3 {
            stage.broker.process.stop();
            std::thread::sleep(Duration::from_millis(200));
            stage.broker.process.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(200));
        }
        let outcome = stage.end();
        all_reported(&outcome);
        assert!(outcome.device_account.lost > 100, "no overflow: {:?}", outcome.device_account);
        let (gap, slack) = outcome.gap_and_slack();
        assert!(gap > slack, "{gap} ms of {slack} ms, and it overflowed");
        // The controls: with one datagram, loss, number or hash too many or too few, the accounts
        // do not close.
        let spoils: [fn(&mut Outcome); 6] = [
            |o| o.stories[1].delivered -= 1,
            |o| o.stories[0].device += 1,
            |o| {
                (o.stories[0].device, o.stories[0].delivered) =
                    (o.stories[0].device - 1, o.stories[0].delivered + 1)
            },
            |o| o.device_account.produced += 1,
            |o| o.stories[1].channels[0].crc32 = "00000000".into(),
            |o| o.stories.clear(),
        ];
        for (n, spoil) in spoils.into_iter().enumerate() {
            let mut outcome = outcome.clone();
            spoil(&mut outcome);
            assert!(outcome.check().is_err(), "spoil {n} was not found");
        }
    }
}

/// Without real-time priority, on one processor behind four threads that never sleep.
#[test]
fn a_broker_without_priority_behind_cpu_hogs_still_accounts_for_everything() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let device = "--rate 2Mbit/s --size 128 --fifo 2KiB --for 5s --drain-limit 30s";
    let stage = Stage::new(plan("hogged", device, "taskset -c 0 nice -n 19"));
    stage.flows(100);
    let hogs = (0..4).fold(Strain::default(), |hogs, _| hogs.busy(Some(0)));
    std::thread::sleep(Duration::from_secs(3));
    drop(hogs);
    let outcome = stage.end();
    all_reported(&outcome);
    let (gap, slack) = outcome.gap_and_slack();
    report(format_args!(
        "control, 2Mbit/s, 2 KiB, SCHED_OTHER, nice 19, four hogs on its processor for 3 s: {} \
        made, {} lost by the device, \
         all of them reported; worst drain gap {gap:.2} ms of {slack:.2} ms slack",
        outcome.device_account.produced, outcome.device_account.lost
    ));
}
