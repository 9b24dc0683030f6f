//! Each datagram behind its length, 32 bits little-endian: what `ringd`'s `stdin:len32le` and
//! `ringgen` speak.

use super::format::{About, Format, Sink};

pub const FORMAT: Format = Format {
    name: "len32le",
    about: "each behind its length, 32 bits little-endian",
    binary: true,
    make: |_| Box::new(Len32Le),
};

struct Len32Le;

impl Sink for Len32Le {
    fn before(&mut self, out: &mut Vec<u8>, about: &About) {
        // A datagram has at most 16 MiB.
        out.extend_from_slice(&(about.len as u32).to_le_bytes());
    }
}
