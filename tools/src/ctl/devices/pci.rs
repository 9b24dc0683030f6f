//! PCI devices: what sysfs says about one, and which ones ringshim could drive.
//!
//! Contract: only sysfs and /proc are read. The devices that ringshim drives are in its `shim_ids`.

use super::row::{Interrupts, Memory, Row, State};
use crate::machine::Machine;

/// ivshmem, vendor and device.
const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");
/// QEMU's "edu": ringshim keeps its register map in main memory.
pub(super) const EDU: (&str, &str) = ("0x1234", "0x11e8");
/// Bit of a resource's flags: memory.
const MEMORY: u64 = 0x200;

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "/sys/bus/pci/drivers/ringshim";

/// The last component of a link in sysfs.
pub(super) fn link(m: &Machine, path: &str) -> Option<String> {
    let to = std::fs::read_link(m.at(path)).ok()?;
    Some(to.file_name()?.to_string_lossy().into_owned())
}

/// Vendor and device of the PCI device with sysfs directory `dir`; `None` if it is on another bus.
pub(super) fn id(m: &Machine, dir: &str) -> Option<(String, String)> {
    Some((m.text(&format!("{dir}/vendor"))?, m.text(&format!("{dir}/device"))?))
}

fn shown((vendor, device): &(String, String)) -> String {
    format!("{}:{}", vendor.trim_start_matches("0x"), device.trim_start_matches("0x"))
}

fn is((vendor, device): &(String, String), which: (&str, &str)) -> bool {
    (vendor.as_str(), device.as_str()) == which
}

/// Adds to `row` what the sysfs directory `dir` of its device says.
pub(super) fn describe(m: &Machine, dir: &str, row: &mut Row) {
    row.id = id(m, dir).as_ref().map(shown);
    row.driver = link(m, &format!("{dir}/driver"));
}

/// Size of memory BAR `number`, if there is one.
pub(super) fn bar(m: &Machine, dir: &str, number: usize) -> Option<u64> {
    let all = m.text(&format!("{dir}/resource"))?;
    let mut fields = all
        .lines()
        .nth(number)?
        .split_whitespace()
        .map(|f| u64::from_str_radix(f.strip_prefix("0x")?, 16).ok());
    let (start, end, flags) = (fields.next()??, fields.next()??, fields.next()??);
    (flags & MEMORY != 0 && end > start).then(|| end - start + 1)
}

/// Where ringshim finds the register map of the device with sysfs directory `dir`.
pub(super) fn map(m: &Machine, dir: &str) -> Vec<Memory> {
    if id(m, dir).is_some_and(|id| is(&id, EDU)) {
        return vec![Memory { name: "DMA".into(), bytes: None }];
    }
    bar(m, dir, 2)
        .map(|bytes| Memory { name: "BAR2".into(), bytes: Some(bytes) })
        .into_iter()
        .collect()
}

/// The kind of interrupt that the device with sysfs directory `dir` raises under `name`.
pub(super) fn interrupts(m: &Machine, dir: &str, name: &str) -> Interrupts {
    let pci = id(m, dir).is_some();
    let line = m.text(&format!("{dir}/irq"));
    let kind = |number: &str| match m.text(&format!("{dir}/msi_irqs/{number}")).as_deref() {
        Some("msix") => Some(Interrupts::MsiX),
        Some(_) => Some(Interrupts::Msi),
        None if !pci => Some(Interrupts::Line),
        // Another driver may use the same name for its devices.
        None => (line.as_deref() == Some(number)).then_some(Interrupts::IntX),
    };
    let all = m.text("/proc/interrupts").unwrap_or_default();
    let taken = all.lines().filter_map(|l| {
        let (number, rest) = l.trim_start().split_once(':')?;
        let by = |action: &str| {
            action == name || action.strip_suffix(name).is_some_and(|front| front.ends_with(' '))
        };
        rest.split(", ").any(by).then_some(number)
    });
    taken.filter_map(kind).next().unwrap_or(Interrupts::None)
}

/// Devices that ringshim could drive and that are not listed under their drivers.
pub(super) fn rows(m: &Machine) -> Vec<Row> {
    m.names(DEVICES).into_iter().filter_map(|bus| row(m, bus)).collect()
}

fn row(m: &Machine, bus: String) -> Option<Row> {
    let dir = format!("{DEVICES}/{bus}");
    let id = id(m, &dir)?;
    let could = is(&id, EDU) || is(&id, IVSHMEM) && bar(m, &dir, 2).is_some();
    let driver = link(m, &format!("{dir}/driver"));
    if !could || driver.as_deref() == Some("ringshim") || m.exists(&format!("{dir}/uio")) {
        return None;
    }
    let mut row = match &driver {
        Some(other) => {
            let text = format!("bound to {other}");
            Row::new(
                State::Bound,
                text,
                Some(as_root(m, &[&release(m, &bus, other), &take(m, &bus)])),
            )
        }
        None if m.exists(DRIVER) => {
            let text =
                "not bound: ringshim refused it (see dmesg | grep ringshim), or it was unbound";
            Row::new(State::NotBound, text, Some(as_root(m, &[&take(m, &bus)])))
        }
        None => Row::new(State::NotBound, "not bound", Some(as_root(m, &[&take(m, &bus)]))),
    };
    describe(m, &dir, &mut row);
    row.memory = map(m, &dir);
    row.bus = Some(bus);
    Some(row)
}

/// The command that unbinds a device from its driver.
fn release(m: &Machine, bus: &str, driver: &str) -> String {
    // An override to this driver excludes all others.
    let held = m
        .text(&format!("{DEVICES}/{bus}/driver_override"))
        .is_some_and(|t| !t.is_empty() && t != "(null)");
    let first =
        if held { format!("echo > {DEVICES}/{bus}/driver_override && ") } else { String::new() };
    format!("{first}echo {bus} > /sys/bus/pci/drivers/{driver}/unbind")
}

/// The command that binds a device without a driver to ringshim.
fn take(m: &Machine, bus: &str) -> String {
    if m.exists(DRIVER) {
        return format!("echo {bus} > {DRIVER}/bind");
    }
    let release = m.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let known = m.text(&format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    let build = if known.contains("/ringshim.ko") { "" } else { "make -C kmod-shim install && " };
    format!("{build}modprobe ringshim")
}

/// Steps as one command line.
fn as_root(m: &Machine, steps: &[&str]) -> String {
    let line = steps.join(" && ");
    match m.uid {
        0 => line,
        // Redirections are done by the shell, not by sudo.
        _ if line.contains('>') || line.contains("&&") => format!("sudo sh -c '{line}'"),
        _ => format!("sudo {line}"),
    }
}
