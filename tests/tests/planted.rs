//! Somebody put something where a broker makes its files, or took away what it made: a start says
//! what is in its way, at once, and a broker that runs keeps what it has.

use ringweir::view::describe;
use ringweir::{Item, Options};
use ringweir_harness::environment::{Environment, NOBODY, Process, wait_for};
use ringweir_needs::needs_root;
use ringweir_proto::os::paths;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const STRANGER: u32 = 4711;

fn ringd(env: &Environment, run_dir: &Path, mut command: Command, more: &[&str]) -> Process {
    command.arg("--run-dir").arg(run_dir).args(["run", "--name", "planted"]);
    command.args(["--source", "gen:rate=1000/s,size=64,count=20", "--capacity", "64KiB"]);
    command.args(["--depth", "64", "--max-datagram", "1KiB"]).args(more);
    env.start(command)
}

/// Its exit status and what it said, within a while that no waiting for a lock takes.
fn outcome(mut process: Process) -> (Option<i32>, String) {
    let ended = wait_for(Duration::from_secs(60), || process.ended());
    (ended.and_then(|status| status.code()), process.stderr())
}

/// A FIFO in place of the lock file, held or not. Control: without it the same start succeeds.
#[test]
fn a_fifo_in_place_of_the_lock_is_named_at_once() {
    let env = Environment::new(LIMIT);
    let lock = paths::lock_path(&env.run_dir(), "planted");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &lock, FileType::Fifo, mode, 0).unwrap();
    let held = rustix::fs::open(&lock, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for locked in [false, true] {
        if locked {
            rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        let (status, said) = outcome(ringd(&env, &env.run_dir(), env.command("ringd"), &[]));
        assert_eq!(status, Some(1), "{said}");
        assert!(
            said.contains("planted.lock is in the way") && said.contains("it is a FIFO; remove it"),
            "{said}"
        );
        let swept = env.run("ringctl", &["gc"]);
        assert!(swept.status.success() && lock.exists(), "gc leaves it alone");
    }
    std::fs::remove_file(&lock).unwrap();
    assert_eq!(outcome(ringd(&env, &env.run_dir(), env.command("ringd"), &[])).0, Some(0));
}

/// Another user's file or directory at the name of the ring: a broker without a name there starts
/// all the same, and one that needs the name says what to do. Control: both start without it.
#[test]
fn another_users_file_in_dev_shm_stops_no_broker_that_needs_no_name() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let dir = env.path("nobodys");
    std::fs::create_dir(&dir).unwrap();
    chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let full = std::fs::canonicalize(&dir).unwrap();
    let tag = paths::tag(&full);
    let object = PathBuf::from(format!("/dev/shm/ringweir.{NOBODY}.{tag:08x}.planted"));
    let start = |memory: &str| {
        let command = env.command_as_nobody("ringd");
        outcome(ringd(&env, &dir, command, &["--memory", memory]))
    };
    for kind in ["nothing", "file", "directory"] {
        match kind {
            "file" => std::fs::write(&object, "").unwrap(),
            "directory" => std::fs::create_dir(&object).unwrap(),
            _ => {}
        }
        if kind != "nothing" {
            chown(&object, Some(STRANGER), None).unwrap();
        }
        let (named, unnamed) = (start("shm"), start("memfd"));
        assert_eq!(unnamed.0, Some(0), "{kind}: {}", unnamed.1);
        if kind == "nothing" {
            assert_eq!(named.0, Some(0), "control: {}", named.1);
            continue;
        }
        assert_eq!(named.0, Some(1), "{kind}: {}", named.1);
        let whose = format!("{kind} of uid {STRANGER}");
        for word in [&object.display().to_string(), &whose, "sudo rm", "--memory memfd"] {
            assert!(named.1.contains(word), "{kind}: no {word:?} in {}", named.1);
        }
        if kind == "file" {
            std::fs::remove_file(&object).unwrap();
        } else {
            std::fs::remove_dir(&object).unwrap();
        }
    }
}

