//! Devices of UIO drivers; any of them may have the register map.
//!
//! Contract: only reading a device shows whether it has the map. That is done only with `--probe`,
//! and only if no process has the device open.

use super::holders::{self, Claim, Open};
use super::node::{Node, Verdict};
use super::pci;
use super::probe::{self, ProbeError};
use super::row::{Fifo, Memory, Row, State};
use crate::machine::Machine;
use ringweir_proto::layout::PAGE;

const CLASS: &str = "uio";

/// A range of memory that the driver allows to map.
struct Map {
    number: u64,
    /// Where in its first page it begins.
    within: u64,
    bytes: u64,
}

pub(super) fn rows(m: &Machine, open: &Open, claims: &[Claim], probe: bool) -> Vec<Row> {
    m.names("/sys/class/uio").iter().map(|name| row(m, name, open, claims, probe)).collect()
}

fn maps(m: &Machine, name: &str) -> Vec<Map> {
    let dir = format!("/sys/class/uio/{name}/maps");
    let hexadecimal = |map: &str, file: &str| {
        let text = m.text(&format!("{dir}/{map}/{file}"))?;
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    let map = |name: &String| {
        let number = name.strip_prefix("map")?.parse().ok()?;
        Some(Map {
            number,
            within: hexadecimal(name, "offset").unwrap_or(0),
            bytes: hexadecimal(name, "size")?,
        })
    };
    let mut maps: Vec<Map> = m.names(&dir).iter().filter_map(map).collect();
    maps.sort_by_key(|map| map.number);
    maps
}

fn row(m: &Machine, name: &str, open: &Open, claims: &[Claim], probe: bool) -> Row {
    let (node, dir) = (Node::find(m, CLASS, name), format!("/sys/class/uio/{name}"));
    let device = format!("{dir}/device");
    let maps = maps(m, name);
    let source = format!("uio:/dev/{name}");
    let held_by = node.device.map_or(Vec::new(), |device| open.holders(device, &source, claims));
    let mut fifo = None;
    let (state, text, fix) = if !held_by.is_empty() {
        holders::drained(&held_by)
    } else if maps.is_empty() {
        (State::Unusable, "its driver offers no memory to map".into(), None)
    } else if let Some(hindrance) = node.hindrance(m) {
        hindrance
    } else if probe {
        look(m, &node, &maps, &mut fifo)
    } else {
        let text = "not probed for the register map";
        (State::NotLookedAt, text.into(), Some("ringctl devices --probe".into()))
    };
    let mut row = Row::new(state, text, fix);
    row.bus = pci::link(m, &device);
    row.name = m.text(&format!("{dir}/name"));
    row.driver_version = m.text(&format!("{dir}/version"));
    pci::describe(m, &device, &mut row);
    node.describe(m, &mut row);
    row.interrupts = Some(pci::interrupts(m, &device, row.name.as_deref().unwrap_or(name)));
    let memory = maps
        .iter()
        .map(|map| Memory { name: format!("map{}", map.number), bytes: Some(map.bytes) });
    Row { source: Some(source), memory: memory.collect(), held_by, fifo, ..row }
}

/// Looks for the register map at the beginning of each map.
fn look(m: &Machine, node: &Node, maps: &[Map], fifo: &mut Option<Fifo>) -> Verdict {
    let path = m.at(&node.path().to_string_lossy());
    let mut first = None;
    for map in maps {
        // UIO selects the map by this offset.
        let offset = map.number * PAGE as u64;
        match probe::look(&path, offset, map.within, map.bytes) {
            Ok(shape) => {
                *fifo = Some(shape.into());
                return (State::Ready, format!("ready: register map in map{}", map.number), None);
            }
            Err(ProbeError::Busy) => {
                return (State::Busy, "busy: its driver allows one process only".into(), None);
            }
            Err(ProbeError::No(why)) => {
                first.get_or_insert(format!("map{}: {why}", map.number));
            }
        }
    }
    (State::Unusable, first.unwrap_or_default(), None)
}
