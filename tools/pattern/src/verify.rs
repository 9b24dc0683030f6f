//! Checks test datagrams of either kind, and keeps the account over a stream.
//!
//! Contract: the magic of a datagram shows its kind. [`Verifier`] counts every datagram once, as
//! right or as bad.

use crate::datagram::{Fault, Header};
use crate::{crc, sum};

/// Checks one datagram, CRC-checked or sum-checked.
///
/// # Errors
/// Those of [`crc::check`] and [`sum::check`].
pub fn check(datagram: &[u8]) -> Result<Header, Fault> {
    if datagram.starts_with(&sum::MAGIC) { sum::check(datagram) } else { crc::check(datagram) }
}

/// The account of test datagrams in the order of their arrival, over all channels.
///
/// The number of a bad datagram is not used, so it counts as missing once the next good one
/// arrives: from the first to the last number, `last - first + 1 = ok - repeated + missing` while
/// nothing is reordered. A datagram that arrives late has been counted as missing and is then
/// counted as repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verifier {
    /// Datagrams that were right, byte for byte, including repeated ones.
    pub ok: u64,
    /// Datagrams that were wrong.
    pub bad: u64,
    /// Numbers that were skipped.
    pub missing: u64,
    /// Right datagrams whose number was not above the highest one before.
    pub repeated: u64,
    /// Number of the first right datagram.
    pub first: Option<u64>,
    /// Highest number of a right datagram.
    pub last: Option<u64>,
}

impl Verifier {
    /// Checks one datagram and counts it.
    ///
    /// # Errors
    /// Those of [`check`]; the datagram is then counted as [`bad`](Self::bad).
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

    fn make(len: usize, number: u64, channel: u16) -> Vec<u8> {
        let mut datagram = vec![0xAA; len];
        crc::fill(&mut datagram, number, channel);
        datagram
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
    fn the_account_holds_for_the_largest_jump() {
        let mut verifier = Verifier::default();
        for number in [0, u64::MAX] {
            verifier.accept(&make(24, number, 0)).unwrap();
        }
        assert_eq!((verifier.missing, verifier.last), (u64::MAX - 1, Some(u64::MAX)));
    }
}
