//! Payload bytes only; the boundaries between datagrams are lost.

use super::format::{Format, Sink};

pub const FORMAT: Format = Format {
    name: "raw",
    about: "payload bytes only; boundaries between datagrams are lost",
    binary: true,
    make: |_| Box::new(Raw),
};

struct Raw;

impl Sink for Raw {}
