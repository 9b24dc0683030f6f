//! A reader whose process has died while another process holds its connection, as a child does that
//! was made without the C library's `fork()`: the broker cannot notice, but the tools can.

use ringweir_harness::{Environment, wait_for};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::os::fd::OwnedFd;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies of all sockets of a process.
fn sockets(pid: u32) -> Vec<OwnedFd> {
    let process = Pid::from_raw(pid as i32).expect("a pid");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("pidfd");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let is_socket = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    open.filter(is_socket)
        .map(|entry| entry.file_name().to_string_lossy().parse().expect("a number"))
        .map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).expect("pidfd_getfd"))
        .collect()
}

/// Control: before its death it is not gone, and once nobody holds its connection it is not listed.
#[test]
fn a_dead_reader_whose_connection_lives_on_is_shown_as_gone() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("held", "gen:rate=500/s,size=64", &[]);
    let mut command = env.command("ringcat");
    command.args(["held", "--format", "none", "--label", "parent"]);
    let mut reader = env.start(command);
    let state = || {
        let output = env.run("ringstat", &["held", "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let state = shown["readers"][0]["state"].as_str().map(str::to_owned);
        state.unwrap_or_else(|| "none".into())
    };
    let until = |wanted: &str| {
        let mut last = String::new();
        let seen = wait_for(PATIENCE, || {
            last = state();
            (last == wanted).then_some(())
        });
        assert!(seen.is_some(), "{last} and not {wanted}");
    };
    wait_for(PATIENCE, || matches!(&*state(), "running" | "waiting").then_some(()))
        .expect("attached");
    let held = sockets(reader.pid());
    assert!(!held.is_empty());
    reader.kill();
    until("gone");
    let why = env.run("ringstat", &["held", "--why"]);
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(said.contains("is gone") && said.contains("ringctl detach"), "{said}");
    drop(held);
    until("none");
    broker.end();
}
