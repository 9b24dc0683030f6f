//! `lines`: text, one datagram per line.
//!
//! Contract: the newline is not part of the datagram, but a carriage return before it is. An empty
//! line is an empty datagram. A line longer than the maximum is skipped and reported once, with its
//! full length. A last line without a newline is delivered.

use super::step::{Fault, Machine, Payload, Step};
use std::io::BufRead;

/// The decoder.
pub(super) struct Lines {
    max: usize,
    /// This many bytes at the beginning of the input contain no newline, so they are not searched
    /// again.
    searched: usize,
    /// Bytes skipped so far of a line that is too long; 0 outside such a line.
    skipped: u64,
    /// The newline of the last delivered line is still to be skipped.
    newline: bool,
}

impl Lines {
    pub(super) fn new(max: usize) -> Self {
        Lines { max, searched: 0, skipped: 0, newline: false }
    }

    /// Skips more of a line that is too long, up to its newline.
    fn skip_on(&mut self, offset: u64, input: &[u8]) -> Step {
        if input.is_empty() {
            return Step::NeedMore { at_least: 1 };
        }
        let Some(at) = find_newline(input) else {
            let bytes = input.len() as u64;
            self.skipped += bytes;
            return Step::Skip { bytes, fault: None };
        };
        let at = at as u64;
        let fault = Some(self.too_long(self.skipped + at, offset + at));
        self.skipped = 0;
        Step::Skip { bytes: at + 1, fault }
    }

    /// The fault of a line of `len` bytes that ends, without its newline, at offset `end`.
    fn too_long(&self, len: u64, end: u64) -> Fault {
        Fault::LineTooLong { len, max: self.max as u64, offset: end - len }
    }
}

/// Position of the first newline, found by the platform's vectorised search.
fn find_newline(input: &[u8]) -> Option<usize> {
    // Reading from a slice cannot fail.
    let passed = (&mut &*input).skip_until(b'\n').unwrap_or(0);
    let last = passed.checked_sub(1)?;
    (input[last] == b'\n').then_some(last)
}

impl Machine for Lines {
    fn next(&mut self, offset: u64, input: &[u8]) -> Step {
        if self.skipped > 0 {
            return self.skip_on(offset, input);
        }
        let lead = usize::from(self.newline);
        let line = input.get(lead..).unwrap_or_default();
        let from = self.searched.min(line.len());
        let found = find_newline(&line[from..]).map(|at| from + at);
        self.searched = 0;
        match found {
            Some(len) if len <= self.max => {
                self.newline = true;
                Step::Payload(Payload::plain(lead, len))
            }
            Some(len) => {
                self.newline = false;
                let end = offset + (lead + len) as u64;
                let fault = Some(self.too_long(len as u64, end));
                let bytes = (lead + len + 1) as u64;
                Step::Skip { bytes, fault }
            }
            None if line.len() > self.max => {
                self.newline = false;
                self.skipped = line.len() as u64;
                let bytes = input.len() as u64;
                Step::Skip { bytes, fault: None }
            }
            None => {
                self.searched = line.len();
                let at_least = lead + line.len() + 1;
                Step::NeedMore { at_least }
            }
        }
    }

    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        let lead = usize::from(self.newline);
        let len = rest.len().saturating_sub(lead);
        if self.skipped > 0 || len > self.max {
            let end = offset + rest.len() as u64;
            return Err(self.too_long(self.skipped + len as u64, end));
        }
        Ok((len > 0).then(|| Payload::plain(lead, len)))
    }

    fn buffer_len(&self) -> usize {
        // The newline of the previous line, the line, and its newline.
        self.max + 2
    }
}

#[cfg(test)]
mod tests {
    use crate::source::framing::tests::{Outcome, run};
    use crate::source::framing::{Fault, Framing};

    #[test]
    fn lines_are_delivered_without_newline_and_with_everything_else() {
        for chunk in [1, 2, 5, 64] {
            let outcome = run(Framing::Lines, 8, b"one\n\ntwo\r\nthree", chunk);
            assert_eq!(outcome, Outcome::clean(&[b"one", b"", b"two\r", b"three"]));
        }
    }

    #[test]
    fn a_newline_at_the_end_begins_no_further_line() {
        for chunk in [1, 64] {
            assert_eq!(run(Framing::Lines, 8, b"a\n", chunk), Outcome::clean(&[b"a"]));
            assert_eq!(run(Framing::Lines, 8, b"\n", chunk), Outcome::clean(&[b""]));
            assert_eq!(run(Framing::Lines, 8, b"", chunk), Outcome::clean(&[]));
        }
    }

    #[test]
    fn too_long_line_is_skipped_and_reported_once() {
        for chunk in [1, 3, 7, 64] {
            let outcome = run(Framing::Lines, 4, b"abcd\nabcde\nxy\n0123456789\nz", chunk);
            assert_eq!(outcome.datagrams(), [&b"abcd"[..], b"xy", b"z"]);
            let fault = |len, offset| Fault::LineTooLong { len, max: 4, offset };
            assert_eq!(outcome.faults, [fault(5, 5), fault(10, 14)], "{chunk}");
        }
    }

    #[test]
    fn too_long_last_line_is_reported_at_the_end() {
        for chunk in [1, 3, 64] {
            let outcome = run(Framing::Lines, 4, b"a\n0123456789", chunk);
            assert_eq!(outcome.datagrams(), [b"a"]);
            let fault = Fault::LineTooLong { len: 10, max: 4, offset: 2 };
            assert_eq!(outcome.faults, [fault]);
            assert_eq!(fault.to_string(), "line of 10 bytes at offset 2, maximum is 4");
        }
    }

    #[test]
    fn empty_lines_pass_where_nothing_longer_may() {
        let outcome = run(Framing::Lines, 0, b"\n\nx\n", 1);
        assert_eq!(outcome.datagrams(), [b"", b""]);
        assert_eq!(outcome.faults, [Fault::LineTooLong { len: 1, max: 0, offset: 2 }]);
    }
}
