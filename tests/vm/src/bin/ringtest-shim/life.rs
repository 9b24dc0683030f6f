//! The device is unplugged or unbound while a process uses it, the process is killed, the module
//! comes and goes.

#![allow(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::check::check;
use crate::device::{Device, INFO, INTERRUPT_MASK, START};

const LONG: Duration = Duration::from_secs(20);
const CLASS: &str = "/sys/class/ringshim";
const DRIVER: &str = "/sys/bus/pci/drivers/ringshim";

fn say_to(file: impl AsRef<Path>, what: &str) -> Result<()> {
    fs::write(file.as_ref(), what).with_context(|| file.as_ref().display().to_string())
}

/// All nodes, with the device of each.
fn nodes() -> Vec<(PathBuf, String)> {
    let Ok(class) = fs::read_dir(CLASS) else { return Vec::new() };
    let bus = |entry: &fs::DirEntry| {
        fs::read_link(entry.path().join("device")).ok()?.file_name()?.to_str().map(str::to_owned)
    };
    let mut nodes: Vec<_> = class
        .flatten()
        .filter_map(|entry| Some((Path::new("/dev").join(entry.file_name()), bus(&entry)?)))
        .collect();
    nodes.sort();
    nodes
}

/// The node of the device at `bus`; waits up to 10 s for it.
fn node_of(bus: &str) -> Result<PathBuf> {
    let end = Instant::now() + LONG;
    loop {
        if let Some((node, _)) = nodes().into_iter().find(|(node, at)| at == bus && node.exists()) {
            return Ok(node);
        }
        ensure!(Instant::now() < end, "{bus} has no node");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn take_away(bus: &str, unplug: bool) -> Result<()> {
    if unplug {
        say_to(format!("/sys/bus/pci/devices/{bus}/remove"), "1")
    } else {
        say_to(format!("{DRIVER}/unbind"), bus)
    }
}

fn bring_back(bus: &str, unplug: bool) -> Result<PathBuf> {
    if unplug {
        say_to("/sys/bus/pci/rescan", "1")?
    } else {
        say_to(format!("{DRIVER}/bind"), bus)?
    };
    node_of(bus)
}

pub fn revoke(node: &Path, unplug: bool, times: u32) -> Result<()> {
    let us = std::env::current_exe()?;
    let status = Command::new(us).arg("sigbus").status()?;
    check(
        "a mapping without memory would be SIGBUS",
        status.signal() == Some(libc::SIGBUS),
        status,
    )?;
    let mut node = node.to_owned();
    for _ in 0..times {
        node = revoke_once(&node, unplug)?;
    }
    Ok(())
}

fn revoke_once(node: &Path, unplug: bool) -> Result<PathBuf> {
    let device = Device::wait_open(node)?;
    let info = device.info()?;
    let window = device.window()?;
    ensure!(device.ioctl(START, 0).is_ok() && window.get(0) == 0x4f46_4952, "START");
    let untouched = device.window()?;
    let mut buffer = vec![0u8; info.max_datagram as usize];
    ensure!(device.read(&mut buffer).is_ok(), "read");
    let (bus, length) = (info.bus_id(), window.length);
    // These threads end only because the device is taken away.
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| {
            let mut buffer = vec![0u8; info.max_datagram as usize];
            loop {
                if let Err(error) = device.read(&mut buffer) {
                    return error;
                }
            }
        });
        let poller = scope.spawn(|| {
            loop {
                let events = device.poll(LONG);
                if events != libc::POLLIN {
                    return events;
                }
            }
        });
        let toucher = scope.spawn(|| {
            let end = Instant::now() + LONG;
            let mut touched = 0u64;
            while window.get(0) == 0x4f46_4952 && Instant::now() < end {
                touched += 1;
            }
            touched
        });
        std::thread::sleep(Duration::from_millis(100));
        take_away(&bus, unplug)?;
        let (error, events, touched) = (reader.join(), poller.join(), toucher.join());
        check("a blocked read ends with EPIPE", error.as_ref().ok() == Some(&libc::EPIPE), error)?;
        let hung = libc::POLLHUP | libc::POLLERR;
        check("poll ends with POLLHUP and POLLERR", events.as_ref().ok() == Some(&hung), events)?;
        check("who looks at the magic sees it go, and no SIGBUS", touched.is_ok(), touched)
    })?;
    let blank = (0..length).step_by(4).all(|offset| window.get(offset) == 0);
    check("all of the window is blank", blank, length)?;
    window.put(length - 4, 1);
    check("so is what was never touched", untouched.get(0) == 0, untouched.length)?;
    check("INFO still says what it was", device.info()?.bus_id() == bus, device.ioctl(INFO, 0))?;
    check("START is ENODEV", device.ioctl(START, 0) == Err(libc::ENODEV), libc::ENODEV)?;
    check("mmap is ENODEV", device.window().is_err(), libc::ENODEV)?;
    check("the node is gone", !node.exists(), node)?;

    let again = bring_back(&bus, unplug)?;
    check("back, with the old one still open: under another name", again != node, &again)?;
    let fresh = Device::wait_open(&again)?;
    check("and it delivers", fresh.read(&mut buffer).is_ok(), fresh.info()?.bus_id())?;
    check("the old one does not", device.read(&mut buffer) == Err(libc::EPIPE), libc::EPIPE)?;
    drop((window, untouched, device));
    drop(fresh);
    take_away(&bus, unplug)?;
    let again = bring_back(&bus, unplug)?;
    check("with all closed: the first name again", again == node, &again)?;
    Ok(again)
}

