//! What programs inherit when they are started: ignored signals, limits, masks, groups; and signals
//! that come twice.

use ringweir_harness::environment::{Environment, Process, wait_for};
use ringweir_harness::programs;
use ringweir_needs::{needs, needs_root};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

/// `ringd run --name NAME` behind a line of shell, in this run directory.
fn ringd(env: &Environment, before: &str, name: &str, more: &[&str]) -> Command {
    let mut command = env.command_at("bash".as_ref());
    command.args(["-ec", &format!("{before}\nexec \"$@\""), "-"]);
    command.arg(programs::path("ringd")).arg("--run-dir").arg(env.run_dir());
    command.args(["run", "--name", name, "--source", "gen:rate=1000/s,size=64"]).args(more);
    command.stdout(Stdio::null());
    command
}

fn is_up(env: &Environment, name: &str, process: &Process) {
    let socket = env.run_dir().join(format!("{name}.sock"));
    let there = wait_for(SOON, || socket.exists().then_some(()));
    assert!(there.is_some(), "{}", process.stderr());
}

/// Under `nohup` a broker survives its terminal. Control: without it the same signal ends it in
/// good order.
#[test]
fn nohup_is_respected() {
    let env = Environment::new(LIMIT);
    for (before, survives) in [("trap '' HUP", true), ("", false)] {
        let mut broker = env.start(ringd(&env, before, "starts-hup", &[]));
        is_up(&env, "starts-hup", &broker);
        broker.signal(Signal::HUP);
        if survives {
            // It answers after the signal.
            let read = env.run("ringcat", &["starts-hup", "-n", "5"]);
            assert!(read.status.success() && broker.ended().is_none(), "{}", broker.stderr());
            broker.signal(Signal::TERM);
        }
        assert_eq!(broker.wait().code(), Some(0), "{}", broker.stderr());
    }
}

/// The same request twice, as `timeout` in a process group makes it, ends a broker in good order.
#[test]
fn two_signals_at_once_are_one_request() {
    let env = Environment::new(LIMIT);
    for round in 0..10 {
        let mut broker = env.start(ringd(&env, "", "starts-twice", &[]));
        is_up(&env, "starts-twice", &broker);
        broker.signal(Signal::TERM);
        std::thread::sleep(Duration::from_micros(200 * round));
        if broker.ended().is_none() {
            broker.signal(Signal::TERM);
        }
        assert_eq!(broker.wait().code(), Some(0), "{}", broker.stderr());
        assert!(broker.stderr().contains("starts-twice ended"), "{}", broker.stderr());
        assert!(env.left().iter().all(|p| p.extension().is_none_or(|e| e != "sock")));
    }
}

/// A program that cannot end in good order, because its output is full and nobody reads it, ends at
/// once by a second signal, but not by one that comes with the first.
#[test]
fn a_later_signal_ends_a_blocked_program() {
    let env = Environment::new(LIMIT);
    let mut command = env.command("ringgen");
    command.args(["--rate", "100MB/s", "--size", "1000"]).stdout(Stdio::piped());
    let mut blocked = env.start(command);
    let _unread = blocked.stdout().unwrap();
    let sleeps = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/wchan", blocked.pid())).ok()?;
        stat.contains("pipe").then_some(())
    };
    // Without a readable wchan a while is enough.
    let _blocked = wait_for(Duration::from_secs(5), sleeps);
    blocked.signal(Signal::TERM);
    blocked.signal(Signal::TERM);
    std::thread::sleep(Duration::from_secs(1));
    assert!(blocked.ended().is_none(), "two signals at once are one request");
    blocked.signal(Signal::TERM);
    let status = blocked.wait();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}");
}

/// A run directory that ringd makes is open to the group of a socket in it, whatever the umask. One
/// that an administrator closed is named by the error.
#[test]
fn a_umask_does_not_close_the_run_directory() {
    if !needs_root() || !needs("setpriv") {
        return;
    }
    let env = Environment::new(LIMIT);
    let place = Path::new("/run").join(format!("ringweir-test-{}", std::process::id()));
    std::fs::create_dir(&place).unwrap();
    let dir = place.join("run");
    let script = "umask 077; exec \"$@\"";
    let mut command = env.command_at("bash".as_ref());
    command.args(["-ec", script, "-"]).arg(programs::path("ringd")).arg("--run-dir").arg(&dir);
    command.args(["run", "--name", "starts-umask", "--source", "gen:rate=1000/s,size=64"]);
    command.args(["--socket-mode", "666", "--allow-uid", "65534"]).stdout(Stdio::null());
    let mut broker = env.start(command);
    let socket = dir.join("starts-umask.sock");
    assert!(wait_for(SOON, || socket.exists().then_some(())).is_some(), "{}", broker.stderr());
    let read = |env: &Environment| {
        let mut command = env.command_as_nobody("ringcat");
        command.arg(&socket).args(["-n", "1"]).stdout(Stdio::null());
        env.start(command).output()
    };
    let first = read(&env);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    std::process::Command::new("chmod").arg("700").arg(&dir).status().unwrap();
    let refused = String::from_utf8_lossy(&read(&env).stderr).into_owned();
    assert!(refused.contains("is closed to this user"), "{refused}");
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
    std::fs::remove_dir_all(&place).unwrap();
}

