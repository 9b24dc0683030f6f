//! Lossless readers: the stream waits for each as long as its budget lasts, and for no other
//! reader, and all accounts close. Controls: the same reader is lapped where it is lossy; a stopped
//! one is waited for where its budget has no end.

use ringweir::view::stats::{PumpCounter, ReaderFact, Snapshot};
use ringweir::{Item, Options, Start};
use ringweir_harness::{Daemon, Environment, Process, proc, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox, Report};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
const PATIENCE: Duration = Duration::from_secs(60);
const RING: [&str; 6] = ["--depth", "256", "--capacity", "64KiB", "--max-datagram", "512"];

/// Sends one datagram.
type Send = Box<dyn FnMut(&[u8])>;

struct Stage {
    env: Environment,
    mailbox: Mailbox,
    name: &'static str,
}

impl Stage {
    fn new(name: &'static str, readers: usize) -> Self {
        Self { env: Environment::new(LIMIT), mailbox: Mailbox::create(readers), name }
    }

    fn broker(&self, source: &str, more: &[&str]) -> Daemon {
        self.env.broker(self.name, source, &[&RING, more].concat())
    }

    fn reader(&self, slot: usize, args: &[&str]) -> Process {
        let mut command = self.env.command("ringtest-reader");
        let socket = ringweir_proto::os::paths::socket_path(&self.env.run_dir(), self.name);
        command
            .arg(socket)
            .args(["--mailbox", self.mailbox.id(), "--slot", &slot.to_string()])
            .args(args);
        self.env.start(command)
    }

    fn delivered(&self, slot: usize) -> u64 {
        self.mailbox.slot(slot).live(Live::Delivered)
    }

    fn until_delivered(&self, slot: usize, least: u64) {
        let got = wait_for(PATIENCE, || (self.delivered(slot) >= least).then_some(()));
        assert!(got.is_some(), "reader {slot} has {} of {least}", self.delivered(slot));
    }

    /// The report of a reader that has read to the end of a stream of `published`.
    fn report(&self, slot: usize, reader: &mut Process, published: u64) -> Report {
        let status = reader.wait();
        assert!(status.success(), "reader {slot}: {status}: {}", reader.stderr());
        let report = self.mailbox.slot(slot).take();
        report.check(published).unwrap_or_else(|e| panic!("reader {slot}: {e}"));
        report
    }
}

fn look(broker: &Daemon) -> Snapshot {
    ringweir::view::Viewer::attach(broker.path()).expect("watch").snapshot().expect("figures")
}

/// Waits until `holds` is true of the figures.
fn until(broker: &Daemon, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    wait_for(PATIENCE, || Some(look(broker)).filter(|s| holds(s)))
        .unwrap_or_else(|| panic!("{what}: {:?}", look(broker)))
}

/// A source without a rate limit, a ring of 256 slots, and slow readers: a lossless one receives
/// everything.
#[test]
fn the_stream_waits_for_the_slowest_lossless_reader() {
    const COUNT: u64 = 60_000;
    let stage = Stage::new("pace", 4);
    let count = COUNT.to_string();
    let source = format!("gen:rate=max,size=24..500,channels=3,count={count}");
    let more = ["--lossless", "forever", "--wait-readers", "4", "--linger", "30s"];
    let broker = stage.broker(&source, &more);
    let kinds: [&[&str]; 4] = [
        &["--lossless"],
        &["--lossless", "--view", "--slow", "20"],
        &["--lossless", "--spin"],
        &["--slow", "20"],
    ];
    let mut readers: Vec<Process> = (0..4).map(|slot| stage.reader(slot, kinds[slot])).collect();
    let reports: Vec<Report> =
        readers.iter_mut().enumerate().map(|(i, r)| stage.report(i, r, COUNT)).collect();
    for report in &reports[..3] {
        assert_eq!((report.delivered, report.lost, report.demotions), (COUNT, 0, 0));
    }
    let figures = look(&broker);
    assert!(figures.pump(PumpCounter::Holds) > 0 && figures.pump(PumpCounter::HeldTime) > 0);
    assert_eq!(figures.pump(PumpCounter::Demotions), 0);
    broker.end();

    // The control: without a lossless reader, the same slow one is lapped.
    let broker = stage.broker(&source, &["--wait-readers", "1"]);
    let mut lapped = stage.reader(3, &["--slow", "20"]);
    let report = stage.report(3, &mut lapped, COUNT);
    assert!(report.lost > 0, "{report:?}");
    assert_eq!(broker.published(), COUNT);
}

