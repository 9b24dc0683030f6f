//! Brokers and readers as processes: conservation, independence, death, sleep and waking, each with
//! its negative control.
//!
//! One test at a time: they measure time and processor use on machines that may have two
//! processors.

use ringweir::{Item, Options, Resume, Start};
use ringweir_harness::{Daemon, Environment, Process, proc, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox, Report};
use ringweir_needs::skip;
use rustix::process::Signal;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ALONE: Mutex<()> = Mutex::new(());

const LIMIT: Duration = Duration::from_secs(60);

/// An environment with mailboxes, while no other test of this file runs.
struct Stage {
    env: Environment,
    mailbox: Mailbox,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn new(slots: usize) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { env: Environment::new(LIMIT), mailbox: Mailbox::create(slots), _alone: alone }
    }

    fn reader(&self, broker: &Daemon, slot: usize, args: &[&str]) -> Process {
        let mut command = self.env.command("ringtest-reader");
        command
            .args([&broker.name, "--mailbox", self.mailbox.id(), "--slot", &slot.to_string()])
            .args(args);
        self.env.start(command)
    }

    fn attached(&self, slots: std::ops::Range<usize>) {
        for slot in slots {
            self.until(slot, Live::Attached, 1);
        }
    }

    fn until(&self, slot: usize, what: Live, least: u64) {
        let got = wait_for(Duration::from_secs(20), || {
            (self.mailbox.slot(slot).live(what) >= least).then_some(())
        });
        assert!(got.is_some(), "reader {slot}: {what:?} has not reached {least}");
    }

    fn report(&self, slot: usize, mut process: Process) -> Report {
        let status = process.wait();
        assert!(status.success(), "reader {slot}: {status}: {}", process.stderr());
        self.mailbox.slot(slot).take()
    }
}

/// N readers in processes that were there from the start: `delivered + lost = published`, and every
/// byte is right. Half of them read payloads in place, half copy them. Control:
/// `false_accounts_and_damaged_bytes_are_found`.
fn every_reader_gets_or_loses(readers: usize, count: u64) {
    let stage = Stage::new(readers);
    let source = format!("gen:rate=max,size=24..4096,channels=3,count={count},seed={readers}");
    let wait = readers.to_string();
    let broker = stage.env.broker(
        "many",
        &source,
        &["--wait-readers", &wait, "--capacity", "4MiB", "--max-datagram", "4KiB"],
    );
    let kinds: [&[&str]; 4] =
        [&[], &["--view"], &["--resume", "newest"], &["--view", "--slow", "1"]];
    let processes: Vec<_> = (0..readers).map(|i| stage.reader(&broker, i, kinds[i % 4])).collect();
    let published = broker.published();
    assert_eq!(published, count);
    for (i, process) in processes.into_iter().enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!(
            (report.start, report.delivered + report.lost, report.end),
            (0, published, 1),
            "{report:?}"
        );
        assert!(report.delivered > 0);
    }
}

#[test]
fn one_reader_accounts_for_everything() {
    every_reader_gets_or_loses(1, 40_000);
}

#[test]
fn two_readers_account_for_everything() {
    every_reader_gets_or_loses(2, 40_000);
}

#[test]
fn eight_readers_account_for_everything() {
    every_reader_gets_or_loses(8, 30_000);
}

#[test]
fn thirty_two_readers_account_for_everything() {
    every_reader_gets_or_loses(32, 20_000);
}

/// The control of everything that calls `Report::check`: a reader that is wrong in one bit, one
/// datagram or one gap is found, on a stream where an honest one passes.
#[test]
fn false_accounts_and_damaged_bytes_are_found() {
    let stage = Stage::new(4);
    // An honest reader and three that lie. The ring is tiny and the three are slow, so that there
    // are gaps to lie about.
    let broker = stage.env.broker(
        "liars",
        "gen:rate=20000/s,size=100..500,count=10000",
        &["--wait-readers", "4", "--depth", "64", "--capacity", "16KiB", "--max-datagram", "512"],
    );
    let liars = [("bit", "byte"), ("count", "received"), ("gap", "lost is the sum")];
    let honest = stage.reader(&broker, 3, &["--slow", "500"]);
    let processes: Vec<_> = liars
        .iter()
        .enumerate()
        .map(|(i, (spoil, _))| stage.reader(&broker, i, &["--slow", "500", "--spoil", spoil]))
        .collect();
    let published = broker.published();
    for (i, (process, (spoil, says))) in processes.into_iter().zip(liars).enumerate() {
        let error = stage.report(i, process).check(published).expect_err(spoil);
        assert!(error.contains(says), "{spoil}: {error}");
    }
    let report = stage.report(3, honest);
    report.check(published).unwrap();
    assert!(report.gaps > 0, "no gaps: the liar about gaps had nothing to lie about");
}

