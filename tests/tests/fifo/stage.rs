//! A device, a broker that drains it, and readers; at the end, whether their accounts close.

use ringweir::view::Viewer;
use ringweir::view::stats::StreamFact;
use ringweir_device_model::DeviceAccount;
use ringweir_device_model::account::ChannelAccount;
use ringweir_harness::environment::{Daemon, Environment, Process, wait_for};
use ringweir_harness::programs;
use ringweir_helpers::listener::StreamReceived;
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

/// Prints a measured figure, past the test harness, which hides the output of a passing test.
pub fn report(line: impl std::fmt::Display) {
    // It does not matter if stderr is closed.
    let _heard = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One of the project's programs in `env`, behind `front`: the words of a program that starts it in
/// a special way.
pub fn behind(env: &Environment, front: &str, program: &str) -> Command {
    let mut words = front.split_whitespace();
    let Some(first) = words.next() else { return env.command(program) };
    let mut command = env.command_at(Path::new(first));
    command.args(words).arg(programs::path(program));
    command
}

/// A running `ringfpga`.
pub struct Device {
    pub process: Process,
    pub at: PathBuf,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Device {
    pub fn start(env: &Environment, front: &str, place: &str, more: &str) -> Self {
        let at = env.path("fpga");
        let mut command = behind(env, front, "ringfpga");
        command
            .arg(place)
            .arg(&at)
            .args(more.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = env.start(command);
        let (stdin, stdout) = (process.stdin().unwrap(), BufReader::new(process.stdout().unwrap()));
        let there = || process.stderr().contains("there is a device at").then_some(());
        assert!(wait_for(SOON, there).is_some(), "no device: {}", process.stderr());
        Self { process, at, stdin, stdout }
    }

    pub fn source(&self) -> String {
        format!("fifo:{}", self.at.display())
    }

    /// Injects a fault, or asks for the account.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub fn device_account(&mut self) -> DeviceAccount {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let device_account: DeviceAccount = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{e}: {line:?} {}", self.process.stderr()));
        device_account.check().unwrap();
        device_account
    }

    /// Waits until it ends.
    fn end(mut self) -> DeviceAccount {
        let device_account = self.device_account();
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.process.stderr());
        device_account
    }
}

/// How everything is started.
#[derive(Clone, Copy, Default)]
pub struct Plan<'a> {
    /// The stream.
    pub name: &'a str,
    /// What starts the device; empty: it is started directly.
    pub device_front: &'a str,
    /// `--socket` if empty.
    pub place: &'a str,
    /// The device's options.
    pub device: &'a str,
    /// What starts the broker; empty: it is started directly.
    pub broker_front: &'a str,
    pub readers: usize,
}

/// A running device, broker and readers.
pub struct Stage {
    // Before the environment: processes end before their environment is checked.
    pub device: Device,
    pub broker: Daemon,
    listeners: Vec<Process>,
    polled: bool,
    pub env: Environment,
}

impl Stage {
    pub fn new(plan: Plan<'_>) -> Self {
        Self::lasting(plan, LIMIT)
    }

    /// A stage that may take `limit`.
    pub fn lasting(plan: Plan<'_>, limit: Duration) -> Self {
        let env = Environment::new(limit);
        let polled = plan.place == "--file";
        let place = if polled { plan.place } else { "--socket" };
        let device = Device::start(&env, plan.device_front, place, plan.device);
        let mut command = behind(&env, plan.broker_front, "ringd");
        command.args(["run", "--name", plan.name, "--source", &device.source()]);
        command.args(["--max-datagram", "2KiB", "--wait-readers", &plan.readers.to_string()]);
        let broker = env.broker_of(plan.name, command);
        let listen = |_| {
            let mut command = env.command("ringtest-listener");
            command.arg(plan.name).stdout(Stdio::piped());
            env.start(command)
        };
        let listeners = (0..plan.readers).map(listen).collect();
        Self { device, broker, listeners, polled, env }
    }

    /// Waits until this many datagrams were published in this generation.
    pub fn flows(&self, least: u64) {
        let watch = Viewer::attach(self.broker.path()).unwrap();
        let flows =
            || watch.snapshot().filter(|s| s.get(StreamFact::WriteCursor) >= least).map(|_| ());
        assert!(
            wait_for(SOON, flows).is_some(),
            "no {least} datagrams: {}",
            self.broker.process.stderr()
        );
    }

    /// Kills the broker; another one takes over after `pause`.
    pub fn replace_broker(self, pause: Duration) -> Self {
        let ringd = self.env.command("ringd");
        self.replace_broker_by(pause, ringd, Environment::broker_of)
    }

