//! No output: for counting and verifying.

use super::format::{About, Format, Sink};

pub const FORMAT: Format = Format {
    name: "none",
    about: "no output; read (and verify) only",
    binary: false,
    has_link_type: false,
    make: || Box::new(Nothing),
};

struct Nothing;

impl Sink for Nothing {
    fn after(&mut self, out: &mut Vec<u8>, start: usize, _: &About) {
        out.truncate(start);
    }
}