/// A stopped reader delays the stream for its budget. Then it is demoted, notified and named, the
/// stream continues, and all accounts close.
#[test]
fn a_stopped_reader_delays_the_stream_for_its_budget() {
    const BUDGET_NS: u64 = 300_000_000;
    let stage = Stage::new("budget", 2);
    let broker = stage.broker("gen:rate=20k/s,size=64", &["--lossless", "300ms"]);
    let mut lossy = stage.reader(0, &["--any-number"]);
    let mut stopped = stage.reader(1, &["--any-number", "--lossless"]);
    stage.until_delivered(0, 1000);
    stage.until_delivered(1, 1000);
    let before = look(&broker);
    assert!(before.readers.iter().any(|r| r.get(ReaderFact::Lossless) == 1));
    stopped.stop();
    let after = until(&broker, "demoted", |s| s.pump(PumpCounter::Demotions) == 1);
    let it = after.readers.iter().find(|r| r.get(ReaderFact::DemotedRealtime) != 0).expect("named");
    assert_eq!(it.get(ReaderFact::Pid), u64::from(stopped.pid()));
    let held = it.get(ReaderFact::Held);
    assert!(held >= BUDGET_NS, "{held} ns");
    eprintln!("waited for {:.1} of 300 ms", held as f64 / 1e6);
    // More than a ring: the stream does not wait for it any more, and never waited for another.
    stage.until_delivered(0, stage.delivered(0) + 1000);
    let held_then = look(&broker).pump(PumpCounter::HeldTime);
    stage.until_delivered(0, stage.delivered(0) + 1000);
    assert_eq!(look(&broker).pump(PumpCounter::HeldTime), held_then, "nothing waits now");
    let log = broker.process.stderr();
    assert!(
        log.contains(&format!("pid {}", stopped.pid())) && log.contains("was demoted to lossy"),
        "{log}"
    );
    let why = stage.env.run("ringstat", &["--why", broker.path()]);
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        said.contains("was demoted") && said.contains(&format!("(pid {})", stopped.pid())),
        "{said}"
    );

    stopped.signal(Signal::CONT);
    stage.until_delivered(1, stage.delivered(1) + 2000);
    broker.process.signal(Signal::TERM);
    let published = broker.published();
    let lossy = stage.report(0, &mut lossy, published);
    let demoted = stage.report(1, &mut stopped, published);
    assert_eq!((lossy.demotions, demoted.demotions), (0, 1));
    assert!(demoted.lost > 0, "it was passed");
}

/// Killed, stopped and detached, or ended by itself: the stream continues at once, whatever the
/// budget is.
#[test]
fn a_departing_reader_releases_the_stream() {
    let stage = Stage::new("goes", 2);
    let broker = stage.broker("gen:rate=20k/s,size=64", &["--lossless", "forever"]);
    let _steady = stage.reader(0, &["--any-number"]);
    for ends in ["killed", "detached", "by itself"] {
        stage.mailbox.slot(1).show(Live::Delivered, 0);
        let limit: &[&str] = if ends == "by itself" { &["--limit", "500"] } else { &[] };
        let mut holder = stage.reader(1, &[&["--any-number", "--lossless"], limit].concat());
        stage.until_delivered(1, 400);
        match ends {
            "by itself" => assert!(holder.wait().success()),
            _ => {
                holder.stop();
                let holds = look(&broker).pump(PumpCounter::HeldTime);
                // The control: it does delay the stream.
                until(&broker, "held", |s| s.pump(PumpCounter::HeldTime) > holds + 200_000_000);
                let seq = look(&broker).pump(PumpCounter::Published);
                until(&broker, "still held", |s| {
                    s.pump(PumpCounter::HeldTime) > holds + 400_000_000
                });
                assert_eq!(
                    look(&broker).pump(PumpCounter::Published),
                    seq,
                    "nothing was published meanwhile"
                );
                if ends == "killed" {
                    holder.kill();
                } else {
                    let pid = holder.pid().to_string();
                    let done = stage.env.run("ringctl", &["detach", broker.path(), &pid]);
                    assert!(done.status.success(), "{done:?}");
                    holder.signal(Signal::CONT);
                    holder.wait();
                }
            }
        }
        stage.until_delivered(0, stage.delivered(0) + 1000);
        until(&broker, ends, |s| s.readers.iter().all(|r| r.get(ReaderFact::Lossless) == 0));
    }
    assert_eq!(look(&broker).pump(PumpCounter::Demotions), 0);
    broker.end();
}