/// Reads until the parent kills this process.
pub fn block(node: &Path) -> Result<()> {
    let device = Device::wait_open(node)?;
    let window = device.window()?;
    println!("open {}", window.get(0));
    let mut buffer = vec![0u8; device.info()?.max_datagram as usize];
    loop {
        device.read(&mut buffer).map_err(std::io::Error::from_raw_os_error)?;
    }
}

fn blocked(node: &Path) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("block")
        .arg(node)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line.starts_with("open"), "the process to be killed said {line:?}");
    Ok(child)
}

fn load(module: &Path) -> Result<()> {
    let file = fs::File::open(module)?;
    rustix::system::finit_module(&file, c"", 0).context("finit_module")
}

fn unload() -> i32 {
    let got = rustix::system::delete_module(c"ringshim", libc::O_NONBLOCK);
    got.map_or_else(|error| error.raw_os_error(), |()| 0)
}

/// Unreclaimable slab memory, KiB.
fn slab() -> Result<u64> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line =
        all.lines().find_map(|line| line.strip_prefix("SUnreclaim:")).context("no SUnreclaim")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Messages of the kernel since boot that mean a fault.
fn complaints() -> Result<Vec<String>> {
    // SAFETY: asks for the size of a buffer.
    let size = unsafe { libc::klogctl(10, std::ptr::null_mut(), 0) };
    let mut log = vec![0u8; size.max(0) as usize];
    // SAFETY: `log` has that much room.
    let got = unsafe { libc::klogctl(3, log.as_mut_ptr().cast(), log.len() as i32) };
    log.truncate(got.max(0) as usize);
    let bad = ["WARNING:", "BUG:", "Call Trace", "Oops", "nobody cared", "DMA-API", "refcount_t"];
    let log = String::from_utf8_lossy(&log);
    Ok(log
        .lines()
        .filter(|line| bad.iter().any(|bad| line.contains(bad)))
        .map(str::to_owned)
        .collect())
}

/// One of the sequences of operations, chosen by device and round, so that every device has had all
/// of them after a while.
fn round(bus: &str, node: PathBuf, kind: u32) -> Result<()> {
    let mut child = blocked(&node)?;
    if kind & 1 == 0 {
        child.kill()?;
        child.wait()?;
        let device = Device::wait_open(&node)?;
        let window = device.window()?;
        ensure!(
            window.get(INTERRUPT_MASK) == 0,
            "the dead process has left the interrupt unmasked"
        );
        ensure!(device.read(&mut [0; 65536]).is_ok(), "nothing after a process was killed");
        drop(device);
        ensure!(window.get(0) == 0x4f46_4952, "the window of a closed file");
    }
    if kind & 2 == 0 {
        say_to(format!("{DRIVER}/unbind"), bus)?;
        say_to(format!("{DRIVER}/bind"), bus)?;
    }
    if kind & 1 == 1 {
        if kind & 2 == 2 {
            let error = unload();
            ensure!(error == libc::EAGAIN, "unloading under an open file: {error}");
        }
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

pub fn cycle(module: &Path, times: u32) -> Result<()> {
    let mut before = 0;
    for turn in 0..times {
        load(module)?;
        let all = nodes();
        ensure!(!all.is_empty(), "no device");
        for (place, (node, bus)) in (0..).zip(all) {
            round(&bus, node, turn + place).with_context(|| format!("round {turn}, {bus}"))?;
        }
        let error = unload();
        ensure!(
            error == 0,
            "round {turn}: unloading: {}",
            std::io::Error::from_raw_os_error(error)
        );
        if turn == times / 10 {
            before = slab()?;
        }
    }
    check("load, open, unbind, bind, kill, unload", true, times)?;
    let mut interrupts = String::new();
    fs::File::open("/proc/interrupts")?.read_to_string(&mut interrupts)?;
    check("no interrupt is left", !interrupts.contains("ringshim"), interrupts.lines().count())?;
    let after = slab()?;
    check("nor memory", after < before + 64 * u64::from(times / 50 + 8), (before, after))?;
    let said = complaints()?;
    if !said.is_empty() {
        bail!("FAILED the kernel log: {said:#?}");
    }
    check("the kernel log is clean", true, said.len())
}
