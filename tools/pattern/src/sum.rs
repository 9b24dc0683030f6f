//! The sum-checked test datagram: cheaper than the CRC-checked one, for rates at which a test would
//! measure mainly the CRC.
//!
//! Contract: [`fill`] costs one copy of the datagram and [`check`] one pass over it that adds
//! words. [`check`] accepts a datagram if the sum over *all* its bytes is right, including length,
//! channel and number. It always finds a changed byte. It finds a datagram that consists of parts
//! of two, unless the foreign bytes happen to have the same sum (equal windows: one pair of numbers
//! in 2048 shares a given piece). The number shows loss, repetition and wrong order. Little-endian
//! on every machine:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic, the characters `SM` (differs from `RW` in several bits) |
//! | 2 | 2 | channel |
//! | 4 | 4 | length of the whole datagram in bytes |
//! | 8 | 8 | sum, modulo 2^64, of all other 8-byte words, the last one padded with zeros |
//! | 16 | 8 | number, counted up by one per datagram over all channels |
//! | 24 | – | body: pieces of 16 KiB, each a window into a fixed table of random words |
//!
//! Number and piece determine the window. The table is small enough to stay in the cache. Its
//! running sums are known, so the sum of a body costs the writer one subtraction per piece.

use crate::datagram::{Fault, Header, MAX_LEN, MIN_LEN};

/// The first bytes of a sum-checked datagram.
pub const MAGIC: [u8; 2] = *b"SM";

/// Words of the table. A window is half as long and begins anywhere in the first half.
const WORDS: usize = 4096;
/// Words of a piece.
const PIECE: usize = WORDS / 2;
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

struct Table {
    words: [u64; WORDS],
    /// `before[i]` is the sum of the words below `i`.
    before: [u64; WORDS + 1],
}

static TABLE: Table = {
    let mut table = Table { words: [0; WORDS], before: [0; WORDS + 1] };
    let mut i = 0;
    while i < WORDS {
        // splitmix64
        let mut x = (i as u64 + 1).wrapping_mul(MIX);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table.words[i] = (x ^ (x >> 31)).to_le();
        table.before[i + 1] = table.before[i].wrapping_add(u64::from_le(table.words[i]));
        i += 1;
    }
    table
};

/// Where the window of a piece begins. The top bits are used, so that numbers one lap apart have
/// different windows.
#[inline(always)]
fn window(number: u64, piece: u64) -> usize {
    (number.wrapping_add(piece << 40).wrapping_mul(MIX) >> (64 - PIECE.trailing_zeros())) as usize
}

/// Fills all of `datagram` with the sum-checked datagram `number` of `channel`.
///
/// # Panics
/// If it is shorter than [`MIN_LEN`] or longer than [`MAX_LEN`].
#[inline]
pub fn fill(datagram: &mut [u8], number: u64, channel: u16) {
    let len = datagram.len();
    assert!((MIN_LEN..=MAX_LEN).contains(&len), "a sum-checked datagram of {len} bytes");
    let first =
        u64::from(u16::from_le_bytes(MAGIC)) | u64::from(channel) << 16 | (len as u64) << 32;
    let mut sum = first.wrapping_add(number);
    let (header, body) = datagram.split_at_mut(MIN_LEN);
    for (piece, bytes) in (0..).zip(body.chunks_mut(PIECE * 8)) {
        let at = window(number, piece);
        let (words, tail) = bytes.as_chunks_mut::<8>();
        let end = at + words.len();
        copy_words(words, &TABLE.words[at..end]);
        sum = sum.wrapping_add(TABLE.before[end].wrapping_sub(TABLE.before[at]));
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(&TABLE.words[end].to_ne_bytes()[..tail.len()]);
            tail.copy_from_slice(&last[..tail.len()]);
            sum = sum.wrapping_add(u64::from_le_bytes(last));
        }
    }
    header[..8].copy_from_slice(&first.to_le_bytes());
    header[8..16].copy_from_slice(&sum.to_le_bytes());
    header[16..].copy_from_slice(&number.to_le_bytes());
}

#[inline(always)]
fn copy_words(to: &mut [[u8; 8]], from: &[u64]) {
    for (to, word) in to.iter_mut().zip(from) {
        *to = word.to_ne_bytes();
    }
}

