//! The argument of `fifo:`, `shim:` and `uio:`: options and a path.

use crate::source::contract::SourceError;
use crate::source::options::options_and_path;
use ringweir_cli::quantity::Rate;

/// Where a device is, and how to read it: the part after the colon.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Location {
    /// `rate=`: bytes per second; overrides the device's own.
    pub(super) rate: Option<f64>,
    /// `map=`, of `uio:`.
    pub(super) map: usize,
    /// `memory=`, of `uio:`.
    pub(super) memory: Option<String>,
    pub(super) path: String,
}

impl Location {
    /// Parses the argument. `own`: the options that this kind has besides `rate=`.
    pub(super) fn parse(argument: &str, own: &[&str]) -> Result<Self, SourceError> {
        let (options, path) = options_and_path(argument)?;
        let mut location = Self { path: path.into(), ..Self::default() };
        for option in options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "rate" => match value.parse().map_err(SourceError::new)? {
                    Rate::Bytes(rate) => location.rate = Some(rate),
                    Rate::Datagrams(_) => {
                        return Err(SourceError(format!(
                            "{option}: a FIFO fills by bytes: use 1Mbit/s or 125kB/s"
                        )));
                    }
                },
                "map" if own.contains(&key) => {
                    location.map = value.parse().ok().filter(|n| *n < 5).ok_or_else(|| {
                        SourceError(format!(
                            "{option}: not a map of the device, 0 to 4 (ls /sys/class/uio/*/maps)"
                        ))
                    })?;
                }
                "memory" if own.contains(&key) && value.starts_with('/') => {
                    location.memory = Some(value.into())
                }
                "memory" if own.contains(&key) => {
                    return Err(SourceError(format!(
                        "{option}: not a path such as /sys/bus/pci/devices/0000:00:04.0/resource2"
                    )));
                }
                _ => {
                    let there_are = ["rate"]
                        .iter()
                        .chain(own)
                        .map(|o| format!("{o}="))
                        .collect::<Vec<_>>()
                        .join(", ");
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there are {there_are}"
                    )));
                }
            }
        }
        Ok(location)
    }
}
