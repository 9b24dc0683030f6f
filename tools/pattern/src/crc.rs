//! The numbered, checksummed test datagram: proof, byte by byte, of what a stream delivered and
//! what it did not.
//!
//! Contract: [`fill`] makes a whole buffer one datagram; [`check`] accepts it if and only if every
//! byte is what `fill` wrote for that number, channel and length; [`Verifier`] adds the account
//! over a stream. Little-endian on every machine:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, the characters `RWg1` |
//! | 4 | 4 | CRC-32 (IEEE) of everything behind this field |
//! | 8 | 8 | number, counted up by one per datagram over all channels |
//! | 16 | 4 | length of the whole datagram in bytes |
//! | 20 | 2 | channel |
//! | 22 | 2 | flags, zero |
//! | 24 | – | body: 8-byte words computed from number and word index, the last one cut |
//!
//! The checksum finds a torn or damaged datagram; the body, which no two numbers share, tells where
//! it is torn.

/// Length of the header, hence of the shortest datagram, in bytes.
pub const MIN_LEN: usize = 24;

/// Length of the longest datagram in bytes: what the length field holds.
pub const MAX_LEN: usize = u32::MAX as usize;

const MAGIC: [u8; 4] = *b"RWg1";

/// Bytes of the body that are made and summed in one go: a multiple of 8 that stays in the
/// first-level cache.
const BLOCK: usize = 8192;

/// What a body word exceeds the one before by, before its bits are mixed.
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

/// What the header of an accepted datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the datagram, over all channels.
    pub number: u64,
    /// Length of the whole datagram in bytes.
    pub len: u32,
    /// Channel it was generated for.
    pub channel: u16,
}

/// Why a datagram was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Shorter than the header.
    #[error("{len} bytes are no numbered datagram, which has at least {MIN_LEN}")]
    TooShort {
        /// Length received, in bytes.
        len: usize,
    },
    /// It does not begin with the magic: some other data.
    #[error("not a numbered datagram: begins with {found:02x?}, not \"RWg1\"")]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The length received is not the one that was sent: cut, or boundaries lost.
    #[error("datagram {number} was sent with {sent} bytes and received with {received}")]
    WrongLength {
        /// Number in the header, unproved.
        number: u64,
        /// Length in the header, in bytes.
        sent: u32,
        /// Length received, in bytes.
        received: usize,
    },
    /// Some byte behind the checksum is not what was sent.
    #[error("datagram {number}: checksum is {stored:08x} in the header and {computed:08x} over the \
        data{}", At(.offset))]
    BadChecksum {
        /// Number in the header, unproved.
        number: u64,
        /// Checksum in the header.
        stored: u32,
        /// Checksum over the bytes received.
        computed: u32,
        /// Offset of the first body byte that does not belong to `number`; `None` if only the
        /// header is damaged.
        offset: Option<usize>,
    },
    /// The sum of a [summed](crate::summed) datagram is not the one in its header.
    #[error(
        "datagram {number}: sum is {stored:016x} in the header and {computed:016x} over the data"
    )]
    BadSum {
        /// Number in the header, unproved.
        number: u64,
        /// Sum in the header.
        stored: u64,
        /// Sum over the bytes received.
        computed: u64,
    },
    /// The checksum holds and the content is not what [`fill`] writes: made by something else.
    #[error("datagram {number}: checksum holds, byte {offset} is not what the generator writes")]
    BadPattern {
        /// Number in the header.
        number: u64,
        /// Offset of the first such byte.
        offset: usize,
    },
}

/// Prints the place of a damage, if one is known.
struct At<'a>(&'a Option<usize>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, ", first wrong byte {offset}"),
            None => Ok(()),
        }
    }
}

/// The body words of one number. Adding, shifting and xor only: they exist as vector instructions
/// everywhere.
#[derive(Clone, Copy)]
struct Pattern {
    key: u64,
}

impl Pattern {
    fn new(number: u64) -> Self {
        // Odd factor: a bijection, so no two numbers have the same body.
        let key = number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Pattern { key }
    }

    #[inline(always)]
    fn word(self, index: u64) -> [u8; 8] {
        let x = self.key.wrapping_add(index.wrapping_mul(STEP));
        (x ^ (x >> 31)).to_le_bytes()
    }

    /// Eight words from word `index` on, side by side: what vector instructions want to see.
    #[inline(always)]
    fn line(self, index: u64) -> [u64; 8] {
        let first = self.key.wrapping_add(index.wrapping_mul(STEP));
        std::array::from_fn(|i| {
            let x = first.wrapping_add(STEPS[i]);
            (x ^ (x >> 31)).to_le()
        })
    }

    /// Writes the bytes of the body that begin with word `index`.
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

