//! `len32le` and `len16be`: each datagram after its length.
//!
//! Contract: a datagram may be empty. A datagram longer than the maximum is skipped. A length
//! beyond [`SKIP_LIMIT`](super::step::SKIP_LIMIT) is taken for damage and ends the stream.

use super::step::{Fault, Machine, Order, Payload, Step, check_length, nothing_left};

/// The form of the length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    U32Le,
    U16Be,
}

impl Prefix {
    fn bytes(self) -> usize {
        match self {
            Prefix::U32Le => 4,
            Prefix::U16Be => 2,
        }
    }
}

/// The decoder of both framings.
pub(super) struct Length {
    prefix: Prefix,
    max: usize,
}

impl Length {
    pub(super) fn new(prefix: Prefix, max: usize) -> Self {
        Length { prefix, max }
    }
}

impl Machine for Length {
    #[inline]
    fn next(&mut self, offset: u64, input: &[u8]) -> Step {
        let at_least = self.prefix.bytes();
        if input.len() < at_least {
            return Step::NeedMore { at_least };
        }
        let len = match self.prefix {
            Prefix::U32Le => u64::from(Order::Little.u32(input, 0)),
            Prefix::U16Be => u64::from(Order::Big.u16(input, 0)),
        };
        match check_length(at_least, len, self.max, offset) {
            Ok(len) => Step::Payload(Payload::plain(at_least, len)),
            Err(step) => step,
        }
    }

    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        nothing_left("length field", self.prefix.bytes(), offset, rest)
    }

    fn buffer_len(&self) -> usize {
        self.prefix.bytes()
    }
}

#[cfg(test)]
mod tests {
    use crate::source::framing::tests::{Outcome, run};
    use crate::source::framing::{Decoder, Fault, Framing, SKIP_LIMIT, Step};

    fn len32(datagrams: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for datagram in datagrams {
            stream.extend((datagram.len() as u32).to_le_bytes());
            stream.extend(*datagram);
        }
        stream
    }

    #[test]
    fn both_forms_deliver_all_lengths_from_zero() {
        let stream = len32(&[b"abc", b"", b"0123456789"]);
        let outcome = run(Framing::Len32Le, 10, &stream, 3);
        assert_eq!(outcome, Outcome::clean(&[b"abc", b"", b"0123456789"]));
        let outcome = run(Framing::Len16Be, 10, b"\0\x03abc\0\0\0\x01x", 64);
        assert_eq!(outcome, Outcome::clean(&[b"abc", b"", b"x"]));
    }

    #[test]
    fn too_long_datagram_is_skipped_and_reported_with_its_offset() {
        let stream = len32(&[b"ab", b"0123456789X", b"cd"]);
        let outcome = run(Framing::Len32Le, 10, &stream, 5);
        assert_eq!(outcome.datagrams(), [b"ab", b"cd"]);
        let fault = Fault::TooLong { len: 11, max: 10, offset: 6 };
        assert_eq!(outcome.faults, [fault]);
        assert_eq!(fault.to_string(), "length field says 11 at offset 6, maximum is 10");
    }

    #[test]
    fn a_length_beyond_reason_ends_the_stream_for_good() {
        let mut decoder = Decoder::new(Framing::Len32Le, 65536).unwrap();
        assert!(matches!(decoder.next(&[4, 0, 0, 0]), Step::Payload(p) if p.len == 4));
        let broken = decoder.next(&[0xFF; 4]);
        let fault = Fault::TooLong { len: u32::MAX.into(), max: 65536, offset: 8 };
        assert_eq!(broken, Step::Broken(fault));
        assert_eq!(decoder.next(&[0, 0, 0, 0]), broken);
        assert_eq!(decoder.finish(&[1, 2]), Ok(None));
        assert_eq!(fault.to_string(), "length field says 4294967295 at offset 8, maximum is 65536");
    }

    #[test]
    fn the_skip_limit_itself_is_skipped() {
        let mut decoder = Decoder::new(Framing::Len32Le, 64).unwrap();
        let limit = (SKIP_LIMIT as u32).to_le_bytes();
        assert!(matches!(
            decoder.next(&limit),
            Step::Skip { bytes, fault: Some(_) } if bytes == SKIP_LIMIT + 4
        ));
        let beyond = (SKIP_LIMIT as u32 + 1).to_le_bytes();
        assert!(matches!(decoder.next(&beyond), Step::Broken(_)));
    }

    #[test]
    fn ends_within_the_length_or_the_datagram_are_truncated() {
        let outcome = run(Framing::Len32Le, 64, b"\x01\0\0\0x\x05\0", 64);
        assert_eq!(outcome.datagrams(), [b"x"]);
        let fault = Fault::Truncated { what: "length field", offset: 7, missing: 2 };
        assert_eq!(outcome.faults, [fault]);
        let outcome = run(Framing::Len16Be, 64, b"\0\x05abc", 64);
        assert!(outcome.packets.is_empty());
        let fault = Fault::Truncated { what: "datagram", offset: 5, missing: 2 };
        assert_eq!(outcome.faults, [fault]);
        assert_eq!(
            fault.to_string(),
            "input ends at offset 5, 2 bytes before the end of a datagram"
        );
    }
}