/// One reader is stopped for 5 s: it gets one exact gap, no other reader loses anything, and the
/// stream keeps its rate. Control: the other three are in the same run and were not stopped.
#[test]
fn a_stopped_reader_gets_one_exact_gap_and_others_lose_nothing() {
    const RATE: u64 = 4000;
    const COUNT: u64 = RATE * 8;
    let stage = Stage::new(4);
    // 2.2 MB/s into 6 MiB: nearly 3 s of history.
    let source = format!("gen:rate={RATE}/s,size=64..1024,count={COUNT}");
    let broker = stage.env.broker(
        "stopped",
        &source,
        &["--wait-readers", "4", "--capacity", "6MiB", "--max-datagram", "1KiB"],
    );
    let mut processes: Vec<_> = (0..4).map(|i| stage.reader(&broker, i, &[])).collect();
    stage.attached(0..4);
    let began = Instant::now();
    stage.until(3, Live::Delivered, RATE);
    processes[3].stop();
    std::thread::sleep(Duration::from_secs(5));
    let had = stage.mailbox.slot(3).live(Live::Delivered);
    processes[3].signal(Signal::CONT);
    let published = broker.published();
    let took = began.elapsed().as_secs_f64();
    assert!((7.0..12.0).contains(&took), "8 s of datagrams took {took:.1} s");
    assert_eq!(published, COUNT);
    let stopped = stage.report(3, processes.pop().unwrap());
    for (i, process) in processes.into_iter().enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!((report.lost, report.gaps, report.delivered), (0, 0, published), "reader {i}");
        // The bytes that the stopped one lost are known too.
        assert_eq!(report.bytes_delivered, stopped.bytes_delivered + stopped.bytes_lost);
    }
    stopped.check(published).unwrap();
    assert_eq!(
        (stopped.gaps, stopped.first_gap_count),
        (1, published - stopped.delivered),
        "{stopped:?}"
    );
    // Where it was stopped, or one further: it may have had one datagram in hand.
    assert!((had..=had + 1).contains(&stopped.first_gap_first), "stopped at {had}: {stopped:?}");
}

/// Readers are killed with SIGKILL over and over, on a stream with room for three. Their reader
/// indices become free: many times more readers attach than there are indices. The survivors'
/// accounts close. Control: while no reader is killed, no index is given away twice.
#[test]
fn killed_readers_free_their_indices_and_survivors_account_for_everything() {
    const INDICES: u64 = 3;
    let stage = Stage::new(3);
    let source = "gen:rate=20000/s,size=64..512,count=100000";
    let broker = stage.env.broker(
        "deaths",
        source,
        &["--wait-readers", "2", "--readers-max", "3", "--max-datagram", "512"],
    );
    let survivors = [stage.reader(&broker, 0, &[]), stage.reader(&broker, 1, &["--view"])];
    stage.attached(0..2);
    let mut victim = stage.reader(&broker, 2, &["--from", "latest"]);
    stage.attached(2..3);
    // The control.
    let refused = Options::new("one too many").attach(broker.path()).unwrap_err().to_string();
    assert!(refused.contains("all 3 readers") && refused.contains("--readers-max"), "{refused}");
    let mut attached = INDICES;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        stage.until(2, Live::Delivered, 1);
        victim.kill();
        stage.mailbox.slot(2).show(Live::Attached, 0);
        stage.mailbox.slot(2).show(Live::Delivered, 0);
        victim = stage.reader(&broker, 2, &["--from", "latest"]);
        stage.attached(2..3);
        attached += 1;
    }
    victim.kill();
    assert!(attached > 5 * INDICES, "only {attached} readers attached");
    let published = broker.published();
    for (i, process) in survivors.into_iter().enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!(report.delivered + report.lost, 100_000);
    }
}

