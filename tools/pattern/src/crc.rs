//! The CRC-checked test datagram: every byte of it can be verified.
//!
//! Contract: [`fill`] makes a whole buffer one datagram; [`check`] accepts it if and only if every
//! byte is what `fill` wrote for that number, channel and length. Little-endian on every machine:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, the characters `RWg1` |
//! | 4 | 4 | CRC-32 (IEEE) of everything after this field |
//! | 8 | 8 | number, counted up by one per datagram over all channels |
//! | 16 | 4 | length of the whole datagram in bytes |
//! | 20 | 2 | channel |
//! | 22 | 2 | flags, zero |
//! | 24 | – | body: 8-byte words computed from number and word index, the last one cut |
//!
//! The checksum finds a torn or damaged datagram. No two numbers have the same body, so the body
//! shows where the datagram is torn.

use crate::datagram::{Fault, Header, MAX_LEN, MIN_LEN};

const MAGIC: [u8; 4] = *b"RWg1";

/// Bytes of the body that are written and checksummed at once: a multiple of 8 that fits into the
/// first-level cache.
const BLOCK: usize = 8192;

/// Difference between two successive body words, before their bits are mixed.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first eight multiples of [`STEP`].
const STEPS: [u64; 8] = {
    let mut steps = [0; 8];
    let mut i = 1;
    while i < 8 {
        steps[i] = STEP.wrapping_mul(i as u64);
        i += 1;
    }
    steps
};

/// The body words of one number. Only add, shift and xor, which exist as vector instructions
/// everywhere.
#[derive(Clone, Copy)]
struct Pattern {
    key: u64,
}

impl Pattern {
    fn new(number: u64) -> Self {
        // Multiplying by an odd factor is a bijection, so no two numbers have the same body.
        let key = number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Pattern { key }
    }

    #[inline(always)]
    fn word(self, index: u64) -> [u8; 8] {
        let x = self.key.wrapping_add(index.wrapping_mul(STEP));
        (x ^ (x >> 31)).to_le_bytes()
    }

    /// Eight words from word `index` on, side by side, so that the compiler uses vector
    /// instructions.
    #[inline(always)]
    fn line(self, index: u64) -> [u64; 8] {
        let first = self.key.wrapping_add(index.wrapping_mul(STEP));
        std::array::from_fn(|i| {
            let x = first.wrapping_add(STEPS[i]);
            (x ^ (x >> 31)).to_le()
        })
    }

    /// Writes the body from word `index` on.
    #[inline(always)]
    fn write(self, index: u64, body: &mut [u8]) {
        let (lines, rest) = body.as_chunks_mut::<64>();
        let mut at = index;
        for line in lines {
            for (to, word) in line.as_chunks_mut::<8>().0.iter_mut().zip(self.line(at)) {
                *to = word.to_ne_bytes();
            }
            at = at.wrapping_add(8);
        }
        let (words, tail) = rest.as_chunks_mut::<8>();
        for to in words {
            *to = self.word(at);
            at = at.wrapping_add(1);
        }
        for (to, byte) in tail.iter_mut().zip(self.word(at)) {
            *to = byte;
        }
    }

    /// Whether `body` is the body from word `index` on.
    #[inline(always)]
    fn holds(self, index: u64, body: &[u8]) -> bool {
        let (lines, rest) = body.as_chunks::<64>();
        let mut at = index;
        // Compares without a branch, so that the compiler uses vector instructions. Where the
        // difference is, is searched only if there is one.
        let mut differences = [0; 8];
        for line in lines {
            let words = line.as_chunks::<8>().0.iter().zip(self.line(at));
            for (difference, (is, should)) in differences.iter_mut().zip(words) {
                *difference |= u64::from_ne_bytes(*is) ^ should;
            }
            at = at.wrapping_add(8);
        }
        let mut same = differences == [0; 8];
        let (words, tail) = rest.as_chunks::<8>();
        for is in words {
            same &= *is == self.word(at);
            at = at.wrapping_add(1);
        }
        same && tail.iter().zip(self.word(at)).all(|(is, should)| *is == should)
    }

