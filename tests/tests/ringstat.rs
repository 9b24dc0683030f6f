//! `ringstat` from outside: the exposition and its server under `curl`, a foreign parser, and
//! hostile clients; the findings of `--why` for streams with one known trouble each; the figures of
//! `--latency` for readers that are known to be late.

use ringweir::view::Viewer;
use ringweir::view::stats::{ReaderFact, StreamFact};
use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_needs::needs;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(30);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(env: &Environment, args: &[&str]) -> Value {
    let output = env.run("ringstat", &[args, &["--json"]].concat());
    serde_json::from_str(&stdout(&output))
        .unwrap_or_else(|e| panic!("{e}: {} {}", stdout(&output), said(&output)))
}

fn cat(env: &Environment, stream: &str, label: &str) -> Process {
    let mut command = env.command("ringcat");
    command.args([stream, "--format", "none", "--label", label]);
    env.start(command)
}

/// Waits until `count` readers are attached and have read something.
fn reading(broker: &Daemon, count: usize) -> Viewer {
    let watch = Viewer::attach(broker.path()).unwrap();
    let there = wait_for(PATIENCE, || {
        let snapshot = watch.snapshot()?;
        let all =
            snapshot.readers.iter().filter(|r| r.get(ReaderFact::Delivered) > 0).count() >= count;
        all.then_some(())
    });
    there.unwrap_or_else(|| panic!("{count} readers are not there: {:?}", watch.snapshot()));
    watch
}

fn reader<'a>(of: &'a Value, label: &str) -> &'a Value {
    let readers = of["readers"].as_array().unwrap_or_else(|| panic!("{of}"));
    readers.iter().find(|r| r["label"] == label).unwrap_or_else(|| panic!("no {label} in {of}"))
}

/// Layer, kind and label of each finding.
fn findings(verdict: &Value) -> Vec<(&str, &str, &str)> {
    fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
        finding[key].as_str().unwrap_or("")
    }
    let all = verdict["findings"].as_array().unwrap_or_else(|| panic!("{verdict}"));
    all.iter().map(|f| (text(f, "layer"), text(f, "kind"), text(f, "label"))).collect()
}

const PARSE: &str = "
import sys, json
from prometheus_client.openmetrics.parser import text_string_to_metric_families
samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    for s in family.samples:
        labels = {k: v for k, v in s.labels.items() if k in ('stream', 'reader', 'le', 'layer')}
        samples[s.name + json.dumps(labels, sort_keys=True, separators=(',', ':'))] = s.value
print(json.dumps(samples))
";

