//! A pcap capture with nanosecond times, for Wireshark and tcpdump. A cut datagram keeps its
//! original length. The format cannot hold losses: they are reported on stderr.

use super::format::{About, Capture, Format, Sink};

pub const FORMAT: Format = Format {
    name: "pcap",
    about: "a capture file with nanosecond times (see --link-type)",
    binary: true,
    has_link_type: true,
    make: || Box::new(Pcap),
};

const MAGIC_NANOSECONDS: u32 = 0xA1B2_3C4D;
/// Wireshark's limit for most link types; longer datagrams raise it.
const SNAP_LENGTH: u64 = 262_144;

struct Pcap;

impl Sink for Pcap {
    fn begin(&mut self, out: &mut Vec<u8>, capture: &Capture) {
        let snap = u32::try_from(capture.max_datagram.max(SNAP_LENGTH)).unwrap_or(u32::MAX);
        out.extend_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
        out.extend_from_slice(&2u16.to_le_bytes());
        out.extend_from_slice(&4u16.to_le_bytes());
        for word in [0, 0, snap, capture.link_type] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn before(&mut self, out: &mut Vec<u8>, about: &About) {
        let (seconds, rest) = (about.time / 1_000_000_000, about.time % 1_000_000_000);
        // Seconds wrap in 2106; lengths are at most 16 MiB, original ones 32 bits in the ring.
        for word in [seconds as u32, rest as u32, about.len as u32, about.original_len as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}
