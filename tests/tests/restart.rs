//! The broker is killed or stopped, or its readers are, at every numbered point of
//! `proto/DESIGN.md` §7. The next broker adopts the ring, and the readers that stay account for
//! every datagram of every generation.
//!
//! The test runs a chain of brokers over one ring. Each one has a point and a fault armed. Three
//! readers outlive all brokers: one keeps up, one reads in place, and one is slow and, if it is
//! lossy, is lapped all the time. There is a chain for each [`Kind`] of readers, and one of
//! programs that publish by themselves; `RINGWEIR_ROUNDS=N` runs each N times (1 in CI). Control:
//! `an_adopter_that_publishes_half_a_datagram_is_found`.

use ringweir_harness::{Daemon, Environment, Process, proc, programs, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_proto::ring::crash::Point;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const NAME: &str = "restart";
/// Readers that outlive all brokers. One more does not.
const STAYERS: usize = 3;
const VICTIM: usize = STAYERS;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillBroker,
    StopBroker,
    KillReader,
    StopReader,
}

const ALL: [Fault; 4] =
    [Fault::KillBroker, Fault::StopBroker, Fault::KillReader, Fault::StopReader];

/// The kind of all readers of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lossy,
    Lossless,
    Both,
}

impl Kind {
    /// How the readers that stay are started.
    fn stayers(self) -> [&'static [&'static str]; STAYERS] {
        match self {
            Kind::Lossy => [&[], &["--view"], &["--slow", "300"]],
            Kind::Lossless => {
                [&["--lossless"], &["--lossless", "--view"], &["--lossless", "--slow", "50"]]
            }
            Kind::Both => [&["--lossless"], &["--view"], &["--slow", "300"]],
        }
    }

    fn victim(self) -> &'static [&'static str] {
        if self == Kind::Lossy {
            &["--from", "latest", "--any-number"]
        } else {
            &["--from", "latest", "--any-number", "--lossless"]
        }
    }
}

/// All points but K10: a generator loses nothing before the ring, so the broker never has an
/// unreported loss. K10 is in `fifo/killed.rs`.
fn points() -> impl Iterator<Item = Point> {
    Point::PUBLISH.into_iter().filter(|p| *p != Point::K10)
}

/// What publishes in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Ringd,
    /// A program with the library.
    Program,
}

struct Stage {
    by: By,
    env: Environment,
    mailbox: Mailbox,
    /// Readers that each broker waits for before it publishes: all that are attached. A reader that
    /// it does not wait for might be lapped.
    readers: std::cell::Cell<usize>,
}

impl Stage {
    fn new(by: By, stayers: usize, limit: Duration) -> Self {
        programs::crashing();
        Self {
            by,
            env: Environment::new(limit),
            mailbox: Mailbox::create(stayers + 1),
            readers: stayers.into(),
        }
    }

    /// A broker of the chain; `armed` says what happens at which point. A generation that is to end
    /// by itself has a count.
    fn start(&self, armed: Option<&str>, mutant: bool, count: Option<u64>) -> Process {
        let count = count.map_or(String::new(), |n| format!(",count={n}"));
        let spec = format!("rate=20000/s,size=24..500,channels=3{count}");
        let readers = self.readers.get().to_string();
        let mut command = self.env.command_at(programs::crashing());
        // A budget without end: no reader is demoted, and each lossless reader must receive
        // everything. The program has the same.
        match self.by {
            By::Program => {
                command.arg("publish").arg(self.env.run_dir()).args([NAME, &spec, &readers])
            }
            By::Ringd => command
                .arg("--run-dir")
                .arg(self.env.run_dir())
                .args(["run", "--name", NAME, "--source", &format!("gen:{spec}")])
                .args(["--wait-readers", &readers, "--depth", "240", "--capacity", "64KiB"])
                .args(["--max-datagram", "512", "--lossless", "forever"]),
        };
        if let Some(armed) = armed {
            command.env("RINGWEIR_CRASH", armed);
        }
        if mutant {
            command.env("RINGWEIR_ADOPT", "half");
        }
        self.env.start(command)
    }

    fn daemon(&self, process: Process) -> Daemon {
        let socket = ringweir_proto::os::paths::socket_path(&self.env.run_dir(), NAME);
        Daemon { process, name: NAME.into(), socket }
    }

    fn reader(&self, slot: usize, args: &[&str]) -> Process {
        let socket = ringweir_proto::os::paths::socket_path(&self.env.run_dir(), NAME);
        let mut command = self.env.command("ringtest-reader");
        command
            .arg(socket)
            .args(["--mailbox", self.mailbox.id(), "--slot", &slot.to_string()])
            .args(args);
        self.env.start(command)
    }

    fn until(&self, slot: usize, what: Live, least: u64) {
        let got =
            wait_for(PATIENCE, || (self.mailbox.slot(slot).live(what) >= least).then_some(()));
        assert!(got.is_some(), "reader {slot}: {what:?} has not reached {least}");
    }

