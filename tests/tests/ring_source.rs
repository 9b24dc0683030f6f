//! `ring:` between real brokers. Published + skipped + lost here = published there, over any
//! interval: while the other stream is faster, restarts, ends and begins anew, or is not there yet.

use ringweir::view::Viewer;
use ringweir::view::stats::{PumpCounter, Snapshot};
use ringweir::{Cause, Item, Options, Reader, Start, Waited};
use ringweir_harness::{Daemon, Environment, wait_for};
use rustix::process::Signal;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);

fn figures(stream: &Daemon) -> Snapshot {
    Viewer::attach(stream.path()).unwrap().snapshot().unwrap()
}

/// Published here, skipped, and lost on the way.
fn account(stream: &Daemon) -> [u64; 3] {
    let seen = figures(stream);
    let kinds = [PumpCounter::Published, PumpCounter::Skipped, PumpCounter::KernelLost];
    kinds.map(|counter| seen.pump(counter))
}

/// Waits until the account of `stream` is that of `published` datagrams there.
fn settles(stream: &Daemon, published: u64) -> [u64; 3] {
    let settled = wait_for(PATIENCE, || {
        let account = account(stream);
        (account.iter().sum::<u64>() == published).then_some(account)
    });
    settled.unwrap_or_else(|| {
        panic!("{:?} of {published}: {}", account(stream), stream.process.stderr())
    })
}

/// What a reader of the whole stream gets: datagrams (channel, length, source time), losses in the
/// kernel layer, and how often the source was gone.
#[derive(Default)]
struct Got {
    datagrams: Vec<(u16, usize, Option<u64>)>,
    lost: u64,
    gone: u64,
}

fn read_until(reader: &mut Reader, got: &mut Got, done: impl Fn(&Got) -> bool) {
    while !done(got) {
        match reader.next().unwrap() {
            Item::Datagram(d) => got.datagrams.push((d.channel(), d.len(), d.source_time())),
            Item::Gap(gap) => match gap.cause {
                Cause::SourceGone => got.gone += 1,
                Cause::Upstream { layer: ringweir::Layer::Kernel, exact: true } => {
                    got.lost += gap.count
                }
                other => panic!("{other:?}"),
            },
            Item::Empty => assert_ne!(reader.wait(Some(PATIENCE)).unwrap(), Waited::TimedOut),
            other => panic!("{other:?}"),
        }
    }
}

fn oldest(stream: &Daemon) -> Reader {
    Options::new("test").start(Start::Oldest).attach(stream.path()).unwrap()
}