    /// Offset in the datagram of the first body byte that differs.
    #[cold]
    fn first_difference(self, datagram: &[u8]) -> Option<usize> {
        let body = &datagram[MIN_LEN..];
        let differs = |(i, byte): (usize, &u8)| *byte != self.word((i / 8) as u64)[i % 8];
        let first = body.iter().enumerate().position(differs)?;
        Some(first + MIN_LEN)
    }
}

/// Fills all of `datagram` with the CRC-checked datagram `number` of `channel`.
///
/// # Panics
/// If it is shorter than [`MIN_LEN`] or longer than [`MAX_LEN`]. The caller has checked the
/// configured sizes.
pub fn fill(datagram: &mut [u8], number: u64, channel: u16) {
    let len = datagram.len();
    assert!((MIN_LEN..=MAX_LEN).contains(&len), "a CRC-checked datagram of {len} bytes");
    datagram[..4].copy_from_slice(&MAGIC);
    datagram[8..16].copy_from_slice(&number.to_le_bytes());
    // Length, channel and flags are stored as one word: a checksum that reads words would stall
    // after narrower stores.
    let rest = len as u64 | u64::from(channel) << 32;
    datagram[16..24].copy_from_slice(&rest.to_le_bytes());
    let pattern = Pattern::new(number);
    // Written and checksummed block by block, while the block is in the nearest cache. The header
    // belongs to the first block.
    let mut sum = crc32fast::Hasher::new();
    let (mut from, mut body) = (8, MIN_LEN);
    loop {
        let end = len.min(body + BLOCK);
        pattern.write(((body - MIN_LEN) / 8) as u64, &mut datagram[body..end]);
        sum.update(&datagram[from..end]);
        if end == len {
            break;
        }
        (from, body) = (end, end);
    }
    datagram[4..8].copy_from_slice(&sum.finalize().to_le_bytes());
}

