//! Each datagram after its length, 32 bits little-endian: the format of `ringd --source
//! stdin:len32le` and `ringgen`.

use super::format::{About, Format, Sink};

pub const FORMAT: Format = Format {
    name: "len32le",
    about: "each datagram after its length, 32 bits little-endian",
    binary: true,
    has_link_type: false,
    make: || Box::new(Len32Le),
};

struct Len32Le;

impl Sink for Len32Le {
    fn before(&mut self, out: &mut Vec<u8>, about: &About) {
        // A datagram has at most 16 MiB.
        out.extend_from_slice(&(about.len as u32).to_le_bytes());
    }
}
