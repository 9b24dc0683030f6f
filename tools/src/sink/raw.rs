//! Payload bytes only; the boundaries between datagrams are lost.

use super::format::{Format, Sink};

pub const FORMAT: Format = Format {
    name: "raw",
    about: "payload bytes only; boundaries between datagrams are lost",
    binary: true,
    has_link_type: false,
    make: || Box::new(Raw),
};

struct Raw;

impl Sink for Raw {}
