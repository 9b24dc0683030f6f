//! Kernel modules, and what the kernel has in use: interrupts and memory, before and after.

#![allow(unsafe_code)]

use super::scenario::{Scenario, print};
use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "modules", run: |_| modules() },
    Scenario { name: "hoard", run: |rounds| hoard(rounds.parse()?) },
];

/// Loads a module of the initramfs; parameters as for insmod.
pub fn load(module: &str, parameters: &str) -> Result<()> {
    let file = File::open(format!("/modules/{module}.ko")).with_context(|| module.to_string())?;
    let parameters = CString::new(parameters)?;
    rustix::system::finit_module(&file, &parameters, 0).with_context(|| format!("load {module}"))
}

/// Unloads it.
pub fn unload(module: &str) -> Result<()> {
    let name = CString::new(module)?;
    // SAFETY: a string that is live; the call does not block.
    let rc = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    ensure!(rc == 0, "unload {module}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Whether it is loaded.
pub fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).join("refcnt").exists()
}

/// What the kernel has in use.
#[derive(Debug)]
pub struct InUse {
    /// Objects by slab cache.
    slabs: BTreeMap<String, u64>,
    /// Interrupts requested: the text after the counts in /proc/interrupts, and how often it
    /// occurs.
    interrupts: BTreeMap<String, u64>,
}

impl InUse {
    /// What is in use now, after the kernel has given back what it can.
    pub fn now() -> Result<Self> {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        shrink_slabs();
        // Deferred frees, also of the files that were opened just now: some grace periods.
        std::thread::sleep(Duration::from_millis(300));
        let text = fs::read_to_string("/proc/slabinfo")?;
        let slabs = text.lines().skip(2).filter_map(|l| {
            let mut words = l.split_whitespace();
            Some((words.next()?.to_string(), words.next()?.parse().ok()?))
        });
        Ok(Self { slabs: slabs.collect(), interrupts: interrupts()? })
    }

    /// Slab caches with at least `least` objects more than `before`, and still so after a while,
    /// because much is freed late.
    pub fn grown_since(before: &Self, least: u64) -> Result<BTreeMap<String, u64>> {
        let mut grown = BTreeMap::new();
        for _ in 0..10 {
            let now = Self::now()?;
            let more = |(name, count): (String, u64)| {
                let more = count.saturating_sub(before.slabs.get(&name).copied().unwrap_or(0));
                (more >= least).then_some((name, more))
            };
            grown = now.slabs.into_iter().filter_map(more).collect();
            if grown.is_empty() {
                break;
            }
        }
        Ok(grown)
    }

    /// Interrupts that are new, and those that are gone.
    pub fn interrupts_changed(&self, before: &Self) -> Vec<String> {
        let all = self.interrupts.keys().chain(before.interrupts.keys());
        let mut changed: Vec<_> =
            all.filter(|k| self.interrupts.get(*k) != before.interrupts.get(*k)).cloned().collect();
        changed.dedup();
        changed
    }
}

/// Partly filled slabs of each processor count as full ones; shrinking gives them back.
fn shrink_slabs() {
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten().flatten() {
        // A cache may go away meanwhile, or not be one that shrinks.
        let _stored = fs::write(cache.path().join("shrink"), "1");
    }
}

fn interrupts() -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for line in fs::read_to_string("/proc/interrupts")?.lines().skip(1) {
        let Some((number, rest)) = line.trim().split_once(':') else { continue };
        if number.parse::<u32>().is_ok() {
            // The number of an interrupt may change; the text after the counts does not.
            let words = rest
                .split_whitespace()
                .skip_while(|w| w.parse::<u64>().is_ok())
                .collect::<Vec<_>>()
                .join(" ");
            *found.entry(words).or_insert(0) += 1;
        }
    }
    Ok(found)
}

/// Every module of the initramfs can be loaded, and unloaded again.
fn modules() -> Result<()> {
    // In the order in which they need each other.
    let order = ["uio", "uio_pci_generic", "mii", "8139cp", "e1000", "ringshim"];
    let mut there: Vec<OsString> =
        fs::read_dir("/modules")?.flatten().map(|e| e.file_name()).collect();
    there.sort();
    let mut expected: Vec<OsString> = order.iter().map(|m| format!("{m}.ko").into()).collect();
    expected.sort();
    ensure!(there == expected, "{there:?}");
    for module in order {
        load(module, "")?;
    }
    for module in order.iter().rev() {
        ensure!(is_loaded(module), "{module} is not loaded");
        unload(module)?;
        ensure!(!is_loaded(module), "{module} is still loaded");
    }
    Ok(())
}

/// The negative control of [`InUse`]: one eventfd per round is no leak if it is closed, and is one
/// if it stays open.
fn hoard(rounds: usize) -> Result<()> {
    let make =
        || (0..rounds).map(|_| eventfd(0, EventfdFlags::empty())).collect::<Result<Vec<_>, _>>();
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(rounds as u64 + 100),
            maximum: Some(rounds as u64 + 100),
        },
    )?;
    drop(make()?);
    let before = InUse::now()?;
    drop(make()?);
    let least = rounds as u64 / 2;
    let (grown, changed) =
        (InUse::grown_since(&before, least)?, InUse::now()?.interrupts_changed(&before));
    ensure!(grown.is_empty() && changed.is_empty(), "without a leak: {grown:?}, {changed:?}");
    let kept = make()?;
    let grown = InUse::grown_since(&before, least)?;
    ensure!(grown.contains_key("filp"), "{rounds} kept files were not noticed: {grown:?}");
    print(format!("{rounds} files kept: {grown:?}"))?;
    drop(kept);
    Ok(())
}