fn parse(python: &str, text: &str) -> Result<BTreeMap<String, f64>, String> {
    let mut child = Command::new(python)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(said(&output));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// The parser of Prometheus' Python client accepts all of it and finds the values of `--json`.
/// Control: it refuses the same text with one label not escaped, with one line away from its
/// family, or with its end cut off.
#[test]
fn a_strict_parser_accepts_the_exposition() {
    // Debian's Python, which has the parser of Prometheus' own client library.
    let python = "/usr/bin/python3";
    if !needs("/usr/bin/python3:prometheus_client") {
        return;
    }
    let env = Environment::new(LIMIT);
    let hostile = r#"a"b\c{d}=","#;
    let broker =
        env.broker("stat-prom", "gen:rate=2000/s,size=256,count=3000", &["--linger", "forever"]);
    let readers = [cat(&env, "stat-prom", hostile), cat(&env, "stat-prom", "plain")];
    let watch = reading(&broker, 2);
    // While the stream flows, with readers and their histograms.
    let text = stdout(&env.run("ringstat", &["stat-prom", "--prom"]));
    let flowing = parse(python, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let of = |label: &str| serde_json::json!({"reader": label, "stream": "stat-prom"});
    let key = |name: &str, labels: Value| format!("{name}{labels}");
    let count = |label: &str| flowing[&key("ringweir_reader_latency_seconds_count", of(label))];
    assert!(count(hostile) > 0.0 && count("plain") > 0.0, "{flowing:#?}");
    assert_eq!(flowing[&key("ringweir_up", serde_json::json!({"stream": "stat-prom"}))], 1.0);
    // At rest, where the values are those of JSON.
    drop(readers);
    let over =
        || watch.snapshot().filter(|s| s.get(StreamFact::Ended) == 1 && s.readers.is_empty());
    wait_for(PATIENCE, over).expect("the end of the stream");
    let text = stdout(&env.run("ringstat", &["--prom"]));
    let (rest, shown) = (parse(python, &text).unwrap(), json(&env, &["stat-prom"]));
    for (name, value) in [
        ("ringweir_published_total", &shown["counters"]["published"]),
        ("ringweir_published_bytes_total", &shown["counters"]["published_bytes"]),
        ("ringweir_write_cursor_total", &shown["facts"]["write_cursor"]),
        ("ringweir_readers_ever_total", &shown["facts"]["readers_ever"]),
        ("ringweir_capacity_bytes", &shown["facts"]["capacity_bytes"]),
        ("ringweir_ended", &shown["facts"]["ended"]),
    ] {
        let shown = rest[&key(name, serde_json::json!({"stream": "stat-prom"}))];
        assert_eq!(Some(shown), value.as_f64(), "{name}");
    }
    assert_eq!(
        rest[&key("ringweir_published_total", serde_json::json!({"stream": "stat-prom"}))],
        3000.0
    );
    let published = text.lines().find(|l| l.starts_with("ringweir_published_total")).unwrap();
    for broken in [
        text.replace("stream=\"stat-prom\"", "stream=\"stat\"prom\""),
        text.replace("# EOF\n", &format!("{published}\n# EOF\n")),
        text.replace("# EOF\n", ""),
    ] {
        assert!(parse(python, &broken).is_err(), "taken though broken");
    }
    broker.end();
}

struct Exporter {
    process: Process,
    port: u16,
}

fn exporter(env: &Environment, more: &[&str]) -> Exporter {
    let mut command = env.command("ringstat");
    command.args(["--listen", "127.0.0.1:0"]).args(more);
    let process = env.start(command);
    let port = || {
        let said = process.stderr();
        let behind = said.split("http://127.0.0.1:").nth(1)?;
        behind.split_once("/metrics\n")?.0.parse().ok()
    };
    let port = wait_for(PATIENCE, port).unwrap_or_else(|| panic!("no port: {}", process.stderr()));
    // The line of the last listener comes last.
    let all = 1 + more.iter().filter(|m| **m == "--listen").count();
    wait_for(PATIENCE, || (process.stderr().matches("serving").count() == all).then_some(()))
        .expect("all listen");
    Exporter { process, port }
}

fn curl(args: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "30"]).args(args).output().expect("curl")
}

