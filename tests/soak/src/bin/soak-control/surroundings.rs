//! What happens around the broker meanwhile: its file is changed and reloaded, its log is read or
//! not, and its streams are shown.
//!
//! Contract: a reload takes effect within [`LIMIT`], whatever else the broker is asked; what is
//! shown or logged has no character that a terminal would obey, though readers have such names.

use crate::stream::{ALLOWED, GROUP, LIMIT, READERS_MAX, STREAM, UNREADING};
use anyhow::{Context, ensure};
use fastrand::Rng;
use ringweir_harness::hostile::{SHOWN, hidden};
use ringweir_harness::log_pipe::{LogPipe, LogReader};
use ringweir_harness::{Daemon, Environment};
use ringweir_proto::os::paths;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The stream that comes and goes.
const GUEST: &str = "soak-guest";

pub struct Surroundings<'e> {
    pub env: &'e Environment,
    random: Rng,
    config: PathBuf,
    log: LogPipe,
    /// Whether the guest is in the file, and since when.
    guest: (bool, Instant),
    is_settled: bool,
    log_until: Instant,
    pub counts: BTreeMap<String, u64>,
}

impl<'e> Surroundings<'e> {
    /// Starts the broker.
    pub fn new(env: &'e Environment, seed: u64) -> anyhow::Result<(Self, Daemon)> {
        let config = env.path("ringd.toml");
        let log = LogPipe::new(&env.path("log"), &env.path("log-copy"));
        let now = Instant::now();
        let mut surroundings = Self {
            env,
            random: Rng::with_seed(seed),
            config,
            log,
            guest: (false, now),
            is_settled: true,
            log_until: now,
            counts: BTreeMap::new(),
        };
        surroundings.write(false)?;
        let mut command = env.command("ringd");
        command.arg("--run-dir").arg(env.run_dir()).arg("--config").arg(&surroundings.config);
        let process = env.start_with_log(command, &surroundings.log);
        Ok((surroundings, env.is_up(STREAM, process)))
    }

    /// Replaces the file, which may be read at any moment.
    fn write(&mut self, guest: bool) -> anyhow::Result<()> {
        let mut text = format!(
            "[[stream]]\nname = '{STREAM}'\nsource = 'gen:rate=20000/s,size=24..500'\nlossless = \
            '20ms'\nreaders-max = {READERS_MAX}\nwait-readers = 1\nsocket-mode = '0666'\n\
            allow-uid = [{ALLOWED}, {UNREADING}]\nallow-gid = [{GROUP}]\n"
        );
        if guest {
            text += &format!(
                "[[stream]]\nname = '{GUEST}'\nsource = 'gen:rate=100/s,size=64'\ndepth = \
                64\ncapacity = '64KiB'\nmax-datagram = 1024\n"
            );
        }
        let new = self.env.path("ringd.toml.new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.config)?;
        (self.guest, self.is_settled) = ((guest, Instant::now()), false);
        Ok(())
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Does what is due.
    pub fn turn(&mut self, broker: &Daemon) -> anyhow::Result<()> {
        let now = Instant::now();
        if now >= self.log_until {
            let to = LogReader::ALL[self.random.usize(..LogReader::ALL.len())];
            self.log.turn(to);
            self.count(match to {
                LogReader::Reads => "log read",
                LogReader::Stuck => "log stuck",
                LogReader::StuckNonBlocking => "log stuck and non-blocking",
                LogReader::Gone => "log closed",
            });
            self.log_until = now + Duration::from_millis(self.random.u64(50..500));
        }
        if !self.is_settled {
            self.guest_has_settled()?;
        } else if now >= self.guest.1 + Duration::from_millis(200) {
            self.write(!self.guest.0)?;
            for _ in 0..self.random.u8(1..3) {
                broker.process.signal(Signal::HUP);
            }
            self.count("reloads");
        }
        Ok(())
    }

    fn guest_has_settled(&mut self) -> anyhow::Result<()> {
        let (wanted, since) = self.guest;
        self.is_settled = paths::socket_path(&self.env.run_dir(), GUEST).exists() == wanted;
        ensure!(
            self.is_settled || since.elapsed() < LIMIT,
            "a reload has not taken effect for {LIMIT:?}"
        );
        Ok(())
    }

    /// The guest is gone, and the log is read.
    pub fn settle(&mut self, broker: &Daemon) -> anyhow::Result<()> {
        self.log.turn(LogReader::Reads);
        while !self.is_settled {
            self.guest_has_settled()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        self.write(false)?;
        broker.process.signal(Signal::HUP);
        while !self.is_settled {
            self.guest_has_settled()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends the broker with two signals. Returns how many datagrams it published.
    pub fn end(&mut self, broker: Daemon, seed: u64) -> anyhow::Result<u64> {
        broker.process.signal(Signal::TERM);
        std::thread::sleep(Duration::from_micros(seed % 2000));
        broker.process.signal(Signal::TERM);
        let log = self.env.path("log-copy");
        let published = broker.published();
        let text = std::fs::read_to_string(log)?;
        is_printable(&text).context("the log")?;
        Ok(published)
    }
}

/// Shows the streams and their readers now and then, until `is_over`. Returns how often, and how
/// often with names that are attacks.
pub fn show(env: &Environment, seed: u64, is_over: impl Fn() -> bool) -> anyhow::Result<[u64; 2]> {
    let runs: [&[&str]; 4] = [
        &["ringstat", STREAM],
        &["ringstat", "--prom"],
        &["ringctl", "show", STREAM],
        &["ringctl", "ls"],
    ];
    let (mut random, mut shown, mut with_names) = (Rng::with_seed(seed), 0, 0);
    while !is_over() {
        let run = runs[random.usize(..runs.len())];
        let output = env.run(run[0], &run[1..]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        ensure!(output.status.success(), "{run:?}: {}: {text}", output.status);
        ensure!(text.contains(STREAM), "{run:?} does not show {STREAM}: {text}");
        is_printable(&text).with_context(|| format!("{run:?}"))?;
        shown += 1;
        with_names += u64::from(text.contains(SHOWN));
        let next = Instant::now() + Duration::from_secs(1);
        while !is_over() && Instant::now() < next {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok([shown, with_names])
}

/// No character that a terminal would obey, or not show.
fn is_printable(text: &str) -> anyhow::Result<()> {
    let found = hidden(text);
    ensure!(found.is_none(), "{found:?} is shown: {text:?}");
    Ok(())
}
