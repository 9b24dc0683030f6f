//! `exec:` with real brokers: what a program gets and does not get, how it is started again and
//! ended, and what is left when any of the processes dies.

#![allow(unsafe_code)]

use ringweir::{Cause, Item, Options, Start, Waited};
use ringweir_harness::{Daemon, Environment, proc, programs, wait_for};
use ringweir_needs::needs_root;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until `enough` datagrams have come; returns them, and how often the source was gone.
fn read(broker: &Daemon, enough: usize) -> (Vec<String>, u64) {
    let mut reader = Options::new("test").start(Start::Oldest).attach(broker.path()).unwrap();
    let (mut got, mut gone) = (Vec::new(), 0);
    while got.len() < enough {
        match reader.next().unwrap() {
            Item::Datagram(mut datagram) => {
                got.push(String::from_utf8(datagram.to_vec().unwrap()).unwrap());
            }
            Item::Gap(gap) if gap.cause == Cause::SourceGone => gone += 1,
            Item::Empty => {
                let waited = reader.wait(Some(PATIENCE)).unwrap();
                assert!(waited != Waited::TimedOut, "{}", broker.process.stderr());
            }
            other => panic!("{other:?} after {got:?}: {}", broker.process.stderr()),
        }
    }
    (got, gone)
}

fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

fn gone(pid: Pid) -> bool {
    wait_for(PATIENCE, || test_kill_process(pid).is_err().then_some(())).is_some()
}

/// The processes whose parent is `pid`, zombies included.
fn children(pid: u32) -> Vec<Pid> {
    let stat = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == pid).then(|| pid_of(entry.file_name().to_str().unwrap_or("0")))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(stat).collect()
}

/// A program is started again and again, under the sandbox, and every datagram is accounted for:
/// each run is whole. Control: `--no-sandbox` does the same, so the sandbox is what is tested.
#[test]
fn a_program_is_started_again_under_the_sandbox() {
    let env = Environment::new(LIMIT);
    let ringgen = programs::path("ringgen");
    for (name, confined, options) in
        [("exec-shut", true, None), ("exec-free", false, Some("--no-sandbox"))]
    {
        let mut command = env.command("ringd");
        command.args(options).args(["run", "--name", name, "--source"]).arg(format!(
            "exec:len32le,restart=always,min-backoff=10ms,max-backoff=20ms:{} --rate max --count \
            500 --size 64",
            ringgen.display()
        ));
        let broker = env.broker_of(name, command);
        let mut reader = Options::new("test").start(Start::Oldest).attach(broker.path()).unwrap();
        let (mut got, mut gone) = (0, Vec::new());
        while gone.len() < 3 {
            match reader.next().unwrap() {
                Item::Datagram(_) => got += 1,
                Item::Gap(gap) if gap.cause == Cause::SourceGone => gone.push(got),
                Item::Empty => {
                    assert!(reader.wait(Some(PATIENCE)).unwrap() != Waited::TimedOut);
                }
                other => panic!("{other:?}: {}", broker.process.stderr()),
            }
        }
        assert_eq!(gone, [500, 1000, 1500], "{}", broker.process.stderr());
        assert_eq!(broker.process.stderr().contains("confined: "), confined);
        assert_eq!(children(broker.process.pid()).len(), 1, "the spawner");
        broker.end();
    }
}

