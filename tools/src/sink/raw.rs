//! Payload bytes and nothing else; boundaries are lost.

use super::format::{Format, Sink};

pub const FORMAT: Format = Format {
    name: "raw",
    about: "payload bytes, nothing between them",
    binary: true,
    make: |_| Box::new(Raw),
};

struct Raw;

impl Sink for Raw {}
