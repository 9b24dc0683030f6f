//! Framings: how a byte stream (`stdin:`, `file:`) is cut into datagrams.

mod decoder;
mod fixed;
mod format;
mod length;
mod lines;
mod pcap;
mod pcapng;
mod step;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use format::{Framing, FramingError};
pub use step::{Fault, Payload, SKIP_LIMIT, Step};
