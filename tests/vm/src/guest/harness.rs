//! What must *not* pass: the negative controls of the harness itself, and one scenario that does.

#![allow(unsafe_code)]

use super::init;
use super::scenario::{Scenario, port};
use crate::protocol::{FromGuest, line};
use anyhow::{Result, bail};
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "pass", run: |_| Ok(()) },
    Scenario { name: "fail", run: |why| bail!("{why}") },
    Scenario { name: "assert", run: |why| panic!("{why}") },
    Scenario { name: "hang", run: |_| sleep() },
    Scenario { name: "leave behind", run: |_| leave_behind() },
    Scenario { name: "complain", run: |what| Ok(fs::write("/dev/kmsg", what)?) },
    Scenario { name: "panic", run: |_| panic_of_the_kernel() },
    Scenario { name: "freeze", run: |_| freeze() },
    Scenario { name: "lie", run: |_| lie() },
    Scenario { name: "sneak away", run: |_| init::leave(0) },
];

fn sleep() -> Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn leave_behind() -> Result<()> {
    let _child = Command::new("busybox").args(["sleep", "3600"]).spawn()?;
    Ok(())
}

fn panic_of_the_kernel() -> Result<()> {
    fs::write("/proc/sysrq-trigger", "c")?;
    sleep()
}

/// Takes the processor from all other processes, init included.
fn freeze() -> Result<()> {
    fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    let parameters = libc::sched_param { sched_priority: 99 };
    // SAFETY: the parameters are live.
    let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    anyhow::ensure!(rc == 0, "sched_setscheduler: {}", std::io::Error::last_os_error());
    loop {
        std::hint::spin_loop();
    }
}

/// Says that everything passed, and leaves with a code that says otherwise.
fn lie() -> Result<()> {
    let mut port = port()?;
    port.write_all(line(&FromGuest::Result { fault: None }).as_bytes())?;
    port.write_all(line(&FromGuest::Verdict { passed: 1, failed: 0 }).as_bytes())?;
    rustix::termios::tcdrain(&port)?;
    init::leave(1)
}
