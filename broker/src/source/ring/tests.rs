use super::super::test_bench::{Bench, Got, bytes_of, wait};
use super::*;
use crate::source::contract::OpenFor;
use crate::{Publisher, StreamOptions};
use ringweir_proto::os::clock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MAX: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

fn there(directory: &TempDir) -> StreamOptions {
    Publisher::builder("there").run_dir(directory.path())
}

/// The source of a stream in this directory.
fn source(directory: &TempDir, options: &str) -> Box<dyn Source> {
    let mut source = open(&format!("there{options}"), &OpenFor { max_datagram: MAX }).unwrap();
    source.set_socket(&directory.path().join("here.sock")).unwrap();
    source
}

fn bench() -> Bench {
    Bench::new(1 << 16, MAX as u64)
}

/// Rounds as the pump makes them, until `done`.
fn run_until(
    bench: &mut Bench,
    source: &mut dyn Source,
    mut done: impl FnMut(&mut Bench, usize) -> bool,
) -> Vec<Got> {
    let (limit, mut all) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        bench.now = clock::monotonic_ns();
        let (got, fill) = bench.run(source);
        all.extend(got);
        if done(bench, all.len()) {
            return all;
        }
        assert!(fill == Fill::Idle && Instant::now() < limit, "{all:?}");
        match source.wait_for() {
            WaitFor { readable: Some(_), until: None } => assert!(wait(source, 60_000), "stuck"),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The reason why there is no stream, and then the stream, are found while the pump does not run.
/// Control: before it is there, the source only waits.
#[test]
fn a_stream_that_comes_while_the_pump_is_away_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, mut source) = (bench(), source(&directory, ""));
    assert_eq!(bench.round(&mut *source), Fill::Took);
    assert!(wait(&*source, 60_000), "the reason");
    let mut there = there(&directory).build().unwrap();
    there.publish(b"one").unwrap();
    let limit = Instant::now() + PATIENCE;
    while there.readers() == 0 {
        assert!(Instant::now() < limit, "the thread attaches");
        std::thread::sleep(Duration::from_millis(10));
    }
    // What was found is in the queue a moment later.
    std::thread::sleep(Duration::from_millis(200));
    let got = run_until(&mut bench, &mut *source, |_, count| count == 1);
    assert_eq!(bytes_of(&got), [b"one"]);
    assert!(bench.notices()[0].contains("there"));
}

/// A datagram that is too long is lost only if it was to be copied. Control: a short one of the
/// same channel is copied.
#[test]
fn a_long_datagram_that_is_not_wanted_is_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let mut there = there(&directory).build().unwrap();
    let (mut bench, mut source) = (bench(), source(&directory, ",channel=1,from=oldest"));
    let channel = |channel| Arrival { channel, ..Arrival::default() };
    for (bytes, number) in [(&[0; MAX + 1][..], 0), (&[0; MAX + 1], 1), (&[0; MAX], 1)] {
        there.publish_as(bytes, channel(number)).unwrap();
    }
    let got = run_until(&mut bench, &mut *source, |_, count| count == 1);
    assert_eq!(
        (got[0].bytes.len(), got[0].lost_before.as_slice()),
        (MAX, &[(Layer::Broker, 1, true)][..])
    );
    assert_eq!(bench.count(PumpCounter::Skipped), 1);
}

/// What a new ring does not hold any more when it is found is lost. Control: of the first ring,
/// what was published before is not.
#[test]
fn what_a_new_ring_has_overwritten_is_lost() {
    const COUNT: u64 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let small = |count: u64| {
        let mut there = there(&directory).depth(256).capacity(1 << 16).build().unwrap();
        (0..count).for_each(|n| there.publish(&n.to_le_bytes()).unwrap());
        there
    };
    let (mut bench, mut source) = (bench(), source(&directory, ",from=oldest"));
    let first = small(COUNT);
    let got = run_until(&mut bench, &mut *source, |_, count| count > 0);
    assert!(got.len() < COUNT as usize && got[0].lost_before.is_empty(), "control: {}", got.len());
    drop(first);
    run_until(&mut bench, &mut *source, |bench, _| !bench.gone.is_empty());
    let _second = small(COUNT);
    let got = run_until(&mut bench, &mut *source, |_, count| count > 0);
    let lost = got[0].lost_before.iter().map(|lost| lost.1).sum::<u64>();
    assert_eq!(lost + got.len() as u64, COUNT);
    assert_eq!(bench.count(PumpCounter::KernelLost), lost);
}
