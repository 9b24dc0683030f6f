//! The rights that a running broker has given up: in /proc, in the report of `ringctl doctor`, and
//! when its own threads are made to try. Control of all of it: the same broker with `--no-sandbox`.

#![allow(unsafe_code)]

use ringweir_harness::environment::{Daemon, Environment, NOBODY, wait_for};
use ringweir_needs::{Part, needs_root, skip};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

/// A line of the status file of each thread, by thread name.
fn threads(pid: u32, key: &str) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten();
    let read = |t: std::fs::DirEntry| {
        let name = std::fs::read_to_string(t.path().join("comm")).ok()?.trim().to_owned();
        let status = std::fs::read_to_string(t.path().join("status")).ok()?;
        let value =
            status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?.trim().to_owned();
        Some((name, value))
    };
    tasks.filter_map(read).collect()
}

/// Whether all of its threads have given everything up; returns the pump's capabilities as the
/// kernel prints them.
fn shut_in(broker: &Daemon) -> Result<String, String> {
    let pid = broker.process.pid();
    let mut pump = String::new();
    for (key, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapInh", "0000000000000000")] {
        let found = threads(pid, key);
        if found.len() < 3 || found.iter().any(|(_, value)| value != wanted) {
            return Err(format!("{key}: {found:?}"));
        }
    }
    let (effective, permitted) = (threads(pid, "CapEff"), threads(pid, "CapPrm"));
    if effective != permitted {
        return Err(format!("{effective:?} {permitted:?}"));
    }
    for (name, value) in effective {
        if name.starts_with("pump:") {
            pump = value;
        } else if value != "0000000000000000" {
            return Err(format!("{name}: {value}"));
        }
    }
    Ok(pump)
}

