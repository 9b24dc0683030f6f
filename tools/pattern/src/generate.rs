//! Generating test datagrams to a specification, for the broker's `gen:` source and for `ringgen`.
//!
//! Contract: [`GenSpec`] is what follows `gen:`. It refuses what cannot be generated, and names the
//! key and the value. [`Generator`] makes exactly the datagrams of a spec, and the same ones each
//! time. After construction nothing allocates, reads a clock or fails.

use crate::crc;
use crate::datagram::{Header, MAX_LEN, MIN_LEN};
use crate::rate_limiter::RateLimiter;
use crate::sum;
use ringweir_cli::quantity::{Bytes, QuantityError, Rate};
use std::fmt;
use std::str::FromStr;

/// Lengths of generated datagrams in bytes: a range with both ends, each length equally likely.
/// Parses "256KiB" and "64..1500".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    min: u32,
    max: u32,
}

impl Sizes {
    /// The shortest, at least [`MIN_LEN`].
    pub fn min(self) -> usize {
        self.min as usize
    }

    /// The longest, at most [`MAX_LEN`].
    pub fn max(self) -> usize {
        self.max as usize
    }
}

impl FromStr for Sizes {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let size = |end: &str| {
            let len = end.parse::<Bytes>()?.0;
            match u32::try_from(len) {
                Ok(len) if len as usize >= MIN_LEN => Ok(len),
                Ok(_) => Err(Refusal::TooSmall),
                Err(_) => Err(Refusal::TooLarge),
            }
        };
        let (min, max) = (size(low)?, size(high)?);
        if min > max { Err(Refusal::Reversed) } else { Ok(Sizes { min, max }) }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}..{}", self.min, self.max)
        }
    }
}

/// Draws lengths: the same sequence for the same sizes and seed.
#[derive(Debug, Clone)]
pub struct Lengths {
    size: Sizes,
    random: u64,
}

impl Lengths {
    /// The start of the sequence that `seed` selects.
    pub fn new(size: Sizes, seed: u64) -> Self {
        Lengths { size, random: seed }
    }

    /// The next length: splitmix64, scaled to the range by a multiplication instead of a division.
    #[inline]
    pub fn draw(&mut self) -> u32 {
        let Sizes { min, max } = self.size;
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let span = u64::from(max - min) + 1;
        min + ((u128::from(x) * u128::from(span)) >> 64) as u32
    }
}

/// How a datagram is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// `crc`: a CRC-32, and a body in which every byte is determined ([`crc`]).
    #[default]
    Crc,
    /// `sum`: a sum of its words ([`sum`]), made and checked at the speed of a copy.
    Sum,
}

impl Check {
    fn named(name: &str) -> Option<Self> {
        match name {
            "crc" => Some(Self::Crc),
            "sum" => Some(Self::Sum),
            _ => None,
        }
    }
}

/// What to generate. Parses "rate=1MB/s,size=64..1500,burst=10,channels=8,count=1000", each key at
/// most once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenSpec {
    /// `rate`: how fast. `None`, written `max`: as fast as datagrams are taken. Default 1000/s.
    pub rate: Option<Rate>,
    /// `size`: lengths, "N" or "A..B". Default 256.
    pub size: Sizes,
    /// `burst`: datagrams made at once, at least 1. Default 1.
    pub burst: u32,
    /// `channels`: the number of channels, which take turns, at least 1. Default 1.
    pub channels: u16,
    /// `count`: datagrams in total; `None` for no end. Default no end.
    pub count: Option<u64>,
    /// `seed`: selects the sequence of lengths. Default 0.
    pub seed: u64,
    /// `check`: "crc" or "sum". Default crc.
    pub check: Check,
}

impl Default for GenSpec {
    fn default() -> Self {
        GenSpec {
            rate: Some(Rate::Datagrams(1000.0)),
            size: Sizes { min: 256, max: 256 },
            burst: 1,
            channels: 1,
            count: None,
            seed: 0,
            check: Check::Crc,
        }
    }
}

/// Why a spec was refused. The message names key, value and reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A part of the spec is not `key=value`.
    #[error("generator option \"{0}\" is not of the form key=value")]
    NoValue(String),
    /// There is no such key.
    #[error(
        "unknown generator option {key}={value}; there are rate, size, burst, channels, count, \
        seed and check"
    )]
    UnknownKey {
        /// The unknown key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A key was given twice.
    #[error("generator option {key}={value} is given twice")]
    Twice {
        /// The key.
        key: String,
        /// Its second value.
        value: String,
    },
    /// The value is wrong for the key.
    #[error("generator option {key}={value}: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: Box<Refusal>,
    },
}