/// The program gets 0, 1 and 2 (3 is what lists them), a session and group of its own, every
/// signal as by default, and
/// nothing that was meant for the broker. Control: the broker itself has all of it.
#[test]
fn a_program_gets_nothing_of_the_broker() {
    let env = Environment::new(LIMIT);
    let script = env.path("report");
    std::fs::write(
        &script,
        "#!/bin/sh\n\
        echo fds $(ls /proc/self/fd); readlink /proc/$$/fd/0\n\
        grep -E 'SigBlk|SigIgn' /proc/self/status\n\
        echo session $(ps -o pid=,pgid=,sid=,tty= $$)\n\
        echo class $(ps -o cls= $$)\n\
        echo own \"$NOTIFY_SOCKET$LISTEN_PID$WATCHDOG_USEC\" $KEPT\n\
        sleep 1000\n",
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let real_time = needs_root();
    let mut command = if real_time {
        let mut command = env.command_at("chrt".as_ref());
        command.args(["-f", "5"]).arg(programs::path("ringd"));
        command
    } else {
        env.command("ringd")
    };
    let source = format!("exec:lines:{}", script.display());
    command.args(["run", "--name", "exec-clean", "--source", &source]);
    command.env("NOTIFY_SOCKET", env.path("none")).env("WATCHDOG_USEC", "9000000");
    command.env("LISTEN_PID", "1").env("KEPT", "kept");
    // A descriptor that ringd inherits.
    let file = std::fs::File::open("/dev/zero").unwrap();
    let inherit = move || {
        // SAFETY: the child has no descriptor 9 that anything owns.
        match unsafe { libc::dup2(file.as_raw_fd(), 9) } {
            9 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: one async-signal-safe system call between fork and exec.
    unsafe { command.pre_exec(inherit) };
    let broker = env.broker_of("exec-clean", command);
    let pid = broker.process.pid();
    assert!(std::fs::exists(format!("/proc/{pid}/fd/9")).unwrap(), "control");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("SigIgn:\t0000000000000000"), "control: SIGPIPE: {status}");

    let (lines, _) = read(&broker, 7);
    assert_eq!(
        lines[..4],
        ["fds 0 1 2 3", "/dev/null", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]
    );
    let ids: Vec<_> = lines[4].split(' ').collect();
    assert!(ids[1] == ids[2] && ids[2] == ids[3] && ids[4] == "?", "{}", lines[4]);
    assert_eq!(lines[5..], ["class TS", "own  kept"]);
    if real_time {
        assert!(broker.process.stderr().contains("sched FIFO/5 ok"), "control");
    }
    broker.end();
}

/// However the broker ends, the program ends too, even one that ignores SIGTERM and has children.
/// A stop takes no longer than asked. Control: all of them live while the broker does.
#[test]
fn no_program_outlives_its_broker() {
    let mut env = Environment::new(LIMIT);
    // The killed one leaves its ring.
    env.untidy = true;
    let source = "exec:lines,kill-after=300ms:sh -c 'trap \"\" TERM; sleep 1000 & echo $!; \
        echo $$; sh -c \"echo \\$\\$; sleep 1000; echo\"'";
    for (name, killed) in [("exec-end", false), ("exec-killed", true)] {
        let mut broker = env.broker(name, source, &[]);
        let spawner = children(broker.process.pid());
        let (lines, _) = read(&broker, 3);
        let all: Vec<Pid> = lines.iter().map(|l| pid_of(l)).chain(spawner).collect();
        assert_eq!(all.len(), 4, "control");
        assert!(all.iter().all(|pid| test_kill_process(*pid).is_ok()), "control");
        if killed {
            broker.process.kill();
        } else {
            let begun = Instant::now();
            broker.end();
            assert!(begun.elapsed() > Duration::from_millis(300), "control: SIGTERM was ignored");
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert!(all.iter().all(|pid| gone(*pid)), "{all:?}");
    }
}

/// If the spawner is killed, the program dies with it and the stream fails with the reason. Nothing
/// is left. Control: if the program is killed, it is started again.
#[test]
fn a_killed_program_is_replaced_and_a_killed_spawner_ends_the_stream() {
    let env = Environment::new(LIMIT);
    let source = "exec:lines,restart=failure,min-backoff=1ms:sh -c 'echo $$; exec sleep 1000'";
    let mut broker = env.broker("exec-kill", source, &["--linger", "1s"]);
    let (first, _) = read(&broker, 1);
    kill_process(pid_of(&first[0]), Signal::KILL).unwrap();
    let (lines, times_gone) = read(&broker, 2);
    assert_eq!(times_gone, 1);
    assert!(gone(pid_of(&lines[0])));
    let why = "signal: 9 (SIGKILL); it is started again in 1 ms";
    wait_for(PATIENCE, || broker.process.stderr().contains(why).then_some(())).expect(why);

    let [spawner] = children(broker.process.pid())[..] else { panic!("one spawner") };
    kill_process(spawner, Signal::KILL).unwrap();
    assert_eq!(broker.process.wait().code(), Some(1));
    let said = broker.process.stderr();
    assert!(said.contains("the process that starts it was killed"), "{said}");
    assert!(gone(pid_of(&lines[1])) && gone(spawner));
}

/// A program that floods both of its outputs keeps neither the stream nor other streams of the
/// broker, and what it writes to its standard error cannot take over a terminal.
#[test]
fn a_flood_of_error_output_is_bounded() {
    let env = Environment::new(LIMIT);
    let source = "exec:lines:sh -c 'printf \"\\033[2J\\n\" >&2; yes flood >&2 & i=0; \
        while sleep 0.01; do i=$((i+1)); echo $i; done'";
    let broker = env.broker("exec-flood", source, &[]);
    let (lines, _) = read(&broker, 50);
    assert_eq!(lines[49], "50");
    let said = broker.process.stderr();
    assert!(said.contains("exec-flood: sh: ?[2J") && !said.contains('\u{1b}'), "{said}");
    let shown = said.lines().filter(|l| l.contains("flood: sh: ")).count();
    assert!((20..200).contains(&shown) && said.contains("(after "), "{shown} lines: {said}");
    assert_eq!(proc::state(broker.process.pid()).map(|s| s != 'Z'), Some(true));
    broker.end();
}

/// What is wrong is said at the start, with the program's name. Control: the same without the fault
/// starts.
#[test]
fn a_program_that_cannot_start_refuses_the_start() {
    let env = Environment::new(LIMIT);
    let run = env.run_dir();
    for (source, why) in [
        ("exec:lines:./no-such-tool", "./no-such-tool: it cannot be started: No such file"),
        ("exec:lines,restart=always:/etc/passwd", "is it an executable file (chmod +x)?"),
        ("exec:lines:no-such-tool-anywhere", "there is no such program in $PATH"),
        ("exec:lines:sh -c 'unclosed", "not closed"),
        ("exec:./tool", "unknown framing"),
    ] {
        let args = ["--run-dir", run.to_str().unwrap(), "run", "--name", "x", "--source", source];
        let refused = env.run("ringd", &args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && said.contains("usage: exec:"), "{said}");
    }
    let broker = env.broker("x", "exec:lines:echo hello", &[]);
    assert_eq!(broker.published(), 1, "control");
}

/// A reload cannot start a program, says so, and continues. It can end one. Control: a stream of
/// another kind is added by the same reload.
#[test]
fn a_reload_starts_no_program() {
    let env = Environment::new(LIMIT);
    let file = env.path("streams.toml");
    let stream = |name: &str, source: &str| {
        format!("[[stream]]\nname = '{name}'\nsource = '''{source}'''\ncapacity = '1MiB'\n")
    };
    let program = "exec:lines:sh -c 'echo $$; exec sleep 1000'";
    let old = stream("exec-old", program) + &stream("exec-gen", "gen:rate=10/s,size=64");
    std::fs::write(&file, old).unwrap();
    let mut command = env.command("ringd");
    command.arg("--config").arg(&file);
    let broker = env.broker_of("exec-old", command);
    let pid = pid_of(&read(&broker, 1).0[0]);
    let new = stream("exec-gen", "gen:rate=10/s,size=64")
        + &stream("exec-new", program)
        + &stream("exec-gen2", "gen:rate=10/s,size=64");
    std::fs::write(&file, new).unwrap();
    let reloaded = env.run("ringctl", &["reload", "exec-gen"]);
    let said = String::from_utf8_lossy(&reloaded.stdout).into_owned()
        + &String::from_utf8_lossy(&reloaded.stderr);
    assert!(said.contains("starts programs only before it gives up its rights"), "{said}");
    let none_left = || children(broker.process.pid()).is_empty().then_some(());
    assert!(gone(pid) && wait_for(PATIENCE, none_left).is_some(), "ended with its stream");
    let read = env.run("ringcat", &["exec-gen2", "--wait", "20s", "-n", "1", "-f", "none"]);
    assert!(read.status.success(), "control");
    broker.end();
}

/// A reload does not wait for a program that takes long to end: other streams are served meanwhile,
/// and the name is free once it has ended. Control: it lives after the reload.
#[test]
fn a_reload_does_not_wait_for_a_stubborn_program() {
    let env = Environment::new(LIMIT);
    let file = env.path("streams.toml");
    let stream = |name: &str, source: &str| {
        format!("[[stream]]\nname = '{name}'\nsource = '''{source}'''\ncapacity = '1MiB'\n")
    };
    let generator = |name| stream(name, "gen:rate=10/s,size=64");
    let program = "exec:lines,kill-after=30s:sh -c 'trap \"\" TERM; echo $$; \
        while :; do sleep 1; done'";
    std::fs::write(&file, stream("exec-stub", program) + &generator("exec-other")).unwrap();
    let mut command = env.command("ringd");
    command.arg("--config").arg(&file);
    let broker = env.broker_of("exec-stub", command);
    let pid = pid_of(&read(&broker, 1).0[0]);
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let reloaded = env.run("ringctl", &["reload", "exec-other"]);
        String::from_utf8_lossy(&reloaded.stdout).into_owned()
            + &String::from_utf8_lossy(&reloaded.stderr)
    };
    let said = reload(&generator("exec-other"));
    assert!(said.contains("ended   exec-stub: once its source has ended"), "{said}");
    assert_eq!(test_kill_process(pid), Ok(()), "control");
    let again = generator("exec-other") + &generator("exec-stub");
    let said = reload(&again);
    assert!(said.contains("failed  exec-stub: the stream of this name"), "{said}");
    assert_eq!(test_kill_process(pid), Ok(()), "control");
    kill_process(pid, Signal::KILL).unwrap();
    let begun = wait_for(PATIENCE, || reload(&again).contains("begun   exec-stub").then_some(()));
    begun.unwrap_or_else(|| panic!("{}", broker.process.stderr()));
    let read = env.run("ringcat", &["exec-stub", "--wait", "20s", "-n", "1", "-f", "none"]);
    assert!(read.status.success());
    assert!(children(broker.process.pid()).is_empty());
    broker.end();
}

/// At the end of the stream a process that the program has left behind does not keep its output
/// open until `kill-after`. Control: it lives on.
#[test]
fn a_stop_does_not_wait_for_what_a_program_left_behind() {
    let env = Environment::new(LIMIT);
    let source = "exec:lines,kill-after=30s:sh -c 'setsid sleep 1000 & echo $!; exec sleep 1000'";
    let broker = env.broker("exec-left", source, &[]);
    let left = pid_of(&read(&broker, 1).0[0]);
    let begun = Instant::now();
    broker.end();
    let took = begun.elapsed();
    assert_eq!(test_kill_process(left), Ok(()), "control");
    kill_process(left, Signal::KILL).unwrap();
    assert!(took < Duration::from_secs(25), "{took:?}");
}

/// A broker that was started with SIGCHLD ignored still sees how the program ends. Control: another
/// status.
#[test]
fn an_ignored_sigchld_hides_no_failure() {
    let env = Environment::new(LIMIT);
    for status in [3, 0] {
        let mut command = env.command("ringd");
        let source = format!("exec:lines:sh -c 'echo one; exit {status}'");
        command.args(["run", "--name", "exec-chld", "--source", &source]);
        let ignore = || {
            // SAFETY: the call takes two numbers.
            match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
                libc::SIG_ERR => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: one async-signal-safe system call between fork and exec.
        unsafe { command.pre_exec(ignore) };
        let mut broker = env.broker_of("exec-chld", command);
        assert_eq!(broker.process.wait().code(), Some(i32::from(status != 0)));
        let said = broker.process.stderr();
        assert_eq!(said.contains("exited with status 3"), status != 0, "{said}");
    }
}

/// A spawner holds no ring, neither one of its broker nor one that its broker reads. Control: the
/// broker has both.
#[test]
fn a_spawner_holds_no_ring() {
    let env = Environment::new(LIMIT);
    let file = env.path("streams.toml");
    let stream = |name: &str, source: &str| {
        format!("[[stream]]\nname = '{name}'\nsource = '{source}'\ncapacity = '1MiB'\n")
    };
    let before =
        stream("exec-there", "gen:rate=100/s,size=64") + &stream("exec-copy", "ring:exec-there");
    std::fs::write(&file, &before).unwrap();
    let mut command = env.command("ringd");
    // So that a reload may start a program, once the ring is attached.
    command.arg("--no-sandbox").arg("--config").arg(&file);
    let broker = env.broker_of("exec-copy", command);
    read_any(&broker, 10);
    std::fs::write(&file, before + &stream("exec-late", "exec:lines:sleep 1000")).unwrap();
    let reloaded = env.run("ringctl", &["reload", "exec-there"]);
    assert!(reloaded.status.success(), "{}", broker.process.stderr());
    let [spawner] = children(broker.process.pid())[..] else { panic!("one spawner") };
    let rings = |pid: i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let rings = maps.lines().filter(|line| line.contains("/dev/shm/"));
        ["rw-s", "r--s"].map(|kind| rings.clone().filter(|line| line.contains(kind)).count())
    };
    assert_eq!(rings(spawner.as_raw_nonzero().get()), [0, 0]);
    let [own, read] = rings(broker.process.pid() as i32);
    assert!(own >= 3 && read >= 1, "control: {own} {read}");
    broker.end();
}

/// Reads this many datagrams of any kind.
fn read_any(broker: &Daemon, enough: usize) {
    let mut reader = Options::new("test").start(Start::Oldest).attach(broker.path()).unwrap();
    let mut got = 0;
    while got < enough {
        match reader.next().unwrap() {
            Item::Datagram(_) => got += 1,
            Item::Empty => assert!(reader.wait(Some(PATIENCE)).unwrap() != Waited::TimedOut),
            _ => {}
        }
    }
}
