//! The broker of both streams, which is killed and started again, and the sender of its UDP stream.

use crate::account::BUDGET_NS;
use crate::plant::{Place, Plant};
use anyhow::{Context, ensure};
use ringweir_cli::quantity::Rate;
use ringweir_harness::{Environment, Process, wait_for};
use ringweir_pattern::crc;
use ringweir_pattern::rate_limiter::RateLimiter;
use ringweir_proto::os::{clock, paths};
use rustix::process::Signal;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(120);
pub const STREAMS: [&str; 2] = ["gen", "udp"];

/// The `ringd` that serves both streams.
pub struct Broker {
    process: Process,
    config: PathBuf,
    sockets: [PathBuf; 2],
    /// Of each stream. A start that fails may have begun one.
    pub generations: [u64; 2],
}

impl Broker {
    /// Starts the first broker. Its rings hold some tenths of a second, so that a stopped reader is
    /// lapped.
    pub fn start(
        env: &Environment,
        rate: u64,
        port: u16,
        hostile_uid: Option<u32>,
    ) -> anyhow::Result<Self> {
        let config = env.path("ringd.toml");
        let allow = hostile_uid.map_or(String::new(), |uid| format!("allow-uid = [{uid}]\n"));
        let stream = |name: &str, source: String| {
            format!(
                "[[stream]]\nname = '{name}'\nsource = '{source}'\ndepth = 4096\ncapacity = \
                '2MiB'\n\
                 max-datagram = 1024\nreaders-max = 128\nlossless = '{}ms'\n{allow}",
                BUDGET_NS / 1_000_000
            )
        };
        let text = stream("gen", format!("gen:rate={rate}/s,size=24..1024,channels=3"))
            + &stream("udp", format!("udp:127.0.0.1:{port}"));
        std::fs::write(&config, text)?;
        let process = Self::spawn(env, &config);
        let sockets = STREAMS.map(|name| paths::socket_path(&env.run_dir(), name));
        let mut broker = Self { process, config, sockets, generations: [1; 2] };
        broker.is_up()?;
        Ok(broker)
    }

    fn spawn(env: &Environment, config: &PathBuf) -> Process {
        let mut command = env.command("ringd");
        command.arg("--config").arg(config).arg("--run-dir").arg(env.run_dir());
        env.start(command)
    }

    fn is_up(&mut self) -> anyhow::Result<()> {
        let generations = self.generations;
        let up = wait_for(PATIENCE, || {
            let said = self.process.stderr();
            let is_up = |(name, generation)| said.contains(&format!("{name} gen {generation}"));
            let all = STREAMS.iter().zip(generations).all(is_up);
            (all || self.process.ended().is_some()).then_some(())
        });
        let said = self.process.stderr();
        ensure!(
            up.is_some() && self.process.ended().is_none(),
            "ringd of generations {generations:?} is not up: {said}"
        );
        ensure!(
            generations == [1; 2] || said.matches("(adopted").count() == 2,
            "a ring was not adopted: {said}"
        );
        Ok(())
    }

    /// Kills it and starts the next one with the same names. If something is to be `planted`, a
    /// start that finds it comes before, which fails and may end no reader. Returns when it was
    /// killed (CLOCK_MONOTONIC, ns), and what was planted.
    pub fn kill(
        &mut self,
        env: &Environment,
        planted: Option<&mut fastrand::Rng>,
    ) -> anyhow::Result<(u64, Option<String>)> {
        ensure!(self.process.ended().is_none(), "ringd ended by itself: {}", self.process.stderr());
        let at = clock::monotonic_ns();
        self.process.kill();
        let mut what = None;
        if let Some(random) = planted {
            // Behind the first stream, which that start adopts before it fails. It finds the lock
            // before it adopts the second one, and the socket after that.
            let place = if random.bool() { Place::Lock } else { Place::Socket };
            let plant = Plant::at(env, place, STREAMS[1], random)?;
            let mut fails = Self::spawn(env, &self.config);
            let status = wait_for(PATIENCE, || fails.ended());
            let said = fails.stderr();
            ensure!(
                status.and_then(|status| status.code()) == Some(1)
                    && said.contains(&plant.path().display().to_string()),
                "a start with {}: {status:?}: {said}",
                plant.describe()
            );
            self.generations[0] += 1;
            self.generations[1] += u64::from(place == Place::Socket);
            what = Some(plant.describe());
            plant.remove()?;
        }
        self.process = Self::spawn(env, &self.config);
        self.generations.iter_mut().for_each(|generation| *generation += 1);
        self.is_up()?;
        Ok((at, what))
    }

    /// Makes it read its configuration again.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Stops or continues it.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn socket(&self, stream: usize) -> &str {
        self.sockets[stream].to_str().expect("UTF-8")
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Ends it with SIGTERM; returns how many datagrams each stream published.
    pub fn end(mut self) -> anyhow::Result<[u64; 2]> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        let said = self.process.stderr();
        ensure!(status.success(), "ringd: {status}: {said}");
        let mut published = [0; 2];
        for (name, published) in STREAMS.iter().zip(&mut published) {
            let number = said
                .split(&format!("{name} ended: "))
                .nth(1)
                .and_then(|s| s.split(' ').next()?.parse().ok());
            *published = number
                .with_context(|| format!("ringd did not report what {name} published: {said}"))?;
        }
        Ok(published)
    }
}

/// Sends CRC-checked datagrams to a port until `stop`, whether a broker listens or not.
pub fn feed(port: u16, rate: u64, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    let mut limiter = RateLimiter::new(Some(Rate::Datagrams(rate as f64)), 1);
    let mut buffer = [0; 1024];
    while !stop.load(Ordering::Relaxed) {
        while limiter.due(clock::monotonic_ns()) {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let datagram = &mut buffer[..24 + (number as usize * 37) % 1000];
            crc::fill(datagram, number, 0);
            // Nobody listens while the broker is dead.
            let _refused = socket.send(datagram);
            limiter.spend(datagram.len());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
