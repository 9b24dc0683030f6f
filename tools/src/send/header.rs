//! The header of `--header seq`: 16 bytes before each datagram, which show the receiver every seq.
//!
//! Contract: little-endian, fixed:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | the characters `RS` |
//! | 2 | 1 | kind |
//! | 3 | 1 | kind 1: 1 if the datagram was cut on its way into the ring, else 0; else the reason |
//! | 4 | 2 | generation of the stream, modulo 65536 |
//! | 6 | 2 | channel (kind 1), else 0 |
//! | 8 | 8 | seq (kind 1), else the first seq that will not arrive or that follows the loss |
//!
//! Kind 1 is a datagram, 2 are seqs that will never arrive, 3 are losses before the ring, and 4
//! means that the source's device went away. For the reasons see [`Why`]. If the generation
//! changes, the broker was restarted, and seqs continue or start again.
//!
//! After the header comes the payload (kind 1), or a count of 8 bytes (the other kinds; 0 for kind
//! 4). A receiver that expects seq `n` and gets `m > n`, without a record of kind 2 for the seqs
//! between, knows that the network lost them, or their record.

use ringweir::Layer;

/// Length of the header, in bytes.
pub(super) const LEN: usize = 16;

/// Why something does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Kind 2, reason 0: `ringsend` was too slow for the ring.
    Lapped,
    /// Kind 2, reason 1: longer than UDP or the path carries.
    TooLong,
    /// Kind 2, reason 2: the kernel refused to send it.
    Failed,
    /// Kind 3, reason 1 device, 2 kernel, 3 broker; 128 more if the count is a lower bound.
    Upstream { layer: Layer, exact: bool },
    /// Kind 4, reason 0: the device behind the stream's source went away before that seq.
    SourceGone,
}

/// The header of a datagram.
pub(super) fn datagram(seq: u64, channel: u16, cut: bool, generation: u16) -> [u8; LEN] {
    header(1, u8::from(cut), generation, channel, seq)
}

/// A whole record, including its count.
pub(super) fn record(first: u64, count: u64, why: Why, generation: u16) -> [u8; LEN + 8] {
    let (kind, reason) = match why {
        Why::Lapped => (2, 0),
        Why::TooLong => (2, 1),
        Why::Failed => (2, 2),
        Why::Upstream { layer, exact } => {
            let layer = match layer {
                Layer::Device => 1,
                Layer::Kernel => 2,
                Layer::Broker => 3,
            };
            (3, if exact { layer } else { layer | 0x80 })
        }
        Why::SourceGone => (4, 0),
    };
    let mut bytes = [0; LEN + 8];
    bytes[..LEN].copy_from_slice(&header(kind, reason, generation, 0, first));
    bytes[LEN..].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn header(kind: u8, detail: u8, generation: u16, channel: u16, seq: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..4].copy_from_slice(&[b'R', b'S', kind, detail]);
    bytes[4..6].copy_from_slice(&generation.to_le_bytes());
    bytes[6..8].copy_from_slice(&channel.to_le_bytes());
    bytes[8..].copy_from_slice(&seq.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_documented() {
        assert_eq!(datagram(0x0102, 7, true, 3), *b"RS\x01\x01\x03\0\x07\0\x02\x01\0\0\0\0\0\0");
        assert_eq!(
            record(5, 9, Why::Lapped, 1),
            *b"RS\x02\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0"
        );
        assert_eq!(record(5, 9, Why::TooLong, 1)[2..4], [2, 1]);
        assert_eq!(record(5, 9, Why::Failed, 1)[2..4], [2, 2]);
        for (layer, exact, reason) in
            [(Layer::Device, true, 1), (Layer::Kernel, false, 0x82), (Layer::Broker, true, 3)]
        {
            assert_eq!(record(5, 9, Why::Upstream { layer, exact }, 1)[2..4], [3, reason]);
        }
    }
}
