//! A ring without a name outlives its broker in the service manager's fd store (`proto/DESIGN.md`
//! §7). There is no systemd here: the test is the manager. It takes the descriptors that it
//! receives and passes them to the next broker.

use ringweir::{Item, Options, Reader};
use ringweir_harness::environment::{Daemon, Environment, NOBODY, Process, wait_for};
use ringweir_harness::programs;
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_needs::{needs, needs_root, skip};
use ringweir_proto::os::{paths, socket};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use std::fs::File;
use std::io::{Read as _, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

/// The manager's state: descriptors by name, and received messages.
#[derive(Default)]
struct Store {
    stored: Vec<(String, OwnedFd)>,
    messages: Vec<String>,
}

/// A service manager with a store, as systemd has one.
struct Manager {
    path: std::path::PathBuf,
    store: Arc<Mutex<Store>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Manager {
    fn new(env: &Environment) -> Self {
        let path = env.path("notify");
        let ear = UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        ear.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (store, over) = (Arc::<Mutex<Store>>::default(), Arc::<AtomicBool>::default());
        let (its, stop) = (store.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut packet) = socket::receive(&ear) else { continue };
                let text = String::from_utf8(packet.bytes).unwrap();
                let name = text
                    .lines()
                    .find_map(|line| line.strip_prefix("FDNAME="))
                    .unwrap_or("stored")
                    .to_string();
                let mut store = its.lock().unwrap();
                if text.starts_with("FDSTORE=1\n") {
                    store.stored.push((name, packet.fds.pop().expect("a descriptor")));
                } else if text.starts_with("FDSTOREREMOVE=1\n") {
                    store.stored.retain(|(stored, _)| *stored != name);
                }
                store.messages.push(text);
            }
        });
        Self { path, store, over, thread: Some(thread) }
    }

    fn stored(&self) -> Vec<String> {
        self.store.lock().unwrap().stored.iter().map(|(name, _)| name.clone()).collect()
    }

    fn descriptor(&self, name: &str) -> OwnedFd {
        let store = self.store.lock().unwrap();
        let (_, fd) = store
            .stored
            .iter()
            .find(|(stored, _)| stored == name)
            .unwrap_or_else(|| panic!("no {name} in it"));
        fd.try_clone().unwrap()
    }

    /// Makes `command` start with a store, and with a descriptor from it if one is given.
    fn passing(&self, command: &mut Command, passed: Option<(&str, OwnedFd)>) {
        command.env("NOTIFY_SOCKET", &self.path).env("FDSTORE", "8");
        if let Some((name, fd)) = passed {
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stdin(fd);
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the manager");
    }
}

/// `ringd`, started through a shell, so that the passed descriptor gets its number; `pid` is the
/// process that it is meant for.
fn ringd(env: &Environment, pid: &str) -> Command {
    let mut command = env.command_at("sh".as_ref());
    command
        .args(["-c", &format!("LISTEN_PID={pid} exec \"$@\" 3<&0 0</dev/null"), "-"])
        .arg(programs::path("ringd"));
    command.arg("--run-dir").arg(env.run_dir());
    command
}

fn may_make_immutable() -> bool {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    rustix::process::geteuid().is_root()
        && held.is_ok_and(|set| set.contains(CapabilitySet::LINUX_IMMUTABLE))
}

fn says(process: &Process, what: &str) {
    let said = wait_for(LIMIT, || process.stderr().contains(what).then_some(()));
    assert!(said.is_some(), "no {what:?} from ringd: {}", process.stderr());
}

