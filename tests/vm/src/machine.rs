//! One virtual machine, from the command line of QEMU to its exit status.
//!
//! Contract: everything has a time limit. A machine ends with its environment, and with the test
//! process however that ends. QEMU gets its two sockets as open fds; only its log is in the file
//! system.

#![allow(unsafe_code)]

use super::monitor::Monitor;
use super::protocol::{FromGuest, ToGuest, line};
use super::{Flavour, Prepared};
use anyhow::{Context, Result, bail, ensure};
use ringweir_harness::{Environment, Process};
use rustix::io::{FdFlags, fcntl_setfd};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A boot takes 3 to 10 s; this machine may be busy.
const BOOT: Duration = Duration::from_secs(120);
/// How long after a scenario's limit, at which the guest itself ends it, the guest counts as hung.
const GRACE: Duration = Duration::from_secs(10);
/// Time from a guest's last message to QEMU's end.
const LEAVE: Duration = Duration::from_secs(20);
/// How often the emulator may crash in one test.
const CRASHES: u32 = 2;
/// The signals of a program that crashes; the harness sends none of them.
const FAULTS: [i32; 5] = [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
/// Lines of the kernel's log that a failure shows.
const TAIL: usize = 60;

/// The emulator itself crashed. A sound emulator does not, whatever the guest does.
#[derive(Debug)]
struct Crash {
    signal: i32,
}

impl std::fmt::Display for Crash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QEMU crashed with signal {}", self.signal)
    }
}

impl std::error::Error for Crash {}

/// A machine before its boot.
pub struct Guest<'s> {
    env: &'s Environment,
    prepared: &'static Prepared,
    flavour: Flavour,
    processors: u32,
    memory: u32,
    icount: Option<u32>,
    more: Vec<String>,
    append: String,
    ports: u32,
}

impl<'s> Guest<'s> {
    /// One processor, 256 MiB, no devices.
    pub fn new(env: &'s Environment, prepared: &'static Prepared, flavour: Flavour) -> Self {
        let (more, append) = (Vec::new(), String::new());
        Self {
            env,
            prepared,
            flavour,
            processors: 1,
            memory: 256,
            icount: None,
            more,
            append,
            ports: 0,
        }
    }

    /// Sets the number of processors.
    #[must_use]
    pub fn processors(mut self, processors: u32) -> Self {
        self.processors = processors;
        self
    }

    /// Sets the memory, in MiB.
    #[must_use]
    pub fn memory(mut self, memory: u32) -> Self {
        self.memory = memory;
        self
    }

    /// Time counts instructions, 2^`shift` ns each: what happens in the guest does not depend on
    /// how busy the host is. One processor only.
    #[must_use]
    pub fn icount(mut self, shift: u32) -> Self {
        self.icount = Some(shift);
        self
    }

