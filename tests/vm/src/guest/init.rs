//! Process 1 of a guest: mounts what Linux programs expect, runs the host's jobs, and ends the
//! machine with the verdict.

use super::log::KernelLog;
use super::scenario::{PORT, port};
use crate::protocol::{FromGuest, ToGuest, line};
use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// QEMU's isa-debug-exit: a byte written there ends QEMU, with twice the byte plus one as its
/// status.
const DEBUG_EXIT: u64 = 0xf4;
const FAILED: u8 = 1;
const BROKEN: u8 = 2;
/// How long processes that a scenario has killed may take to end.
const SETTLE: Duration = Duration::from_secs(2);
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("debugfs", "/sys/kernel/debug", ""),
];

/// Never returns in a guest: ends the machine.
pub fn main() -> ExitCode {
    let code = match serve() {
        Ok(0) => 0,
        Ok(_) => FAILED,
        Err(e) => {
            eprintln!("init: {e:#}");
            BROKEN
        }
    };
    leave(code)
}

/// Ends the machine. Without the debug port it is powered off, which the host takes for a failure.
pub fn leave(code: u8) -> ! {
    rustix::fs::sync();
    let written = File::options()
        .write(true)
        .open("/dev/port")
        .and_then(|port| port.write_at(&[code], DEBUG_EXIT));
    eprintln!("init: still here ({written:?}): power off");
    let _failed = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn serve() -> Result<u32> {
    for (kind, at, options) in MOUNTS {
        fs::create_dir_all(at)?;
        let options = std::ffi::CString::new(*options)?;
        mount(*kind, *at, *kind, MountFlags::empty(), Some(options.as_c_str()))
            .with_context(|| format!("mount {at}"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // From here on the console shows everything: it is read when something went wrong.
    fs::write("/proc/sys/kernel/printk", "8")?;
    let mut talk = port()?;
    let mut settings = tcgetattr(&talk).context(PORT)?;
    settings.make_raw();
    tcsetattr(&talk, OptionalActions::Now, &settings).context(PORT)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_string();
    say(&mut talk, &FromGuest::Ready { kernel })?;
    let mut orders = BufReader::new(talk.try_clone()?);
    let (mut passed, mut failed) = (0, 0);
    loop {
        let mut order = String::new();
        orders.read_line(&mut order)?;
        match serde_json::from_str(&order).with_context(|| format!("the host said {order:?}"))? {
            ToGuest::Run { scenario, argument, limit } => {
                let fault = run(&scenario, &argument, Duration::from_secs(limit))?;
                if fault.is_some() {
                    failed += 1;
                } else {
                    passed += 1;
                }
                say(&mut talk, &FromGuest::Result { fault })?;
            }
            ToGuest::Leave => {
                say(&mut talk, &FromGuest::Verdict { passed, failed })?;
                return Ok(failed);
            }
        }
    }
}

fn say(talk: &mut File, what: &FromGuest) -> Result<()> {
    talk.write_all(line(what).as_bytes())?;
    // What is still in the port when QEMU ends would be lost.
    Ok(rustix::termios::tcdrain(talk)?)
}

/// Runs a scenario in a separate process; returns what was wrong.
fn run(scenario: &str, argument: &str, limit: Duration) -> Result<Option<String>> {
    const WORDS: &str = "/run/scenario";
    println!("init: {scenario} {argument}");
    let log = KernelLog::open()?;
    let words = File::create(WORDS)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["scenario", scenario, argument])
        .env("PATH", "/bin")
        .env("HOME", "/")
        .env("RUST_BACKTRACE", "0");
    let child = command.stdout(words.try_clone()?).stderr(words).process_group(0).spawn()?;
    let status = reap(Pid::from_child(&child), Instant::now() + limit)?;
    let complaints = log.faults()?;
    if status.is_none() {
        // For the log: blocked tasks, and what every processor does.
        for what in ["w", "l"] {
            fs::write("/proc/sysrq-trigger", what)?;
        }
        kill_process_group(Pid::from_child(&child), Signal::KILL)?;
    }
    let words = String::from_utf8_lossy(&fs::read(WORDS)?).into_owned();
    print!("{words}");
    let mut faults = Vec::new();
    match status {
        None => faults.push(format!("did not end within {limit:?}: {}", words.trim())),
        Some(status) if !status.success() => faults.push(format!("{status}: {}", words.trim())),
        Some(_) => {}
    }
    let left = left_behind()?;
    if !left.is_empty() {
        faults.push(format!("left processes behind: {left:?}"));
    }
    if !complaints.is_empty() {
        faults.push(format!("the kernel complained: {complaints:?}"));
    }
    Ok((!faults.is_empty()).then(|| faults.join("; ")))
}

/// Waits for one process and reaps others that end meanwhile; `None` if the time is over.
fn reap(of: Pid, until: Instant) -> Result<Option<ExitStatus>> {
    loop {
        match wait(WaitOptions::NOHANG)? {
            Some((pid, status)) if pid == of => {
                return Ok(Some(ExitStatus::from_raw(status.as_raw())));
            }
            Some(_) => {}
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            None => return Ok(None),
        }
    }
}

/// Kills and names every process except init and the kernel's threads.
fn left_behind() -> Result<Vec<String>> {
    let until = Instant::now() + SETTLE;
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left: Vec<(i32, String)> =
            fs::read_dir("/proc")?.flatten().filter_map(|e| user_process(&e.path())).collect();
        if left.is_empty() {
            return Ok(Vec::new());
        }
        if Instant::now() >= until {
            for (pid, _) in &left {
                // It may have ended meanwhile.
                let _gone = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
            }
            return Ok(left.into_iter().map(|(_, name)| name).collect());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn user_process(at: &std::path::Path) -> Option<(i32, String)> {
    let pid: i32 = at.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(at.join("stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let parent: i32 = rest.split_whitespace().nth(1)?.parse().ok()?;
    // Threads of the kernel are children of process 2, which has no parent.
    (pid != 1 && parent != 2 && parent != 0).then(|| (pid, name.to_string()))
}