/// Four threads attach and detach as fast as they can. A reader that stays is not disturbed, and
/// the broker keeps none of the three fds that it makes for each reader. Control: while eight more
/// readers are attached, it has more fds.
#[test]
fn a_storm_of_attaches_leaks_nothing() {
    let stage = Stage::new(1);
    let source = "gen:rate=5000/s,size=64..512,count=25000";
    let broker = stage.env.broker(
        "storm",
        source,
        &[
            "--wait-readers",
            "1",
            "--max-datagram",
            "512",
            "--depth",
            "32768",
            "--capacity",
            "16MiB",
        ],
    );
    let pid = broker.process.pid();
    let stayer = stage.reader(&broker, 0, &[]);
    stage.attached(0..1);
    std::thread::sleep(Duration::from_millis(200));
    let before = proc::settled_fds(pid);
    let until = Instant::now() + Duration::from_secs(2);
    let attaches: u64 = std::thread::scope(|scope| {
        let storm = |n: u64| {
            let path = broker.path();
            scope.spawn(move || {
                let mut done = 0;
                while Instant::now() < until {
                    let mut reader = Options::new(&format!("storm{n}"))
                        .start(Start::Oldest)
                        .attach(path)
                        .unwrap();
                    for _ in 0..n {
                        let _read = reader.next().unwrap();
                    }
                    done += 1;
                }
                done
            })
        };
        [0, 1, 3, 9].map(storm).into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(attaches > 100, "only {attaches}");
    let same = wait_for(Duration::from_secs(3), || (proc::open_fds(pid) == before).then_some(()));
    assert!(
        same.is_some(),
        "{} fds before {attaches} attaches, {} after",
        before,
        proc::open_fds(pid)
    );
    let more: Vec<_> =
        (0..8).map(|_| Options::new("control").attach(broker.path()).unwrap()).collect();
    assert!(proc::open_fds(pid) >= before + more.len());
    drop(more);
    let published = broker.published();
    let report = stage.report(0, stayer);
    report.check(published).unwrap();
    assert_eq!(report.lost, 0, "{report:?}");
}

/// A source without a rate limit and a tiny ring: readers are lapped a thousand times and more,
/// return nothing torn, and their accounts close. Control: the reader in another test that is
/// stopped once has one gap, and readers that keep up have none.
#[test]
fn a_reader_lapped_a_thousand_times_gets_every_gap() {
    let stage = Stage::new(3);
    let broker = stage.env.broker(
        "laps",
        "gen:rate=max,size=24..500,count=4000000",
        &["--wait-readers", "3", "--depth", "64", "--capacity", "4KiB", "--max-datagram", "512"],
    );
    let processes = [
        stage.reader(&broker, 0, &["--resume", "newest"]),
        stage.reader(&broker, 1, &["--view"]),
        stage.reader(&broker, 2, &["--spin"]),
    ];
    let published = broker.published();
    let mut gaps = 0;
    for (i, process) in processes.into_iter().enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!(report.delivered + report.lost, 4_000_000);
        gaps = gaps.max(report.gaps);
    }
    assert!(gaps > 1000, "only {gaps}: nothing was proved");
}

/// While the stream is silent, sleeping readers are not scheduled at all; then one datagram wakes
/// them. Controls: a spinning reader uses the processor meanwhile, and the count of switches
/// increases when the sleepers are woken.
#[test]
fn an_idle_reader_uses_no_processor_time() {
    let stage = Stage::new(4);
    // One datagram, 4 s of silence, another.
    let broker = stage.env.broker("idle", "gen:rate=0.25/s,count=2", &["--wait-readers", "4"]);
    let sleepers: Vec<_> = (0..3).map(|i| stage.reader(&broker, i, &[])).collect();
    let spinner = stage.reader(&broker, 3, &["--spin"]);
    for slot in 0..4 {
        stage.until(slot, Live::Delivered, 1);
    }
    std::thread::sleep(Duration::from_millis(500));
    let look = || -> Vec<_> {
        sleepers.iter().map(|p| (proc::context_switches(p.pid()), proc::cpu_ns(p.pid()))).collect()
    };
    let (before, spun) = (look(), proc::cpu_ns(spinner.pid()));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(look(), before, "a sleeper was scheduled");
    let spun = proc::cpu_ns(spinner.pid()) - spun;
    assert!(spun > 50_000_000, "the spinning control used {spun} ns");
    for slot in 0..4 {
        stage.until(slot, Live::Delivered, 2);
    }
    let published = broker.published();
    for (i, process) in sleepers.into_iter().chain([spinner]).enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!((report.delivered, published), (2, 2));
    }
}

