//! `ringctl gc`: it removes what dead brokers left and nothing else, and a broker that starts
//! meanwhile keeps its ring.

use ringweir_harness::{Environment, wait_for};
use ringweir_needs::{Part, is_root};
use ringweir_proto::os::paths;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const SMALL: &[&str] = &["--depth", "64", "--capacity", "64KiB", "--max-datagram", "1KiB"];

fn gc(env: &Environment, args: &[&str]) -> (i32, String, String) {
    let output = env.run("ringctl", &[&["gc"], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit"), text(output.stdout), text(output.stderr))
}

/// Starts a broker and kills it: ring, socket and lock file stay.
fn corpse(env: &Environment, name: &str) -> [PathBuf; 3] {
    let mut broker = env.broker(name, "gen:rate=100/s,size=64", SMALL);
    broker.process.kill();
    let ring = PathBuf::from(format!("/dev/shm{}", paths::object_name(&env.run_dir(), name)));
    let left =
        [ring, paths::socket_path(&env.run_dir(), name), paths::lock_path(&env.run_dir(), name)];
    assert!(left.iter().all(|p| p.exists()), "a killed broker leaves all three: {left:?}");
    left
}

#[test]
fn files_of_dead_brokers_are_removed_and_running_ones_keep_theirs() {
    let env = Environment::new(LIMIT);
    let live = env.broker("gc-live", "gen:rate=1000/s,size=64", SMALL);
    let dead = corpse(&env, "gc-dead");
    let bytes = std::fs::metadata(&dead[0]).unwrap().blocks() * 512;

    let (status, out, _) = gc(&env, &["--dry-run"]);
    assert_eq!((status, out.matches("would remove  ").count()), (0, 3), "{out}");
    assert!(dead.iter().all(|p| p.exists()), "{out}");

    let (status, out, _) = gc(&env, &["--json"]);
    assert_eq!(status, 0);
    let rows: Vec<serde_json::Value> =
        out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let paths_of = |action: &str| -> Vec<&str> {
        rows.iter().filter(|r| r["action"] == action).map(|r| r["path"].as_str().unwrap()).collect()
    };
    assert_eq!(paths_of("removed"), dead.each_ref().map(|p| p.to_str().unwrap()));
    assert_eq!(paths_of("live").len(), 3, "{out}");
    assert!(
        rows.iter().any(|r| r["kind"] == "ring" && r["stream"] == "gc-dead" && r["bytes"] == bytes),
        "{out}"
    );
    assert!(dead.iter().all(|p| !p.exists()));

    let (status, out, said) = gc(&env, &[]);
    assert!(status == 0 && !out.contains("removed"), "{out}");
    assert!(said.contains("nothing to remove"), "{said}");
    // The running one is intact: it accepts a reader, which verifies the stream.
    let read = env.run("ringcat", &["gc-live", "-n", "50", "--verify"]);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    live.end();
}

/// Files that only look like ours stay, and gc does not hang on them. Control: the dead broker's
/// files beside them are removed.
#[test]
fn files_that_only_look_like_ours_are_kept() {
    let env = Environment::new(LIMIT);
    let dead = corpse(&env, "gc-real");
    let shm =
        |name: &str| PathBuf::from(format!("/dev/shm{}", paths::object_name(&env.run_dir(), name)));
    let run = |name: &str| env.run_dir().join(name);
    let target = env.path("target");
    std::fs::write(&target, "precious").unwrap();
    let fifo = |path: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("mkfifo");
    };
    std::fs::write(shm("gc-foreign"), [b'X'; 8192]).unwrap();
    fifo(&shm("gc-fifo"));
    std::os::unix::fs::symlink(&target, shm("gc-link")).unwrap();
    std::fs::create_dir(shm("gc-dir")).unwrap();
    let similar = PathBuf::from(format!("{}~", shm("gc-real").display()));
    std::fs::write(&similar, "not exactly ours").unwrap();
    std::fs::write(run("gc-file.sock"), "a file").unwrap();
    std::fs::write(run("gc-word.lock"), "my own notes").unwrap();
    // Like other programs' lock files.
    std::fs::write(run("gc-pid.lock"), "12345\n").unwrap();
    std::fs::write(run("gc-empty.lock"), "").unwrap();
    std::os::unix::fs::symlink(&target, run("gc-link.lock")).unwrap();
    fifo(&run("gc-fifo.lock"));
    drop(std::os::unix::net::UnixListener::bind(run("gc-lone.sock")).unwrap());
    let mut kept = vec![shm("gc-foreign"), shm("gc-fifo"), shm("gc-link"), shm("gc-dir")];
    kept.extend(
        ["gc-file.sock", "gc-word.lock", "gc-link.lock", "gc-fifo.lock", "gc-lone.sock"].map(run),
    );
    kept.extend(["gc-pid.lock", "gc-empty.lock"].map(run));
    if Part("objects of other users").needs_root() {
        // Of another user: with its own name, and with a name that looks like ours.
        let theirs = PathBuf::from(
            shm("gc-theirs").to_str().unwrap().replace("ringweir.0.", "ringweir.65534."),
        );
        for path in [&theirs, &shm("gc-planted")] {
            std::fs::write(path, [0; 4096]).unwrap();
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
        kept.extend([theirs, shm("gc-planted")]);
    }

    let (status, out, _) = gc(&env, &[]);
    assert_eq!(status, 0, "{out}");
    for path in &kept {
        let line = out.lines().find(|l| l.contains(&format!("{}  ", path.display())));
        assert!(line.is_some_and(|l| l.starts_with("kept")), "{path:?}: {line:?}\n{out}");
        assert!(rustix::fs::lstat(path).is_ok(), "{path:?} is gone");
    }
    assert!(similar.exists() && !out.contains(similar.to_str().unwrap()), "{out}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    assert!(dead.iter().all(|p| !p.exists()), "the real one went: {out}");

    if is_root() {
        // Root may ask for all users: the half-made files of a broker of user nobody are removed, a
        // file that lies about its owner stays.
        let (_, out, _) = gc(&env, &["--all-users"]);
        let theirs = &kept[kept.len() - 2];
        assert!(
            out.contains(&format!("removed  {}", theirs.display())) && !theirs.exists(),
            "{out}"
        );
        assert!(shm("gc-planted").exists(), "{out}");
    }
    std::fs::remove_dir(shm("gc-dir")).unwrap();
    for path in kept.iter().chain([&similar]) {
        let _gone = std::fs::remove_file(path);
    }
}

/// A live ring whose lock file and socket were removed is still held by its broker.
#[test]
fn a_live_ring_without_its_lock_file_is_kept() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("gc-bare", "gen:rate=1000/s,size=64", SMALL);
    let ring = env.objects();
    std::fs::remove_file(paths::lock_path(&env.run_dir(), "gc-bare")).unwrap();
    std::fs::remove_file(&broker.socket).unwrap();
    let (status, out, _) = gc(&env, &["--json"]);
    assert!(status == 0 && out.contains("a broker holds it") && !out.contains("removed"), "{out}");
    assert_eq!(env.objects(), ring);
    broker.end();
}

/// The run directory is gone: its rings are reported, and removed when it is named. This does not
/// create it again.
#[test]
fn rings_of_a_missing_run_directory_are_removed_when_it_is_named() {
    let env = Environment::new(LIMIT);
    let [ring, socket, lock] = corpse(&env, "gc-old");
    let elsewhere = env.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_file(socket).unwrap();
    std::fs::remove_file(lock).unwrap();
    let dir = env.run_dir();
    std::fs::remove_dir(&dir).unwrap();
    let (_, out, _) = gc(&env, &["--run-dir", elsewhere.to_str().unwrap()]);
    let line = out.lines().find(|l| l.contains(ring.to_str().unwrap())).expect("it is said");
    assert!(line.starts_with("kept") && line.contains("--run-dir DIR"), "{line}");
    let (status, out, _) = gc(&env, &["--run-dir", dir.to_str().unwrap()]);
    assert!(status == 0 && out.starts_with("removed") && !ring.exists() && !dir.exists(), "{out}");
    std::fs::create_dir(&dir).unwrap();
}

/// A sweeper that asks the socket and takes no lock: the negative control of the race below.
fn naive_sweep(dir: &Path, name: &str) {
    let socket = paths::socket_path(dir, name);
    let dead = std::os::unix::net::UnixStream::connect(&socket)
        .is_err_and(|e| e.raw_os_error() != Some(rustix::io::Errno::PROTOTYPE.raw_os_error()));
    if dead {
        let _gone = std::fs::remove_file(format!("/dev/shm{}", paths::object_name(dir, name)));
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts and kills brokers with one name while `sweep` runs without pause; returns how many lost
/// their fresh ring or socket.
fn losses(
    env: &Environment,
    name: &str,
    limit: Duration,
    least: u32,
    sweep: &(dyn Fn() + Sync),
) -> (u32, u32) {
    let ring = PathBuf::from(format!("/dev/shm{}", paths::object_name(&env.run_dir(), name)));
    let over = AtomicBool::new(false);
    let sweeps = AtomicU64::new(0);
    let socket = paths::socket_path(&env.run_dir(), name);
    let whole = || {
        ring.exists()
            && socket.symlink_metadata().is_ok_and(|m| m.file_type().is_socket())
            && paths::lock_path(&env.run_dir(), name).exists()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    sweep();
                    sweeps.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also if a broker does not start: otherwise the sweepers would run for ever.
        let _ends = Ends(&over);
        let began = Instant::now();
        let (mut rounds, mut lost) = (0, 0);
        while began.elapsed() < limit || rounds < least {
            // A large ring, so that there is time between its creation and listening.
            let mut command = env.command("ringd");
            command.args([
                "run",
                "--name",
                name,
                "--source",
                "gen:rate=100/s,size=64",
                "--capacity",
                "32MiB",
            ]);
            let mut broker = env.start(command);
            // A refused mlock is an "os error" in its log, and no failure.
            let line = format!("{name} gen ");
            let decided =
                || (broker.stderr().contains(&line) || broker.ended().is_some()).then_some(());
            wait_for(Duration::from_secs(20), decided).expect("the broker starts or fails");
            let before = sweeps.load(Ordering::Relaxed);
            let fine = whole();
            wait_for(Duration::from_secs(10), || {
                (sweeps.load(Ordering::Relaxed) > before + 2).then_some(())
            });
            if !(fine && whole()) {
                lost += 1;
                eprintln!("lost: {}", broker.stderr().trim());
            }
            match broker.ended() {
                Some(status) => assert!(!status.success(), "{status}: {}", broker.stderr()),
                None => broker.kill(),
            }
            rounds += 1;
        }
        (rounds, lost)
    })
}

#[test]
fn a_broker_that_starts_while_gc_runs_keeps_its_ring() {
    let env = Environment::new(LIMIT);
    let ringctl = ringweir_harness::programs::path("ringctl");
    let run_dir = env.run_dir();
    let removed = AtomicU64::new(0);
    let sweep = || {
        let output = Command::new(&ringctl)
            .arg("gc")
            .env(paths::RUN_DIR_ENV, &run_dir)
            .output()
            .expect("ringctl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).matches("removed  ").count();
        removed.fetch_add(lines as u64, Ordering::Relaxed);
    };
    let (rounds, lost) = losses(&env, "gc-race", Duration::from_secs(8), 10, &sweep);
    eprintln!(
        "{rounds} brokers started and killed under gc, which removed {removed:?} things; {lost} \
        lost theirs"
    );
    assert_eq!(lost, 0, "of {rounds}");
    assert!(removed.load(Ordering::Relaxed) > 0, "gc had something to do");
    gc(&env, &[]);

    let (rounds, lost) =
        losses(&env, "gc-naive", Duration::from_secs(2), 5, &|| naive_sweep(&run_dir, "gc-naive"));
    eprintln!("control, no lock taken: {lost} of {rounds} brokers lost their ring");
    assert!(lost > 0, "the check would not notice a lost ring ({rounds} rounds)");
    gc(&env, &[]);
}
