//! `ringshim.ko` in the guest: which node is which device, what `ringtest-shim` finds, and what is left after it.

use super::bus::{EDU, IVSHMEM, devices};
use super::kernel::{InUse, load, unload};
use super::{Scenario, say};
use crate::wait_for;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "shim", run: |words| check(words) },
    Scenario { name: "shim cycle", run: |rounds| cycle(rounds.parse()?) },
];

/// The module.
pub const MODULE: &str = "ringshim";
/// Rounds until every cache has what it keeps.
const WARM_UP: u64 = 20;

/// The node of the `nth` device of a kind, in order of their places on the bus.
pub fn node(kind: (u16, u16), nth: usize) -> Result<PathBuf> {
    let all = devices(kind)?;
    let device = all.get(nth).with_context(|| format!("no device {nth} of {kind:04x?}: {all:?}"))?;
    let class = PathBuf::from("/sys/bus/pci/devices").join(device).join("ringshim");
    let name = wait_for(Duration::from_secs(5), || fs::read_dir(&class).ok()?.flatten().next());
    Ok(PathBuf::from("/dev").join(name.with_context(|| format!("{MODULE} did not claim {device}"))?.file_name()))
}

/// Loads the module, runs `ringtest-shim`, unloads the module. In its arguments `edu` and `fpga` stand for the first node of
/// that kind, and `edu1` … for the next; in front of them may stand parameters of the module (`intx=1`), and `!` for a
/// negative control, which must fail at a check.
fn check(words: &str) -> Result<()> {
    let (parameters, words): (Vec<&str>, Vec<&str>) = words.split(' ').partition(|w| w.contains('='));
    let (fails, words) = match &words[..] {
        ["!", rest @ ..] => (true, rest),
        all => (false, all),
    };
    load(MODULE, &parameters.join(" "))?;
    let mut command = Command::new("/bin/ringtest-shim");
    for word in words {
        let kind = [("edu", EDU), ("fpga", IVSHMEM)].into_iter().find_map(|(k, id)| Some((word.strip_prefix(k)?, id)));
        match kind {
            Some(("", kind)) => command.arg(node(kind, 0)?),
            Some((nth, kind)) => command.arg(node(kind, nth.parse()?)?),
            None => command.arg(word),
        };
    }
    if fails {
        let done = command.output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let failed = !done.status.success() && said.contains("FAILED");
        ensure!(failed, "the negative control {words:?} did not fail at a check: {} {said}", done.status);
    } else {
        let status = command.status()?;
        ensure!(status.success(), "{words:?}: {status}");
    }
    unload(MODULE)
}

/// Rounds of load, open, unbind, bind, kill -9 and unload leave nothing behind: interrupts and every slab cache as before.
fn cycle(rounds: u64) -> Result<()> {
    let turn = |rounds: u64| {
        let mut command = Command::new("/bin/ringtest-shim");
        let status = command.arg("cycle").arg(format!("/modules/{MODULE}.ko")).arg(rounds.to_string()).status()?;
        ensure!(status.success(), "cycle: {status}");
        Ok(())
    };
    turn(WARM_UP)?;
    let before = InUse::now()?;
    turn(rounds)?;
    // Half an object a round: below that it is the kernel's own ups and downs.
    let (grown, changed) = (InUse::grown_since(&before, rounds / 2)?, InUse::now()?.interrupts_changed(&before));
    ensure!(grown.is_empty(), "after {rounds} rounds more is in use: {grown:?}");
    ensure!(changed.is_empty(), "after {rounds} rounds the interrupts are others: {changed:?}");
    say(format!("{rounds} rounds, nothing is left of them"))
}
