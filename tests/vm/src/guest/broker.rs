//! Brokers in the guest on devices of `ringshim.ko`, and readers that hash what they receive.
//!
//! The devices are models on the host. A model reports its account when it ends; a scenario asks
//! the host for it (`account NAME`). So every account is closed against the device's own:
//! produced = lost in the device + delivered, and the hash of what each reader received is the hash
//! of what the device stored.

use super::bus::{EDU, IVSHMEM, devices, driver, hand_over};
use super::kernel::{load, unload};
use super::scenario::{Scenario, ask, print};
use super::shim::{MODULE, node};
use anyhow::{Context, Result, ensure};
use ringweir_device_model::DeviceAccount;
use ringweir_harness::environment::Daemon;
use ringweir_harness::{Environment, Process, proc, wait_for};
use ringweir_pattern::verify;
use serde_json::Value;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "first datagram", run: |_| first_datagram() },
    Scenario { name: "three devices", run: |seconds| three_devices(seconds.parse()?) },
    Scenario { name: "overflow", run: |_| overflow() },
    Scenario { name: "replugged under a broker", run: |rounds| replugged(rounds.parse()?) },
    Scenario { name: "edu under a broker", run: |count| edu(count.parse()?) },
    Scenario { name: "tools", run: |_| tools() },
    Scenario { name: "uio under a broker", run: |_| uio() },
    Scenario { name: "fifo in the guest", run: |words| in_the_guest(words) },
];

const SOON: Duration = Duration::from_secs(30);
/// What a FIFO of 2 KiB holds at 1 Mbit/s, if it were all payload.
const NOMINAL_SLACK_MS: f64 = 16.4;

/// A stream, and its readers.
struct Stream {
    daemon: Daemon,
    readers: Vec<Reading>,
}

/// A reader, and the thread that hashes all that it receives.
type Reading = (Process, JoinHandle<(u32, u64)>);

impl Stream {
    /// `ringd`, started through `how` (`chrt -f 60`), on `source`; it waits for `readers`, which
    /// read from the beginning.
    fn start(env: &Environment, name: &str, source: &str, how: &[&str], readers: usize) -> Self {
        let mut stream = Self::alone(env, name, source, how, readers);
        stream.read(env, readers);
        stream
    }

    /// Starts only `ringd`, which waits for `readers`.
    fn alone(env: &Environment, name: &str, source: &str, how: &[&str], readers: usize) -> Self {
        let mut command = env.command_at(how[0].as_ref());
        command.args(&how[1..]).args(["ringd", "--run-dir"]).arg(env.run_dir());
        command.args(["run", "--name", name, "--source", source, "--capacity", "8MiB"]);
        command.args(["--wait-readers", &readers.to_string()]);
        Self { daemon: env.broker_of(name, command), readers: Vec::new() }
    }

    fn read(&mut self, env: &Environment, readers: usize) {
        for _ in 0..readers {
            let mut command = env.command("ringcat");
            command
                .args([&self.daemon.name, "--from", "oldest", "--format", "len32le"])
                .stdout(Stdio::piped());
            let mut process = env.start(command);
            let mut pipe = process.stdout().expect("piped");
            // The same hash as in the model's account.
            let hashed = std::thread::spawn(move || {
                let (mut sum, mut bytes, mut some) = (crc32fast::Hasher::new(), 0, [0; 65536]);
                while let Ok(got @ 1..) = pipe.read(&mut some) {
                    sum.update(&some[..got]);
                    bytes += got as u64;
                }
                (sum.finalize(), bytes)
            });
            self.readers.push((process, hashed));
        }
    }

    /// Ends it. Every reader must have been notified this many times that the device was gone.
    fn end_gone(self, times: usize) -> Result<()> {
        self.daemon.end();
        for (process, _) in self.readers {
            let ended = process.output();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            let often = if times == 1 { "once".into() } else { format!("{times} times") };
            let notified = said.contains(&format!("the source's device went away {often}"));
            ensure!(
                ended.status.success() && notified,
                "not notified that it went away {often}: {} {said}",
                ended.status
            );
        }
        Ok(())
    }