/// A chain of brokers, each killed at full rate, over one ring without a name. Each reader gets one
/// notice of each restart, at the same seq, and accounts for every datagram of every generation. At
/// the end the store is empty.
#[test]
fn a_ring_without_a_name_outlives_its_broker() {
    const NAME: &str = "store-chain";
    const READERS: usize = 3;
    const BROKERS: u64 = 6;
    let env = Environment::new(LIMIT);
    let (manager, mailbox) = (Manager::new(&env), Mailbox::create(READERS));
    let start = |passed: Option<OwnedFd>, count: &str| {
        let mut command = ringd(&env, "$$");
        let source = format!("gen:rate=20000/s,size=24..500,channels=3{count}");
        command.args([
            "run",
            "--name",
            NAME,
            "--source",
            &source,
            "--wait-readers",
            &READERS.to_string(),
        ]);
        command.args([
            "--memory",
            "memfd",
            "--depth",
            "240",
            "--capacity",
            "64KiB",
            "--max-datagram",
            "512",
        ]);
        manager.passing(&mut command, passed.map(|fd| ("ring-store-chain", fd)));
        env.start(command)
    };
    let kinds: [&[&str]; READERS] = [&[], &["--view"], &["--slow", "300"]];
    let mut readers = Vec::new();
    let delivered = |slot: usize| mailbox.slot(slot).live(Live::Delivered);
    for generation in 1..=BROKERS {
        let passed = (generation > 1).then(|| manager.descriptor("ring-store-chain"));
        let mut broker = start(passed, "");
        let adopted = if generation > 1 { " (adopted" } else { "," };
        says(&broker, &format!("{NAME} gen {generation}{adopted}"));
        says(&broker, "stored by the service manager");
        assert_eq!(manager.stored(), ["ring-store-chain"]);
        for (slot, kind) in kinds.iter().enumerate().skip(readers.len()) {
            let mut command = env.command("ringtest-reader");
            command.arg(paths::socket_path(&env.run_dir(), NAME));
            command.args(["--mailbox", mailbox.id(), "--slot", &slot.to_string()]).args(*kind);
            readers.push(env.start(command));
        }
        // More than the ring holds, in each generation.
        let before = delivered(0);
        let continues = wait_for(LIMIT, || (delivered(0) >= before + 400).then_some(()));
        assert!(
            continues.is_some(),
            "nobody reads in generation {generation}: {}",
            broker.stderr()
        );
        broker.kill();
    }
    let last = start(Some(manager.descriptor("ring-store-chain")), ",count=5000");
    let generation = BROKERS + 1;
    says(&last, &format!("{NAME} gen {generation} (adopted"));
    let socket = paths::socket_path(&env.run_dir(), NAME);
    let published = Daemon { process: last, name: NAME.into(), socket }.published();
    for (slot, mut reader) in readers.into_iter().enumerate() {
        let status = reader.wait();
        assert!(status.success(), "reader {slot}: {status}: {}", reader.stderr());
        let report = mailbox.slot(slot).take();
        report.check(published).unwrap();
        assert_eq!(
            (report.start, report.restarts, report.generation),
            (0, BROKERS, generation),
            "reader {slot}"
        );
        assert_eq!(report.delivered + report.lost, published, "reader {slot}");
        eprintln!(
            "reader {slot}: {published} published = {} delivered + {} lost",
            report.delivered, report.lost
        );
    }
    let empty = wait_for(LIMIT, || manager.stored().is_empty().then_some(()));
    assert!(empty.is_some(), "what has ended is let go: {:?}", manager.stored());
}

fn restarted(reader: &mut Reader) -> u64 {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        match reader.next().unwrap() {
            Item::Restarted(restarted) => return restarted.generation,
            Item::Empty => _ = reader.wait(Some(Duration::from_millis(100))).unwrap(),
            Item::Datagram(_) | Item::Gap(_) | Item::Demoted(_) => {}
            Item::Ended(end) => panic!("{end:?}"),
        }
    }
    panic!("it is not notified of the restart");
}

/// A memfd with these bytes, sealed like a stored ring, except for `unsealed`.
fn copied(bytes: &[u8], unsealed: SealFlags) -> OwnedFd {
    let fd =
        rustix::fs::memfd_create("copy", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &fd,
        (SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL) - unsealed,
    )
    .unwrap();
    fd
}

