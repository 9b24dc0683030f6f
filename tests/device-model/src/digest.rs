//! The hash of a stream. Two streams have the same hash if they consist of the same datagrams in
//! the same order.
//!
//! It is the CRC-32 of the datagrams as `ringcat --format len32le` writes them: a 32-bit
//! little-endian length before each. Every datagram has its own checksum as well; this hash is
//! about order and completeness.

/// A hash being computed.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    sum: crc32fast::Hasher,
}

impl Digest {
    /// Adds the next datagram.
    pub fn add(&mut self, payload: &[u8]) {
        self.sum.update(&(payload.len() as u32).to_le_bytes());
        self.sum.update(payload);
    }

    /// The hash of all so far, as eight hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:08x}", self.sum.clone().finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(datagrams: &[&[u8]]) -> String {
        let mut digest = Digest::default();
        datagrams.iter().for_each(|datagram| digest.add(datagram));
        digest.hex()
    }

    #[test]
    fn hash_depends_on_order_number_and_boundaries() {
        let one = of(&[b"ab", b"c"]);
        assert_eq!(one, of(&[b"ab", b"c"]));
        for other in
            [&[&b"a"[..], b"bc"][..], &[b"c", b"ab"], &[b"abc"], &[b"ab"], &[b"ab", b"c", b""]]
        {
            assert_ne!(one, of(other), "{other:?}");
        }
        // The same hash, computed from what ringcat writes.
        assert_eq!(one, format!("{:08x}", crc32fast::hash(b"\x02\0\0\0ab\x01\0\0\0c")));
    }
}
