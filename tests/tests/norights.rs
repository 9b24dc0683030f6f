//! Missing space or rights: either the start is refused, with one line that names the value and the
//! remedy, and leaves nothing behind; or the broker runs with less and reports that in one line.
//! Control of all: the same start with enough space and rights.

use ringweir_harness::environment::{Environment, wait_for};
use ringweir_harness::programs;
use ringweir_needs::{Part, needs, needs_mount_namespaces, needs_root};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `ringd run …` behind `front`, in a shell that first runs `before`.
fn ringd(env: &Environment, front: &[&str], before: &str, more: &[&str]) -> Command {
    let script = format!("{before}\nexec \"$@\"");
    let words = [front, &["bash", "-ec", &script, "-"]].concat();
    let mut command = env.command_at(words[0].as_ref());
    command.args(&words[1..]).arg(programs::path("ringd")).arg("--run-dir").arg(env.run_dir());
    command
        .args(["run", "--name", "service-nr", "--source", "gen:rate=1000/s,size=64,count=2000"])
        .args(more);
    command.stdout(Stdio::piped());
    command
}

/// An impossible start is refused at once, in a line or two, and leaves nothing behind.
#[test]
fn impossible_starts_are_refused() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    if !needs_mount_namespaces() {
        return;
    }
    let mount: &[&str] = &["unshare", "--mount", "--propagation", "private"];
    let shm = |options: &str| format!("mount -t tmpfs -o {options} tmpfs /dev/shm");
    let full = "mount -t tmpfs -o size=1m tmpfs /dev/shm; head -c 1048576 /dev/zero > \
        /dev/shm/full \
        || true";
    let read_only =
        format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}", env.run_dir().display());
    let long = format!("{}/{}", env.run_dir().display(), "d".repeat(90));
    std::fs::create_dir(&long).unwrap();
    let cases: &[(&str, &str, &[&str], &[&str])] = &[
        ("a full /dev/shm", full, &[], &["no room in /dev/shm", "--capacity", "remount,size="]),
        ("a small /dev/shm", &shm("size=4m"), &["--capacity", "64MiB"], &["no room in /dev/shm"]),
        ("a read-only /dev/shm", &shm("ro"), &[], &["/dev/shm", "Read-only file system"]),
        ("a read-only run directory", &read_only, &[], &["run directory", "--run-dir"]),
        ("a name that is too long", "", &["--name", &"n".repeat(65)], &["stream name", "1 to 64"]),
        ("a path that is too long", "", &["--run-dir", &long], &["at most 107 bytes"]),
        ("descriptors for nothing", "ulimit -n 12", &[], &["open files", "ulimit -n"]),
    ];
    for (what, before, more, says) in cases {
        // If an option is given twice, the last one counts.
        let mut command = ringd(&env, mount, before, &[]);
        let given = ["--name", "--run-dir"].iter().find(|option| more.first() == Some(option));
        if given.is_some() {
            command = ringd_but(&env, more);
        } else {
            command.args(*more);
        }
        let output = env.start(command).output();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(says.iter().all(|words| text.contains(words)), "{what}: {text}");
        assert!(text.lines().count() <= 2, "{what}: {text}");
        assert!(env.objects().is_empty(), "{what}: {:?}", env.objects());
        let left: Vec<_> = env.left().into_iter().filter(|p| !p.is_dir()).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
    std::fs::remove_dir(&long).unwrap();
    let output = env.start(ringd(&env, mount, "", &[])).output();
    assert!(
        output.status.success() && said(&output).contains("ended: 2000 datagrams"),
        "the control: {}",
        said(&output)
    );
}

/// With another name or another run directory.
fn ringd_but(env: &Environment, more: &[&str]) -> Command {
    let mut command = env.command("ringd");
    let dir = env.run_dir().display().to_string();
    let (name, run_dir) =
        if more[0] == "--name" { (more[1], dir.as_str()) } else { ("service-nr", more[1]) };
    command.args([
        "--run-dir",
        run_dir,
        "run",
        "--name",
        name,
        "--source",
        "gen:rate=10/s,size=64",
    ]);
    command.stdout(Stdio::piped());
    command
}

/// Name, starting program, shell commands before the start, options, expected message.
type Lesser<'c> = (&'c str, &'c [&'c str], &'c str, &'c [&'c str], &'c str);