    /// The figures of `ringstat`.
    fn figures(&self, env: &Environment) -> Result<Value> {
        let output = env.run("ringstat", &[&self.daemon.name, "--json"]);
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn counter(&self, env: &Environment, name: &str) -> Result<u64> {
        self.figures(env)?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
    }

    /// Closes the account against that of its device; returns a line for the log.
    fn settle(self, env: &Environment, device_account: &DeviceAccount) -> Result<String> {
        let all = || (self.counter(env, "published").ok()? == device_account.stored).then_some(());
        let seen = self.figures(env)?;
        wait_for(SOON, all)
            .with_context(|| format!("not all of {device_account:?} came: {seen}"))?;
        let lost = || (self.counter(env, "device_lost").ok()? == device_account.lost).then_some(());
        wait_for(SOON, lost).with_context(|| {
            format!("reported as lost is not what {device_account:?} says: {seen}")
        })?;
        let seen = self.figures(env)?;
        let count = |name: &str| seen["counters"][name].as_u64().unwrap_or(u64::MAX);
        ensure!(
            device_account.produced == device_account.lost + device_account.stored,
            "the device's own account: {device_account:?}"
        );
        ensure!(count("broker_lost") == 0 && count("kernel_lost") == 0, "{seen}");
        let (name, readers) = (self.daemon.name.clone(), self.readers.len());
        self.daemon.end();
        for (process, hashed) in self.readers {
            let ended = process.output();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            ensure!(
                ended.status.success() && !said.contains("lapped"),
                "a reader: {} {said}",
                ended.status
            );
            let (sum, bytes) = hashed.join().expect("hashing");
            let sum = format!("{sum:08x}");
            ensure!(
                sum == device_account.channels[0].crc32,
                "{bytes} bytes hash to {sum}, the device's to {:?}",
                device_account.channels
            );
        }
        let ms = |ns: &Value| ns.as_u64().unwrap_or(0) as f64 / 1e6;
        Ok(format!(
            "{name}: {} made = {} lost in the device + {} to each of {readers} readers, hashes \
            equal; worst drain gap {:.2} ms \
             (slack {:.2} ms; 2 KiB of payload alone are {NOMINAL_SLACK_MS} ms at 1 Mbit/s); the \
             model itself was late by up to {:.1} ms",
            device_account.produced,
            device_account.lost,
            device_account.stored,
            ms(&seen["counters"]["drain_gap_max_ns"]),
            ms(&seen["facts"]["drain_slack_ns"]),
            device_account.late_max_us / 1000.0
        ))
    }
}

/// Asks the host for the account of model `name`, when it has ended.
fn device_account(name: &str) -> Result<DeviceAccount> {
    let line = ask(format!("account {name}"))?;
    serde_json::from_str(&line).with_context(|| line.clone())
}

/// A program that keeps the processor, or the disk, busy.
fn hog(env: &Environment, how: &[&str]) -> Process {
    let mut command = env.command_at(how[0].as_ref());
    command.args(&how[1..]);
    env.start(command)
}

fn source(kind: (u16, u16), nth: usize) -> Result<String> {
    Ok(format!("shim:{}", node(kind, nth)?.display()))
}

const REAL_TIME: &[&str] = &["chrt", "-f", "60"];

/// A8: one datagram through the module, the broker and a reader.
fn first_datagram() -> Result<()> {
    load(MODULE, "")?;
    let env = Environment::new(SOON);
    let mut command = env.command("ringd");
    command.arg("--run-dir").arg(env.run_dir()).args([
        "run",
        "--name",
        "fpga0",
        "--source",
        &source(IVSHMEM, 0)?,
    ]);
    let daemon = env.broker_of("fpga0", command);
    let read = env.run("ringcat", &["fpga0", "-n", "1"]);
    ensure!(read.status.success() && read.stdout.len() >= 24, "{read:?}");
    print(format!("the first datagram: {} bytes", read.stdout.len()))?;
    daemon.end();
    unload(MODULE)
}

/// The seed case (A2 to A5) on two devices at once, beside load, and a third one that is unbound
/// and bound meanwhile (B7).
fn three_devices(seconds: u64) -> Result<()> {
    load(MODULE, "")?;
    let env = Environment::new(Duration::from_secs(seconds) + 4 * SOON);
    let start = |name, nth, readers| {
        Ok::<_, anyhow::Error>(Stream::start(
            &env,
            name,
            &source(IVSHMEM, nth)?,
            REAL_TIME,
            readers,
        ))
    };
    let load = [
        hog(&env, &["sh", "-c", "while :; do :; done"]),
        hog(
            &env,
            &[
                "sh",
                "-c",
                "while :; do dd if=/dev/zero of=/tmp/io bs=64k count=16 conv=fsync 2>/dev/null; \
                done",
            ],
        ),
    ];
    let mut jitter = env.command_at("cyclictest".as_ref());
    jitter
        .args(["-q", "-m", "-p", "50", "-i", "1000", "-D", &seconds.to_string()])
        .stdout(Stdio::piped());
    let jitter = env.start(jitter);
    let (slow, fast, third) = (start("slow", 0, 8)?, start("fast", 1, 8)?, start("third", 2, 1)?);
    let place = devices(IVSHMEM)?.get(2).context("a third device")?.clone();
    std::thread::sleep(Duration::from_secs(seconds / 3));
    driver(MODULE, "unbind", &place)?;
    let away = || (third.figures(&env).ok()?["facts"]["source_away"] == 1).then_some(());
    wait_for(SOON, away).context("the third one's broker does not notice that it is gone")?;
    let before = third.counter(&env, "published")?;
    driver(MODULE, "bind", &place)?;
    let back = || (third.counter(&env, "published").ok()? > before + 10).then_some(());
    wait_for(SOON, back)
        .with_context(|| format!("it does not continue: {}", third.daemon.process.stderr()))?;
    let (slow_account, fast_account) = (device_account("slow")?, device_account("fast")?);
    drop(load);
    let jitter = String::from_utf8_lossy(&jitter.output().stdout).trim().to_string();
    let lines = [slow.settle(&env, &slow_account)?, fast.settle(&env, &fast_account)?];
    for line in lines {
        print(line)?;
    }
    if slow_account.lost + fast_account.lost > 0 {
        print(format!(
            "the device overflowed; this guest's jitter beside it (cyclictest -p 50, us): {jitter}"
        ))?;
    }
    third.end_gone(1)?;
    unload(MODULE)
}

/// The negative control of the seed case: without priority and beside hogs the FIFO overflows, and
/// the account closes.
fn overflow() -> Result<()> {
    load(MODULE, "")?;
    let env = Environment::new(4 * SOON);
    let without = &["taskset", "1", "nice", "-n", "19"];
    let mut stream = Stream::alone(&env, "late", &source(IVSHMEM, 3)?, without, 1);
    let hogs: Vec<_> =
        (0..4).map(|_| hog(&env, &["taskset", "1", "sh", "-c", "while :; do :; done"])).collect();
    stream.read(&env, 1);
    let device_account = device_account("late")?;
    drop(hogs);
    ensure!(
        device_account.lost > 0,
        "SCHED_OTHER beside four hogs kept up: this control shows nothing: {device_account:?}"
    );
    print(stream.settle(&env, &device_account)?)?;
    unload(MODULE)
}

/// D9: unplugging and plugging in a device at full rate ends no process and leaves nothing open.
fn replugged(rounds: usize) -> Result<()> {
    load(MODULE, "")?;
    let env = Environment::new(Duration::from_secs(120));
    let stream = Stream::start(&env, "plugged", &source(IVSHMEM, 2)?, REAL_TIME, 2);
    let place = devices(IVSHMEM)?.get(2).context("a third device")?.clone();
    let pid = stream.daemon.process.pid();
    let more_than = |count: u64| (stream.counter(&env, "published").ok()? > count).then_some(());
    wait_for(SOON, || more_than(10)).context("nothing comes")?;
    let open = proc::open_fds(pid);
    for round in 1..=rounds {
        std::fs::write(format!("/sys/bus/pci/devices/{place}/remove"), "1")?;
        let gone = || (stream.counter(&env, "source_gone").ok()? == round as u64).then_some(());
        wait_for(SOON, gone)
            .with_context(|| format!("round {round}: {}", stream.daemon.process.stderr()))?;
        let before = stream.counter(&env, "published")?;
        std::fs::write("/sys/bus/pci/rescan", "1")?;
        wait_for(SOON, || more_than(before + 10)).with_context(|| {
            format!("round {round}: not back: {}", stream.daemon.process.stderr())
        })?;
    }
    let now = proc::open_fds(pid);
    ensure!(now == open, "{open} fds were open, now {now}");
    let published = stream.counter(&env, "published")?;
    stream.end_gone(rounds)?;
    print(format!(
        "unplugged {rounds} times under a broker with 2 readers, {published} datagrams; no signal, \
        no fd left"
    ))?;
    unload(MODULE)
}

/// B2: the card's DMA goes into memory that the broker maps; each datagram consists of consecutive
/// 32-bit numbers.
fn edu(count: usize) -> Result<()> {
    load(MODULE, "")?;
    let env = Environment::new(Duration::from_secs(60 + count as u64));
    let stream = Stream::start(&env, "dma", &source(EDU, 0)?, REAL_TIME, 0);
    let read = env.run(
        "ringcat",
        &["dma", "--from", "oldest", "-n", &count.to_string(), "--format", "len32le"],
    );
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let (mut rest, mut seen, mut different) =
        (&read.stdout[..], 0, std::collections::BTreeSet::new());
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (payload, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        let words: Vec<u32> =
            payload.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        ensure!(
            words.len() >= 16 && words.windows(2).all(|w| w[1] == w[0] + 1),
            "datagram {seen}: {words:?}"
        );
        different.insert(words[0]);
        (rest, seen) = (behind, seen + 1);
    }
    ensure!(
        seen == count && different.len() > 5,
        "{seen} datagrams from {} places",
        different.len()
    );
    ensure!(stream.counter(&env, "device_lost")? == 0);
    stream.daemon.end();
    print(format!(
        "{count} DMA transfers through the broker verified, from {} places of the card",
        different.len()
    ))?;
    unload(MODULE)
}

/// A14: `dd`, `cat` and `socat` on the node: one `read(2)` is one datagram.
fn tools() -> Result<()> {
    load(MODULE, "")?;
    let node = node(IVSHMEM, 2)?;
    let node = node.to_str().context("UTF-8")?;
    let dd = Command::new("dd")
        .args([&format!("if={node}"), "of=/tmp/dd", "bs=64k", "count=20"])
        .output()?;
    let said = String::from_utf8_lossy(&dd.stderr).into_owned();
    ensure!(said.contains("0+20 records in"), "dd: {said}");
    let mut verifier = verify::Verifier::default();
    let mut bytes = &std::fs::read("/tmp/dd")?[..];
    for place in 0..20 {
        // The length is in the datagram itself, so that what dd wrote can be taken apart again.
        let len = bytes.get(16..20).with_context(|| format!("datagram {place} of dd"))?;
        let len = u32::from_le_bytes(len.try_into()?) as usize;
        verifier
            .accept(bytes.get(..len).context("cut")?)
            .map_err(|e| anyhow::anyhow!("datagram {place} of dd: {e}"))?;
        bytes = &bytes[len..];
    }
    ensure!(bytes.is_empty() && verifier.ok == 20 && verifier.repeated == 0, "dd: {verifier:?}");
    let cat = Command::new("sh")
        .args(["-c", &format!("timeout 3 cat {node} > /tmp/cat; wc -c < /tmp/cat")])
        .output()?;
    let cat_bytes: u64 = String::from_utf8_lossy(&cat.stdout).trim().parse()?;
    ensure!(cat_bytes > 1000, "cat: {cat:?}");
    let receiver = UnixDatagram::bind("/tmp/socat")?;
    receiver.set_read_timeout(Some(SOON))?;
    let mut socat = Command::new("socat")
        .args(["-u", "-b65536", &format!("OPEN:{node},rdonly"), "UNIX-SENDTO:/tmp/socat"])
        .spawn()?;
    let (mut verifier, mut datagram) = (verify::Verifier::default(), [0; 65536]);
    for place in 0..50 {
        let got = receiver.recv(&mut datagram)?;
        verifier
            .accept(&datagram[..got])
            .map_err(|e| anyhow::anyhow!("datagram {place} of socat: {e}"))?;
    }
    socat.kill()?;
    socat.wait()?;
    std::fs::remove_file("/tmp/socat")?;
    ensure!(verifier.ok == 50 && verifier.repeated == 0, "socat: {verifier:?}");
    print(format!(
        "dd: 20 reads, 20 datagrams; cat: {cat_bytes} bytes; socat: 50 datagrams, whole"
    ))?;
    unload(MODULE)
}

/// The same FIFO through plain UIO, which has no interrupt of this device, so it is polled.
fn uio() -> Result<()> {
    for module in ["uio", "uio_pci_generic"] {
        load(module, "")?;
    }
    let place = devices(IVSHMEM)?.get(2).context("a third device")?.clone();
    let sys = Path::new("/sys/bus/pci/devices").join(&place);
    hand_over(&place, "uio_pci_generic")?;
    let name =
        std::fs::read_dir(sys.join("uio"))?.flatten().next().context("no uio device")?.file_name();
    let env = Environment::new(2 * SOON);
    let source =
        format!("uio:memory={}:/dev/{}", sys.join("resource2").display(), name.to_string_lossy());
    let stream = Stream::start(&env, "uio", &source, REAL_TIME, 0);
    let read = env.run("ringcat", &["uio", "-n", "500", "--verify"]);
    let said = String::from_utf8_lossy(&read.stderr).into_owned();
    ensure!(read.status.success() && said.contains(" 500 right, 0 wrong"), "{said}");
    let words = stream.daemon.process.stderr();
    ensure!(words.contains("uio_pci_generic, polled"), "{words}");
    stream.daemon.end();
    std::fs::write(sys.join("driver_override"), "\n")?;
    driver("uio_pci_generic", "unbind", &place)?;
    print("500 datagrams through uio_pci_generic, polled, verified")?;
    unload("uio_pci_generic")?;
    unload("uio")
}

/// The seed case in instruction-counted time (`-icount`): time is what the guest's processor has
/// done, so the model runs in the guest, too. `words`: seconds, and the number of readers.
fn in_the_guest(words: &str) -> Result<()> {
    let (seconds, readers) = words.split_once(' ').context("seconds, readers")?;
    let (seconds, readers): (u64, usize) = (seconds.parse()?, readers.parse()?);
    let env = Environment::new(Duration::from_secs(10 * seconds) + 4 * SOON);
    let load = [
        hog(&env, &["sh", "-c", "while :; do :; done"]),
        hog(
            &env,
            &[
                "sh",
                "-c",
                "while :; do dd if=/dev/zero of=/tmp/io bs=64k count=16 conv=fsync 2>/dev/null; \
                done",
            ],
        ),
    ];
    for (name, rate, how) in [
        ("one", "1Mbit/s", REAL_TIME),
        ("two", "2Mbit/s", REAL_TIME),
        ("late", "2Mbit/s", &["nice", "-n", "19"]),
    ] {
        let socket = env.path(name);
        let mut model = env.command_at("chrt".as_ref());
        model
            .args([
                "-f",
                "70",
                "ringfpga",
                "--rate",
                rate,
                "--for",
                &format!("{seconds}s"),
                "--socket",
            ])
            .arg(&socket);
        let model = env.start({
            model.stdout(Stdio::piped());
            model
        });
        wait_for(SOON, || socket.exists().then_some(())).context("the model listens")?;
        let stream = Stream::start(&env, name, &format!("fifo:{}", socket.display()), how, readers);
        let ended = model.output();
        let device_account: DeviceAccount =
            serde_json::from_slice(&ended.stdout).with_context(|| format!("{ended:?}"))?;
        print(stream.settle(&env, &device_account)?)?;
        match name {
            "late" => ensure!(
                device_account.lost > 0,
                "the control: without priority it kept up: {device_account:?}"
            ),
            _ => ensure!(device_account.lost == 0, "the FIFO overflowed: {device_account:?}"),
        }
    }
    drop(load);
    Ok(())
}
