//! Devices of ringshim.ko.
//!
//! Contract: a node is opened only with `--probe`, and then only if no process is seen to have it
//! open.

use super::holders::{self, Claim, Open};
use super::node::{Node, RINGSHIM, Verdict};
use super::pci;
use super::probe::{self, ProbeError};
use super::row::{Holder, Row, State};
use crate::machine::Machine;

struct Device {
    node: Node,
    dir: String,
    name: String,
    source: String,
    holders: Vec<Holder>,
}

pub(super) fn rows(m: &Machine, open: &Open, claims: &[Claim], probe: bool) -> Vec<Row> {
    let mut devices: Vec<Device> = m
        .names("/sys/class/ringshim")
        .into_iter()
        .map(|name| find(m, name, open, claims))
        .collect();
    let unseen = unseen(m, open, claims, &mut devices);
    devices.into_iter().map(|device| row(m, device, unseen, probe)).collect()
}

fn find(m: &Machine, name: String, open: &Open, claims: &[Claim]) -> Device {
    let node = Node::find(m, RINGSHIM, &name);
    let source = format!("shim:/dev/{name}");
    let holders = node.device.map_or(Vec::new(), |device| open.holders(device, &source, claims));
    Device { node, dir: format!("/sys/class/ringshim/{name}/device"), name, source, holders }
}

/// Whether a process that is not visible may have one of the devices that seem free.
/// Every open file holds a reference to the module, and a device has at most one open file. So any
/// user can tell from the module's count. There is no count if ringshim is built into the kernel.
fn unseen(m: &Machine, open: &Open, claims: &[Claim], devices: &mut [Device]) -> bool {
    let count = m.number::<usize>("/sys/module/ringshim/refcnt");
    let some = |devices: &[Device]| {
        let held = devices.iter().filter(|d| !d.holders.is_empty()).count();
        count.map_or(!open.all_seen, |count| count > held)
    };
    if some(devices) {
        for device in devices.iter_mut().filter(|d| d.holders.is_empty()) {
            device.holders = holders::claimants(claims, &device.source);
        }
    }
    some(devices)
}

fn row(m: &Machine, d: Device, unseen: bool, probe: bool) -> Row {
    let memory = pci::map(m, &d.dir);
    let mut fifo = None;
    let (state, text, fix) = if !d.holders.is_empty() {
        holders::drained(&d.holders)
    } else if let Some(hindrance) = d.node.hindrance(m) {
        hindrance
    } else if probe {
        let window = memory.first().and_then(|part| part.bytes).unwrap_or(u64::MAX);
        match probe::look(&m.at(&d.node.path().to_string_lossy()), 0, 0, window) {
            Ok(shape) => {
                fifo = Some(shape.into());
                ready()
            }
            Err(ProbeError::Busy) => {
                (State::Busy, "busy: drained by a process that is not visible here".into(), None)
            }
            Err(ProbeError::No(why)) => (State::Unusable, why, None),
        }
    } else if unseen {
        let text = "perhaps busy: some processes with a ringshim device open are not visible here";
        let fix = if m.uid == 0 { "ringctl devices --probe" } else { "sudo ringctl devices" };
        (State::PerhapsBusy, text.into(), Some(fix.into()))
    } else {
        ready()
    };
    let mut row = Row::new(state, text, fix);
    row.bus = pci::link(m, &d.dir);
    pci::describe(m, &d.dir, &mut row);
    d.node.describe(m, &mut row);
    row.interrupts = Some(pci::interrupts(m, &d.dir, &d.name));
    Row { source: Some(d.source), memory, held_by: d.holders, fifo, ..row }
}

fn ready() -> Verdict {
    (State::Ready, "ready".into(), None)
}
