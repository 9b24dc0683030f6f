//! What a program writes to its standard error, line by line for the log.
//!
//! Contract: reads only what is there, and only so much in one call. A line longer than the log
//! shows is cut. The source has its own limit of lines, below that of the stream's log, so that
//! a talkative program hides itself only. Lines that are not shown are counted where they are
//! missing.

use crate::intake::for_sources::Intake;
use crate::source::ready::readable;
use ringweir_proto::printable::is_hidden;
use std::fmt::{self, Display, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Most bytes of a line that are shown.
const LINE: usize = 160;
/// Most reads of one call while the program runs, and at its end: as much as a pipe holds.
const READS: u32 = 4;
const LAST_READS: u32 = 16;
/// Lines in a row, and the time in which one more may be shown: half of what a stream may log.
const BURST: u64 = 25;
const ONE_MORE_NS: u64 = 400_000_000;

/// The reading end of a program's standard error.
pub(super) struct Errors {
    /// `None`: it is closed, and must not be watched any more.
    fd: Option<OwnedFd>,
    limit: Limit,
    line: [u8; LINE],
    len: usize,
    cut: bool,
}

/// How many lines may be shown.
#[derive(Clone, Copy)]
struct Limit {
    /// When the whole burst is there again, CLOCK_MONOTONIC ns.
    full_at: u64,
    hidden: u64,
}

impl Errors {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let limit = Limit { full_at: 0, hidden: 0 };
        Self { fd: Some(fd), limit, line: [0; LINE], len: 0, cut: false }
    }

    /// The standard error of the next run.
    pub(super) fn read_on(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    /// Logs the lines that are there. Returns whether there was anything.
    pub(super) fn log(&mut self, intake: &mut Intake, name: &str) -> bool {
        self.read(READS, intake, name)
    }

    fn read(&mut self, reads: u32, intake: &mut Intake, name: &str) -> bool {
        let mut buffer = [0; 4096];
        for n in 0..reads {
            let Some(fd) = self.fd.as_ref().filter(|fd| readable(fd.as_fd())) else {
                return n > 0;
            };
            match rustix::io::read(fd, &mut buffer) {
                Ok(n @ 1..) => buffer[..n].iter().for_each(|byte| self.take(*byte, intake, name)),
                Err(rustix::io::Errno::INTR) => {}
                _ => self.fd = None,
            }
        }
        true
    }

    /// The program has ended: logs what is there, also a line without an end.
    pub(super) fn finish(&mut self, intake: &mut Intake, name: &str) {
        self.read(LAST_READS, intake, name);
        if self.len > 0 {
            self.show(intake, name);
        }
    }

    fn take(&mut self, byte: u8, intake: &mut Intake, name: &str) {
        if byte == b'\n' {
            self.show(intake, name);
        } else if self.len < LINE {
            self.line[self.len] = byte;
            self.len += 1;
        } else {
            self.cut = true;
        }
    }

    fn show(&mut self, intake: &mut Intake, name: &str) {
        let line = Shown(&self.line[..self.len]);
        let more = if self.cut { "…" } else { "" };
        if let Some(hidden) = self.limit.pass(intake.now()) {
            if hidden > 0 {
                intake.log(format_args!("{name}: (after {hidden} lines) {line}{more}"));
            } else {
                intake.log(format_args!("{name}: {line}{more}"));
            }
        }
        (self.len, self.cut) = (0, false);
    }
}

impl Limit {
    /// Whether a line may be shown now, and how many were hidden before it.
    fn pass(&mut self, now: u64) -> Option<u64> {
        let full_at = self.full_at.max(now) + ONE_MORE_NS;
        if full_at > now + BURST * ONE_MORE_NS {
            self.hidden += 1;
            return None;
        }
        self.full_at = full_at;
        Some(std::mem::take(&mut self.hidden))
    }
}

/// Bytes of another program as a terminal may show them.
struct Shown<'a>(&'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                f.write_char(if is_hidden(c) { '?' } else { c })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char('?')?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_lines_are_counted_and_time_brings_new_ones() {
        let mut limit = Limit { full_at: 0, hidden: 0 };
        let passed = |limit: &mut Limit, now| (0..100).filter_map(|_| limit.pass(now)).collect();
        let shown: Vec<u64> = passed(&mut limit, 1);
        assert_eq!(shown, [0; BURST as usize]);
        let shown: Vec<u64> = passed(&mut limit, 1 + 2 * ONE_MORE_NS);
        assert_eq!(shown, [75, 0]);
    }

    #[test]
    fn bytes_that_a_terminal_would_obey_are_replaced() {
        assert_eq!(Shown(b"a\x1b[2J\xff\xfeb").to_string(), "a?[2J??b");
        assert_eq!(Shown("naïve ✓".as_bytes()).to_string(), "naïve ✓");
    }
}