/// Checks that `datagram` is, byte for byte, what [`fill`] wrote.
///
/// # Errors
/// The [`Fault`] that explains most: first another kind of data, then the length, then the bytes.
pub fn check(datagram: &[u8]) -> Result<Header, Fault> {
    let len = datagram.len();
    let Some(header) = datagram.first_chunk::<MIN_LEN>() else {
        return Err(Fault::TooShort { len });
    };
    // Fixed offsets in a header of fixed size: the conversions cannot fail, and compile to loads.
    let u32_at = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let number = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    if header[..4] != MAGIC {
        return Err(Fault::BadMagic { found: [header[0], header[1], header[2], header[3]] });
    }
    let (stored, sent) = (u32_at(4), u32_at(16));
    if sent as usize != len {
        return Err(Fault::WrongLength { number, sent, received: len });
    }
    let pattern = Pattern::new(number);
    let mut sum = crc32fast::Hasher::new();
    let (mut from, mut body, mut holds) = (8, MIN_LEN, true);
    loop {
        let end = len.min(body + BLOCK);
        sum.update(&datagram[from..end]);
        holds &= pattern.holds(((body - MIN_LEN) / 8) as u64, &datagram[body..end]);
        if end == len {
            break;
        }
        (from, body) = (end, end);
    }
    let computed = sum.finalize();
    if computed != stored {
        return Err(Fault::BadChecksum {
            number,
            stored,
            computed,
            offset: pattern.first_difference(datagram),
        });
    }
    if header[22..24] != [0; 2] {
        return Err(Fault::BadPattern { number, offset: 22 });
    }
    if !holds && let Some(offset) = pattern.first_difference(datagram) {
        return Err(Fault::BadPattern { number, offset });
    }
    Ok(Header { number, len: sent, channel: u16::from_le_bytes([header[20], header[21]]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn make(len: usize, number: u64, channel: u16) -> Vec<u8> {
        let mut datagram = vec![0xAA; len];
        fill(&mut datagram, number, channel);
        datagram
    }

    /// Puts a valid checksum on `datagram`, whatever its content.
    fn sign(datagram: &mut [u8]) {
        let sum = crc32fast::hash(&datagram[8..]);
        datagram[4..8].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn every_length_and_block_border_is_accepted() {
        let borders = [1, 2, 3].map(|n| MIN_LEN + n * BLOCK);
        let lengths =
            (MIN_LEN..200).chain(borders.iter().flat_map(|b| b - 9..=b + 9)).chain([256 << 10]);
        for len in lengths {
            let number = len as u64 * 0x1_0000_0001;
            let datagram = make(len, number, 7);
            assert_eq!(
                check(&datagram),
                Ok(Header { number, len: len as u32, channel: 7 }),
                "{len}"
            );
        }
    }

    #[test]
    fn the_format_is_fixed() {
        // Written by hand from the table above. If this fails, recorded data can no longer be
        // checked.
        let datagram = make(29, 0x0102_0304_0506_0708, 0x0A0B);
        assert_eq!(datagram[..4], *b"RWg1");
        assert_eq!(datagram[8..24], [8, 7, 6, 5, 4, 3, 2, 1, 29, 0, 0, 0, 0x0B, 0x0A, 0, 0]);
        assert_eq!(datagram[4..8], crc32fast::hash(&datagram[8..]).to_le_bytes());
        let key = 0x0102_0304_0506_0708_u64.wrapping_mul(0xd6e8_feb8_6659_fd93);
        assert_eq!(datagram[24..], (key ^ (key >> 31)).to_le_bytes()[..5]);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let datagram = make(77, 3, 1);
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let fault = crate::verify::check(&damaged).expect_err("a flipped bit");
            match bit / 8 {
                // One of these bits turns it into a sum-checked datagram with a wrong length.
                0..4 if damaged[..2] == crate::sum::MAGIC => {
                    assert!(matches!(fault, Fault::WrongLength { received: 77, .. }), "{fault:?}");
                }
                0..4 => assert!(matches!(fault, Fault::BadMagic { .. }), "{fault:?}"),
                16..20 => assert!(matches!(fault, Fault::WrongLength { received: 77, .. })),
                // The number determines the whole body, so all of the body is wrong.
                8..16 => assert!(
                    matches!(fault, Fault::BadChecksum { offset: Some(24..=31), .. }),
                    "{fault:?}"
                ),
                4..24 => {
                    assert!(matches!(fault, Fault::BadChecksum { offset: None, .. }), "{fault:?}")
                }
                at => assert!(
                    matches!(fault, Fault::BadChecksum { offset: Some(o), .. } if o == at),
                    "{fault:?}"
                ),
            }
        }
    }

    #[test]
    fn torn_datagram_has_its_seq() {
        let mut torn = make(100_000, 41, 0);
        torn[65_000..].copy_from_slice(&make(100_000, 42, 0)[65_000..]);
        let Err(Fault::BadChecksum { number: 41, offset: Some(offset), .. }) = check(&torn) else {
            panic!("torn datagram accepted");
        };
        assert!((65_000..65_008).contains(&offset));
        assert!(check(&torn).unwrap_err().to_string().contains("first wrong byte 65"));
    }

    #[test]
    fn a_right_checksum_over_a_wrong_content_is_refused() {
        for offset in [22, 24, 30, 60_000] {
            let mut datagram = make(60_001, 5, 0);
            datagram[offset] ^= 0x10;
            sign(&mut datagram);
            assert_eq!(check(&datagram), Err(Fault::BadPattern { number: 5, offset }));
        }
    }

    #[test]
    fn short_and_foreign_data_have_faults_of_their_own() {
        let datagram = make(64, 9, 0);
        assert_eq!(check(&datagram[..23]), Err(Fault::TooShort { len: 23 }));
        assert_eq!(check(&[]), Err(Fault::TooShort { len: 0 }));
        assert_eq!(
            check(&datagram[..63]),
            Err(Fault::WrongLength { number: 9, sent: 64, received: 63 })
        );
        assert_eq!(check(&[b'x'; 64]), Err(Fault::BadMagic { found: [b'x'; 4] }));
    }

    #[test]
    #[should_panic(expected = "23 bytes")]
    fn filling_less_than_a_header_is_a_bug() {
        fill(&mut [0; 23], 0, 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_never_accepted(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(check(&bytes).is_err());
        }

        #[test]
        fn any_other_byte_is_found(
            len in 24usize..40_000,
            number: u64,
            at: prop::sample::Index,
            flip in 1u8..,
        ) {
            let mut datagram = make(len, number, 0);
            datagram[at.index(len)] ^= flip;
            prop_assert!(check(&datagram).is_err());
        }
    }
}