/// Channels and decimation: what is left out is counted as skipped, and nothing is lost. Control:
/// without options all of it comes, and nothing is skipped.
#[test]
fn what_is_left_out_is_skipped_and_not_lost() {
    const COUNT: u64 = 8000;
    let env = Environment::new(LIMIT);
    let source = format!("gen:rate=max,size=64..200,channels=8,count={COUNT}");
    let there = env.broker(
        "rs-there",
        &source,
        &["--wait-readers", "3", "--linger", "forever", "--depth", "16384"],
    );
    let here: Vec<_> = [
        ("rs-all", "", COUNT),
        ("rs-some", ",channel=0+3", COUNT / 4),
        ("rs-few", ",channel=5,every=10", COUNT / 80),
    ]
    .map(|(name, options, wanted)| {
        let source = format!("ring:rs-there,from=oldest{options}");
        (env.broker(name, &source, &["--linger", "forever"]), wanted)
    })
    .into();
    for (stream, wanted) in &here {
        assert_eq!(settles(stream, COUNT), [*wanted, COUNT - wanted, 0]);
    }
    let mut got = Got::default();
    read_until(&mut oldest(&here[1].0), &mut got, |got| got.datagrams.len() as u64 == COUNT / 4);
    assert!(got.datagrams.iter().all(|(channel, ..)| [0, 3].contains(channel)));
    // Bytes and numbers are those of the other stream.
    let whole = env.run("ringcat", &["rs-all", "--from", "oldest", "-n", "8000", "--verify"]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    // The other stream has no source time: its time of publishing is the time here.
    assert!(got.datagrams.iter().all(|(_, _, time)| time.is_some()));
    // People see it, apart from losses.
    let shown = env.run("ringstat", &["rs-few"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("skipped on purpose 7900"), "{shown}");
    let why = env.run("ringstat", &["rs-few", "--why"]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("left out on purpose"), "{why}");
    let all = env.run("ringstat", &["rs-all"]);
    assert!(!String::from_utf8_lossy(&all.stdout).contains("skipped"), "control");
    here.into_iter().for_each(|(stream, _)| stream.end());
    there.end();
}

/// A copy that is stopped is lapped, and counts exactly what it lost; its readers get the count in
/// its place. Control: the copies above, of a ring that holds everything, have lost nothing.
#[test]
fn a_lapped_copy_counts_its_losses() {
    let env = Environment::new(LIMIT);
    // Eight tenths of a second.
    let small = ["--depth", "16384", "--capacity", "2MiB", "--wait-readers", "1"];
    let there = env.broker("rs-fast", "gen:rate=20000/s,size=64", &small);
    let deep = ["--depth", "524288", "--capacity", "64MiB"];
    let slow = env.broker("rs-slow", "ring:rs-fast,from=oldest", &deep);
    let mut reader = oldest(&slow);
    wait_for(PATIENCE, || (account(&slow)[0] > 1000).then_some(())).expect("it begins");
    slow.process.stop();
    let published = || figures(&there).pump(PumpCounter::Published);
    let before = published();
    wait_for(PATIENCE, || (published() > before + 40_000).then_some(())).expect("it continues");
    slow.process.signal(Signal::CONT);
    wait_for(PATIENCE, || (account(&slow)[2] > 0).then_some(())).expect("it is lapped");
    let last = published_at_end(there);
    let [published, skipped, lost] = settles(&slow, last);
    let mut got = Got::default();
    read_until(&mut reader, &mut got, |got| got.datagrams.len() as u64 + got.lost == last);
    assert_eq!((got.datagrams.len() as u64, got.lost, skipped), (published, lost, 0));
    assert!(lost > 5000, "{lost} of {last}");
    drop(reader);
    slow.end();
}

/// Ends a stream that runs on, and returns how many datagrams it has published.
fn published_at_end(stream: Daemon) -> u64 {
    stream.process.signal(Signal::TERM);
    stream.published()
}

/// The other broker is killed and restarted, with the same ring: nothing is lost or copied twice.
/// Then it ends, and begins anew: its new ring is copied from the beginning. Readers here learn
/// each time that the source was gone. Control: between those times it is not.
#[test]
fn the_other_stream_comes_back() {
    let env = Environment::new(LIMIT);
    let here = env.broker("rs-copy", "ring:rs-life", &["--linger", "forever"]);
    let mut reader = oldest(&here);
    let life = |count: u64| {
        let source = format!("gen:rate=max,size=64,count={count}");
        let args = ["--wait-readers", "1", "--linger", "forever", "--depth", "16384"];
        env.broker("rs-life", &source, &args)
    };
    // It was not there yet.
    let mut there = life(1000);
    assert_eq!(settles(&here, 1000), [1000, 0, 0]);
    assert!(here.process.stderr().contains("is back"), "{}", here.process.stderr());
    let mut got = Got::default();
    read_until(&mut reader, &mut got, |got| got.datagrams.len() == 1000);
    let gone = got.gone;
    assert_eq!(gone, 1);
    // It has ended; a killed broker leaves its ring, which the next one takes over.
    there.process.kill();
    drop(there);
    let there = life(500);
    assert_eq!(settles(&here, 1500), [1500, 0, 0]);
    // It has ended too, and its broker keeps the socket: that is seen once, not again and again.
    wait_for(PATIENCE, || (ends(&here) >= 2).then_some(())).expect("it ends twice");
    std::thread::sleep(Duration::from_secs(1));
    assert!(ends(&here) <= 4, "{}", here.process.stderr());
    there.end();
    // A new ring.
    let there = life(700);
    assert_eq!(settles(&here, 2200), [2200, 0, 0]);
    read_until(&mut reader, &mut got, |got| got.datagrams.len() == 2200);
    assert!(got.gone > gone, "{} {}", got.gone, here.process.stderr());
    there.end();
    drop(reader);
    here.end();
}

fn ends(here: &Daemon) -> usize {
    here.process.stderr().matches("has ended").count()
}

/// A broker that comes back and has no room for the copy does not end it. Control: the refusal is
/// reported; once there is room, the copy continues.
#[test]
fn a_copy_that_is_refused_tries_again() {
    let env = Environment::new(LIMIT);
    let broker = |most: &str| {
        let args = ["--readers-max", most, "--depth", "16384"];
        env.broker("rs-full", "gen:rate=100/s,size=64", &args)
    };
    let mut there = broker("1");
    let here = env.broker("rs-patient", "ring:rs-full,from=oldest", &["--linger", "forever"]);
    wait_for(PATIENCE, || (account(&here)[0] > 10).then_some(())).expect("it begins");
    here.process.stop();
    there.process.kill();
    drop(there);
    let there = broker("1");
    let in_the_way = oldest(&there);
    here.process.signal(Signal::CONT);
    wait_for(PATIENCE, || here.process.stderr().contains("refused: ").then_some(()))
        .unwrap_or_else(|| panic!("control: {}", here.process.stderr()));
    let before = account(&here)[0];
    drop(in_the_way);
    wait_for(PATIENCE, || (account(&here)[0] > before + 10).then_some(()))
        .unwrap_or_else(|| panic!("{}", here.process.stderr()));
    let last = published_at_end(there);
    assert_eq!(settles(&here, last).iter().sum::<u64>(), last);
    here.end();
}

/// A running stream whose broker is killed: the ring is taken over while the copy reads it.
/// Published here = published there, over both generations.
#[test]
fn a_killed_broker_costs_no_datagram() {
    let env = Environment::new(LIMIT);
    let broker = |rate: &str| {
        let source = format!("gen:rate={rate},size=64");
        env.broker("rs-killed", &source, &["--wait-readers", "1", "--depth", "65536"])
    };
    let mut there = broker("20000/s");
    let here = env.broker("rs-heir", "ring:rs-killed,from=oldest", &["--linger", "forever"]);
    wait_for(PATIENCE, || (account(&here)[0] > 2000).then_some(())).expect("it begins");
    there.process.kill();
    drop(there);
    wait_for(PATIENCE, || here.process.stderr().contains("its broker is gone").then_some(()))
        .expect("its readers learn that it is gone");
    let there = broker("20000/s");
    let before = account(&here)[0];
    wait_for(PATIENCE, || (account(&here)[0] > before + 2000).then_some(())).expect("it continues");
    let said = here.process.stderr();
    assert!(said.contains("its broker was restarted, its ring continues"), "{said}");
    // Both have the same number in the end.
    let last = published_at_end(there);
    assert_eq!(settles(&here, last), [last, 0, 0]);
    here.end();
}

/// Both streams in one broker, from one file, in either order.
#[test]
fn both_streams_may_be_in_one_broker() {
    let env = Environment::new(LIMIT);
    let file = env.path("streams.toml");
    let there =
        "[[stream]]\nname = 'rs-one'\nsource = 'gen:rate=2000/s,size=64'\ncapacity = '1MiB'\n";
    let here = "[[stream]]\nname = 'rs-two'\nsource = 'ring:rs-one,every=10'\ncapacity = '1MiB'\n";
    for text in [format!("{there}{here}"), format!("{here}{there}")] {
        std::fs::write(&file, text).unwrap();
        let mut command = env.command("ringd");
        command.arg("--config").arg(&file);
        let broker = env.broker_of("rs-two", command);
        let mut got = Got::default();
        read_until(&mut oldest(&broker), &mut got, |got| got.datagrams.len() == 100);
        let [published, skipped, lost] = account(&broker);
        assert!(skipped >= 9 * (published - 1) && lost == 0, "{published} {skipped} {lost}");
        broker.end();
    }
}

/// A stream does not read itself. Control: another one with the same options is read.
#[test]
fn a_stream_that_reads_itself_is_refused() {
    let env = Environment::new(LIMIT);
    let run = env.run_dir();
    let path = run.join("rs-self.sock").display().to_string();
    for source in ["ring:rs-self", &format!("ring:{path}"), "ring:rs-self,every=2"] {
        let args =
            ["--run-dir", run.to_str().unwrap(), "run", "--name", "rs-self", "--source", source];
        let refused = env.run("ringd", &args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("a stream cannot be fed from its own ring"), "{said}");
    }
    env.broker("rs-self", "ring:rs-other", &[]).end();
}