    /// Adds to the kernel's command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append);
        self
    }

    /// Adds to QEMU's command line.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Adds a device that can be unplugged (from the port `ID-port`): `-device SPEC,id=ID`.
    #[must_use]
    pub fn device(mut self, id: &str, spec: &str) -> Self {
        self.ports += 1;
        let n = self.ports;
        let port = format!("pcie-root-port,id={id}-port,chassis={n},slot={n}");
        self.arguments(&["-device", &port, "-device", &format!("{spec},id={id},bus={id}-port")])
    }

    /// Adds an ivshmem-doorbell device with one vector, whose server is at `socket`. The server
    /// must be listening already.
    #[must_use]
    pub fn ivshmem(self, id: &str, socket: &Path) -> Self {
        let wire = format!("socket,path={},id={id}-wire", socket.display());
        self.arguments(&["-chardev", &wire])
            .device(id, &format!("ivshmem-doorbell,chardev={id}-wire,vectors=1"))
    }

    /// Boots it, until its init waits for jobs.
    pub fn boot(self) -> Result<Machine> {
        let (ours, port) = UnixStream::pair()?;
        let (monitor, qmp) = UnixStream::pair()?;
        let log = self.env.path(&format!("kernel{}", port.as_raw_fd()));
        let mut qemu = self.env.command_at("qemu-system-x86_64".as_ref());
        qemu.args([
            "-M",
            "q35",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
            "-no-user-config",
        ]);
        qemu.args(["-m", &self.memory.to_string(), "-smp", &self.processors.to_string()]);
        match self.icount {
            Some(shift) => {
                ensure!(self.processors == 1, "icount with more than one processor");
                qemu.args([
                    "-accel",
                    "tcg,thread=single",
                    "-icount",
                    &format!("shift={shift},sleep=off"),
                ])
            }
            None => qemu.args(["-accel", "tcg,thread=multi"]),
        };
        qemu.args(["-serial", &format!("file:{}", log.display())]);
        qemu.args([
            "-chardev",
            &format!("socket,id=talk,fd={}", port.as_raw_fd()),
            "-serial",
            "chardev:talk",
        ]);
        qemu.args([
            "-chardev",
            &format!("socket,id=qmp,fd={}", qmp.as_raw_fd()),
            "-mon",
            "chardev=qmp,mode=control",
        ]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        qemu.arg("-kernel").arg(self.prepared.kernel(self.flavour));
        qemu.arg("-initrd").arg(self.prepared.initramfs(self.flavour));
        // The log is large enough for the messages of a scenario: an overwritten message is a
        // failure.
        qemu.arg("-append")
            .arg(format!("console=ttyS0 panic=-1 quiet log_buf_len=4M{}", self.append));
        qemu.args(&self.more).stdout(Stdio::null());
        // SAFETY: one async-signal-safe system call per fd between fork and exec; the closure owns
        // both fds.
        unsafe {
            qemu.pre_exec(move || {
                for fd in [&port, &qmp] {
                    fcntl_setfd(fd, FdFlags::empty())?;
                }
                Ok(())
            });
        }
        let qemu = self.env.start(qemu);
        let mut machine = Machine {
            qemu,
            talk: Talk { stream: ours, waiting: VecDeque::new() },
            monitor: None,
            log,
            flavour: self.flavour,
            ran: 0,
            booted: Duration::ZERO,
        };
        let began = Instant::now();
        match machine.receive(began + BOOT)? {
            FromGuest::Ready { .. } => machine.booted = began.elapsed(),
            other => bail!("instead of being ready the guest said {other:?}"),
        }
        machine.monitor = Some(monitor);
        Ok(machine)
    }
}

struct Talk {
    stream: UnixStream,
    waiting: VecDeque<u8>,
}

