//! One device, as a line for people and as an object for programs.
//!
//! Contract: a device has one row. What is not known is absent, never guessed.

use comfy_table::{Table, presets};
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::{Bytes, Rate};
use ringweir_device::Shape;
use serde::Serialize;
use std::path::PathBuf;

/// Whether it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Ready,
    /// A process has it open.
    Busy,
    /// A process that is not visible here may have it open.
    PerhapsBusy,
    NoPermission,
    /// Its node is missing, or belongs to another device.
    NoNode,
    /// It has no driver; ringshim could drive it.
    NotBound,
    /// Another driver has it.
    Bound,
    /// It was not probed for the register map.
    NotLookedAt,
    /// It has no register map, or its driver does not show it.
    Unusable,
}

/// The kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Interrupts {
    #[serde(rename = "MSI-X")]
    MsiX,
    #[serde(rename = "MSI")]
    Msi,
    #[serde(rename = "INTx")]
    IntX,
    /// A line of a device that is not PCI.
    #[serde(rename = "line")]
    Line,
    #[serde(rename = "none")]
    None,
}

impl Interrupts {
    fn word(self) -> &'static str {
        match self {
            Self::MsiX => "MSI-X",
            Self::Msi => "MSI",
            Self::IntX => "INTx",
            Self::Line => "line",
            Self::None => "none",
        }
    }
}

/// A range of device memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    pub name: String,
    /// `None` if only the driver knows it.
    pub bytes: Option<u64>,
}

/// A process that has it open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Holder {
    pub pid: u64,
    pub command: String,
    /// Stream it is drained into, if its broker reports it.
    pub stream: Option<String>,
}

/// What its registers report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fifo {
    pub device_id: u32,
    pub channels: u32,
    pub fifo_bytes: u32,
    pub max_datagram: u32,
    /// Bytes a second, 0 = unknown.
    pub rate: u32,
}

impl From<Shape> for Fifo {
    fn from(s: Shape) -> Self {
        let Shape { device_id, channels, fifo_bytes, max_datagram, rate, .. } = s;
        Self { device_id, channels, fifo_bytes, max_datagram, rate }
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// The value for `ringd --source`.
    pub source: Option<String>,
    /// Where it is: "0000:00:04.0", or its name on another bus.
    pub bus: Option<String>,
    /// PCI vendor:device.
    pub id: Option<String>,
    /// Its name in the UIO driver.
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_version: Option<String>,
    pub memory: Vec<Memory>,
    pub interrupts: Option<Interrupts>,
    pub node: Option<PathBuf>,
    /// Type and rights, as `ls -l` shows them.
    pub mode: Option<String>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub state: State,
    /// The state for people.
    pub text: String,
    /// The command that fixes it.
    pub fix: Option<String>,
    pub held_by: Vec<Holder>,
    /// Known only if it was probed.
    pub fifo: Option<Fifo>,
}

impl Row {
    /// A device about which nothing else is known.
    pub fn new(state: State, text: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            source: None,
            bus: None,
            id: None,
            name: None,
            driver: None,
            driver_version: None,
            memory: Vec::new(),
            interrupts: None,
            node: None,
            mode: None,
            owner: None,
            group: None,
            state,
            text: text.into(),
            fix,
            held_by: Vec::new(),
            fifo: None,
        }
    }

    fn shown(&self) -> [String; 8] {
        let or_dash = |text: Option<String>| text.map_or("–".into(), |t| printable(&t));
        let joined = |parts: &[&Option<String>], by: &str| {
            let there: Vec<_> = parts.iter().filter_map(|p| p.as_deref()).collect();
            (!there.is_empty()).then(|| there.join(by))
        };
        let memory: Vec<_> = self
            .memory
            .iter()
            .map(|m| m.bytes.map_or(m.name.clone(), |bytes| format!("{} {}", m.name, Bytes(bytes))))
            .collect();
        let rights = self.mode.as_ref().map(|mode| {
            format!("{mode} {}", joined(&[&self.owner, &self.group], ":").unwrap_or_default())
        });
        let mut state = self.text.clone();
        if let Some(Fifo { channels, fifo_bytes, rate, .. }) = self.fifo {
            let rate = if rate == 0 {
                String::new()
            } else {
                format!(", {}", Rate::Bytes(f64::from(rate)))
            };
            state += &format!(" ({channels} × {}{rate})", Bytes(fifo_bytes.into()));
        }
        if let Some(fix) = &self.fix {
            state += &format!(": {fix}");
        }
        [
            or_dash(self.source.clone()),
            or_dash(self.bus.clone()),
            or_dash(self.id.clone().or(self.name.clone())),
            or_dash(joined(&[&self.driver, &self.driver_version], " ")),
            or_dash((!memory.is_empty()).then(|| memory.join(", "))),
            or_dash(self.interrupts.map(|i| i.word().into())),
            or_dash(rights),
            printable(&state),
        ]
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["SOURCE", "BUS", "ID", "DRIVER", "MEMORY", "INTERRUPTS", "NODE", "STATE"])
        .add_rows(rows.iter().map(Row::shown));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_line::json_line;

    fn ready() -> Row {
        Row {
            source: Some("shim:/dev/ringshim0".into()),
            bus: Some("0000:00:04.0".into()),
            id: Some("1af4:1110".into()),
            driver: Some("ringshim".into()),
            memory: vec![Memory { name: "BAR2".into(), bytes: Some(1 << 20) }],
            interrupts: Some(Interrupts::MsiX),
            node: Some("/dev/ringshim0".into()),
            mode: Some("crw-rw----".into()),
            owner: Some("root".into()),
            group: Some("ringweir".into()),
            ..Row::new(State::Ready, "ready", None)
        }
    }

    #[test]
    fn every_device_is_one_line() {
        let bare = Row::new(State::NotBound, "not bound", Some("modprobe\nringshim".into()));
        let fifo =
            Fifo { device_id: 1, channels: 2, fifo_bytes: 2048, max_datagram: 512, rate: 125_000 };
        let text = table(&[ready(), Row { fifo: Some(fifo), ..ready() }, bare]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1],
            "shim:/dev/ringshim0  0000:00:04.0  1af4:1110  ringshim  BAR2 1 \
            MiB  MSI-X       crw-rw---- root:ringweir  ready"
        );
        assert!(lines[2].ends_with("  ready (2 × 2 KiB, 125 kB/s)"), "{text}");
        assert!(
            lines[3].starts_with("–   ") && lines[3].ends_with("  not bound: modprobe?ringshim"),
            "{text}"
        );
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn json_has_null_for_unknown_values() {
        let v: serde_json::Value = serde_json::from_str(&json_line(&ready())).unwrap();
        assert_eq!((&v["state"], &v["interrupts"]), (&"ready".into(), &"MSI-X".into()));
        assert_eq!(v["memory"][0]["bytes"], 1 << 20);
        assert!(v["fix"].is_null() && v["fifo"].is_null() && v["held_by"] == serde_json::json!([]));
    }
}
