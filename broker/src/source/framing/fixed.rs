//! `fixed:N`: datagrams of one length, with nothing between them.
//!
//! Contract: if the input is not a whole number of datagrams, it ends with a fault, and the
//! incomplete last datagram is not delivered.

use super::step::{Fault, Machine, Payload, Step, nothing_left};

/// The decoder; the size is at least 1.
pub(super) struct Fixed {
    size: usize,
}

impl Fixed {
    pub(super) fn new(size: usize) -> Self {
        Fixed { size }
    }
}

impl Machine for Fixed {
    #[inline]
    fn next(&mut self, _offset: u64, input: &[u8]) -> Step {
        // One byte shows that there is another datagram; without one the input may have ended.
        if input.is_empty() {
            return Step::NeedMore { at_least: 1 };
        }
        Step::Payload(Payload::plain(0, self.size))
    }

    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        nothing_left("datagram", self.size, offset, rest)
    }

    fn buffer_len(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use crate::source::framing::tests::{Outcome, run};
    use crate::source::framing::{Decoder, Fault, Framing, FramingError};

    #[test]
    fn whole_datagrams_are_delivered() {
        let outcome = run(Framing::Fixed(3), 3, b"abcdef", 2);
        assert_eq!(outcome, Outcome::clean(&[b"abc", b"def"]));
        assert_eq!(run(Framing::Fixed(3), 3, b"", 2), Outcome::clean(&[]));
    }

    #[test]
    fn a_short_last_one_is_truncated_and_not_delivered() {
        let outcome = run(Framing::Fixed(4), 64, b"abcdef", 64);
        assert_eq!(outcome.datagrams(), [b"abcd"]);
        let fault = Fault::Truncated { what: "datagram", offset: 6, missing: 2 };
        assert_eq!(outcome.faults, [fault]);
    }

    #[test]
    fn sizes_that_cannot_work_are_refused_at_start() {
        let refused = |size| Decoder::new(Framing::Fixed(size), 1500).err();
        assert_eq!(refused(0), Some(FramingError::ZeroSize("fixed:0".into())));
        assert_eq!(refused(1501), Some(FramingError::AboveMaximum { size: 1501, max: 1500 }));
        assert_eq!(refused(1500), None);
    }
}