/// `curl` gets the exposition over TCP and over a unix socket; streams come and go; the server ends
/// on its signal and removes its socket. Control: other paths, methods and addresses are refused.
#[test]
fn curl_scrapes_over_tcp_and_a_unix_socket() {
    if !needs("curl") {
        return;
    }
    let env = Environment::new(LIMIT);
    let socket = env.path("metrics.sock");
    let unix = format!("unix:{}", socket.display());
    // No stream runs yet: an exporter is started with the machine.
    let mut exporter = exporter(&env, &["--listen", &unix]);
    let url = format!("http://127.0.0.1:{}/metrics", exporter.port);
    assert_eq!(stdout(&curl(&[&url])), "# EOF\n");
    let broker = env.broker("stat-curl", "gen:rate=500/s,size=64", &[]);
    let reader = cat(&env, "stat-curl", "ids");
    reading(&broker, 1);
    let published = |text: &str| {
        let line = text
            .lines()
            .find(|l| l.starts_with("ringweir_published_total{stream=\"stat-curl\""))?;
        line.rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    let first =
        wait_for(PATIENCE, || published(&stdout(&curl(&[&url])))).expect("the new stream is found");
    std::thread::sleep(Duration::from_millis(300));
    let by_socket = curl(&["--unix-socket", socket.to_str().unwrap(), "http://x/metrics"]);
    let text = stdout(&by_socket);
    assert!(published(&text).unwrap() > first, "{text}");
    assert!(
        text.contains("ringweir_reader_latency_seconds_bucket{le=\"")
            && text.contains("reader=\"ids\""),
        "{text}"
    );
    let head = stdout(&curl(&["-I", &url]));
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("application/openmetrics-text"),
        "{head}"
    );
    let status =
        |args: &[&str]| stdout(&curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat()));
    assert_eq!(status(&[&url, "--http1.0"]), "200");
    assert_eq!(status(&[&url.replace("/metrics", "/nothing")]), "404");
    assert_eq!(status(&[&url, "-X", "POST"]), "405");

    // Both addresses are in use now.
    let tcp = format!("127.0.0.1:{}", exporter.port);
    for (address, status, says) in [
        (&*tcp, 1, "cannot listen on 127.0.0.1"),
        (&unix, 1, "in use by another process"),
        ("stat-curl", 2, "unix:PATH"),
    ] {
        let output = env.run("ringstat", &["--listen", address]);
        assert_eq!(output.status.code(), Some(status), "{address}: {}", said(&output));
        assert!(said(&output).contains(says), "{address}: {}", said(&output));
    }
    drop(reader);
    broker.end();
    let gone = || (stdout(&curl(&[&url])) == "# EOF\n").then_some(());
    wait_for(PATIENCE, gone).expect("a stream that ended is no longer listed");
    assert!(socket.exists());
    exporter.process.signal(Signal::TERM);
    assert_eq!(exporter.process.wait().code(), Some(0), "{}", exporter.process.stderr());
    assert!(!socket.exists(), "it removes its socket");
    // The control: a socket file that another server left after SIGKILL does not keep the next one
    // from starting.
    let mut killed = self::exporter(&env, &["--listen", &unix]);
    killed.process.kill();
    assert!(socket.exists());
    let mut next = self::exporter(&env, &["--listen", &unix]);
    next.process.signal(Signal::INT);
    assert_eq!(next.process.wait().code(), Some(0));
}