    fn delivered(&self, slot: usize) -> u64 {
        self.mailbox.slot(slot).live(Live::Delivered)
    }

    /// Waits until the reader has received `more` datagrams from now on.
    fn continues(&self, slot: usize, more: u64) {
        self.until(slot, Live::Delivered, self.delivered(slot) + more);
    }
}

fn says(process: &mut Process, what: &str) {
    let said = wait_for(PATIENCE, || process.stderr().contains(what).then_some(()));
    assert!(said.is_some(), "no {what:?} from ringd: {}", process.stderr());
}

/// Waits until the process is dead of a SIGKILL that it sent to itself.
fn dead(process: &mut Process) {
    let status = wait_for(PATIENCE, || process.ended());
    assert_eq!(status.and_then(|s| s.signal()), Some(9), "it was not killed: {}", process.stderr());
}

fn stopped(process: &Process) {
    let pid = process.pid();
    let stopped = wait_for(PATIENCE, || (proc::state(pid) == Some('T')).then_some(()));
    assert!(stopped.is_some(), "it has not stopped: {}", process.stderr());
}

/// At which passage of a point the fault happens: never the same twice in a row, and not the first,
/// which may be the adopter's.
fn nth(turn: u64) -> u64 {
    2 + turn * 37 % 60
}

#[test]
fn every_fault_at_every_point_with_lossy_readers() {
    every_fault_at_every_point(By::Ringd, Kind::Lossy);
}

#[test]
fn every_fault_at_every_point_with_lossless_readers() {
    every_fault_at_every_point(By::Ringd, Kind::Lossless);
}

#[test]
fn every_fault_at_every_point_with_both_kinds() {
    every_fault_at_every_point(By::Ringd, Kind::Both);
}

#[test]
fn every_fault_at_every_point_of_a_program_that_publishes() {
    every_fault_at_every_point(By::Program, Kind::Both);
}