    /// Whether `body` holds the bytes that begin with word `index`.
    #[inline(always)]
    fn holds(self, index: u64, body: &[u8]) -> bool {
        let (lines, rest) = body.as_chunks::<64>();
        let mut at = index;
        // Gathered without a branch, so that it is done in vectors; a difference is looked for only
        // when there is one.
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

/// Makes `datagram` the numbered datagram `number` of `channel`, all of it.
///
/// # Panics
/// If it is shorter than [`MIN_LEN`] or longer than [`MAX_LEN`]: the caller has checked the
/// configured sizes.
pub fn fill(datagram: &mut [u8], number: u64, channel: u16) {
    let len = datagram.len();
    assert!((MIN_LEN..=MAX_LEN).contains(&len), "a numbered datagram of {len} bytes");
    datagram[..4].copy_from_slice(&MAGIC);
    datagram[8..16].copy_from_slice(&number.to_le_bytes());
    // Length, channel and flags in one word: a checksum that reads words stalls on narrower stores
    // just before.
    let rest = len as u64 | u64::from(channel) << 32;
    datagram[16..24].copy_from_slice(&rest.to_le_bytes());
    let pattern = Pattern::new(number);
    // Written and summed block by block, while the block is in the nearest cache; the header goes
    // with the first one.
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

/// Checks that `datagram` is, byte for byte, what [`fill`] wrote, or that it is a right
/// [summed](crate::summed) one.
///
/// # Errors
/// The [`Fault`] that explains most: what it is not, then its length, then its bytes.
pub fn check(datagram: &[u8]) -> Result<Header, Fault> {
    let len = datagram.len();
    let Some(header) = datagram.first_chunk::<MIN_LEN>() else {
        return Err(Fault::TooShort { len });
    };
    // Fields of fixed place in a header of fixed size: the conversions cannot fail and compile to
    // loads.
    let u32_at = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let number = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
    if header[..4] != MAGIC {
        if header[..2] == crate::sum::MAGIC {
            return crate::sum::check(datagram);
        }
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

/// The account of numbered datagrams in the order of their arrival, over all channels.
///
/// A bad datagram's number is not believed, so it is also among the missing once the next good one
/// arrives: from the first to the last number, `last - first + 1 = ok - repeated + missing` while
/// nothing is reordered. A datagram that arrives late was counted missing and is counted repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verifier {
    /// Datagrams that were byte for byte right, repeated ones included.
    pub ok: u64,
    /// Datagrams that were not.
    pub bad: u64,
    /// Numbers that were jumped over.
    pub missing: u64,
    /// Right datagrams whose number was not above the highest one before.
    pub repeated: u64,
    /// Number of the first right datagram.
    pub first: Option<u64>,
    /// Highest number of a right datagram.
    pub last: Option<u64>,
}

impl Verifier {
    /// Checks one datagram and takes it into account.
    ///
    /// # Errors
    /// Those of [`check`]; they are counted as [`bad`](Self::bad).
    pub fn accept(&mut self, datagram: &[u8]) -> Result<Header, Fault> {
        let header = check(datagram).inspect_err(|_| self.bad += 1)?;
        self.ok += 1;
        match self.last {
            None => {
                self.first = Some(header.number);
                self.last = Some(header.number);
            }
            Some(last) if header.number > last => {
                self.missing = self.missing.saturating_add(header.number - last - 1);
                self.last = Some(header.number);
            }
            Some(_) => self.repeated += 1,
        }
        Ok(header)
    }

    /// Whether everything between the first and the last number arrived, once and right.
    pub fn is_clean(&self) -> bool {
        self.bad == 0 && self.missing == 0 && self.repeated == 0
    }
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

    /// Puts a checksum over `datagram` that holds, as something else than `fill` would.
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
        // Written once from the table above; a change of it breaks recorded data.
        let datagram = make(29, 0x0102_0304_0506_0708, 0x0A0B);
        assert_eq!(datagram[..4], *b"RWg1");
        assert_eq!(datagram[8..24], [8, 7, 6, 5, 4, 3, 2, 1, 29, 0, 0, 0, 0x0B, 0x0A, 0, 0]);
        assert_eq!(datagram[4..8], crc32fast::hash(&datagram[8..]).to_le_bytes());
        let key = 0x0102_0304_0506_0708_u64.wrapping_mul(0xd6e8_feb8_6659_fd93);
        assert_eq!(datagram[24..], (key ^ (key >> 31)).to_le_bytes()[..5]);
    }

    #[test]
    fn every_single_bit_is_guarded() {
        let datagram = make(77, 3, 1);
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let fault = check(&damaged).expect_err("a flipped bit");
            match bit / 8 {
                // One of them makes it a summed datagram, whose length is then wrong.
                0..4 if damaged[..2] == crate::sum::MAGIC => {
                    assert!(matches!(fault, Fault::WrongLength { received: 77, .. }), "{fault:?}");
                }
                0..4 => assert!(matches!(fault, Fault::BadMagic { .. }), "{fault:?}"),
                16..20 => assert!(matches!(fault, Fault::WrongLength { received: 77, .. })),
                // The number decides the whole body, so all of it is wrong.
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
    fn a_torn_datagram_says_where() {
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
    fn cut_short_and_foreign_data_are_told_apart() {
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

    #[test]
    fn the_account_counts_jumps_repeats_and_damage() {
        let mut verifier = Verifier::default();
        for number in [10, 11, 15, 15, 12, 16] {
            verifier.accept(&make(40, number, 0)).unwrap();
        }
        assert!(!verifier.is_clean());
        let mut damaged = make(40, 17, 0);
        damaged[39] ^= 1;
        assert!(verifier.accept(&damaged).is_err());
        verifier.accept(&make(40, 18, 0)).unwrap();
        let expected = Verifier {
            ok: 7,
            bad: 1,
            missing: 3 + 1,
            repeated: 2,
            first: Some(10),
            last: Some(18),
        };
        assert_eq!(verifier, expected);
        assert_eq!(18 - 10 + 1, verifier.ok - verifier.repeated + verifier.missing);
    }

    #[test]
    fn the_account_survives_the_largest_jump() {
        let mut verifier = Verifier::default();
        for number in [0, u64::MAX] {
            verifier.accept(&make(24, number, 0)).unwrap();
        }
        assert_eq!((verifier.missing, verifier.last), (u64::MAX - 1, Some(u64::MAX)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_never_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(check(&bytes).is_err());
        }

        #[test]
        fn any_other_byte_is_found(len in 24usize..40_000, number: u64, at: prop::sample::Index, flip in 1u8..) {
            let mut datagram = make(len, number, 0);
            datagram[at.index(len)] ^= flip;
            prop_assert!(check(&datagram).is_err());
        }
    }
}