fn bytes_of(ring: OwnedFd) -> Vec<u8> {
    let mut file = File::from(ring);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A descriptor that is not this stream's ring as a broker leaves it is refused with the reason and
/// removed. A fresh ring replaces it, in the store too, and the reader moves there by itself.
/// Control, at the end: a faithful copy is adopted.
#[test]
fn a_foreign_stored_ring_is_refused_and_replaced() {
    let env = Environment::new(2 * LIMIT);
    let manager = Manager::new(&env);
    let serve = |name: &str, depth: &str, pid: &str, passed: Option<(&str, OwnedFd)>| {
        let mut command = ringd(&env, pid);
        command.args([
            "run",
            "--name",
            name,
            "--source",
            "gen:rate=1000/s,size=64",
            "--memory",
            "memfd",
        ]);
        command.args(["--depth", depth, "--max-datagram", "1KiB", "--capacity", "64KiB"]);
        manager.passing(&mut command, passed);
        env.broker_of(name, command)
    };
    const RING: &str = "ring-store-a";
    serve("store-b", "240", "$$", None).process.kill();
    let of_b = manager.descriptor("ring-store-b");
    let mut broker = serve("store-a", "240", "$$", None);
    let mut reader = Options::new("stays").attach(broker.path()).unwrap();
    let first = manager.descriptor(RING);
    let mut generation = 1;
    // Offsets in the header: boot, write cursor.
    let spoilt = |at: usize| {
        let mut bytes = bytes_of(manager.descriptor(RING));
        bytes[at] ^= 1;
        copied(&bytes, SealFlags::empty())
    };
    type Make<'m> = Box<dyn Fn() -> OwnedFd + 'm>;
    let ours = || manager.descriptor(RING);
    let other_mode = || {
        let copy = copied(&bytes_of(ours()), SealFlags::empty());
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o660)).unwrap();
        copy
    };
    let cases: Vec<(&str, &str, Make<'_>)> = vec![
        (
            "no ring at all",
            "not a ring",
            Box::new(|| copied(&vec![0; bytes_of(ours()).len()], SealFlags::empty())),
        ),
        (
            "not even memory",
            "no memory at all",
            Box::new(|| File::open("/dev/null").unwrap().into()),
        ),
        (
            "a file",
            "it is no memfd",
            Box::new(|| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&bytes_of(ours())).unwrap();
                rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).unwrap();
                file.into()
            }),
        ),
        (
            "one that can be made shorter",
            "its seals",
            Box::new(|| copied(&bytes_of(ours()), SealFlags::SHRINK)),
        ),
        ("one that others may open", "mode 0660", Box::new(other_mode)),
        (
            "one for readers",
            // An immutable ring is not filled before it is mapped.
            if may_make_immutable() { "ermission denied" } else { "ad file descriptor" },
            Box::new(|| {
                let ring = ours();
                File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ring)))
                    .unwrap()
                    .into()
            }),
        ),
        ("another stream's", "another stream name", Box::new(|| of_b.try_clone().unwrap())),
        ("of another boot", "another boot", Box::new(move || spoilt(96))),
        ("a damaged one", "contradict", Box::new(move || spoilt(646))),
        ("one of long ago", "out of date", Box::new(|| first.try_clone().unwrap())),
    ];
    for (what, why, make) in cases {
        let passed = make();
        broker.process.kill();
        generation += 1;
        broker = serve("store-a", "240", "$$", Some((RING, passed)));
        let said = broker.process.stderr();
        let fresh = said.contains(&format!("store-a gen {generation},"));
        assert!(
            fresh && said.contains("cannot be adopted and is replaced: ") && said.contains(why),
            "{what}: {said}"
        );
        assert_eq!(restarted(&mut reader), generation, "{what}");
        assert_eq!(manager.stored(), ["ring-store-b", RING], "{what}");
    }
    for (what, depth, pid, why) in [
        ("other sizes", "480", "$$", "bytes, and this stream takes"),
        ("somebody else's", "480", "1", "store-a gen"),
    ] {
        let passed = manager.descriptor(RING);
        broker.process.kill();
        generation += 1;
        broker = serve("store-a", depth, pid, Some((RING, passed)));
        let said = broker.process.stderr();
        assert!(
            said.contains(&format!("store-a gen {generation},")) && said.contains(why),
            "{what}: {said}"
        );
        assert_eq!(restarted(&mut reader), generation, "{what}");
    }
    // The control; and a stored descriptor that no stream claims is removed.
    let copy = copied(&bytes_of(manager.descriptor(RING)), SealFlags::empty());
    broker.process.kill();
    broker = serve("store-a", "480", "$$", Some((RING, copy)));
    assert!(broker.process.stderr().contains("(adopted"), "{}", broker.process.stderr());
    // A copy is not the ring that the reader has mapped: it starts again there, with what is left
    // of the earlier generation.
    assert_eq!([restarted(&mut reader), restarted(&mut reader)], [generation, generation + 1]);
    broker.process.kill();
    broker = serve("store-a", "480", "$$", Some(("ring-store-b", of_b)));
    says(&broker.process, "ring-store-b: stored by the service manager, but no stream claims it");
    let gone = wait_for(LIMIT, || (manager.stored() == [RING]).then_some(()));
    assert!(gone.is_some(), "{:?}", manager.stored());
    broker.end();
    assert!(
        wait_for(LIMIT, || manager.stored().is_empty().then_some(())).is_some(),
        "{:?}",
        manager.stored()
    );
    std::fs::remove_file(paths::lock_path(&env.run_dir(), "store-b")).unwrap();
    std::fs::remove_file(paths::socket_path(&env.run_dir(), "store-b")).unwrap();
}