/// Clients that send nothing, trickle, flood, send nonsense or do not read keep no other client
/// out, and cost a bounded number of threads.
#[test]
fn hostile_clients_do_not_block_others() {
    if !needs("curl") {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("stat-hostile", "gen:rate=500/s,size=64", &[]);
    let exporter = exporter(&env, &[]);
    let connect = || TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
    let answer = |bytes: &[u8]| {
        let mut client = connect();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have hung up before it took everything.
        let _sent = client.write_all(bytes);
        let mut text = Vec::new();
        let _read = client.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    let deaf: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut client = connect();
            client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            client
        })
        .collect();
    let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, connect) = (&stop, &connect);
        scope.spawn(move || {
            let mut trickle = connect();
            while !stop.load(Ordering::Relaxed) {
                if trickle.write_all(b"G").is_err() {
                    trickle = connect();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let url = format!("http://127.0.0.1:{}/metrics", exporter.port);
        for round in 0..5 {
            let output = curl(&[&url]);
            assert!(
                stdout(&output).ends_with("# EOF\n"),
                "round {round}: {} {}",
                stdout(&output),
                said(&output)
            );
            let threads = std::fs::read_dir(format!("/proc/{}/task", exporter.process.pid()))
                .unwrap()
                .count();
            assert!(threads < 80, "{threads} threads");
        }
        let flood = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
        assert!(answer(&flood).starts_with("HTTP/1.1 431 "), "{}", answer(&flood));
        assert!(answer(b"\x16\x03\x01\x02\n\n").starts_with("HTTP/1.1 400 "));
        assert!(
            answer(b"GET /metrics HTTP/1.1\nHost: x\n\n").starts_with("HTTP/1.1 200 "),
            "the control"
        );
        stop.store(true, Ordering::Relaxed);
    });
    // A silent client got an answer that says so, or was disconnected.
    let mut first = silent.into_iter().next().unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    if first.read_to_string(&mut text).is_ok() {
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    drop(deaf);
    assert_eq!(
        exporter.process.stderr().matches("panicked").count(),
        0,
        "{}",
        exporter.process.stderr()
    );
    broker.end();
}

/// The stopped reader is named, the forecast of its lap comes true, and its losses are counted.
/// When it continues, nothing limits the stream. Control: before that nothing does, and the reader
/// beside it is never named.
#[test]
fn why_names_the_stopped_reader() {
    let env = Environment::new(LIMIT);
    let ring = ["--depth", "8192", "--capacity", "4MiB", "--max-datagram", "1KiB"];
    let broker = env.broker("stat-why", "gen:rate=1000/s,size=64", &ring);
    let (_fine, stopped) = (cat(&env, "stat-why", "fine"), cat(&env, "stat-why", "monitor"));
    let watch = reading(&broker, 2);
    let output = env.run("ringstat", &["stat-why", "--why"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("nothing limits it: "), "{}", stdout(&output));

    stopped.stop();
    let verdict = json(&env, &["stat-why", "--why"]);
    let judged = Instant::now();
    assert_eq!(
        (findings(&verdict), &verdict["limited"]),
        (vec![("reader", "stopped", "monitor")], &true.into())
    );
    let finding = &verdict["findings"][0];
    assert_eq!(finding["pid"], stopped.pid());
    assert_eq!((&finding["lost"], &verdict["furthest"]["label"]), (&0.into(), &"monitor".into()));
    let predicted = finding["lapped_in_ns"].as_u64().expect("a prediction") as f64 / 1e9;
    let lapped = || {
        let snapshot = watch.snapshot()?;
        snapshot.readers.iter().any(|r| r.get(ReaderFact::Lapped) == 1).then_some(())
    };
    wait_for(PATIENCE, lapped).expect("it is lapped");
    let actual = judged.elapsed().as_secs_f64();
    assert!((0.6..1.6).contains(&(actual / predicted)), "predicted {predicted} s, was {actual} s");

    let output = env.run("ringstat", &["stat-why", "--why"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        format!("reader monitor (pid {}) is stopped (T): LAPPED", stopped.pid()),
        format!("kill -CONT {}", stopped.pid()),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    assert!(!text.contains("fine"), "{text}");
    let verdict = json(&env, &["stat-why", "--why"]);
    let finding = &verdict["findings"][0];
    assert_eq!(finding["lapped_in_ns"], 0);
    let rate = finding["lost_per_second"].as_f64().unwrap();
    assert!((500.0..2000.0).contains(&rate), "1000 are published a second: {verdict}");
    // The lag of a lapped reader has a time, and so has its high-water mark.
    let shown = json(&env, &["stat-why"]);
    let it = reader(&shown, "monitor");
    assert!(it["lapped"] == 1 && it["lag_ns"].as_u64().unwrap() > 7_000_000_000, "{it}");
    assert!(
        it["lag_max_ns"].as_u64() >= it["lag_ns"].as_u64()
            && it["lag_max_bytes"].as_u64().unwrap() > 400_000,
        "{it}"
    );

    stopped.signal(Signal::CONT);
    let well = || {
        let output = env.run("ringstat", &["stat-why", "--why"]);
        (output.status.success()).then(|| stdout(&output))
    };
    let text = wait_for(PATIENCE, well).expect("it catches up");
    assert!(text.contains("nothing limits it: ") && text.contains("reader lost "), "{text}");
    broker.end();
}

/// A slow reader is named with its rate, and `--latency` shows it late; the one beside it is
/// neither.
#[test]
fn a_slow_reader_shows_in_why_and_latency() {
    let env = Environment::new(LIMIT);
    let mailbox = Mailbox::create(1);
    let ring = ["--depth", "4096", "--capacity", "4MiB", "--max-datagram", "1KiB"];
    let broker = env.broker("stat-slow", "gen:rate=1000/s,size=64", &ring);
    let _fine = cat(&env, "stat-slow", "fine");
    let mut command = env.command("ringtest-reader");
    command.args([
        "stat-slow",
        "--mailbox",
        mailbox.id(),
        "--slow",
        "20000",
        "--label",
        "slow",
        "--from",
        "latest",
    ]);
    let _slow = env.start(command);
    wait_for(PATIENCE, || (mailbox.slot(0).live(Live::Delivered) > 150).then_some(()))
        .expect("the slow one reads");
    reading(&broker, 2);
    let verdict = json(&env, &["stat-slow", "--why"]);
    assert_eq!(findings(&verdict).len(), 1, "{verdict}");
    let (layer, kind, label) = findings(&verdict)[0];
    assert_eq!((layer, label), ("reader", "slow"));
    assert!(["slow", "lapped"].contains(&kind), "{verdict}");
    let what = verdict["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("dg/s and waits for something else (uses "), "{what}");

    let latencies = json(&env, &["stat-slow", "--latency"]);
    let figure = |label: &str, key: &str| reader(&latencies, label)[key].as_u64().unwrap();
    assert!(figure("slow", "samples") > 10 && figure("fine", "samples") > 200, "{latencies}");
    assert!(figure("slow", "p50_ns") > 5_000_000, "{latencies}");
    assert!(figure("fine", "p50_ns") < figure("slow", "p50_ns") / 2, "{latencies}");
    for label in ["slow", "fine"] {
        let quantiles =
            ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"].map(|key| figure(label, key));
        assert!(quantiles.is_sorted(), "{quantiles:?}");
        let counted = reader(&latencies, label)["buckets"].as_array().unwrap().iter();
        assert_eq!(counted.map(|b| b[1].as_u64().unwrap()).sum::<u64>(), figure(label, "samples"));
    }
    // In intervals: only what came in each of them.
    let output =
        env.run("ringstat", &["stat-slow", "--latency", "-w", "0.5", "--count", "2", "--json"]);
    let intervals: Vec<Value> =
        stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(intervals.len(), 2, "{}", stdout(&output));
    for interval in &intervals {
        let samples = reader(interval, "fine")["samples"].as_u64().unwrap();
        assert!(
            (50..2000).contains(&samples) && interval["window_ns"].as_u64() >= Some(500_000_000),
            "{interval}"
        );
    }
    broker.end();
}

/// A reader that was stopped for two seconds has been two seconds late for what was published
/// meanwhile, and its histogram shows that for every millisecond; the one beside it was not late.
#[test]
fn a_pause_shows_only_in_the_paused_readers_latency() {
    let env = Environment::new(LIMIT);
    let ring = ["--depth", "16384", "--capacity", "4MiB", "--max-datagram", "1KiB"];
    let broker = env.broker("stat-pause", "gen:rate=1000/s,size=64", &ring);
    let (_fine, paused) = (cat(&env, "stat-pause", "fine"), cat(&env, "stat-pause", "paused"));
    let watch = reading(&broker, 2);
    paused.stop();
    std::thread::sleep(Duration::from_secs(2));
    paused.signal(Signal::CONT);
    let caught_up = || {
        let snapshot = watch.snapshot()?;
        let late = |r: &ringweir::view::stats::ReaderFigures| {
            r.get(ReaderFact::LagMaxTime) >= 1_900_000_000
        };
        snapshot.readers.iter().any(|r| late(r) && r.get(ReaderFact::Lag) < 50).then_some(())
    };
    wait_for(PATIENCE, caught_up).expect("it catches up, and its high-water mark tells");
    let latencies = json(&env, &["stat-pause", "--latency"]);
    let late = |label: &str| {
        let buckets = reader(&latencies, label)["buckets"].as_array().unwrap();
        let over = buckets.iter().filter(|b| b[0].as_u64().unwrap() > 1_000_000_000);
        over.map(|b| b[1].as_u64().unwrap()).sum::<u64>()
    };
    let longest = |label: &str| reader(&latencies, label)["max_ns"].as_u64().unwrap();
    assert!(
        longest("paused") >= 1_900_000_000 && longest("paused") > longest("fine"),
        "{latencies}"
    );
    // One second of the two was published more than a second before it was read.
    assert!(late("paused") > 500 && late("fine") < late("paused") / 2, "{latencies}");
    broker.end();
}

/// What the kernel drops before a broker with too small a socket buffer is named, with the remedy.
/// Control: when the flood is over, nothing limits the stream, and the loss is reported as earlier.
#[test]
fn why_names_the_kernel_when_it_drops() {
    let env = Environment::new(LIMIT);
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let source = format!("udp:127.0.0.1:{port},rcvbuf=4KiB");
    let broker = env.broker("stat-udp", &source, &[]);
    let watch = Viewer::attach(broker.path()).unwrap();
    let stop = AtomicBool::new(false);
    let verdict = std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..200 {
                    let _full = socket.send_to(&[7; 1000], ("127.0.0.1", port));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let lost = || {
            watch
                .snapshot()
                .is_some_and(|s| s.pump(ringweir::view::stats::PumpCounter::KernelLost) > 0)
        };
        let drops = wait_for(PATIENCE, || lost().then_some(()));
        let verdict = json(&env, &["stat-udp", "--why"]);
        stop.store(true, Ordering::Relaxed);
        drops.expect("the kernel drops");
        verdict
    });
    assert_eq!(findings(&verdict), [("kernel", "losing", "")], "{verdict}");
    let finding = &verdict["findings"][0];
    assert!(
        finding["lost_per_second"].as_f64().unwrap() > 0.0 && finding["lost"].as_u64().unwrap() > 0,
        "{verdict}"
    );
    assert!(finding["advice"].as_str().unwrap().contains("rcvbuf="), "{verdict}");
    std::thread::sleep(Duration::from_millis(300));
    let output = env.run("ringstat", &["stat-udp", "--why"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("nothing limits it")
            && text.contains("kernel lost ")
            && text.contains(" earlier"),
        "{text}"
    );
    broker.end();
}

/// A stopped broker is named too, and does not hang the program that asks. Control: when it
/// continues it is not named.
#[test]
fn a_stopped_broker_does_not_hang_ringstat() {
    if !needs("curl") {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = env.broker("stat-halt", "gen:rate=500/s,size=64", &[]);
    let _reader = cat(&env, "stat-halt", "ids");
    reading(&broker, 1);
    let exporter = exporter(&env, &["stat-halt"]);
    let url = format!("http://127.0.0.1:{}/metrics", exporter.port);
    let up = |text: &str| {
        text.lines().find(|l| l.starts_with("ringweir_up{")).map(|l| l.ends_with(" 1"))
    };
    assert_eq!(up(&stdout(&curl(&[&url]))), Some(true));
    broker.process.stop();
    let halted = || (up(&stdout(&curl(&[&url]))) == Some(false)).then_some(());
    wait_for(PATIENCE, halted).expect("its last figures are shown, as such");
    let output = env.run("ringstat", &["stat-halt", "--latency"]);
    assert!(said(&output).contains("is stopped (T)"), "a new viewer learns why: {}", said(&output));
    broker.process.signal(Signal::CONT);
    let again = || (up(&stdout(&curl(&[&url]))) == Some(true)).then_some(());
    wait_for(PATIENCE, again).expect("it continues");
    broker.end();
}

/// Arguments that contradict each other are refused.
#[test]
fn contradictory_arguments_are_refused() {
    let env = Environment::new(LIMIT);
    for (line, status) in [
        ("--prom --json", 2),
        ("--why -w 1", 2),
        ("--latency --prom", 2),
        ("--listen 127.0.0.1:0 --prom", 2),
        ("--listen unix:", 2),
        ("--prom", 1),
        ("--why nosuch", 1),
        ("--latency nosuch", 1),
        ("--help", 0),
        ("--columns", 0),
    ] {
        let output = env.run("ringstat", &line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(status), "{line}: {}", said(&output));
        assert!(
            status == 0 || (output.stdout.is_empty() && !said(&output).contains("panicked")),
            "{line}"
        );
    }
    let help = stdout(&env.run("ringstat", &["--help"]));
    assert!(help.contains("--listen") && help.contains("A reader samples the"), "{help}");
}