/// A file size limit below the ring, which counts for shared memory too, is an error that names it.
#[test]
fn a_file_size_limit_is_named() {
    let env = Environment::new(LIMIT);
    for memory in ["shm", "memfd"] {
        let more = ["--capacity", "8MiB", "--memory", memory];
        let output = env.start(ringd(&env, "ulimit -f 1024", "starts-size", &more)).output();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{memory}: {text}");
        assert!(text.contains("ulimit -f") && text.contains("1048576 bytes"), "{memory}: {text}");
        assert!(env.objects().is_empty(), "{memory}: {:?}", env.objects());
    }
}

/// A control group with less memory than the ring refuses the start by name. Control: a small ring
/// starts there.
#[test]
fn a_memory_limit_below_the_ring_is_named() {
    if !needs_root() {
        return;
    }
    let Some(group) = MemoryGroup::new(64 << 20) else {
        ringweir_needs::skip("needs a memory controller for control groups (mounted, writable)");
        return;
    };
    let env = Environment::new(LIMIT);
    let enter = format!("echo $$ > {}/cgroup.procs", group.dir);
    let large = env.start(ringd(&env, &enter, "starts-group", &["--capacity", "256MiB"])).output();
    let text = String::from_utf8_lossy(&large.stderr).into_owned();
    assert_eq!(large.status.code(), Some(1), "{text}");
    assert!(text.contains("control group") && text.contains("67108864 bytes"), "{text}");
    let mut small = env.start(ringd(&env, &enter, "starts-group", &["--capacity", "8MiB"]));
    is_up(&env, "starts-group", &small);
    small.signal(Signal::TERM);
    assert!(small.wait().success(), "{}", small.stderr());
}

struct MemoryGroup {
    dir: String,
}

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Self { dir: format!("{root}/ringweir-test-{}", std::process::id()) };
            if std::fs::create_dir(&group.dir).is_ok()
                && std::fs::write(format!("{}/{file}", group.dir), limit.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process may still be leaving.
        let _gone = wait_for(SOON, || std::fs::remove_dir(&self.dir).ok());
    }
}

/// A configuration file that has become a pipe or very large changes nothing, and the broker
/// continues to serve. A kind of source for which no right was kept is refused with what to do.
#[test]
fn reloads_that_cannot_work_are_refused_by_name() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let file = env.path("config.toml");
    let stream =
        |name: &str, source: &str| format!("[[stream]]\nname = '{name}'\nsource = '{source}'\n");
    let first = stream("starts-reload", "gen:rate=1000/s,size=64");
    std::fs::write(&file, &first).unwrap();
    let mut command = env.command("ringd");
    command.arg("--run-dir").arg(env.run_dir()).arg("--config").arg(&file);
    let mut broker = env.start(command);
    is_up(&env, "starts-reload", &broker);
    let reload = || {
        let done = env.run("ringctl", &["reload", "starts-reload"]);
        let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        (done.status.success(), text)
    };
    assert!(reload().0, "the control: the same file again");

    std::fs::remove_file(&file).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, mode).unwrap();
    let (done, text) = reload();
    assert!(!done && text.contains("not a regular file"), "{text}");

    std::fs::remove_file(&file).unwrap();
    std::fs::File::create(&file).unwrap().set_len(3 << 30).unwrap();
    let (done, text) = reload();
    assert!(!done && text.contains("more than 1048576 bytes"), "{text}");

    let more = format!("{first}{}", stream("starts-packet", "packet:lo"));
    std::fs::write(&file, more).unwrap();
    let (done, text) = reload();
    assert!(!done && text.contains("later = [\"packet\"]"), "{text}");

    let read = env.run("ringcat", &["starts-reload", "-n", "5", "--verify"]);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    broker.signal(Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr());
}