/// A stream that a reload adds is stored as well, by a sandboxed thread, and one that a reload ends
/// is removed. Controls: a ring with a name is not stored, and without `FDSTORE` nothing is sent.
#[test]
fn reloaded_streams_are_stored_and_removed() {
    let env = Environment::new(LIMIT);
    let manager = Manager::new(&env);
    let file = env.path("ringd.toml");
    let put = |streams: &[(&str, &str)]| {
        let one = |(name, memory): &(&str, &str)| {
            format!(
                "[[stream]]\nname = '{name}'\nsource = 'gen:rate=100/s,size=64'\nmemory = \
                '{memory}'\n"
            )
        };
        std::fs::write(&file, streams.iter().map(one).collect::<String>()).unwrap();
    };
    let stored = |names: &[&str]| {
        let found = wait_for(LIMIT, || (manager.stored() == names).then_some(()));
        assert!(found.is_some(), "{:?} in place of {names:?}", manager.stored());
    };
    put(&[("store-one", "memfd"), ("store-named", "shm")]);
    let start = |fdstore: &str| {
        let mut command = env.command("ringd");
        command.arg("--config").arg(&file).arg("--run-dir").arg(env.run_dir());
        manager.passing(&mut command, None);
        env.start({
            command.env("FDSTORE", fdstore);
            command
        })
    };
    let mut broker = start("8");
    says(&broker, "store-named gen");
    stored(&["ring-store-one"]);
    put(&[("store-two", "memfd"), ("store-one", "memfd"), ("store-named", "shm")]);
    broker.signal(Signal::HUP);
    says(&broker, "store-two gen 1");
    stored(&["ring-store-one", "ring-store-two"]);
    assert!(
        !broker.stderr().contains("not immutable") || !may_make_immutable(),
        "{}",
        broker.stderr()
    );
    put(&[("store-two", "memfd"), ("store-named", "shm")]);
    broker.signal(Signal::HUP);
    stored(&["ring-store-two"]);
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
    stored(&[]);
    let sent =
        |store: &Store| store.messages.iter().filter(|text| text.starts_with("FDSTORE=1")).count();
    assert_eq!(sent(&manager.store.lock().unwrap()), 2);
    for none in ["0", ""] {
        let mut broker = start(none);
        says(&broker, "store-two gen");
        assert!(!broker.stderr().contains("stored by the service manager"), "{}", broker.stderr());
        broker.signal(Signal::TERM);
        assert!(broker.wait().success(), "{}", broker.stderr());
        assert_eq!(sent(&manager.store.lock().unwrap()), 2, "the control");
    }
}

/// Which processes can write a stored ring: none, if it could be made immutable; otherwise those of
/// the broker's own user, as documented, and they still cannot make it shorter. Each is the other's
/// control. Another user cannot write it in either case (`memory.rs`, `cli.rs`).
#[test]
fn a_stored_ring_cannot_be_written_if_it_can_be_made_immutable() {
    if !needs_root() || !needs("setpriv") {
        return;
    }
    if !may_make_immutable() {
        return skip("needs CAP_LINUX_IMMUTABLE");
    }
    let env = Environment::new(LIMIT);
    let manager = Manager::new(&env);
    std::os::unix::fs::chown(env.run_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (copy, id) = (env.path("ringd"), NOBODY.to_string());
    programs::copy("ringd", &copy);
    // The kernel's answers with the capability, and without.
    let ways = [
        ("ring: map writable", "EACCES", "EACCES"),
        ("ring: mprotect a read-only mapping", "EACCES", "EACCES"),
        ("ring: write", "EBADF", "EBADF"),
        ("ring: truncate", "EINVAL", "EINVAL"),
        ("ring: reopen through /proc/self/fd", "EPERM", "ok"),
        ("ring: chmod", "EPERM", "ok"),
        ("ring reopened: map writable", "", "ok"),
        ("ring reopened: write", "", "ok"),
        ("broker: open its memory", "EACCES", "EACCES"),
        ("broker: look at its fds", "EACCES", "EACCES"),
    ];
    for (name, may) in [("store-shut", true), ("store-open", false)] {
        let mut command = env.command_at("setpriv".as_ref());
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        if may {
            command.args(["--inh-caps", "+linux_immutable", "--ambient-caps", "+linux_immutable"]);
        }
        command.arg(&copy).args([
            "run",
            "--name",
            name,
            "--source",
            "gen:rate=max,count=10",
            "--linger",
            "forever",
        ]);
        command.args(["--max-datagram", "2KiB", "--depth", "64", "--memory", "memfd"]);
        manager.passing(&mut command, None);
        let broker = env.broker_of(name, command);
        let said = broker.process.stderr();
        assert_eq!(said.contains("(stored by the service manager)"), may, "{said}");
        assert_eq!(
            said.contains("(stored by the service manager, not immutable: "),
            !may,
            "{said}"
        );
        assert!(said.contains("no capabilities"), "what it took it gives up: {said}");
        let mut pry = env.command_as_nobody("ringtest-pry");
        pry.arg(broker.path())
            .args(["--broker", &broker.process.pid().to_string()])
            .stdout(Stdio::piped());
        let pry = env.start(pry).output();
        assert!(pry.status.success(), "{}", String::from_utf8_lossy(&pry.stderr));
        let tried = String::from_utf8(pry.stdout).unwrap();
        for (way, shut, open) in ways {
            let answer = if may { shut } else { open };
            let found = tried.contains(&format!("{way} = {answer}\n"))
                || answer.is_empty() && !tried.contains(way);
            assert!(found, "{name}: {way} should be {answer:?}:\n{tried}");
        }
        broker.end();
    }
}
