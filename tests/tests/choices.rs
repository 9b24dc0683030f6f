//! What the tools choose among streams and datagrams: several names, channels, and the numbers of a
//! test stream across a restart of its broker.

use ringweir_harness::{Environment, wait_for};
use ringweir_pattern::crc;
use std::net::UdpSocket;
use std::process::{Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Control: without a name all are shown, and a name that is not there is an error.
#[test]
fn ringstat_shows_the_streams_that_are_named() {
    let env = Environment::new(LIMIT);
    let brokers = ["one", "three", "two"].map(|name| env.broker(name, "gen:rate=100/s", &[]));
    let shown = |names: &[&str]| {
        let output = env.run("ringstat", &[names, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["stream"].to_string()
        };
        (output.status.code(), text.lines().map(name).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(shown(&["two", "one", "two"]), (Some(0), r#""one" "two""#.into()));
    assert_eq!(shown(&[]), (Some(0), r#""one" "three" "two""#.into()));
    let output = env.run("ringstat", &["one", "none"]);
    assert!(said(&output).contains("no stream \"none\""), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("STREAM one"));
    brokers.into_iter().for_each(|broker| broker.end());
}

/// All are checked and counted; those of other channels are not written. Control: without
/// `--channel` all are written.
#[test]
fn ringcat_writes_the_channels_that_are_named() {
    let env = Environment::new(LIMIT);
    let source = "gen:rate=max,size=100,channels=4,count=400";
    let broker = env.broker("channels", source, &["--linger", "forever"]);
    let cat = |more: &[&str]| {
        let args = ["channels", "--from", "oldest", "--until-idle", "1s", "--verify"];
        env.run("ringcat", &[&args, more, &["--format", "raw"]].concat())
    };
    let chosen = cat(&["--channel", "1", "--channel", "3"]);
    assert_eq!((chosen.status.code(), chosen.stdout.len()), (Some(0), 200 * 100));
    for datagram in chosen.stdout.chunks(100) {
        assert_eq!(crc::check(datagram).unwrap().number % 2, 1);
    }
    let text = said(&chosen);
    for part in ["since seq 0: 400 published", "; 200 of other channels", "verified: 400 right"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(cat(&[]).stdout.len(), 400 * 100, "the control");
    assert_eq!(cat(&["--channel", "1", "-n", "7"]).stdout.len(), 700);
    broker.end();
}

/// A source that continues in its numbers, through a broker that is killed: the numbers are
/// compared across the restart. Control: those of `gen:` begin anew, which is reported.
#[test]
fn numbers_are_compared_across_a_restart_of_the_broker() {
    let env = Environment::new(LIMIT);
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (name, source, says) in [
        ("continues", format!("udp:127.0.0.1:{port}"), "compared across 1 restarts"),
        ("anew", "gen:rate=2000/s,size=64".into(), "numbers from 0 again after 1 restarts"),
    ] {
        let mut number = 0;
        let mut send = |count: u64| {
            for _ in 0..count {
                let mut datagram = vec![0; 64];
                crc::fill(&mut datagram, number, 0);
                number += 1;
                sender.send_to(&datagram, ("127.0.0.1", port)).unwrap();
            }
        };
        let mut broker = env.broker(name, &source, &[]);
        let mut command = env.command("ringcat");
        command.args([name, "--verify", "--from", "oldest", "--format", "raw"]);
        let out = env.path(name);
        command.stdout(Stdio::from(std::fs::File::create(&out).unwrap()));
        let cat = env.start(command);
        let written = |bytes: u64| {
            let there = || std::fs::metadata(&out).is_ok_and(|m| m.len() >= bytes).then_some(());
            wait_for(PATIENCE, there).unwrap_or_else(|| panic!("{}", cat.stderr()));
        };
        send(100);
        written(100 * 64);
        broker.process.kill();
        drop(broker);
        let broker = env.broker(name, &source, &[]);
        let restarted = || cat.stderr().contains("the broker was restarted").then_some(());
        let before = std::fs::metadata(&out).unwrap().len();
        send(100);
        written(before + 100 * 64);
        wait_for(PATIENCE, restarted).unwrap_or_else(|| panic!("{}", cat.stderr()));
        broker.end();
        let output = cat.output();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("verified: ") && text.contains(says), "{text}");
    }
}
