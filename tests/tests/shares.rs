//! What one person can take, or make the broker keep or do: as one user, and as the many users that
//! a user namespace makes of one. What it hands over does not reach the broker at all.

use ringweir::view::Viewer;
use ringweir::view::stats::ReaderFact;
use ringweir::{Options, Reader};
use ringweir_harness::environment::{Daemon, Environment, NOBODY, wait_for};
use ringweir_harness::user::{becoming, becoming_of};
use ringweir_needs::{needs_root, needs_user_namespaces, skip};
use ringweir_proto::control::{AttachRequest, Mode, Reply, Request};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::{event, object, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{self, Resource, Rlimit, Signal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
const HOSTILE: u32 = 4711;
const OTHER: u32 = 4712;
const GROUP: u32 = 4710;
/// The first of a person's further uids.
const FURTHER: u32 = 100_000;

/// Attaches without the client library: the connection; and ring, page, wake and sleep request.
fn attach(path: &Path) -> Option<(OwnedFd, [OwnedFd; 4])> {
    let (connection, _, fds) = attach_with_offset(path)?;
    Some((connection, fds))
}

/// The same, with the place of the reader's block in its page.
fn attach_with_offset(path: &Path) -> Option<(OwnedFd, u32, [OwnedFd; 4])> {
    let connection = socket::connect(path).ok()?;
    let request = AttachRequest { label: "raw".into(), mode: Mode::Lossy, parks: true };
    socket::send(&connection, &Request::Attach(request).encode(), &[]).ok()?;
    let answer = socket::receive(&connection).ok()?;
    let Reply::Attached(attached) = Reply::decode(&answer.bytes).ok()? else { return None };
    Some((connection, attached.block_offset, <[OwnedFd; 4]>::try_from(answer.fds).ok()?))
}

/// Whether this user is served, as a reader and as a viewer.
fn is_served(uid: u32, gid: u32, path: &str) -> bool {
    becoming_of(uid, gid, || {
        let attached = Options::new("other").attach(path);
        let viewed = Viewer::attach(path);
        attached.is_ok() && viewed.is_ok()
    })
}

/// No peer can hand over descriptors, whatever it connects for, so nothing is ever closed for it:
/// not by the broker, its `unix:` source or a socket server. Control: a socket that was not asked
/// to refuse them gets one.
#[test]
fn descriptors_are_refused() {
    let (probe, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    if !socket::refuse_descriptors(&probe) {
        return skip("needs Linux 6.16, which can refuse descriptors");
    }
    let env = Environment::new(LIMIT);
    let null = std::fs::File::open("/dev/null").unwrap();
    let hand_over = |to: &OwnedFd| socket::send(to, b"x", &[null.as_fd()]);
    let (control, receives) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert_eq!(hand_over(&control.into()), Ok(()), "control");
    assert_eq!(socket::receive(&receives).unwrap().fds.len(), 1, "control");

    let input = env.path("in.s");
    let source = format!("unix:seqpacket:{}", input.display());
    let broker = env.broker("share-fds", &source, &[]);
    let output = env.path("out.s");
    let mut command = env.command("ringcat");
    command.args(["share-fds", "--unix", &format!("seqpacket:{}", output.display())]);
    let mut cat = env.start(command);
    wait_for(LIMIT, || output.exists().then_some(())).expect("it listens");
    for path in [&broker.socket, &input, &output] {
        let to = wait_for(LIMIT, || socket::connect(path).ok()).expect("somebody listens");
        assert_eq!(hand_over(&to), Err(Errno::PERM), "{}", path.display());
    }
    cat.signal(Signal::TERM);
    cat.wait();
    broker.end();
}

/// One person with many uids takes half of the readers and of the silent connections at most.
/// Control: as many accounts of their own take them all.
#[test]
fn the_uids_of_one_person_leave_half_to_others() {
    if !needs_root() {
        return;
    }
    for (first, all) in [(FURTHER, 16), (5000, 32)] {
        let env = Environment::new(LIMIT);
        let group = GROUP.to_string();
        let args = ["--group", &group, "--readers-per-user", "2", "--readers-max", "32"];
        let broker = env.broker("share-uids", "gen:rate=1000/s,size=64", &args);
        let path = broker.socket.clone();
        let mut kept = Vec::new();
        for uid in first..first + 20 {
            let theirs = becoming_of(uid, GROUP, || [attach(&path), attach(&path)]);
            kept.extend(theirs.into_iter().flatten());
        }
        assert_eq!(kept.len(), all, "{first}: {}", broker.process.stderr());
        if first == FURTHER {
            assert!(is_served(OTHER, GROUP, broker.path()));
            let said = || broker.process.stderr().contains("which may be one person's");
            wait_for(LIMIT, || said().then_some(())).expect("it says why");
        }
        drop(kept);
        let silent: Vec<OwnedFd> = (first..first + 10)
            .flat_map(|uid| {
                becoming_of(uid, GROUP, || {
                    (0..32).map(|_| socket::connect(&path).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        assert!(first != FURTHER || is_served(OTHER, GROUP, broker.path()));
        drop(silent);
        broker.end();
    }
}

/// Each client of a socket server takes a reader of the stream, so a user has a share. Control: the
/// limit does not apply to root.
#[test]
fn clients_of_a_socket_server_get_a_share() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("share-clients", "gen:rate=10/s,size=64", &["--readers-max", "200"]);
    let path = env.path("out.s");
    let mut command = env.command("ringcat");
    let place = format!("seqpacket,mode=0666:{}", path.display());
    command.args(["share-clients", "--unix", &place]);
    let mut cat = env.start(command);
    wait_for(LIMIT, || path.exists().then_some(())).expect("it listens");
    let connect = || {
        (0..40)
            .map(|_| wait_for(LIMIT, || socket::connect(&path).ok()).expect("it listens"))
            .collect::<Vec<_>>()
    };
    let served = |clients: &[OwnedFd]| {
        clients.iter().filter(|c| socket::receive(c).is_ok_and(|p| !p.bytes.is_empty())).count()
    };
    let theirs = becoming(HOSTILE, connect);
    assert_eq!(served(&theirs), 32, "{}", cat.stderr());
    assert!(cat.stderr().contains("uid 4711"), "{}", cat.stderr());
    let roots = connect();
    assert_eq!(served(&roots), 40, "control: {}", cat.stderr());
    drop((theirs, roots));
    cat.signal(Signal::TERM);
    assert!(cat.wait().success(), "{}", cat.stderr());
    broker.end();
}

/// A reader that comes and goes gets the same page and events again, so it does not matter that it
/// keeps them; and they are empty. Controls: another user gets others, and two readers at a time
/// have two.
#[test]
fn a_reader_that_comes_and_goes_makes_the_broker_keep_nothing() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let args = ["--allow-uid", "4711", "--allow-uid", "4712"];
    let broker = env.broker("share-kept", "gen:rate=1000/s,size=64", &args);
    let path = broker.socket.clone();
    let page = |fds: &[OwnedFd; 4]| rustix::fs::fstat(&fds[1]).unwrap().st_ino;
    let come_and_go = |times: usize| {
        let (mut kept, mut pages) = (Vec::new(), std::collections::BTreeSet::new());
        for _ in 0..times {
            let (connection, fds) = wait_for(LIMIT, || attach(&path)).expect("attached");
            pages.insert(page(&fds));
            let mut word = [1; 8];
            rustix::io::pread(&fds[1], &mut word, 0).unwrap();
            assert_eq!(word, [0; 8], "not empty");
            rustix::io::pwrite(&fds[1], &[1; 8], 0).unwrap();
            drop(connection);
            kept.push(fds);
            // The pump still knows the last one for a moment.
            std::thread::sleep(Duration::from_millis(20));
        }
        (kept, pages)
    };
    let (kept, pages) = becoming(HOSTILE, || come_and_go(40));
    assert!(pages.len() < 10, "{} pages of 40 readers, one at a time", pages.len());
    let (_others, theirs) = becoming(OTHER, || come_and_go(1));
    assert!(theirs.is_disjoint(&pages), "control: another user has another");
    let two = becoming(HOSTILE, || [attach(&path).unwrap(), attach(&path).unwrap()]);
    assert_ne!(page(&two[0].1), page(&two[1].1), "control");
    drop((kept, two));
    broker.end();
}

/// A peer without rights keeps the refusals that it does not read, for which the broker pays; after
/// some it gets none. Control: another one gets its refusal.
#[test]
fn unread_answers_are_counted() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("share-unread", "gen:rate=10/s,size=64", &["--socket-mode", "0666"]);
    let path = broker.socket.clone();
    let refusal = || {
        let connection = socket::connect(&path).unwrap();
        let mut both = [PollFd::new(&connection, PollFlags::IN)];
        let _came = poll(&mut both, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
        connection
    };
    let kept = becoming(HOSTILE, || (0..400).map(|_| refusal()).collect::<Vec<_>>());
    let answered = kept.iter().filter(|c| socket::receive(c).is_ok_and(|p| !p.bytes.is_empty()));
    let answered = answered.count();
    assert!((192..220).contains(&answered), "{answered} answers of 400");
    let other = becoming(OTHER, refusal);
    assert!(!socket::receive(&other).unwrap().bytes.is_empty(), "control");
    let log = || broker.process.stderr().contains("left too many answers unread");
    wait_for(LIMIT, || log().then_some(())).expect("it says so");
    drop(kept);
    broker.end();
}

/// A reader whose wakes are made to walk tens of thousands of entries is woken last and only now
/// and then, and the others are woken as before. Control: before that it is woken as often as they.
#[test]
fn a_reader_whose_wakes_are_slow_waits_for_its_share() {
    const ENTRIES: usize = 100_000;
    let limit = process::getrlimit(Resource::Nofile);
    let entries = ENTRIES.min(limit.maximum.unwrap_or(u64::MAX) as usize);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    process::setrlimit(Resource::Nofile, raised).unwrap();
    if entries < 10_000 {
        return skip("needs a limit of 10000 open files, to poll as many");
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("share-wakes", "gen:rate=500/s,size=64", &[]);
    let mut honest: Vec<_> =
        (0..2).map(|_| Options::new("honest").attach(broker.path()).unwrap()).collect();
    let (connection, offset, [ring, page, wake, sleep_request]) =
        attach_with_offset(&broker.socket).unwrap();
    let page = ReaderPage::attach(&page, offset).unwrap();
    let watch = Viewer::attach(broker.path()).unwrap();
    let seen = object::attach(&ring, false).unwrap();
    // For `times` datagrams of the honest ones: how often the hostile one was woken.
    let mut woken_during = |times: usize, entries: usize| {
        let mut fds = vec![PollFd::new(&wake, PollFlags::IN); entries];
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let hostile = scope.spawn(|| {
                let mut woken = 0;
                while !stop.load(Ordering::Relaxed) {
                    let written = seen.memory.write_cursor();
                    page.block().seen_seq.store(written, Ordering::Relaxed);
                    let _full = event::ring(&sleep_request);
                    let brief = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                    if poll(&mut fds, Some(&brief)).is_ok_and(|n| n > 0) {
                        woken += usize::from(event::take(&wake) == Ok(true));
                    }
                }
                woken
            });
            for reader in &mut honest {
                let mut got = 0;
                while got < times {
                    got += take(reader);
                }
            }
            stop.store(true, Ordering::Relaxed);
            hostile.join().unwrap()
        })
    };
    let before = woken_during(500, 1);
    assert!(before > 100, "control: {before} times in a second");
    let is_marked = || {
        let readers = wait_for(LIMIT, || watch.snapshot()).expect("figures").readers;
        readers.iter().any(|r| r.label == "raw" && r.get(ReaderFact::SlowWakes) == 1)
    };
    for _ in 0..20 {
        if is_marked() {
            break;
        }
        woken_during(500, entries);
    }
    assert!(is_marked(), "not found: {}", broker.process.stderr());
    let after = woken_during(1000, entries);
    assert!(after < before / 2, "{after} slow wakes in two seconds, {before} others in one before");
    drop(connection);
    drop(honest);
    broker.end();
}

/// Waits for datagrams, and takes what is there.
fn take(reader: &mut Reader) -> usize {
    reader.wait(Some(LIMIT)).unwrap();
    let mut count = 0;
    while matches!(reader.next().unwrap(), ringweir::Item::Datagram(_)) {
        count += 1;
    }
    count
}

/// A broker in a user namespace whose user has the number that stands for all who are not mapped
/// takes none of them for itself. Control: outside a namespace that number is its user.
#[test]
fn a_stranger_in_a_user_namespace_is_not_the_brokers_user() {
    if !needs_root() || !needs_user_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    let run_dir = env.run_dir();
    std::os::unix::fs::chown(&run_dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let start = |inside: bool| -> Daemon {
        let plain = env.command_as_nobody("ringd");
        let mut words: Vec<_> = plain.get_args().map(std::ffi::OsStr::to_owned).collect();
        let program = words.pop().expect("the program");
        let mut command: Command = env.command_at(Path::new(plain.get_program()));
        command.args(words);
        if inside {
            let id = NOBODY.to_string();
            command.args(["unshare", "--user", "--map-user", &id, "--map-group", &id]);
        }
        command.arg(program).arg("--run-dir").arg(&run_dir);
        command.args(["run", "--name", "share-ns", "--source", "gen:rate=100/s,size=64"]);
        command.args(["--socket-mode", "0666"]).stdout(Stdio::null());
        env.broker_of("share-ns", command)
    };
    for (inside, uid, may) in
        [(false, NOBODY, true), (false, HOSTILE, false), (true, HOSTILE, false)]
    {
        let broker = start(inside);
        let attached = becoming(uid, || Options::new("x").attach(broker.path()).map(drop));
        assert_eq!(attached.is_ok(), may, "inside: {inside}, uid {uid}: {attached:?}");
        if inside {
            let text = attached.unwrap_err().to_string();
            assert!(text.contains("stands for every user"), "{text}");
        }
        broker.end();
    }
}
