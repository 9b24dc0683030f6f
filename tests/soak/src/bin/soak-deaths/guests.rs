//! Brokers that come and go beside the others: each starts where a name is planted, serves while it
//! is attacked and its log is not read, and ends by two signals at once.
//!
//! Contract: a start that finds something in its way says so at once and fails; without it the next
//! start succeeds. Each broker ends in good order, its reader's account closes, and nothing is
//! left.

use crate::plant::{Place, Plant};
use anyhow::{Context, bail, ensure};
use ringweir::{End, Item, Options, Start};
use ringweir_harness::log_pipe::{LogPipe, LogReader};
use ringweir_harness::{Environment, Process, wait_for};
use ringweir_pattern::verify;
use ringweir_proto::os::paths;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub const NAME: &str = "guest";
const LIMIT: Duration = Duration::from_secs(60);

pub struct Guests<'e> {
    pub env: &'e Environment,
    pub random: fastrand::Rng,
    /// A user who may attach.
    pub hostile_uid: Option<u32>,
    /// Planted fault: what was planted stays.
    pub leave_planted: bool,
    pub counts: BTreeMap<String, u64>,
    pub delivered: u64,
    pub lost: u64,
}

impl Guests<'_> {
    /// One broker after the other, until `is_over`.
    pub fn run(&mut self, is_over: impl Fn() -> bool) -> anyhow::Result<()> {
        while !is_over() {
            let place = [None, Some(Place::Lock), Some(Place::Socket), Some(Place::Ring)]
                [self.random.usize(..4)];
            if let Some(place) = place {
                self.planted(place)?;
            }
            self.guest().with_context(|| format!("the guest after {place:?}"))?;
            std::thread::sleep(Duration::from_millis(self.random.u64(100..600)));
        }
        Ok(())
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn command(&self) -> Command {
        let mut command = self.env.command("ringd");
        command.arg("--run-dir").arg(self.env.run_dir());
        command.args(["run", "--name", NAME, "--source", "gen:rate=2000/s,size=24..256"]);
        command.args(["--capacity", "1MiB", "--depth", "4096", "--max-datagram", "1KiB"]);
        if let Some(uid) = self.hostile_uid {
            command.args(["--allow-uid", &uid.to_string()]);
        }
        command
    }

    fn socket(&self) -> PathBuf {
        paths::socket_path(&self.env.run_dir(), NAME)
    }

    /// A start with something in its way.
    fn planted(&mut self, place: Place) -> anyhow::Result<()> {
        let plant = Plant::at(self.env, place, NAME, &mut self.random)?;
        let mut process = self.env.start(self.command());
        let is_up = |process: &Process| process.stderr().contains(&format!("{NAME} gen "));
        let over = wait_for(LIMIT, || (process.ended().is_some() || is_up(&process)).then_some(()));
        ensure!(over.is_some(), "a start with {} hangs: {}", plant.describe(), process.stderr());
        if is_up(&process) && place == Place::Ring {
            self.count(format!("{} replaced", plant.describe()));
            end(&mut process, 0)?;
        } else {
            let (status, said) = (process.wait(), process.stderr());
            let path = plant.path().display().to_string();
            ensure!(
                status.code() == Some(1) && said.contains(&path),
                "a start with {}: {status}: {said}",
                plant.describe()
            );
            self.count(format!("{} refused", plant.describe()));
        }
        if self.leave_planted {
            return Ok(());
        }
        plant.remove()
    }

    /// A broker with nothing in its way.
    fn guest(&mut self) -> anyhow::Result<()> {
        let (fifo, copy) = (self.env.path("guest-log"), self.env.path("guest-log-copy"));
        let log = LogPipe::new(&fifo, &copy);
        let mut process = self.env.start_with_log(self.command(), &log);
        let socket = self.socket();
        let name = socket.to_str().expect("UTF-8");
        let attach = || Options::new("honest").start(Start::Seq(0)).attach(name).ok();
        let reader = wait_for(LIMIT, || match process.ended() {
            Some(_) => Some(None),
            None => attach().map(Some),
        });
        let Some(Some(mut reader)) = reader else {
            bail!("it is not up: {}", process.stderr());
        };
        let log_reader = LogReader::ALL[self.random.usize(..LogReader::ALL.len())];
        log.turn(log_reader);
        let ends_at = Instant::now() + Duration::from_millis(self.random.u64(100..600));
        let pause = self.random.u64(..2000);
        let (mut signalled, mut next, mut lost) = (false, 0, 0);
        let mut buffer = vec![0; reader.geometry().max_datagram() as usize];
        let mut news = Instant::now();
        loop {
            if !signalled && Instant::now() >= ends_at {
                process.signal(Signal::TERM);
                std::thread::sleep(Duration::from_micros(pause));
                if process.ended().is_none() {
                    process.signal(Signal::TERM);
                }
                signalled = true;
            }
            match reader.next()? {
                Item::Datagram(mut datagram) => {
                    let seq = datagram.seq();
                    let Ok(len) = datagram.copy_to(&mut buffer) else { continue };
                    let number = verify::check(&buffer[..len])?.number;
                    ensure!(seq == next && number == seq, "seq {seq} carries {number}, not {next}");
                    (next, news) = (next + 1, Instant::now());
                }
                Item::Gap(gap) => {
                    ensure!(gap.first == next, "gap {gap:?} where {next} was next");
                    next += gap.count;
                    lost += gap.count;
                }
                Item::Empty => {
                    ensure!(news.elapsed() < LIMIT, "nothing for {LIMIT:?}: {}", process.stderr());
                    _ = reader.wait(Some(Duration::from_millis(20)))?;
                }
                Item::Ended(End::Stream) => break,
                other => bail!("its reader received {other:?}"),
            }
        }
        let status = wait_for(LIMIT, || process.ended());
        let status = status.with_context(|| format!("it does not end, log {log_reader:?}"))?;
        ensure!(status.success(), "log {log_reader:?}: {status}: {}", process.stderr());
        if log_reader == LogReader::Reads {
            let ended = || {
                let said = process.stderr();
                let number = said.split(&format!("{NAME} ended: ")).nth(1)?;
                number.split(' ').next()?.parse::<u64>().ok()
            };
            let published = wait_for(LIMIT, ended).context("it did not log its end")?;
            ensure!(published == next, "{published} published, {next} delivered or lost");
        }
        let account = reader.account();
        ensure!(
            account.delivered + account.lost == next && account.lost == lost,
            "{account:?} at {next} with {lost} lost"
        );
        self.delivered += next - lost;
        self.lost += lost;
        self.count(match log_reader {
            LogReader::Reads => "ended with log read",
            LogReader::Stuck => "ended with log stuck",
            LogReader::StuckNonBlocking => "ended with log stuck and non-blocking",
            LogReader::Gone => "ended with log closed",
        });
        drop(log);
        std::fs::remove_file(fifo)?;
        std::fs::remove_file(copy)?;
        let mut left = self.env.left();
        left.extend(self.env.objects());
        let of_it = |path: &&PathBuf| path.to_string_lossy().contains(NAME);
        let found = left.iter().find(of_it);
        ensure!(found.is_none(), "it left {found:?}");
        Ok(())
    }
}

/// Ends it with two signals, `pause` µs apart.
fn end(process: &mut Process, pause: u64) -> anyhow::Result<()> {
    process.signal(Signal::TERM);
    std::thread::sleep(Duration::from_micros(pause));
    if process.ended().is_none() {
        process.signal(Signal::TERM);
    }
    let status = process.wait();
    ensure!(status.success(), "{status}: {}", process.stderr());
    Ok(())
}