/// A stream does not wait for a reader unless it was started with `--lossless`.
#[test]
fn lossless_readers_need_the_streams_permission() {
    let stage = Stage::new("choice", 1);
    let broker = stage.broker("gen:rate=1000/s,size=64", &[]);
    let mut command = stage.env.command("ringcat");
    command.args([broker.path(), "--lossless", "-n", "1"]).stdout(Stdio::piped());
    let refused = stage.env.start(command).output();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--lossless and a budget"), "{said}");
    broker.end();
    let broker = stage.broker("gen:rate=1000/s,size=64", &["--lossless", "16KiB,1s"]);
    let mut command = stage.env.command("ringcat");
    command
        .args([broker.path(), "--lossless", "--from", "oldest", "-n", "5", "--verify"])
        .stdout(Stdio::piped());
    let done = stage.env.start(command).output();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    broker.end();
    let wrong =
        stage.env.run("ringd", &["run", "--name", "x", "--source", "gen:", "--lossless", "much"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

/// What the ring holds at the attach is granted, as far as half the budget goes, and is still there
/// when the reader reads it. A stream that has ended and lingers grants everything.
#[test]
fn datagrams_granted_at_the_attach_are_kept() {
    let stage = Stage::new("grant", 1);
    let broker = stage.broker("gen:rate=50k/s,size=64", &["--lossless", "forever"]);
    for _ in 0..20 {
        let options = Options::new("late").start(Start::Oldest).lossless();
        let mut reader = options.attach(broker.path()).expect("attach");
        let mut expected = reader.account().start;
        for _ in 0..300 {
            match reader.next().expect("next") {
                Item::Datagram(datagram) => {
                    assert_eq!(datagram.seq(), expected);
                    expected += 1;
                }
                Item::Empty => drop(reader.wait(Some(PATIENCE)).expect("wait")),
                other => panic!("{other:?}"),
            }
        }
    }
    broker.end();
    let broker = stage
        .broker("gen:rate=max,size=64,count=100", &["--lossless", "1s", "--linger", "forever"]);
    let options = Options::new("after").start(Start::Oldest).lossless();
    until(&broker, "ended", |s| s.pump(PumpCounter::Published) == 100);
    let mut reader = options.attach(broker.path()).expect("attach");
    let mut got = 0;
    while let Item::Datagram(_) = reader.next().expect("next") {
        got += 1;
    }
    assert_eq!(got, 100);
    broker.end();
}

/// Brokers die one after the other. A lossless reader is attached as one to each; if all readers
/// are waited for, it loses only what the deaths cost.
#[test]
fn a_reader_stays_lossless_over_restarts() {
    const GENERATIONS: u64 = 6;
    let stage = Stage::new("again", 2);
    let more = ["--lossless", "forever", "--wait-readers", "2"];
    let mut readers = Vec::new();
    for generation in 1..GENERATIONS {
        let mut broker = stage.broker("gen:rate=max,size=24..500", &more);
        if readers.is_empty() {
            readers.push(stage.reader(0, &["--lossless", "--slow", "10"]));
            readers.push(stage.reader(1, &["--lossless", "--view"]));
        }
        until(&broker, "both are lossless", |s| {
            s.readers.iter().filter(|r| r.get(ReaderFact::Lossless) == 1).count() == 2
        });
        let now = stage.delivered(0);
        stage.until_delivered(0, now + 2000);
        broker.process.kill();
        assert!(
            broker.process.stderr().contains(&format!("again gen {generation}")),
            "{}",
            broker.process.stderr()
        );
    }
    let broker = stage.broker("gen:rate=max,size=24..500,count=5000", &more);
    let published = broker.published();
    for (slot, reader) in readers.iter_mut().enumerate() {
        let report = stage.report(slot, reader, published);
        assert_eq!(
            (report.lost, report.delivered, report.restarts),
            (0, published, GENERATIONS - 1),
            "reader {slot}"
        );
    }
    assert_eq!(proc::state(readers[0].pid()), None);
}

/// Every source asks before it claims, also one that takes several datagrams at once: a slow
/// lossless reader receives every datagram in order, and what is missing was lost in the kernel and
/// is reported there. (In a debug build, a claim over a lossless reader panics.)
#[test]
fn back_pressure_stops_sources_that_take_batches() {
    const COUNT: u64 = 8000;
    let stage = Stage::new("sources", 1);
    let path = |name: &str| stage.env.path(name).display().to_string();
    let (dgram, seqpacket, port) = (path("d"), path("s"), free_port());
    for source in [
        "stdin:len32le".to_string(),
        format!("unix:dgram:{dgram}"),
        format!("unix:seqpacket:{seqpacket}"),
        format!("udp:127.0.0.1:{port}"),
    ] {
        let mut command = stage.env.command("ringd");
        command
            .arg("--run-dir")
            .arg(stage.env.run_dir())
            .args(["run", "--name", "sources", "--source", &source]);
        command
            .args(RING)
            .args(["--lossless", "forever", "--linger", "forever"])
            .stdin(Stdio::piped());
        let mut broker = stage.env.broker_of("sources", command);
        let mut reader = Options::new("slow")
            .start(Start::Oldest)
            .lossless()
            .attach(broker.path())
            .expect("attach");
        let stdin = broker.process.stdin();
        let (source, dgram, seqpacket) = (source.clone(), dgram.clone(), seqpacket.clone());
        let sender = std::thread::spawn(move || {
            let mut send: Send = match source.split(':').take(2).collect::<Vec<_>>()[..] {
                ["unix", kind] => {
                    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
                    let is_dgram = kind == "dgram";
                    let (kind, to) = if is_dgram {
                        (SocketType::DGRAM, dgram)
                    } else {
                        (SocketType::SEQPACKET, seqpacket)
                    };
                    let fd = rustix::net::socket(AddressFamily::UNIX, kind, None).expect("socket");
                    rustix::net::connect(&fd, &SocketAddrUnix::new(to).expect("path"))
                        .expect("connect");
                    Box::new(move |bytes| {
                        rustix::net::send(&fd, bytes, SendFlags::NOSIGNAL).expect("send");
                    })
                }
                ["udp", _] => {
                    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
                    Box::new(move |bytes| {
                        socket.send_to(bytes, ("127.0.0.1", port)).expect("send");
                    })
                }
                _ => {
                    let mut pipe = std::io::BufWriter::new(stdin.expect("a pipe"));
                    Box::new(move |bytes| {
                        use std::io::Write;
                        pipe.write_all(&(bytes.len() as u32).to_le_bytes())
                            .and_then(|()| pipe.write_all(bytes))
                            .expect("write");
                    })
                }
            };
            let mut buffer = [0; 512];
            for number in 0..COUNT {
                // Short and long datagrams in turns, so that batches outgrow the space reserved for
                // them.
                let len = if number % 5 == 0 { 500 } else { 24 + number as usize % 200 };
                ringweir_pattern::crc::fill(&mut buffer[..len], number, 0);
                send(&buffer[..len]);
            }
        });
        let (mut delivered, mut lost, mut buffer) = (0, 0, [0; 512]);
        while delivered + lost < COUNT {
            match reader.next().expect("next") {
                Item::Datagram(mut datagram) => {
                    let len = datagram.copy_to(&mut buffer).expect("whole");
                    let header = ringweir_pattern::verify::check(&buffer[..len]).expect("right");
                    assert_eq!(header.number, delivered + lost, "{}", reader.name());
                    delivered += 1;
                    if delivered % 16 == 0 {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
                Item::Gap(gap)
                    if matches!(gap.cause, ringweir::Cause::Upstream { exact: true, .. }) =>
                {
                    lost += gap.count
                }
                // What was lost after the last datagram is reported with the next one, and there is
                // none.
                Item::Empty
                    if sender.is_finished()
                        && look(&broker).pump(PumpCounter::KernelLost) > lost =>
                {
                    lost = look(&broker).pump(PumpCounter::KernelLost);
                }
                Item::Empty => drop(reader.wait(Some(Duration::from_millis(100))).expect("wait")),
                other => panic!("{other:?}"),
            }
        }
        sender.join().expect("sender");
        let figures = look(&broker);
        assert_eq!(
            (figures.pump(PumpCounter::Published), figures.pump(PumpCounter::KernelLost)),
            (delivered, lost)
        );
        assert!(figures.pump(PumpCounter::Holds) > 0, "never waited");
        drop(reader);
        broker.end();
    }
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port()
}