/// Why the value of a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither a rate nor a size.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// Shorter than the header of a test datagram.
    #[error("a test datagram has at least {} bytes", MIN_LEN)]
    TooSmall,
    /// Longer than the length field holds.
    #[error("a test datagram has at most {} bytes", MAX_LEN)]
    TooLarge,
    /// A range whose end is below its start.
    #[error("the end of the range is below its start")]
    Reversed,
    /// No such check.
    #[error("use crc or sum")]
    NoSuchCheck,
    /// Not an integer of the key's range.
    #[error("use a whole number from {min} to {max}")]
    Integer {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
}

impl GenSpec {
    /// Sets one key from text.
    ///
    /// # Errors
    /// [`SpecError::UnknownKey`] or [`SpecError::BadValue`]; the spec is then unchanged.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SpecError> {
        let integer = |min: u64, max: u64| match value.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(Refusal::Integer { min, max }),
        };
        let set = match key {
            "rate" if value == "max" => {
                self.rate = None;
                Ok(())
            }
            "rate" => value.parse().map(|rate| self.rate = Some(rate)).map_err(Refusal::from),
            "size" => value.parse().map(|size| self.size = size),
            "burst" => integer(1, u32::MAX.into()).map(|n| self.burst = n as u32),
            "channels" => integer(1, u16::MAX.into()).map(|n| self.channels = n as u16),
            "count" => integer(0, u64::MAX).map(|n| self.count = Some(n)),
            "seed" => integer(0, u64::MAX).map(|n| self.seed = n),
            "check" => {
                Check::named(value).map(|check| self.check = check).ok_or(Refusal::NoSuchCheck)
            }
            _ => {
                return Err(SpecError::UnknownKey { key: key.to_owned(), value: value.to_owned() });
            }
        };
        set.map_err(|reason| SpecError::BadValue {
            key: key.to_owned(),
            value: value.to_owned(),
            reason: Box::new(reason),
        })
    }

    /// The rate limiter of this spec.
    pub fn limiter(&self) -> RateLimiter {
        RateLimiter::new(self.rate, self.burst)
    }
}

impl FromStr for GenSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = GenSpec::default();
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| SpecError::NoValue(part.to_owned()))?;
            let (key, value) = (key.trim(), value.trim());
            spec.set(key, value)?;
            if seen.contains(&key) {
                return Err(SpecError::Twice { key: key.to_owned(), value: value.to_owned() });
            }
            seen.push(key);
        }
        Ok(spec)
    }
}

/// Makes the datagrams of a spec one after the other: numbers from 0, channels in turn, lengths
/// from the seed.
#[derive(Debug, Clone)]
pub struct Generator {
    lengths: Lengths,
    channels: u16,
    /// Datagrams still to be made; `None` for no end.
    left: Option<u64>,
    number: u64,
    channel: u16,
    /// Length of the next datagram, drawn in advance, so that reading it costs nothing and changes
    /// nothing.
    len: u32,
    check: Check,
}

impl Generator {
    /// A generator at the start of `spec`.
    pub fn new(spec: &GenSpec) -> Self {
        let mut generator = Generator {
            lengths: Lengths::new(spec.size, spec.seed),
            channels: spec.channels.max(1),
            left: spec.count,
            number: 0,
            channel: 0,
            len: 0,
            check: spec.check,
        };
        generator.len = generator.lengths.draw();
        generator
    }

    /// Length of the next datagram in bytes; `None` when the spec's count is reached.
    #[inline]
    pub fn next_len(&self) -> Option<usize> {
        (self.left != Some(0)).then_some(self.len as usize)
    }

    /// How many datagrams were made.
    pub fn made(&self) -> u64 {
        self.number
    }

