//! The argument of `packet:`.
//!
//! Contract: what cannot work on any interface is refused here, by name; nothing is opened.

use super::super::contract::SourceError;
use ringweir_cli::quantity::{Bytes, Span};
use std::time::Duration;

/// The page size that matters for blocks: the kernel requires whole pages.
const PAGE: u64 = 4096;

/// The part after `packet:`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) interface: String,
    pub(super) snaplen: u64,
    pub(super) block: u64,
    pub(super) blocks: u64,
    pub(super) timeout_ms: u32,
    pub(super) promisc: bool,
    pub(super) hwtstamp: bool,
}

impl std::str::FromStr for Spec {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let mut parts = text.split(',');
        let mut spec = Spec {
            interface: parts.next().unwrap_or_default().to_owned(),
            snaplen: 256 << 10,
            block: 512 << 10,
            blocks: 32,
            timeout_ms: 10,
            promisc: false,
            hwtstamp: false,
        };
        if spec.interface.is_empty() {
            return Err(SourceError::new(
                "it takes the name of a network interface (see `ip link`)",
            ));
        }
        for option in parts {
            let bad = |reason: &str| SourceError(format!("{option:?}: {reason}"));
            let size = |size: &str| {
                size.parse::<Bytes>().map(|size| size.0).map_err(|e| bad(&e.to_string()))
            };
            match option.split_once('=').unwrap_or((option, "")) {
                ("snaplen", value) => spec.snaplen = size(value)?,
                ("block", value) => spec.block = size(value)?,
                ("blocks", value) => {
                    spec.blocks = value.parse().map_err(|_| bad("a whole number is needed"))?
                }
                ("timeout", value) => {
                    // A bare number is milliseconds, as the kernel and tcpdump count.
                    let span = value
                        .parse()
                        .map(Duration::from_millis)
                        .or_else(|_| value.parse::<Span>().map(|s| s.0));
                    spec.timeout_ms = span
                        .map_err(|e| bad(&e.to_string()))?
                        .as_millis()
                        .try_into()
                        .unwrap_or(u32::MAX);
                }
                ("promisc", "") => spec.promisc = true,
                ("hwtstamp", "") => spec.hwtstamp = true,
                _ => {
                    return Err(bad(
                        "there are snaplen=, block=, blocks=, timeout=, promisc and hwtstamp",
                    ));
                }
            }
            if spec.snaplen == 0 {
                return Err(bad("at least one byte of a frame is kept"));
            }
            if !spec.block.is_multiple_of(PAGE) || !(PAGE..=1 << 30).contains(&spec.block) {
                return Err(bad("a block is a multiple of 4KiB, up to 1GiB"));
            }
            if !(2..=1 << 16).contains(&spec.blocks) || spec.block * spec.blocks > 8 << 30 {
                return Err(bad("there are 2 to 65536 blocks, of 8GiB together"));
            }
            if !(1..=1000).contains(&spec.timeout_ms) {
                return Err(bad("a timeout is from 1ms to 1s"));
            }
        }
        Ok(spec)
    }
}