/// What only costs speed is reported in one line, and the stream runs: its reader receives
/// everything.
#[test]
fn a_broker_with_fewer_rights_warns_and_runs() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let without = |capability: &'static str| ["setpriv", "--bounding-set", capability];
    let (no_lock, no_nice) = (without("-ipc_lock"), without("-sys_nice"));
    let plain: &[&str] = &["env"];
    let cases: &[Lesser<'_>] = &[
        ("RLIMIT_MEMLOCK", &no_lock, "ulimit -l 64", &[], "mlock refused"),
        (
            "RLIMIT_RTPRIO",
            &no_nice,
            "ulimit -r 0",
            &[],
            "sched OTHER (for real time: chrt -f 60 ringd …)",
        ),
        ("no huge pages", plain, ":", &["--hugepages", "--memory", "memfd"], "--hugepages: "),
        ("RLIMIT_NOFILE", plain, "ulimit -n 300", &[], "300 open files are allowed"),
        ("the control", plain, ":", &[], "mlock ok"),
    ];
    for (what, front, before, more, says) in cases {
        let more = [&["--wait-readers", "1"], *more].concat();
        let mut command = ringd(&env, front, before, &more);
        command.stdout(Stdio::null());
        let broker = env.broker_of("service-nr", command);
        let text = broker.process.stderr();
        if *what == "no huge pages" && !text.contains("--hugepages:") {
            assert!(text.contains("2 MiB pages"), "{text}");
            Part("no huge pages").skip("this machine has free huge pages");
        } else {
            assert!(text.contains(says), "{what}: {text}");
        }
        // One line for each kind of huge page, of which there are two.
        let lines = if *what == "no huge pages" { 2 } else { 1 };
        assert!(text.matches(says).count() <= lines && text.lines().count() <= 3, "{what}: {text}");
        let read = env.run("ringcat", &["service-nr", "--from", "0", "--verify", "-n", "2000"]);
        let verified = String::from_utf8_lossy(&read.stderr).into_owned()
            + &String::from_utf8_lossy(&read.stdout);
        assert!(read.status.success() && verified.contains("2000 right"), "{what}: {verified}");
        assert_eq!(broker.published(), 2000, "{what}");
    }
}

/// The wall clock is set forward by years and back while the stream runs. Rate, sleep and lag use
/// the monotonic clock, and every datagram arrives. Control: the broker does see the clock jump.
#[test]
fn a_clock_jump_changes_only_dates() {
    let library =
        format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    if !needs(&library) {
        return;
    }
    let env = Environment::new(LIMIT);
    let jumps = env.path("jumps");
    std::fs::write(&jumps, "+0").unwrap();
    let mut command = env.command("ringd");
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &jumps)
        .env("FAKETIME_NO_CACHE", "1");
    // Only the wall clock.
    command
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .arg("--no-sandbox");
    command.args([
        "run",
        "--name",
        "service-jump",
        "--source",
        "gen:rate=500/s,size=64,count=3000",
    ]);
    command.args(["--wait-readers", "1", "--linger", "forever"]);
    let broker = env.broker_of("service-jump", command);
    let mut reader = env.command("ringcat");
    reader.args(["service-jump", "--from", "0", "--verify"]).stdout(Stdio::null());
    let reader = env.start(reader);
    let watch = ringweir::view::Viewer::attach(broker.path()).unwrap();
    let at =
        || watch.snapshot().map_or(0, |s| s.pump(ringweir::view::stats::PumpCounter::Published));
    let seen = || {
        watch.snapshot().map_or(0, |s| {
            s.get(ringweir::view::stats::StreamFact::SampledRealtime) / 1_000_000_000
        })
    };
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (mut published, days) = (at(), 86_400);
    for (offset, jump) in [("+1000d", 1000 * days), ("-1000d", -1000 * days), ("+0d", 0)] {
        std::fs::write(&jumps, offset).unwrap();
        let jumped = || (seen().abs_diff(now().saturating_add_signed(jump)) < 3600).then_some(());
        wait_for(LIMIT, jumped).expect("the control: its clock has jumped");
        let before = std::mem::replace(&mut published, at());
        wait_for(LIMIT, || (at() > before.max(published) || at() == 3000).then_some(()))
            .expect("it continues");
    }
    let read = reader.output();
    let text = said(&read);
    assert!(read.status.success() && text.contains("3000 right"), "{text}");
    let ended =
        || broker.process.stderr().contains("ended: 3000 datagrams published").then_some(());
    wait_for(LIMIT, ended).unwrap_or_else(|| panic!("{}", broker.process.stderr()));
    broker.end();
}
