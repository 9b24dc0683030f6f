//! What the datagrams of a stream are in a capture file.
//!
//! Contract: plain values. The publisher sets the type before it publishes the first datagram of
//! that type, so a reader of the datagram finds it.

use std::fmt;

/// The link type of a stream's datagrams, as in tcpdump.org/linktypes.html.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkType {
    /// The source gives none.
    #[default]
    Unknown,
    /// All of them have this one.
    Is(u16),
    /// There are several.
    Mixed,
}

impl LinkType {
    const MIXED: u64 = u16::MAX as u64 + 2;

    /// As a counter of the pump.
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Is(number) => number as u64 + 1,
            Self::Mixed => Self::MIXED,
        }
    }

    /// From the counter of another process, which may hold anything.
    pub const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Unknown,
            1..Self::MIXED => Self::Is((word - 1) as u16),
            _ => Self::Mixed,
        }
    }

    /// Of a stream that has had this type and now gets datagrams of type `number`, too.
    pub const fn and(self, number: u16) -> Self {
        match self {
            Self::Unknown => Self::Is(number),
            Self::Is(before) if before == number => self,
            _ => Self::Mixed,
        }
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Is(number) => number.fmt(f),
            Self::Mixed => f.write_str("several"),
        }
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::LinkType::{Is, Mixed, Unknown};
    use super::*;

    #[test]
    fn every_type_survives_its_word() {
        for link_type in [Unknown, Is(0), Is(1), Is(u16::MAX), Mixed] {
            assert_eq!(LinkType::from_word(link_type.to_word()), link_type);
        }
        assert_eq!(LinkType::from_word(u64::MAX), Mixed);
    }

    #[test]
    fn a_second_type_makes_it_mixed_for_good() {
        let one = Unknown.and(101);
        assert_eq!((one, one.and(101), one.and(1)), (Is(101), Is(101), Mixed));
        assert_eq!(one.and(1).and(101), Mixed);
    }
}