/// An awake reader makes no system call: the kernel would kill it. Control: with one `getppid` in
/// the middle it is killed.
#[test]
fn an_awake_reader_makes_no_system_call() {
    let stage = Stage::new(2);
    let broker = stage.env.broker(
        "strict",
        "gen:rate=max,size=64..256,count=60000",
        &[
            "--depth",
            "131072",
            "--capacity",
            "32MiB",
            "--max-datagram",
            "256",
            "--linger",
            "forever",
        ],
    );
    let full = wait_for(Duration::from_secs(10), || {
        broker.process.stderr().contains("60000 datagrams published").then_some(())
    });
    assert!(full.is_some(), "{}", broker.process.stderr());
    let mut good = stage.reader(&broker, 0, &["--spin", "--strict", "60000"]);
    let status = good.wait();
    assert!(status.success(), "{status}: {}", good.stderr());
    let mut bad = stage.reader(&broker, 1, &["--spin", "--strict", "60000", "--spoil", "syscall"]);
    let status = bad.wait();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(libc::SIGSYS),
        "{status}"
    );
    broker.end();
}

/// 1024 readers sleep in one process; one datagram wakes all of them, three times. Control: before
/// each datagram none is awake.
#[test]
fn a_thousand_readers_are_all_woken() {
    const READERS: usize = 1024;
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if limit < 8192 {
        return skip(format_args!("needs 8192 open files (ulimit -Hn is {limit})"));
    }
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) },
    )
    .unwrap();
    let stage = Stage::new(1);
    let mut command = stage.env.command("ringd");
    command.arg("--run-dir").arg(stage.env.run_dir()).stdin(Stdio::piped());
    command.args([
        "run",
        "--name",
        "crowd",
        "--source",
        "stdin:len32le",
        "--readers-max",
        "1024",
        "--capacity",
        "256KiB",
    ]);
    let mut broker = stage.env.broker_of("crowd", command);
    let mut feed = broker.process.stdin().unwrap();
    let began = Instant::now();
    let options = Options::new("crowd").prefault(false);
    let mut readers: Vec<_> =
        (0..READERS).map(|_| options.attach(broker.path()).unwrap()).collect();
    let attached = began.elapsed();
    let refused = options.attach(broker.path()).unwrap_err().to_string();
    assert!(refused.contains("all 1024 readers"), "{refused}");
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    for (i, reader) in readers.iter_mut().enumerate() {
        let data = rustix::event::epoll::EventData::new_u64(i as u64);
        rustix::event::epoll::add(&epoll, &*reader, data, rustix::event::epoll::EventFlags::IN)
            .unwrap();
    }
    for round in 0..3u8 {
        assert!(matches!(readers[0].next().unwrap(), Item::Empty));
        for reader in &mut readers[1..] {
            assert!(matches!(reader.next().unwrap(), Item::Empty));
        }
        readers.iter_mut().for_each(|r| assert!(r.arm().unwrap()));
        // The control. A reader that asked to sleep before the pump knew of it is woken once for
        // nothing: arm it again until all sleep.
        let mut events = Vec::with_capacity(READERS);
        let quiet = wait_for(Duration::from_secs(5), || {
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            events.clear();
            rustix::event::epoll::wait(
                &epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&none),
            )
            .unwrap();
            for event in &events {
                assert!(readers[event.data.u64() as usize].arm().unwrap());
            }
            events.is_empty().then_some(())
        });
        assert!(quiet.is_some(), "{} awake with nothing to read", events.len());
        std::io::Write::write_all(&mut feed, &[3, 0, 0, 0, b'a', b'b', round]).unwrap();
        let woken = wait_for(Duration::from_secs(5), || {
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            events.clear();
            rustix::event::epoll::wait(
                &epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&now),
            )
            .unwrap();
            (events.len() == READERS).then_some(())
        });
        assert!(woken.is_some(), "round {round}: {} of {READERS} woken", events.len());
        for reader in &mut readers {
            match reader.next().unwrap() {
                Item::Datagram(mut d) => assert_eq!(d.to_vec().unwrap(), [b'a', b'b', round]),
                other => panic!("{other:?}"),
            }
        }
    }
    eprintln!("{READERS} attached in {attached:?}");
    drop(readers);
    drop(feed);
    assert_eq!(broker.published(), 3);
}