/// The finding of `ringctl doctor` for `check`.
fn doctor(env: &Environment, name: &str, check: &str) -> Value {
    let output = env.run("ringctl", &["doctor", "--json", "--window", "0.2", name]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    rows.into_iter().find(|r| r["check"] == check).unwrap_or_else(|| panic!("no {check} in {text}"))
}

fn has_landlock() -> bool {
    // SAFETY: no pointer; asks for the version of the kernel's interface.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) >= 1 }
}

/// Whatever a stream consists of, no thread of its broker keeps more rights than its source needs,
/// it can be read, and it leaves nothing behind. Control: with `--no-sandbox` nothing is given up,
/// and doctor finds that.
#[test]
fn every_thread_gives_up_rights_it_does_not_need() {
    let env = Environment::new(LIMIT);
    let socket = env.path("in.sock");
    let unix = format!("unix:{}", socket.display());
    let seqpacket = format!("unix:seqpacket:{}", env.path("seq.sock").display());
    for (i, (source, more)) in [
        ("gen:rate=1000/s,size=64", &[][..]),
        ("gen:rate=1000/s,size=64", &["--memory", "memfd", "--hugepages", "--cpu", "0"]),
        ("udp:127.0.0.1:0", &[]),
        ("netlink:route:link", &[]),
        (&unix, &[]),
        (&seqpacket, &[]),
        ("exec:lines:sleep 1000", &[]),
        ("ring:service-none", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("service-shut{i}");
        let broker = env.broker(&name, source, more);
        // The control thread enters its sandbox a moment after it has logged that it is ready.
        let found = wait_for(LIMIT, || shut_in(&broker).ok());
        assert_eq!(found.as_deref(), Some("0000000000000000"), "{source}: {:?}", shut_in(&broker));
        let said = broker.process.stderr();
        assert!(said.contains("confined: no capabilities, seccomp"), "{said}");
        assert_eq!(said.contains(", landlock "), has_landlock(), "{said}");
        if source.starts_with("gen:") {
            let read = env.run("ringcat", &[&name, "-n", "5", "--verify"]);
            assert!(read.status.success(), "{source}: {}", String::from_utf8_lossy(&read.stderr));
        }
        if i == 0 {
            let found = doctor(&env, &name, "sandbox");
            let (state, text) = (found["state"].as_str(), found["text"].as_str().unwrap());
            assert!(text.contains("threads") && text.contains("seccomp"), "{text}");
            assert_eq!(state, Some(if has_landlock() { "ok" } else { "warn" }), "{text}");
        }
        broker.end();
    }
    assert!(!socket.exists(), "its own socket is still taken away");

    let mut command = env.command("ringd");
    command.args([
        "--no-sandbox",
        "run",
        "--name",
        "service-free",
        "--source",
        "gen:rate=10/s,size=64",
    ]);
    let free = env.broker_of("service-free", command);
    assert!(shut_in(&free).unwrap_err().contains("NoNewPrivs"));
    assert!(free.process.stderr().contains("not confined (--no-sandbox)"));
    let found = doctor(&env, "service-free", "sandbox");
    assert_eq!(found["state"], "warn");
    assert!(found["fix"].as_str().unwrap().contains("without --no-sandbox"), "{found}");
    free.end();
}

/// A source that needs a capability again keeps that one, in its own thread alone. A source that
/// needed one only to open keeps none. Root only.
#[test]
fn a_capability_that_is_needed_again_is_kept() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    for (name, source, kept) in [
        ("service-packet", "packet:lo", "0000000000000000"),
        ("service-rejoin", "udp:[ff02::114:77]:26400@lo", "0000000000002000"),
    ] {
        let mut command = env.command("ringd");
        command.args(["run", "--name", name, "--source", source]);
        let mut probe = env.start(command);
        let socket = env.run_dir().join(format!("{name}.sock"));
        let up = wait_for(LIMIT, || {
            let ready = socket.exists() && probe.stderr().contains(" gen 1");
            (ready || probe.ended().is_some()).then_some(ready)
        });
        if up != Some(true) {
            Part(source).skip(format_args!("the source does not start: {}", probe.stderr()));
            continue;
        }
        let broker = Daemon { process: probe, name: name.into(), socket };
        let found = wait_for(LIMIT, || shut_in(&broker).ok());
        assert_eq!(found.as_deref(), Some(kept), "{source}: {:?}", shut_in(&broker));
        broker.end();
    }
}

/// In a directory that belongs to another user, root's broker needs root's privilege to remove its
/// files: it keeps that one, and removes them.
#[test]
fn a_run_directory_of_another_user_is_cleaned_up() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    std::os::unix::fs::chown(env.run_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let broker = env.broker("service-theirs", "gen:rate=10/s,size=64", &[]);
    let kept = wait_for(LIMIT, || {
        let all = threads(broker.process.pid(), "CapEff");
        (all.iter().filter(|(_, value)| value == "0000000000000002").count() == 1).then_some(())
    });
    assert!(kept.is_some(), "{:?}", threads(broker.process.pid(), "CapEff"));
    // The environment checks whether anything is left.
    broker.end();
}

/// A device that is a program disappears and comes back while its broker is in its sandbox.
#[test]
fn a_device_that_comes_back_is_found_again() {
    let env = Environment::new(LIMIT);
    let socket = env.path("fpga.sock");
    let device = || {
        let mut command = env.command("ringfpga");
        command.arg("--socket").arg(&socket).args(["--rate", "1Mbit/s", "--for", "100s"]);
        let process = env.start(command);
        assert!(
            wait_for(LIMIT, || socket.exists().then_some(())).is_some(),
            "{}",
            process.stderr()
        );
        process
    };
    let mut first = device();
    let broker = env.broker("service-fifo", &format!("fifo:{}", socket.display()), &[]);
    assert!(wait_for(LIMIT, || shut_in(&broker).ok()).is_some(), "{:?}", shut_in(&broker));
    first.kill();
    assert!(
        wait_for(LIMIT, || broker.process.stderr().contains("is gone").then_some(())).is_some()
    );
    let _gone = std::fs::remove_file(&socket);
    let _second = device();
    let back = wait_for(LIMIT, || broker.process.stderr().contains("is back").then_some(()));
    assert!(back.is_some(), "{}", broker.process.stderr());
    broker.end();
}

#[cfg(target_arch = "x86_64")]
mod made_to {
    use super::*;
    use ringweir_harness::inject::Stopped;

    /// The kernel's answers to a thread of a broker: name, answer.
    fn tries(tid: i32) -> std::io::Result<Vec<(&'static str, i64)>> {
        let thread = Stopped::new(tid)?;
        let file = Some((1, "/etc/shadow"));
        let here = libc::AT_FDCWD as u64;
        Ok(vec![
            ("getpid", thread.call(libc::SYS_getpid, [0; 4], None)?),
            ("open", thread.call(libc::SYS_openat, [here, 0, libc::O_RDONLY as u64, 0], file)?),
            (
                "unlink",
                thread.call(libc::SYS_unlinkat, [here, 0, 0, 0], Some((1, "/etc/none-such/x")))?,
            ),
            ("execve", thread.call(libc::SYS_execve, [0; 4], None)?),
            (
                "ptrace",
                thread.call(
                    libc::SYS_ptrace,
                    [libc::PTRACE_PEEKDATA.into(), u64::MAX, 0, 0],
                    None,
                )?,
            ),
            (
                "socket",
                thread.call(
                    libc::SYS_socket,
                    [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0],
                    None,
                )?,
            ),
            ("mount", thread.call(libc::SYS_mount, [0; 4], None)?),
        ])
    }

    /// A separate broker, because its running threads are forced to make forbidden calls. Control:
    /// with `--no-sandbox` the same calls by the same means get as far as their arguments.
    #[test]
    fn a_running_broker_cannot_make_a_forbidden_call() {
        let env = Environment::new(LIMIT);
        for (name, first) in
            [("service-made", &["--quiet"][..]), ("service-may", &["--no-sandbox"])]
        {
            let mut command = env.command("ringd");
            command.args(["run", "--name", name, "--source", "gen:rate=100/s,size=64"]).args(first);
            let process = env.start(command);
            let socket = env.run_dir().join(format!("{name}.sock"));
            assert!(
                wait_for(LIMIT, || socket.exists().then_some(())).is_some(),
                "{}",
                process.stderr()
            );
            let broker = Daemon { process, name: name.into(), socket };
            let free = first == ["--no-sandbox"];
            if !free {
                assert!(
                    wait_for(LIMIT, || shut_in(&broker).ok()).is_some(),
                    "{:?}",
                    shut_in(&broker)
                );
            }
            let pid = broker.process.pid();
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                let tid: i32 = task.file_name().to_str().unwrap().parse().unwrap();
                let answers = match tries(tid) {
                    Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                        return skip("needs the right to trace processes (ptrace_scope, seccomp)");
                    }
                    other => other.unwrap(),
                };
                for (what, answer) in answers {
                    let error = i32::try_from(-answer).unwrap_or(0);
                    match (what, free) {
                        ("getpid", _) => {
                            assert_eq!(
                                answer,
                                i64::from(pid),
                                "the call that is made is the one that is meant"
                            )
                        }
                        ("open", false) if has_landlock() => {
                            assert_eq!(error, libc::EACCES, "{what}")
                        }
                        ("unlink", false) if has_landlock() => {
                            assert!([libc::EACCES, libc::ENOENT].contains(&error))
                        }
                        ("open" | "unlink", false) => {}
                        (_, false) => assert_eq!(error, libc::ENOSYS, "{what} by thread {tid}"),
                        ("open", true) => {
                            assert!(answer >= 0 || error == libc::EACCES, "{what}: {answer}")
                        }
                        ("socket", true) => assert!(answer >= 0, "{what}: {answer}"),
                        (_, true) => {
                            assert!(error > 0 && error != libc::ENOSYS, "{what}: {answer}")
                        }
                    }
                }
            }
            // It continues as if nothing had happened.
            let read = env.run("ringcat", &[name, "-n", "5", "--verify"]);
            assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
            broker.end();
        }
    }
}

/// Signals still end it, also two at once, and stdin is still read.
#[test]
fn signals_end_a_sandboxed_broker_and_stdin_is_read() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("service-int", "gen:rate=10/s,size=64", &[]);
    broker.process.signal(Signal::INT);
    let mut broker = broker;
    assert!(broker.process.wait().success());
    let mut command: Command = env.command("ringd");
    command.args(["run", "--name", "service-in", "--source", "stdin:lines"]);
    let file = env.path("lines");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    command.stdin(Stdio::from(std::fs::File::open(Path::new(&file)).unwrap()));
    let output = env.start(command).output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("ended: 2 datagrams"), "{said}");
}