/// Gives a datagram that [`fill`] made another number; its body stays.
///
/// # Panics
/// If it is shorter than [`MIN_LEN`].
pub fn renumber(datagram: &mut [u8], number: u64) {
    let at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| datagram[at + i]));
    let sum = at(8).wrapping_sub(at(16)).wrapping_add(number);
    datagram[8..16].copy_from_slice(&sum.to_le_bytes());
    datagram[16..MIN_LEN].copy_from_slice(&number.to_le_bytes());
}

/// The sum of a datagram that comes in pieces. All pieces but the last have a multiple of 8 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds the next piece.
    #[inline(always)]
    pub fn add(&mut self, piece: &[u8]) {
        let (words, tail) = piece.as_chunks::<8>();
        let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
        self.0 = self.0.wrapping_add(sum);
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(tail);
            self.0 = self.0.wrapping_add(u64::from_le_bytes(last));
        }
    }

    /// Decides about a datagram of `len` bytes that began with `head` and has been added up.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline(always)]
    pub fn judge(self, head: &[u8; MIN_LEN], len: usize) -> Result<Header, Fault> {
        let at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let (first, stored, number) = (at(0), at(8), at(16));
        let computed = self.0.wrapping_sub(stored);
        let right = first as u16 == u16::from_le_bytes(MAGIC)
            && first >> 32 == len as u64
            && computed == stored;
        if !right {
            return Err(Self::fault(head, stored, computed, number, len));
        }
        Ok(Header { number, len: len as u32, channel: (first >> 16) as u16 })
    }

    #[cold]
    fn fault(
        head: &[u8; MIN_LEN],
        stored: u64,
        computed: u64,
        number: u64,
        received: usize,
    ) -> Fault {
        let sent = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if head[..2] != MAGIC {
            Fault::BadMagic { found: [head[0], head[1], head[2], head[3]] }
        } else if sent as usize != received {
            Fault::WrongLength { number, sent, received }
        } else {
            Fault::BadSum { number, stored, computed }
        }
    }
}

/// Checks one datagram as a whole.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub fn check(datagram: &[u8]) -> Result<Header, Fault> {
    let head = datagram.first_chunk::<MIN_LEN>().ok_or(Fault::TooShort { len: datagram.len() })?;
    let mut sum = Sum::default();
    sum.add(datagram);
    sum.judge(head, datagram.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(len: usize, number: u64, channel: u16) -> Vec<u8> {
        let mut datagram = vec![0xAA; len];
        fill(&mut datagram, number, channel);
        datagram
    }

    #[test]
    fn every_length_and_piece_border_is_accepted() {
        let borders = [1, 2].map(|n| MIN_LEN + n * PIECE * 8);
        let lengths =
            (MIN_LEN..200).chain(borders.iter().flat_map(|b| b - 9..=b + 9)).chain([1 << 20]);
        for len in lengths {
            let number = len as u64 * 0x1_0000_0001;
            let datagram = make(len, number, 7);
            let header = Header { number, len: len as u32, channel: 7 };
            assert_eq!(check(&datagram), Ok(header), "{len}");
            assert_eq!(
                crate::verify::check(&datagram),
                Ok(header),
                "either kind is known by its magic"
            );
            let mut sum = Sum::default();
            datagram.chunks(4096).for_each(|piece| sum.add(piece));
            assert_eq!(
                sum.judge(datagram.first_chunk().unwrap(), len),
                Ok(header),
                "{len} in pieces"
            );
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let datagram = make(77, 3, 1);
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let fault = check(&damaged).expect_err("a flipped bit");
            match bit / 8 {
                0..2 => assert!(matches!(fault, Fault::BadMagic { .. })),
                4..8 => assert!(matches!(fault, Fault::WrongLength { received: 77, .. })),
                _ => assert!(matches!(fault, Fault::BadSum { .. }), "{fault:?}"),
            }
        }
    }

    /// What a reader sees if it is lapped without noticing: a part of the datagram one lap later,
    /// at the same address.
    #[test]
    fn torn_datagrams_are_found() {
        let mut missed = 0;
        for n in 0..2000 {
            let mut torn = make(64, n, 0);
            torn[40..].copy_from_slice(&make(64, n + 16384, 0)[40..]);
            missed += u32::from(check(&torn).is_ok());
        }
        assert!(missed <= 5, "{missed} of 2000");
    }

    #[test]
    fn renumbering_keeps_the_body() {
        let mut datagram = make(1000, 5, 2);
        renumber(&mut datagram, 123_456);
        assert_eq!(check(&datagram), Ok(Header { number: 123_456, len: 1000, channel: 2 }));
    }
}