/// The broker is killed: readers read what is left, all to the same seq, attach to the next broker
/// by themselves, and get one notice. Control: a reader with the option not to wait for the next
/// broker ends, and gets no notice of a restart.
#[test]
fn readers_outlive_their_broker() {
    let stage = Stage::new(4);
    let source = "gen:rate=5000/s,size=64..512,count=20000";
    let more =
        ["--max-datagram", "512", "--depth", "32768", "--capacity", "16MiB", "--wait-readers", "4"];
    let mut broker = stage.env.broker("phoenix", source, &more);
    let control = stage.reader(&broker, 3, &["--no-reattach"]);
    // The last is stopped while its broker dies, and still has everything to read.
    let readers = [
        stage.reader(&broker, 0, &[]),
        stage.reader(&broker, 1, &["--spin", "--view"]),
        stage.reader(&broker, 2, &[]),
    ];
    stage.attached(0..4);
    stage.until(2, Live::Delivered, 100);
    readers[2].stop();
    stage.until(0, Live::Delivered, 5000);
    broker.process.kill();
    // A dead broker's files stay for the next one to take over.
    assert_eq!((stage.env.objects().len(), stage.env.left().len()), (1, 2));
    let alone = stage.report(3, control);
    assert_eq!((alone.end, alone.restarts, alone.generation), (2, 0, 1), "{alone:?}");
    alone.check(alone.cursor).unwrap();
    readers[2].signal(Signal::CONT);
    stage.until(2, Live::Delivered, alone.delivered);
    drop(broker);

    let more = [&more[..6], &["--wait-readers", "3"]].concat();
    let broker = stage.env.broker("phoenix", source, &more);
    assert!(broker.process.stderr().contains("phoenix gen 2"), "{}", broker.process.stderr());
    let published = broker.published();
    assert_eq!(published, alone.cursor + 20_000, "seqs continue");
    for (i, process) in readers.into_iter().enumerate() {
        let report = stage.report(i, process);
        report.check(published).unwrap();
        assert_eq!((report.restarts, report.generation, report.end), (1, 2, 1), "reader {i}");
        assert_eq!(
            report.earlier_cursor, alone.cursor,
            "reader {i} has not read all its dead broker left"
        );
        assert_eq!(report.own_right, report.delivered, "reader {i}");
    }
}

/// A lapped reader continues as its option says: near the oldest, or with the newest. Each is the
/// other's control.
#[test]
fn a_lapped_reader_resumes_where_its_option_says() {
    let stage = Stage::new(1);
    let broker = stage.env.broker(
        "resume",
        "gen:rate=max,size=100,count=10000",
        &[
            "--wait-readers",
            "2",
            "--depth",
            "1024",
            "--capacity",
            "1MiB",
            "--max-datagram",
            "512",
            "--linger",
            "forever",
        ],
    );
    let left = |resume: Resume| {
        let mut reader = Options::new("resume")
            .start(Start::Seq(0))
            .resume(resume)
            .attach(broker.path())
            .unwrap();
        let depth = reader.geometry().depth();
        let left = move || {
            let Item::Gap(gap) = reader.next().unwrap() else { panic!("lapped") };
            10_000 - gap.count
        };
        (depth, left)
    };
    let ((depth, mut oldest), (_, mut newest)) = (left(Resume::Oldest), left(Resume::Newest));
    let ended = wait_for(Duration::from_secs(10), || {
        broker.process.stderr().contains("10000 datagrams published").then_some(())
    });
    assert!(ended.is_some());
    assert_eq!(newest(), 1);
    // All slots but the claim ahead (a sixteenth), minus the eighth that keeps it from being lapped
    // again at once.
    let kept = oldest();
    assert!((depth * 3 / 4..depth).contains(&kept), "{kept} of {depth}");
    broker.end();
}
