//! PCI devices of the guest and their drivers; devices that come and go.

use super::scenario::{Scenario, ask};
use anyhow::{Context, Result, ensure};
use ringweir_harness::wait_for;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "replug", run: |rounds| replug(rounds.parse()?) }];

/// QEMU's teaching device.
pub const EDU: (u16, u16) = (0x1234, 0x11e8);
/// Its Ethernet card of the kind e1000.
pub const E1000: (u16, u16) = (0x8086, 0x100e);
/// Its shared-memory device.
pub const IVSHMEM: (u16, u16) = (0x1af4, 0x1110);
/// How long the bus may take to notice a change.
const PATIENCE: Duration = Duration::from_secs(20);

/// PCI devices (bus ids, sorted) with that vendor and device number.
pub fn devices((vendor, device): (u16, u16)) -> Result<Vec<String>> {
    let is = |at: &Path, file: &str, number: u16| {
        fs::read_to_string(at.join(file)).is_ok_and(|text| text.trim() == format!("{number:#06x}"))
    };
    let all = fs::read_dir("/sys/bus/pci/devices").context("PCI")?.flatten().map(|e| e.path());
    let those = all.filter(|at| is(at, "vendor", vendor) && is(at, "device", device));
    let mut ids: Vec<String> =
        those.filter_map(|at| at.file_name()?.to_str().map(String::from)).collect();
    ids.sort();
    Ok(ids)
}

/// Writes to a file of a PCI driver: `bind`, `unbind`, `new_id`.
pub fn driver(driver: &str, file: &str, words: &str) -> Result<()> {
    let at = PathBuf::from("/sys/bus/pci/drivers").join(driver).join(file);
    fs::write(&at, words).with_context(|| format!("{words:?} > {}", at.display()))
}

/// Gives a PCI device to a driver, taking it from the one it has.
pub fn hand_over(device: &str, to: &str) -> Result<()> {
    let at = PathBuf::from("/sys/bus/pci/devices").join(device);
    fs::write(at.join("driver_override"), to)?;
    if at.join("driver").exists() {
        fs::write(at.join("driver/unbind"), device)?;
    }
    fs::write("/sys/bus/pci/drivers_probe", device).with_context(|| format!("{device} to {to}"))?;
    ensure!(at.join("driver").read_link()?.ends_with(to), "{to} did not take {device}");
    Ok(())
}

/// Waits until there are `count` devices of that kind; their bus ids.
pub fn wait_for_devices(kind: (u16, u16), count: usize) -> Result<Vec<String>> {
    let there = wait_for(PATIENCE, || devices(kind).ok().filter(|d| d.len() == count));
    there.with_context(|| format!("not {count} devices {kind:04x?} but {:?}", devices(kind)))
}

/// The host unplugs device `edu` and plugs it in again, `rounds` times.
fn replug(rounds: u32) -> Result<()> {
    let place = wait_for_devices(EDU, 1)?;
    for round in 0..rounds {
        ask("unplug edu")?;
        wait_for_devices(EDU, 0)?;
        ask("plug edu")?;
        ensure!(wait_for_devices(EDU, 1)? == place, "round {round}: it came back elsewhere");
    }
    Ok(())
}
