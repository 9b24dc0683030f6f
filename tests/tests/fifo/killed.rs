//! A broker of a device is killed at each numbered point of `proto/DESIGN.md` §7. What it had taken
//! and not published, and what the device lost meanwhile, is reported to the datagram by the
//! restart, or by the device's next entry.

use super::stage::{Plan, Stage, report};
use super::strain::MACHINE;
use ringweir_harness::environment::{Daemon, Environment, wait_for};
use ringweir_harness::programs;
use ringweir_proto::os::paths;
use ringweir_proto::ring::crash::Point;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A broker that may be dead before it can be looked at.
fn mortal(env: &Environment, name: &str, ringd: Command) -> Daemon {
    let socket = paths::socket_path(&env.run_dir(), name);
    Daemon { process: env.start(ringd), name: name.into(), socket }
}

#[test]
fn losses_of_a_killed_broker_are_reported_by_the_next() {
    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    // The FIFO is so small that it overflows while no broker is running, so that there is a loss to
    // count (K10).
    let device = "--rate 4000/s --size 24..100 --fifo 2KiB";
    // Built before the device runs: it may take minutes, in which no broker would drain the device.
    programs::crashing();
    let mut stage = Stage::new(Plan { name: "mortal", device, readers: 2, ..Plan::default() });
    stage.flows(200);
    for (round, point) in Point::PUBLISH.into_iter().enumerate() {
        // The claim line moves every thousandth datagram, and the first loss is that of the time
        // without a broker; other points are passed with every datagram.
        let rare = matches!(point, Point::K1 | Point::K2 | Point::K10);
        let nth = if rare { 1 } else { 20 + 13 * round };
        let mut ringd = stage.env.command_at(programs::crashing());
        ringd.env("RINGWEIR_CRASH", format!("{point:?}:{nth}:kill"));
        stage = stage.replace_broker_by(Duration::from_millis(60), ringd, mortal);
        let broker = &mut stage.broker.process;
        let status = wait_for(SOON, || broker.ended());
        assert_eq!(status.and_then(|s| s.signal()), Some(9), "{point:?}: {}", broker.stderr());
    }
    let mut stage = stage.replace_broker(Duration::from_millis(60));
    // The FIFO is empty when the device ends: what a broker takes while its device disappears would
    // be in both accounts.
    stage.device.say("stall=60s");
    let is_drained = || {
        stage.device.say("account");
        stage.device.device_account().channels.iter().all(|channel| channel.left == 0).then_some(())
    };
    assert!(wait_for(SOON, is_drained).is_some(), "not drained: {}", stage.broker.process.stderr());
    stage.device.process.signal(Signal::TERM);
    let outcome = stage.end();
    outcome.check().unwrap_or_else(|e| panic!("{e}\n{}", outcome.said));
    let restarts = 1 + Point::PUBLISH.len() as u64;
    for story in &outcome.stories {
        assert_eq!((story.restarts, story.inexact, story.lapped), (restarts, 0, 0), "{story:?}");
        assert!(story.restart > 0, "nobody died with a datagram in hand: {story:?}");
        // The controls: with one too many or too few, the accounts do not close.
        for spoil in [|o: u64| o + 1, |o: u64| o - 1] {
            let mut spoilt = outcome.clone();
            spoilt.stories[0].restart = spoil(story.restart);
            assert!(spoilt.check().is_err(), "not found");
        }
    }
    let story = &outcome.stories[0];
    report(format_args!(
        "killed at {} points: {} made = {} delivered + {} reported by restarts + {} by the device \
         + {} forgotten",
        Point::PUBLISH.len(),
        outcome.device_account.produced,
        story.delivered,
        story.restart,
        story.device,
        outcome.device_account.channels.iter().map(|c| c.reset + c.left).sum::<u64>(),
    ));
}
