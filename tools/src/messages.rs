//! Messages of a tool on stderr, no faster than people can read them.
//!
//! Contract: never in the output, and at most [`LINES_PER_SECOND`] about single datagrams.

use ringweir_cli::printable::printable_lines;
use ringweir_cli::stderr;
use std::time::{Duration, Instant};

/// Lines about losses or wrong datagrams per second; more are summed up.
const LINES_PER_SECOND: u32 = 20;

/// Writes messages to stderr.
pub(crate) struct Messages {
    /// Program and stream: the beginning of every message.
    who: String,
    pub(crate) quiet: bool,
    second: Instant,
    lines: u32,
    withheld: u64,
}

impl Messages {
    pub(crate) fn new(who: String, quiet: bool) -> Self {
        Self { who, quiet, second: Instant::now(), lines: 0, withheld: 0 }
    }

    pub(crate) fn print(&self, text: impl std::fmt::Display) {
        stderr::raw(&format!("{}: {}\n", self.who, printable_lines(&text.to_string())));
    }

    /// Prints a message of which there may be many: only a limited number per second.
    pub(crate) fn print_limited(&mut self, text: impl FnOnce() -> String) {
        if self.quiet {
            return;
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.lines = 0;
            self.sum_up();
        }
        self.lines += 1;
        if self.lines > LINES_PER_SECOND {
            self.withheld += 1;
        } else {
            self.print(text());
        }
    }

    pub(crate) fn sum_up(&mut self) {
        if std::mem::take(&mut self.withheld) > 0 && !self.quiet {
            self.print("… more such messages; the summary counts them");
        }
    }
}
