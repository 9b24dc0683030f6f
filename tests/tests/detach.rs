//! `ringctl detach`: exactly one reader is detached and learns why, and no other reader is
//! affected.

use ringweir::{End, Item, Options, Reader, Start};
use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_needs::needs_root;
use rustix::process::Signal;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: &str = "65534";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn detach(env: &Environment, stream: &str, reader: &str) -> Output {
    env.run("ringctl", &["detach", stream, reader])
}

fn cat(env: &Environment, stream: &str, label: &str) -> Process {
    let mut command = env.command("ringcat");
    command.args([stream, "--label", label, "--verify"]).stdout(Stdio::null());
    env.start(command)
}

/// Labels, pids and indices of the attached readers.
fn attached(broker: &Daemon) -> Vec<(String, u64, u64)> {
    use ringweir::view::stats::ReaderFact;
    let snapshot =
        ringweir::view::Viewer::attach(broker.path()).expect("watch").snapshot().expect("figures");
    let facts = |r: &ringweir::view::stats::ReaderFigures| {
        (r.label.clone(), r.get(ReaderFact::Pid), r.get(ReaderFact::Index))
    };
    snapshot.readers.iter().map(facts).collect()
}

fn until_attached(broker: &Daemon, count: usize) -> Vec<(String, u64, u64)> {
    wait_for(Duration::from_secs(20), || Some(attached(broker)).filter(|a| a.len() == count))
        .unwrap_or_else(|| panic!("{count} readers expected: {:?}", attached(broker)))
}

/// The named reader ends with status 3 and a message, and its account closes. The other one reads
/// on to the end and loses nothing, and the reader index is free again. Control: without detach,
/// the same reader ends with status 0.
#[test]
fn only_the_named_reader_is_detached() {
    let env = Environment::new(LIMIT);
    let mailbox = Mailbox::create(1);
    let broker = env.broker(
        "det-one",
        "gen:rate=2000/s,size=64..256,count=12000",
        &["--readers-max", "2", "--wait-readers", "2"],
    );
    let mut command = env.command("ringtest-reader");
    command.args(["det-one", "--mailbox", mailbox.id(), "--slot", "0", "--from", "oldest"]);
    let mut steady = env.start(command);
    let goes = cat(&env, "det-one", "monitor");
    until_attached(&broker, 2);
    wait_for(Duration::from_secs(20), || {
        (mailbox.slot(0).live(Live::Delivered) > 500).then_some(())
    })
    .expect("flow");
    let full = Options::new("third").attach(broker.path()).expect_err("no place");
    assert!(full.to_string().contains("--readers-max"), "{full}");
    let named = format!("refused pid {} (uid ", std::process::id());
    let is_named = || broker.process.stderr().contains(&named).then_some(());
    assert!(wait_for(Duration::from_secs(20), is_named).is_some(), "{}", broker.process.stderr());

    let done = detach(&env, "det-one", "monitor");
    assert!(done.status.success(), "{}", said(&done));
    let out = String::from_utf8(done.stdout).unwrap();
    assert!(
        out.contains("detached from det-one: index:") && out.contains("label:monitor"),
        "{out}"
    );
    let pid = goes.pid();
    let end = goes.output();
    assert_eq!(end.status.code(), Some(3), "{}", said(&end));
    assert!(
        said(&end).contains("detached by pid ") && said(&end).contains("(uid "),
        "{}",
        said(&end)
    );
    assert!(said(&end).contains("+ 0 lost in 0 gaps"), "its account closes: {}", said(&end));
    assert!(attached(&broker).iter().all(|(_, p, _)| *p != u64::from(pid)));

    // The reader index is free at once.
    let mut again = cat(&env, "det-one", "again");
    until_attached(&broker, 2);
    let said_by_broker = broker.process.stderr();
    assert!(said_by_broker.contains("is detached by pid"), "{said_by_broker}");
    let published = broker.published();
    assert!(steady.wait().success(), "{}", steady.stderr());
    let report = mailbox.slot(0).take();
    report.check(published).unwrap();
    assert_eq!((report.delivered, report.lost), (published, 0));
    let status = again.wait();
    assert_eq!(status.code(), Some(0), "nobody sent this one away: {}", again.stderr());
}

fn end_of(reader: &mut Reader) -> Option<End> {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        match reader.next().expect("read") {
            Item::Ended(end) => return Some(end),
            Item::Empty => {
                reader.wait(Some(Duration::from_millis(50))).expect("wait");
            }
            _ => {}
        }
    }
    None
}

