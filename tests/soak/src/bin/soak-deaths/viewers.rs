//! Tools that show everything meanwhile, a hostile broker among it: what it says and cuts off ends
//! none of them, and keeps no other stream from being shown.

use anyhow::{Context, ensure};
use ringweir_harness::hostile::{SHOWN, hidden};
use ringweir_harness::hostile_broker::{HostileBroker, Manner};
use ringweir_harness::{Environment, Process, wait_for};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

const NAME: &str = "evil";
const LIMIT: Duration = Duration::from_secs(60);
/// Each request is answered in the next of these manners.
const MANNERS: [Manner; 5] =
    [Manner::CutsOffLater, Manner::Refuses, Manner::Shows, Manner::CutsOff, Manner::ShowsOnly];

#[derive(Default)]
pub struct Counts {
    /// How often the hostile broker was asked.
    pub asked: usize,
    /// Tools that ran, and how many of them showed its words.
    pub ran: u64,
    pub with_words: u64,
    /// How often the live screen found no stream to show.
    pub restarted: u64,
    pub scrapes: u64,
    /// Scrapes with the figures of a stream that is not hostile.
    pub with_honest: u64,
}

/// Shows everything again and again, until `is_over`.
pub fn run(env: &Environment, seed: u64, is_over: impl Fn() -> bool) -> anyhow::Result<Counts> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counts = Counts::default();
    let evil = HostileBroker::start(&env.run_dir(), NAME, &MANNERS);
    let watch = || {
        let mut command = env.command("ringstat");
        command.args(["-w", "0.3"]).stdout(Stdio::null());
        env.start(command)
    };
    let mut watcher = watch();
    let mut command = env.command("ringstat");
    command.args(["--listen", "127.0.0.1:0"]);
    let mut exporter = env.start(command);
    let port = || {
        let said = exporter.stderr();
        said.split("http://127.0.0.1:").nth(1)?.split_once("/metrics\n")?.0.parse().ok()
    };
    let port: u16 = wait_for(LIMIT, port).context("the exporter does not listen")?;
    let runs: [&[&str]; 8] = [
        &["ringstat"],
        &["ringstat", "--json"],
        &["ringstat", NAME],
        &["ringstat", NAME, "--why"],
        &["ringstat", NAME, "--latency"],
        &["ringctl", "ls"],
        &["ringctl", "show", NAME],
        &["ringcat", NAME, "-n", "1"],
    ];
    while !is_over() {
        let run = runs[random.usize(..runs.len())];
        let output = env.run(run[0], &run[1..]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let ended = matches!(output.status.code(), Some(0..=2));
        ensure!(ended, "{run:?}: {}: {text}", output.status);
        ensure!(hidden(&text).is_none(), "{run:?} shows {:?}: {text:?}", hidden(&text));
        counts.ran += 1;
        counts.with_words += u64::from(text.contains(SHOWN));

        let text = scrape(port)?;
        ensure!(hidden(&text).is_none(), "the exporter shows {:?}", hidden(&text));
        ensure!(text.ends_with("# EOF\n"), "a scrape is cut off: {text:?}");
        counts.scrapes += 1;
        counts.with_honest += u64::from(text.contains("stream=\"gen\""));
        ensure!(exporter.ended().is_none(), "the exporter ended: {}", exporter.stderr());
        if let Some(status) = watcher.ended() {
            // There was no broker but the hostile one when it began.
            ensure!(status.code() == Some(1), "ringstat -w: {status}: {}", watcher.stderr());
            watcher = watch();
            counts.restarted += 1;
        }
        let next = Instant::now() + Duration::from_millis(random.u64(500..1000));
        while !is_over() && Instant::now() < next {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    ensure!(counts.with_honest > 0, "no scrape of {} had the honest streams", counts.scrapes);
    for process in [watcher, exporter] {
        end(process)?;
    }
    counts.asked = evil.asked();
    Ok(counts)
}

fn scrape(port: u16) -> anyhow::Result<String> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(LIMIT))?;
    client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
    let mut text = String::new();
    client.read_to_string(&mut text).context("a scrape")?;
    Ok(text.replace('\r', ""))
}

fn end(process: Process) -> anyhow::Result<()> {
    process.signal(Signal::TERM);
    let output = process.output();
    let said = String::from_utf8_lossy(&output.stderr);
    // The watcher may have something to report.
    ensure!(matches!(output.status.code(), Some(0..=2)), "ringstat: {}: {said}", output.status);
    Ok(())
}