    /// Makes the next datagram at the beginning of `room` and returns its header. `None` if the
    /// spec's count is reached; `room` is then unchanged.
    ///
    /// # Panics
    /// If `room` is shorter than [`next_len`](Self::next_len).
    #[inline]
    pub fn fill_next(&mut self, room: &mut [u8]) -> Option<Header> {
        let len = self.next_len()?;
        let made = Header { number: self.number, len: self.len, channel: self.channel };
        match self.check {
            Check::Crc => crc::fill(&mut room[..len], made.number, made.channel),
            Check::Sum => sum::fill(&mut room[..len], made.number, made.channel),
        }
        self.left = self.left.map(|left| left - 1);
        self.number = self.number.wrapping_add(1);
        self.channel = if self.channel + 1 == self.channels { 0 } else { self.channel + 1 };
        self.len = self.lengths.draw();
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verifier;

    #[test]
    fn specs_parse_with_defaults() {
        assert_eq!("".parse(), Ok(GenSpec::default()));
        let spec: GenSpec =
            "rate=1MB/s,size=64..1500,burst=10,channels=8,count=1000,seed=5,check=sum"
                .parse()
                .unwrap();
        let expected = GenSpec {
            rate: Some(Rate::Bytes(1e6)),
            size: Sizes { min: 64, max: 1500 },
            burst: 10,
            channels: 8,
            count: Some(1000),
            seed: 5,
            check: Check::Sum,
        };
        assert_eq!(spec, expected);
        assert_eq!("rate=max".parse::<GenSpec>().unwrap().rate, None);
        assert_eq!("size=256KiB".parse::<GenSpec>().unwrap().size.max(), 256 << 10);
    }

    #[test]
    fn bad_specs_are_refused_by_key_and_value() {
        for (text, parts) in [
            ("sice=64", ["sice=64", "there are rate, size"]),
            ("size", ["\"size\"", "key=value"]),
            ("size=23", ["size=23", "at least 24"]),
            ("size=64..16", ["size=64..16", "at least 24"]),
            ("size=1500..64", ["size=1500..64", "below its start"]),
            ("size=5GiB", ["size=5GiB", "at most 4294967295"]),
            ("size=..64", ["size=..64", "is empty"]),
            ("rate=0/s", ["rate=0/s", "is zero"]),
            ("rate=1MB", ["rate=1MB", "unknown unit"]),
            ("burst=0", ["burst=0", "from 1 to 4294967295"]),
            ("channels=65536", ["channels=65536", "from 1 to 65535"]),
            ("count=-1", ["count=-1", "whole number"]),
            ("check=md5", ["check=md5", "crc or sum"]),
            ("seed=1,seed=2", ["seed=2", "twice"]),
        ] {
            let message = text.parse::<GenSpec>().expect_err(text).to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
        }
    }

    #[test]
    fn the_generator_keeps_to_its_spec() {
        let spec: GenSpec = "size=24..40,channels=3,count=1000,seed=1".parse().unwrap();
        let mut generator = Generator::new(&spec);
        let mut verifier = Verifier::default();
        let mut seen = [0; 41];
        let mut room = [0; 64];
        while let Some(len) = generator.next_len() {
            let made = generator.fill_next(&mut room).unwrap();
            assert_eq!(made.len as usize, len);
            assert_eq!(made.channel, (made.number % 3) as u16);
            assert_eq!(verifier.accept(&room[..len]), Ok(made));
            seen[len] += 1;
        }
        assert!(verifier.is_clean());
        assert_eq!(generator.made(), 1000);
        assert_eq!((verifier.ok, verifier.first, verifier.last), (1000, Some(0), Some(999)));
        assert_eq!(seen[..24], [0; 24]);
        // 17 lengths, 1000 draws: 59 of each are expected. The seed fixes the sequence.
        assert!(seen[24..].iter().all(|&n| (30..100).contains(&n)), "{seen:?}");
        assert_eq!((generator.next_len(), generator.fill_next(&mut room)), (None, None));
    }

    #[test]
    fn the_seed_decides_the_lengths() {
        let lengths = |text: &str| {
            let mut generator = Generator::new(&text.parse().unwrap());
            let mut room = [0; 1500];
            (0..50).map(|_| generator.fill_next(&mut room).unwrap().len).collect::<Vec<_>>()
        };
        assert_eq!(lengths("size=64..1500,seed=1"), lengths("size=64..1500,seed=1"));
        assert_ne!(lengths("size=64..1500,seed=1"), lengths("size=64..1500,seed=2"));
        assert_eq!(lengths("size=200"), [200; 50]);
    }

    #[test]
    fn a_count_of_zero_makes_no_datagram() {
        assert_eq!(Generator::new(&"count=0".parse().unwrap()).next_len(), None);
    }
}
