//! A broker that is hostile: what it says takes over no terminal, its figures are nobody else's,
//! and what it does with its statistics area or its silence ends no tool and keeps no other stream
//! from being shown.

use ringweir_harness::hostile::{self, SHOWN};
use ringweir_harness::hostile_broker::{HostileBroker, Manner};
use ringweir_harness::{Environment, Process, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);

/// A character that a terminal would obey, or not show.
fn hidden(output: &Output) -> Option<char> {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let forged = text.lines().filter(|line| line.starts_with("ringd: all is well")).count();
    assert_eq!(forged, 0, "{text:?}");
    hostile::hidden(&text)
}

fn hostile(env: &Environment, name: &str, manner: Manner) -> HostileBroker {
    HostileBroker::start(&env.run_dir(), name, &[manner])
}

/// All programs that ask a broker, in each of their forms. Control: the words are in what is shown,
/// apart from those characters.
#[test]
fn what_a_broker_says_takes_over_no_terminal() {
    let env = Environment::new(LIMIT);
    let _both = [("refuses", Manner::Refuses), ("shows", Manner::Shows)]
        .map(|(name, manner)| hostile(&env, name, manner));
    let mut words = 0;
    for stream in ["refuses", "shows"] {
        let runs: &[&[&str]] = &[
            &["ringcat", stream, "-n", "1", "--format", "none"],
            &["ringcat", stream, "--unix", "seqpacket:/tmp/none/none"],
            &["ringstat", stream],
            &["ringstat", stream, "--json"],
            &["ringstat", stream, "--why"],
            &["ringstat", stream, "--why", "--json"],
            &["ringstat", stream, "--latency"],
            &["ringstat", stream, "--latency", "--json"],
            &["ringstat", stream, "--prom"],
            &["ringstat", stream, "-w", "0.05", "--count", "2"],
            &["ringctl", "show", stream],
            &["ringctl", "show", stream, "--json"],
            &["ringctl", "doctor", stream, "--window", "0.1"],
            &["ringctl", "doctor", stream, "--window", "0.1", "--json"],
            &["ringctl", "detach", stream, "nobody"],
            &["ringctl", "detach", stream, "index:0"],
            &["ringctl", "reload", stream],
            &["ringctl", "ls"],
            &["ringctl", "ls", "--json"],
            &["ringctl", "devices"],
        ];
        for run in runs {
            let output = env.run(run[0], &run[1..]);
            assert_eq!(hidden(&output), None, "{run:?}: {output:?}");
            assert_ne!(output.status.code(), Some(101), "{run:?}: {output:?}");
            let text = [output.stdout, output.stderr].concat();
            words += usize::from(String::from_utf8_lossy(&text).contains(SHOWN));
        }
    }
    assert!(words > 25, "the control: {words} showed the words");
}

fn series(text: &str) -> Vec<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Prometheus would reject all of it. Control: the honest stream is there, with figures of its own.
#[test]
fn a_broker_cannot_show_its_figures_under_the_name_of_another() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("honest", "gen:rate=1000/s,size=64", &[]);
    let _evil = hostile(&env, "evil", Manner::Shows);
    let text = env.run("ringstat", &["--prom"]).stdout;
    let text = String::from_utf8(text).unwrap();
    let mut all = series(&text);
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "a series is there twice: {text}");
    let depth = |name: &str| {
        let start = format!("ringweir_depth{{stream=\"{name}\"");
        text.lines().find(|l| l.starts_with(&start)).map(|l| l.rsplit(' ').next().unwrap())
    };
    assert_eq!(depth("evil"), Some("0"), "{text}");
    assert!(depth("honest").is_some_and(|slots| slots != "0"), "{text}");
    let listed = env.run("ringstat", &["--json"]).stdout;
    let names: Vec<_> = String::from_utf8(listed)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["stream"].clone())
        .collect();
    assert_eq!(names, ["evil", "honest"]);
    broker.end();
}

fn exporter(env: &Environment) -> (Process, u16) {
    let mut command = env.command("ringstat");
    command.args(["--listen", "127.0.0.1:0"]);
    let process = env.start(command);
    let port = || {
        let said = process.stderr();
        said.split("http://127.0.0.1:").nth(1)?.split_once("/metrics\n")?.0.parse().ok()
    };
    let port = wait_for(PATIENCE, port).unwrap_or_else(|| panic!("no port: {}", process.stderr()));
    (process, port)
}

fn ask(port: u16) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    client.set_read_timeout(Some(PATIENCE)).expect("limit");
    // It may have hung up already.
    let _sent = client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
    client
}

fn scrape(port: u16) -> String {
    let mut text = String::new();
    let _cut = ask(port).read_to_string(&mut text);
    text
}

/// An area that can be cut off is refused before it is mapped, by its missing seals: reading it
/// would kill the reader with SIGBUS.
#[test]
fn an_area_that_can_be_cut_off_ends_no_tool() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("honest", "gen:rate=1000/s,size=64", &[]);
    let (mut exporter, port) = exporter(&env);
    let asked = hostile(&env, "cuts", Manner::CutsOff);
    let seen = wait_for(PATIENCE, || {
        assert!(scrape(port).contains("stream=\"honest\""), "{}", exporter.stderr());
        (asked.asked() > 0).then_some(())
    });
    assert!(seen.is_some(), "it is asked");
    assert!(scrape(port).contains("stream=\"honest\""));
    assert!(exporter.ended().is_none(), "{}", exporter.stderr());
    let output = env.run("ringstat", &["cuts"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("its seals"), "{said}");
    broker.end();
}

/// While brokers are silent, every scrape is served, and hundreds at once cost no more threads than
/// connections. Controls: the latencies of the honest stream are there; those of a broker that is
/// silent are not.
#[test]
fn a_silent_broker_keeps_no_scrape_from_being_served() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("honest", "gen:rate=1000/s,size=64", &[]);
    let mut reader = env.command("ringcat");
    reader.args(["honest", "--format", "none", "--label", "honest"]);
    let reader = env.start(reader);
    let asked: Vec<_> =
        ["silent-a", "silent-b"].map(|name| hostile(&env, name, Manner::ShowsOnly)).into();
    let (exporter, port) = exporter(&env);
    let has_all = |text: &str| {
        ["honest", "silent-a", "silent-b"]
            .iter()
            .all(|name| text.contains(&format!("ringweir_depth{{stream=\"{name}\"")))
            && text.ends_with("# EOF\n")
    };
    wait_for(PATIENCE, || has_all(&scrape(port)).then_some(())).expect("all three");
    let clients: Vec<_> = (0..200).map(|_| ask(port)).collect();
    let mut most = 0;
    for mut client in clients {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap().count();
        most = most.max(tasks);
        let mut text = String::new();
        client.read_to_string(&mut text).expect("an answer");
        assert!(has_all(&text), "{text}");
    }
    assert!(most < 60, "{most} threads");
    // Each scrape asked nothing again that is not answered yet.
    let sums: usize = asked.iter().map(HostileBroker::asked).sum();
    assert!(sums < 60, "asked {sums} times");
    let measured = |text: &str, name: &str| {
        text.lines().any(|l| {
            l.starts_with("ringweir_reader_latency_seconds_count")
                && l.contains(&format!("stream=\"{name}\""))
        })
    };
    let text = wait_for(PATIENCE, || Some(scrape(port)).filter(|text| measured(text, "honest")));
    assert!(!measured(&text.expect("latencies of the honest stream"), "silent-a"));
    drop(reader);
    broker.end();
}