/// The lock file is removed under a broker that serves: another one does not take its socket, nor
/// its ring, and the first takes nothing of the second when it ends. Control: without the first the
/// second starts, though a killed broker left its socket and ring.
#[test]
fn a_broker_whose_lock_was_removed_keeps_its_socket_and_its_ring() {
    for (memory, words) in [
        ("shm", ["is the ring of a broker that still runs", "end that broker first"]),
        ("memfd", ["a process listens at", "end it first"]),
    ] {
        let env = Environment::new(LIMIT);
        let args = ["--memory", memory, "--capacity", "64KiB", "--depth", "64"];
        let args = [&args[..], &["--max-datagram", "1KiB"]].concat();
        let mut first = env.broker("planted", "gen:rate=1000/s,size=64", &args);
        let lock = paths::lock_path(&env.run_dir(), "planted");
        std::fs::remove_file(&lock).unwrap();
        let mut reader = Options::new("r").attach(first.path()).unwrap();
        let (status, said) =
            outcome(ringd(&env, &env.run_dir(), env.command("ringd"), &["--memory", memory]));
        assert_eq!(status, Some(1), "{memory}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{memory}: {said}");
        describe(first.path()).unwrap();
        reader.wait(Some(LIMIT)).unwrap();
        // What is at the places of the first is somebody else's by now.
        let socket = paths::socket_path(&env.run_dir(), "planted");
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "precious").unwrap();
        std::fs::write(&lock, "precious").unwrap();
        first.process.signal(rustix::process::Signal::TERM);
        assert!(first.process.wait().success(), "{}", first.process.stderr());
        for path in [&socket, &lock] {
            assert_eq!(std::fs::read_to_string(path).unwrap(), "precious", "{memory}");
            std::fs::remove_file(path).unwrap();
        }
        let mut killed = env.broker("planted", "gen:rate=1000/s,size=64", &args);
        killed.process.kill();
        std::fs::remove_file(&lock).unwrap();
        let (status, said) =
            outcome(ringd(&env, &env.run_dir(), env.command("ringd"), &["--memory", memory]));
        assert_eq!(status, Some(0), "control, {memory}: {said}");
    }
}

/// Something is in the way of one stream while its broker restarts: that start fails, and no reader
/// of any stream notices more than a broker that was killed. Control: the end of the last broker is
/// the end of the stream.
#[test]
fn a_start_that_fails_ends_no_stream_that_was_adopted() {
    for place in ["planted-b.lock", "planted-b.sock", "planted-a.sock"] {
        let env = Environment::new(LIMIT);
        let config = env.path("ringd.toml");
        let stream = |name: &str| {
            format!(
                "[[stream]]\nname = '{name}'\nsource = 'gen:rate=1000/s,size=64'\ndepth = \
                8192\ncapacity = '1MiB'\nmax-datagram = 1024\n"
            )
        };
        std::fs::write(&config, stream("planted-a") + &stream("planted-b")).unwrap();
        let start = || {
            let mut command = env.command("ringd");
            command.arg("--run-dir").arg(env.run_dir()).arg("--config").arg(&config);
            env.start(command)
        };
        let mut first = env.is_up("planted-b", start());
        let socket = env.run_dir().join("planted-a.sock");
        let mut reader = Options::new("r").attach(socket.to_str().unwrap()).unwrap();
        first.process.kill();
        let path = env.run_dir().join(place);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (status, said) = outcome(start());
        assert!(status == Some(1) && said.contains(place), "{place}: {said}");
        std::fs::remove_dir(&path).unwrap();
        let last = env.is_up("planted-b", start());
        let said = last.process.stderr();
        assert_eq!(said.matches("(adopted").count(), 2, "{place}: {said}");

        let mut next = reader.account().start;
        let until = |reader: &mut ringweir::Reader,
                     next: &mut u64,
                     done: &dyn Fn(&Item) -> bool| {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                assert!(std::time::Instant::now() < deadline, "{place}: at {next}");
                let item = reader.next().unwrap();
                let is_done = done(&item);
                match item {
                    Item::Datagram(datagram) => {
                        assert_eq!(datagram.seq(), *next, "{place}");
                        *next += 1;
                    }
                    Item::Gap(gap) => *next += gap.count,
                    Item::Restarted(restart) => assert!(restart.adopted, "{place}: {restart:?}"),
                    Item::Empty => _ = reader.wait(Some(Duration::from_millis(50))).unwrap(),
                    Item::Ended(end) => assert!(is_done, "{place}: {end:?}"),
                    Item::Demoted(demoted) => panic!("{demoted:?}"),
                }
                if is_done {
                    return;
                }
            }
        };
        let generation: u64 = said.split("planted-a gen ").nth(1).unwrap()[..1].parse().unwrap();
        until(
            &mut reader,
            &mut next,
            &|item| matches!(item, Item::Restarted(restart) if restart.generation == generation),
        );
        until(&mut reader, &mut next, &|item| matches!(item, Item::Datagram(_)));
        last.process.signal(rustix::process::Signal::TERM);
        until(&mut reader, &mut next, &|item| matches!(item, Item::Ended(ringweir::End::Stream)));
        assert!(last.published() >= 1);
    }
}
