//! `ringshim.ko` in the guest: which node belongs to which device, what `ringtest-shim` finds, and
//! what is left after it.

use super::bus::{EDU, IVSHMEM, devices};
use super::kernel::{InUse, load, unload};
use super::scenario::{Scenario, print};
use anyhow::{Context, Result, ensure};
use ringweir_harness::wait_for;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "shim", run: |words| check(words) },
    Scenario { name: "shim cycle", run: |rounds| cycle(rounds.parse()?) },
    Scenario { name: "shim line", run: |datagrams| line(datagrams.parse()?) },
];

/// The module.
pub const MODULE: &str = "ringshim";
/// Rounds until all caches have the objects that they do not give back.
const WARM_UP: u64 = 20;

/// The node of the `nth` device of a kind, in the order of their addresses on the bus.
pub fn node(kind: (u16, u16), nth: usize) -> Result<PathBuf> {
    let all = devices(kind)?;
    let device =
        all.get(nth).with_context(|| format!("no device {nth} of {kind:04x?}: {all:?}"))?;
    let class = PathBuf::from("/sys/bus/pci/devices").join(device).join("ringshim");
    let name = wait_for(Duration::from_secs(5), || fs::read_dir(&class).ok()?.flatten().next());
    Ok(PathBuf::from("/dev")
        .join(name.with_context(|| format!("{MODULE} did not claim {device}"))?.file_name()))
}

/// Loads the module, runs `ringtest-shim`, unloads the module. In its arguments `edu` and `fpga`
/// stand for the first node of that kind, and `edu1` … for the next; in front of them may stand `!`
/// for a negative control, which must fail at a check.
fn check(words: &str) -> Result<()> {
    let words: Vec<&str> = words.split(' ').collect();
    let (fails, words) = match &words[..] {
        ["!", rest @ ..] => (true, rest),
        all => (false, all),
    };
    load(MODULE, "")?;
    let mut command = Command::new("/bin/ringtest-shim");
    for word in words {
        let kind = [("edu", EDU), ("fpga", IVSHMEM)]
            .into_iter()
            .find_map(|(k, id)| Some((word.strip_prefix(k)?, id)));
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
        ensure!(
            failed,
            "the negative control {words:?} did not fail at a check: {} {said}",
            done.status
        );
    } else {
        let status = command.status()?;
        ensure!(status.success(), "{words:?}: {status}");
    }
    unload(MODULE)
}

/// Rounds of load, open, unbind, bind, kill -9 and unload leave nothing behind: interrupts and
/// every slab cache as before.
fn cycle(rounds: u64) -> Result<()> {
    let turn = |rounds: u64| {
        let mut command = Command::new("/bin/ringtest-shim");
        let status = command
            .arg("cycle")
            .arg(format!("/modules/{MODULE}.ko"))
            .arg(rounds.to_string())
            .status()?;
        ensure!(status.success(), "cycle: {status}");
        Ok(())
    };
    turn(WARM_UP)?;
    let before = InUse::now()?;
    turn(rounds)?;
    // Half an object a round: below that it is the kernel's own ups and downs.
    let (mut grown, changed) =
        (InUse::grown_since(&before, rounds / 2)?, InUse::now()?.interrupts_changed(&before));
    if !grown.is_empty() {
        // The caches may also have grown once; a leak grows again.
        print(format!("more is in use after {rounds} rounds, again: {grown:?}"))?;
        let before = InUse::now()?;
        turn(rounds)?;
        let again = InUse::grown_since(&before, rounds / 2)?;
        grown.retain(|name, _| again.contains_key(name));
    }
    ensure!(grown.is_empty(), "after each {rounds} rounds more is in use: {grown:?}");
    ensure!(changed.is_empty(), "after {rounds} rounds the interrupts are others: {changed:?}");
    print(format!("{rounds} rounds, nothing is left of them"))
}

/// Two DMA cards that may not use MSI and have the same interrupt line: each handles only its own
/// interrupts.
fn line(datagrams: u64) -> Result<()> {
    let places = devices(EDU)?;
    let allow_msi = |yes: &str| {
        places
            .iter()
            .try_for_each(|place| fs::write(format!("/sys/bus/pci/devices/{place}/msi_bus"), yes))
    };
    allow_msi("0")?;
    load(MODULE, "")?;
    let nodes = [node(EDU, 0)?, node(EDU, 1)?];
    let names =
        nodes.each_ref().map(|n| n.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let lines = fs::read_to_string("/proc/interrupts")?;
    let shared = lines.lines().any(|line| names.iter().all(|name| line.contains(name.as_str())));
    ensure!(shared, "{names:?} do not share a line: {lines}");
    let run = |node| {
        Command::new("/bin/ringtest-shim").arg("dma").arg(node).arg(datagrams.to_string()).spawn()
    };
    let running = [run(&nodes[0])?, run(&nodes[1])?];
    for mut one in running {
        let status = one.wait()?;
        ensure!(status.success(), "dma on a shared line: {status}");
    }
    let counters = |counter: &str| {
        names.each_ref().map(|name| {
            let file = format!("/sys/class/ringshim/{name}/{counter}");
            fs::read_to_string(file)
                .ok()
                .and_then(|n| n.trim().parse::<u64>().ok())
                .unwrap_or(u64::MAX)
        })
    };
    let (own, spurious) = (counters("interrupts"), counters("spurious"));
    // The pattern, and what is fetched ahead and around STOP. A card that took the other's
    // interrupts for its own would have twice as many.
    let right = |n: &u64| (datagrams..datagrams + 10).contains(n);
    ensure!(
        own.iter().all(right) && spurious == [0, 0],
        "{own:?} interrupts, {spurious:?} spurious"
    );
    unload(MODULE)?;
    allow_msi("1")?;
    print(format!(
        "two cards on one line, {datagrams} transfers each: {own:?} interrupts, none spurious"
    ))
}