impl Talk {
    /// The next line; `None` if the time is over.
    fn line(&mut self, until: Instant) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.waiting.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_string()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut some = [0; 4096];
            match self.stream.read(&mut some) {
                Ok(0) => bail!("hung up"),
                Ok(n) => self.waiting.extend(&some[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A guest that waits for jobs. Dropping it kills it.
pub struct Machine {
    qemu: Process,
    talk: Talk,
    monitor: Option<UnixStream>,
    log: PathBuf,
    flavour: Flavour,
    ran: u32,
    /// How long its boot took.
    pub booted: Duration,
}

/// Runs `test`, which makes its own guests, and repeats it if an emulator crashed. Some versions of
/// QEMU crash once in hundreds of rounds, when devices go while processors run; that says nothing
/// about what is tested. Each crash is reported, and at most two are allowed. Any other failure
/// fails at once.
///
/// # Panics
/// With the reason why it failed.
pub fn in_guests(test: impl Fn() -> Result<()>) {
    for crashes in 1.. {
        match test() {
            Ok(()) => return,
            Err(e) if crashes <= CRASHES && e.downcast_ref::<Crash>().is_some() => {
                eprintln!("the emulator itself crashed; once more from the start: {e:#}");
            }
            Err(e) => panic!("{e:?}"),
        }
    }
}

impl Machine {
    /// The emulator's pid.
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// Its monitor. It can be taken once.
    pub fn monitor(&mut self) -> Result<Monitor> {
        Monitor::new(self.monitor.take().context("the monitor has been given out already")?)
    }

    /// Runs a scenario that asks the host for nothing.
    pub fn run(&mut self, scenario: &str, argument: &str, limit: Duration) -> Result<()> {
        self.run_with(scenario, argument, limit, &mut |what| {
            bail!("nobody here knows what to do about {what:?}")
        })
    }

    /// Runs a scenario in the guest; `answer` does for it what only the host can do. Text from the
    /// scenario is printed.
    ///
    /// # Errors
    /// Why it failed, with the end of the kernel's log if the guest is gone.
    pub fn run_with(
        &mut self,
        scenario: &str,
        argument: &str,
        limit: Duration,
        answer: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<()> {
        let began = Instant::now();
        let name = format!("{} {scenario} {argument}", self.flavour.name());
        let order = ToGuest::Run {
            scenario: scenario.into(),
            argument: argument.into(),
            limit: limit.as_secs().max(1),
        };
        self.talk.stream.write_all(line(&order).as_bytes())?;
        loop {
            match self.receive(began + limit + GRACE).with_context(|| name.clone())? {
                FromGuest::Print(words) => eprintln!("{name}: {words}"),
                FromGuest::Ask(what) => {
                    let answer =
                        answer(&what).with_context(|| format!("{name}: asked for {what:?}"))?;
                    self.talk.stream.write_all(line(&answer).as_bytes())?;
                }
                FromGuest::Result { fault: None } => {
                    self.ran += 1;
                    eprintln!("{name}: ok, {:.1} s", began.elapsed().as_secs_f64());
                    return Ok(());
                }
                FromGuest::Result { fault: Some(fault) } => {
                    bail!("{name}: {fault}; {}", self.tail())
                }
                other => bail!("{name}: the guest said {other:?}"),
            }
        }
    }

    /// Ends the guest. All scenarios must have passed, also by the guest's own count, and QEMU must
    /// end with the matching status.
    pub fn end(mut self) -> Result<()> {
        self.talk.stream.write_all(line(&ToGuest::Leave).as_bytes())?;
        let said = self.receive(Instant::now() + LEAVE)?;
        ensure!(
            said == FromGuest::Verdict { passed: self.ran, failed: 0 },
            "{} passed here, the guest said {said:?}",
            self.ran
        );
        let status = self.ended()?;
        // isa-debug-exit makes QEMU's status twice the byte that was written, plus one.
        ensure!(status.code() == Some(1), "the verdict was good, but {}", meaning(status));
        Ok(())
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        ringweir_harness::wait_for(LEAVE, || self.qemu.ended()).context("QEMU does not end")
    }

    fn receive(&mut self, until: Instant) -> Result<FromGuest> {
        match self.talk.line(until) {
            Ok(Some(line)) => {
                serde_json::from_str(&line).with_context(|| format!("the guest said {line:?}"))
            }
            Ok(None) => {
                // The tail shows where it hangs; it is read before the machine ends.
                bail!("the guest hangs; {}", self.tail())
            }
            Err(e) => {
                let ended = self.ended();
                let crash = ended
                    .as_ref()
                    .ok()
                    .and_then(|status| status.signal())
                    .filter(|s| FAULTS.contains(s));
                let how = ended.map_or_else(|e| e.to_string(), meaning);
                let said = format!("the guest is gone ({e:#}): {how}; {}", self.tail());
                match crash {
                    Some(signal) => Err(anyhow::Error::new(Crash { signal }).context(said)),
                    None => bail!(said),
                }
            }
        }
    }

    /// The end of the kernel's log and of QEMU's messages.
    fn tail(&self) -> String {
        let log = std::fs::read(&self.log)
            .map_or_else(|e| e.to_string(), |b| String::from_utf8_lossy(&b).into_owned());
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("QEMU: {:?}; end of the kernel's log:\n{tail}", self.qemu.stderr().trim())
    }
}

fn meaning(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "QEMU ended with status 0: the guest panicked or powered off".into(),
        Some(1) => {
            "QEMU ended with status 1: the guest says it passed, or QEMU could not start".into()
        }
        _ => format!("QEMU ended with {status}"),
    }
}