    /// The same, with the new `ringd` started by `start`.
    pub fn replace_broker_by(
        self,
        pause: Duration,
        mut ringd: Command,
        start: fn(&Environment, &str, Command) -> Daemon,
    ) -> Self {
        let Self { device, mut broker, listeners, polled, env } = self;
        let name = broker.name.clone();
        if broker.process.ended().is_none() {
            broker.process.kill();
        }
        drop(broker);
        std::thread::sleep(pause);
        ringd.args([
            "run",
            "--name",
            &name,
            "--source",
            &device.source(),
            "--max-datagram",
            "2KiB",
        ]);
        ringd.args(["--wait-readers", &listeners.len().to_string()]);
        let broker = start(&env, &name, ringd);
        Self { device, broker, listeners, polled, env }
    }

    /// The figures of `ringstat`.
    pub fn stats(&self) -> Value {
        let output = self.env.run("ringstat", &[&self.broker.name, "--json"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    /// Waits for the device's end, then ends the stream, so that readers report what they received.
    pub fn end(self) -> Outcome {
        let device_account = self.device.end();
        if self.polled {
            // Nothing reports the end of the device. The broker looks for losses after the last
            // datagram at most 10 ms later.
            std::thread::sleep(Duration::from_millis(300));
        } else {
            let said = || self.broker.process.stderr();
            let gone = 1 + device_account.faults.get("disappear").map_or(0, |d| d.times as usize);
            let all = wait_for(SOON, || (said().matches("is gone").count() >= gone).then_some(()));
            assert!(
                all.is_some(),
                "the broker has not noticed that the device is gone: {}",
                said()
            );
        }
        let output = self.env.run("ringstat", &[&self.broker.name, "--json"]);
        let stats = serde_json::from_slice(&output.stdout).expect("JSON of ringstat");
        let mut broker = self.broker;
        broker.process.signal(Signal::TERM);
        let status = broker.process.wait();
        let said = broker.process.stderr();
        assert!(status.success(), "{status}: {said}");
        let stories = self.listeners.into_iter().map(|listener| {
            let output = listener.output();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).expect("a story")
        });
        Outcome { device_account, stories: stories.collect(), stats, said }
    }
}

/// The reports of device, broker and readers.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub device_account: DeviceAccount,
    pub stories: Vec<StreamReceived>,
    pub stats: Value,
    /// The broker's stderr.
    pub said: String,
}

impl Outcome {
    /// A figure of the pump.
    pub fn counter(&self, name: &str) -> u64 {
        self.stats["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {}", self.stats))
    }

    /// Worst drain gap and the FIFO's slack, in ms.
    pub fn gap_and_slack(&self) -> (f64, f64) {
        let slack = self.stats["facts"]["drain_slack_ns"].as_u64().expect("a slack");
        (self.counter("drain_gap_max_ns") as f64 / 1e6, slack as f64 / 1e6)
    }

    /// Whether the accounts close. Every datagram that the device made was received, or reported as
    /// lost, or forgotten by the device when it was unplugged. What the device lost was reported as
    /// its loss. What was received is what was stored, in order.
    ///
    /// If device and broker have both lost datagrams before the same datagram, readers get one sum,
    /// under the layer that lost last. The broker's own counters have both parts.
    ///
    /// # Errors
    /// The sum that does not close, with the figures.
    pub fn check(&self) -> Result<(), String> {
        let sum = |of: fn(&ChannelAccount) -> u64| {
            self.device_account.channels.iter().map(of).sum::<u64>()
        };
        let forgotten = sum(|c| c.reset + c.left);
        let (device, broker) = (self.counter("device_lost"), self.counter("broker_lost"));
        for story in &self.stories {
            let s = story;
            let claims = [
                ("the stream ended", s.ended),
                ("every seq came in order, none was lapped", s.disorder + s.lapped == 0),
                (
                    "every byte was right, no number came twice",
                    s.channels.iter().all(|c| c.wrong + c.repeated == 0),
                ),
                (
                    "produced = delivered + reported + forgotten",
                    self.device_account.produced
                        == s.delivered + s.device + s.broker + s.restart + forgotten,
                ),
                (
                    "the device's losses were reported as such",
                    s.broker + s.restart > 0 || self.device_account.lost == s.device,
                ),
                // A broker that took over knows only its own time.
                (
                    "the broker's counters are the device's and the reader's",
                    s.restarts > 0
                        || device == self.device_account.lost + s.inexact
                            && device + broker == s.device + s.broker + s.inexact,
                ),
                (
                    "no channel came that is not there",
                    s.channels.len() <= self.device_account.channels.len(),
                ),
            ];
            if let Some((claim, _)) = claims.iter().find(|(_, holds)| !holds) {
                return Err(format!("not true: {claim}: {story:?} {:?}", self.device_account));
            }
            if s.broker + s.restart + forgotten > 0 {
                continue;
            }
            for (received, device) in s.channels.iter().zip(&self.device_account.channels) {
                if (&received.crc32, received.delivered) != (&device.crc32, device.stored) {
                    return Err(format!(
                        "what came is not what was stored: {received:?} {device:?}"
                    ));
                }
            }
        }
        match self.stories.len() {
            0 => Err("nobody listened".into()),
            _ => Ok(()),
        }
    }
}