/// Whatever the reader does: sleeping, polling its own fd, spinning, or so far behind that it never
/// reaches the newest datagram.
#[test]
fn detached_readers_notice_while_waiting_spinning_or_lagging() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("det-ways", "gen:rate=200000/s,size=64", &["--capacity", "1MiB"]);
    let silent = env.broker("det-silent", "gen:rate=1/s,size=64", &[]);
    let me = rustix::process::geteuid().as_raw();
    let check = |reader: &mut Reader, how: &str| {
        let Some(End::Detached(by)) = end_of(reader) else { panic!("{how}: not notified") };
        assert_eq!(by.uid, me, "{how}");
        assert!(matches!(reader.next(), Ok(Item::Ended(End::Detached(_)))), "{how}: it stays so");
        let account = *reader.account();
        assert_eq!(account.start + account.delivered + account.lost, reader.read_cursor(), "{how}");
    };

    let mut slow = Options::new("slow").start(Start::Oldest).attach(broker.path()).unwrap();
    // Always behind: it sees neither an empty ring nor its socket.
    for _ in 0..100 {
        assert!(!matches!(slow.next().unwrap(), Item::Ended(_)));
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(detach(&env, "det-ways", "slow").status.success());
    let mut noticed = None;
    for _ in 0..1000 {
        if let Item::Ended(end) = slow.next().unwrap() {
            noticed = Some(end);
            break;
        }
    }
    assert!(matches!(noticed, Some(End::Detached(_))), "{noticed:?}");
    check(&mut slow, "behind");

    let mut spins = Options::new("spins").always_spin().attach(silent.path()).unwrap();
    assert!(detach(&env, "det-silent", "spins").status.success());
    check(&mut spins, "spinning");

    let mut polls = Options::new("polls").attach(silent.path()).unwrap();
    while !polls.arm().unwrap() {
        let _read = polls.next().unwrap();
    }
    assert!(detach(&env, "det-silent", "label:polls").status.success());
    let fd = std::os::fd::AsFd::as_fd(&polls);
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1), "its fd says so");
    check(&mut polls, "polling");

    let sleeper = std::thread::spawn({
        let path = silent.path().to_string();
        move || {
            let mut reader = Options::new("sleeps").attach(&path).unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                match reader.next().unwrap() {
                    Item::Ended(end) => return Some(end),
                    _ if Instant::now() > until => return None,
                    Item::Empty => {
                        reader.wait(None).unwrap();
                    }
                    _ => {}
                }
            }
        }
    });
    until_attached(&silent, 1);
    assert!(detach(&env, "det-silent", "sleeps").status.success());
    assert!(matches!(sleeper.join().unwrap(), Some(End::Detached(_))));
    broker.end();
    silent.end();
}

/// A stopped process cannot prevent it, and learns of it when it continues.
#[test]
fn a_stopped_reader_can_be_detached() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("det-stop", "gen:rate=1000/s,size=64", &["--readers-max", "1"]);
    let reader = cat(&env, "det-stop", "stuck");
    until_attached(&broker, 1);
    reader.stop();
    assert!(detach(&env, "det-stop", &reader.pid().to_string()).status.success());
    let read = env.run("ringcat", &["det-stop", "-n", "20", "--verify"]);
    assert!(read.status.success(), "the place is free: {}", said(&read));
    reader.signal(Signal::CONT);
    assert_eq!(reader.output().status.code(), Some(3));
    broker.end();
}

#[test]
fn ambiguous_or_unknown_readers_are_refused_with_a_list() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("det-two", "gen:rate=100/s,size=64", &[]);
    let run = |reader: &str, status: i32, says: &[&str]| {
        let output = detach(&env, "det-two", reader);
        assert_eq!(output.status.code(), Some(status), "{reader}: {}", said(&output));
        assert!(says.iter().all(|s| said(&output).contains(s)), "{reader}: {}", said(&output));
        assert!(output.stdout.is_empty());
    };
    run("x", 1, &["has no readers"]);
    let _twins = [cat(&env, "det-two", "twin"), cat(&env, "det-two", "twin")];
    let there = until_attached(&broker, 2);
    run("twin", 2, &["2 readers", "index:0 pid:", "index:1 pid:"]);
    run("other", 1, &["no reader \"other\"", "label:twin"]);
    run("index:9", 1, &["no reader"]);
    assert_eq!(attached(&broker), there, "nobody went");
    let unknown = detach(&env, "det-nosuch", "twin");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        said(&unknown).contains("no stream \"det-nosuch\"; running: det-two"),
        "{}",
        said(&unknown)
    );

    // The index was given to another reader since it was looked up: no reader is detached.
    let refused = ringweir::admin::detach(broker.path(), 0, 12345).unwrap_err().to_string();
    assert!(refused.contains("not attached any more"), "{refused}");
    let beyond = ringweir::admin::detach(broker.path(), u32::MAX, 0).unwrap_err().to_string();
    assert!(beyond.contains("not attached any more"), "{beyond}");
    assert_eq!(attached(&broker), there);
    // Control: with their indices the same two can be told apart.
    assert!(detach(&env, "det-two", "index:1").status.success());
    until_attached(&broker, 1);
    broker.end();
}

/// The right to attach is not the right to detach others. Control: the broker's own user may.
#[test]
fn only_root_and_the_brokers_user_may_detach() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("det-uid", "gen:rate=100/s,size=64", &["--allow-uid", NOBODY]);
    let reader = cat(&env, "det-uid", "mine");
    until_attached(&broker, 1);
    // A copy that user nobody can reach: the target directory may be readable by root only.
    let ringctl = env.path("ringctl");
    ringweir_harness::programs::copy("ringctl", &ringctl);
    let mut command: Command = env.command_at("setpriv".as_ref());
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&ringctl);
    command.args(["detach", "det-uid", "mine"]).stdout(Stdio::piped());
    let output = env.start(command).output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("uid 65534 may not detach readers"), "{}", said(&output));
    assert_eq!(attached(&broker).len(), 1);
    assert!(detach(&env, "det-uid", "mine").status.success());
    assert_eq!(reader.output().status.code(), Some(3));
    broker.end();
}