fn every_fault_at_every_point(by: By, kind: Kind) {
    let rounds: u64 =
        std::env::var("RINGWEIR_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let stage = Stage::new(by, STAYERS, Duration::from_secs(600 + rounds * 300));
    let mut generations = Vec::new();
    for _ in 0..rounds {
        generations.extend(ALL.into_iter().flat_map(|m| points().map(move |p| (p, m))));
        generations.extend(Point::ADOPT.map(|p| (p, Fault::KillBroker)));
    }
    let mut readers: Vec<Process> = Vec::new();
    let mut victim: Option<Process> = None;
    let mut back: Vec<Duration> = Vec::new();
    let (mut generation, mut fds) = (0, Vec::new());
    for (turn, (point, fault)) in (1..).zip(generations) {
        let how = if fault == Fault::KillBroker { "kill" } else { "stop" };
        let adopting = Point::ADOPT.contains(&point);
        let armed = format!("{point:?}:{}:{how}", if adopting { 1 } else { nth(turn) });
        let before = stage.delivered(0);
        stage.readers.set(STAYERS + usize::from(victim.is_some()));
        let mut broker = stage.start(Some(&armed), false, None);
        if adopting {
            dead(&mut broker);
            // The next broker does what this one did not finish; only at the last point it was
            // finished.
            generation += u64::from(point == Point::A5);
            continue;
        }
        generation += 1;
        says(&mut broker, &format!("{NAME} gen {generation}"));
        if readers.is_empty() {
            readers = (0..STAYERS).map(|slot| stage.reader(slot, kind.stayers()[slot])).collect();
            (0..STAYERS).for_each(|slot| stage.until(slot, Live::Attached, 1));
            fds = readers.iter().map(|r| proc::open_fds(r.pid())).collect();
        } else {
            // Nothing is published before all readers that stay are attached, and nothing at all if
            // the fault comes that early.
            let (began, pid) = (Instant::now(), broker.pid());
            let reads = || stage.delivered(0) > before;
            let over = wait_for(PATIENCE, || {
                (reads() || matches!(proc::state(pid), Some('T' | 'Z') | None)).then_some(())
            });
            assert!(over.is_some(), "{point:?} {fault:?}: nobody reads: {}", broker.stderr());
            if reads() {
                back.push(began.elapsed());
            }
        }
        if fault == Fault::KillBroker {
            dead(&mut broker);
            continue;
        }
        stopped(&broker);
        match fault {
            Fault::StopReader => readers[1].stop(),
            Fault::KillReader => {
                if let Some(mut victim) = victim.take() {
                    victim.kill();
                }
            }
            _ => std::thread::sleep(Duration::from_secs(2)),
        }
        broker.signal(Signal::CONT);
        let stops = fault == Fault::StopReader;
        if stops && kind == Kind::Lossless {
            // The broker waits for it, so no reader gets on before it does.
            std::thread::sleep(Duration::from_millis(50));
            readers[1].signal(Signal::CONT);
        }
        // More than the ring holds.
        stage.continues(0, 400);
        if stops {
            readers[1].signal(Signal::CONT);
            stage.continues(1, 1);
        }
        if victim.is_none() {
            stage.mailbox.slot(VICTIM).show(Live::Attached, 0);
            victim = Some(stage.reader(VICTIM, kind.victim()));
            stage.until(VICTIM, Live::Attached, 1);
        }
        for (reader, fds) in readers.iter().zip(&fds) {
            let same = wait_for(PATIENCE, || (proc::open_fds(reader.pid()) == *fds).then_some(()));
            assert!(
                same.is_some(),
                "{fds} fds at first, {} in generation {generation}",
                proc::open_fds(reader.pid())
            );
        }
        broker.kill();
    }
    if let Some(mut victim) = victim {
        victim.kill();
    }
    stage.readers.set(STAYERS);
    let mut last = stage.start(None, false, Some(5000));
    generation += 1;
    says(&mut last, &format!("{NAME} gen {generation} (adopted"));
    let published = stage.daemon(last).published();
    for (slot, mut reader) in readers.into_iter().enumerate() {
        let status = reader.wait();
        assert!(status.success(), "reader {slot}: {status}: {}", reader.stderr());
        let report = stage.mailbox.slot(slot).take();
        report.check(published).unwrap();
        assert_eq!(
            (report.start, report.restarts, report.generation),
            (0, generation - 1, generation),
            "reader {slot}"
        );
        assert_eq!(report.delivered + report.lost, published, "reader {slot}");
        let lossless = kind.stayers()[slot].contains(&"--lossless");
        assert!(
            !lossless || report.lost + report.demotions == 0,
            "reader {slot} was waited for: {report:?}"
        );
        eprintln!(
            "reader {slot}: {published} published = {} delivered + {} lost",
            report.delivered, report.lost
        );
    }
    back.sort();
    let (median, most) = (back[back.len() / 2], back[back.len() - 1]);
    eprintln!(
        "{by:?}, {kind:?}: {generation} generations; attached again and reading: p50 {median:.1?}, \
        max {most:.1?}"
    );
}

/// The control: a mutant publishes what the dead broker had begun, at a point where half of it is
/// there and at one where all of it is. The same reader finds it.
#[test]
fn an_adopter_that_publishes_half_a_datagram_is_found() {
    for point in [Point::K5, Point::K6] {
        let stage = Stage::new(By::Ringd, 1, Duration::from_secs(300));
        let mut broker = stage.start(Some(&format!("{point:?}:300:kill")), false, None);
        says(&mut broker, &format!("{NAME} gen 1"));
        let mut reader = stage.reader(0, &[]);
        dead(&mut broker);
        let last = stage.start(None, true, Some(2000));
        let mut last = stage.daemon(last);
        let status = reader.wait();
        let found = !status.success() || stage.mailbox.slot(0).take().own_wrong > 0;
        assert!(found, "{point:?}: nothing was noticed: {:?}", stage.mailbox.slot(0).take());
        if last.process.ended().is_none() {
            last.process.signal(Signal::TERM);
        }
        last.process.wait();
    }
}

/// With another geometry, or an object that is no ring, the broker makes a fresh ring of the next
/// generation. Readers move there by themselves, and get the reason. Control: without a change the
/// ring is adopted.
#[test]
fn a_foreign_ring_is_replaced() {
    let env = Environment::new(Duration::from_secs(300));
    let serve = |depth: &str| {
        let more = ["--depth", depth, "--max-datagram", "1KiB", "--capacity", "64KiB"];
        env.broker("other", "gen:rate=1000/s,size=64", &more)
    };
    let mut broker = serve("240");
    let object = env.objects().remove(0);
    broker.process.kill();
    let mut broker = serve("240");
    assert!(
        broker.process.stderr().contains("other gen 2 (adopted"),
        "{}",
        broker.process.stderr()
    );
    broker.process.kill();
    let mut broker = serve("480");
    let said = broker.process.stderr();
    assert!(
        said.contains("other gen 3,") && said.contains("cannot be adopted and is replaced"),
        "{said}"
    );
    broker.process.kill();
    // One byte changed in name, owner, boot, claim line and write cursor in turn; then a ring cut
    // in half, and a file without a ring.
    let cases = [Some(120), Some(116), Some(96), Some(515), Some(646), None, None];
    for (generation, at) in (4..).zip(cases) {
        let mut bytes = std::fs::read(&object).unwrap();
        match at {
            Some(at) => bytes[at] ^= 1,
            None if generation == 9 => bytes.truncate(bytes.len() / 2),
            None => bytes = b"no ring at all".to_vec(),
        }
        std::fs::write(&object, bytes).unwrap();
        let mut broker = serve("480");
        let said = broker.process.stderr();
        assert!(
            said.contains(&format!("other gen {generation},"))
                && said.contains("cannot be adopted"),
            "{said}"
        );
        broker.process.kill();
    }
    let broker = serve("480");
    assert!(broker.process.stderr().contains("(adopted"), "{}", broker.process.stderr());
    broker.end();
}
