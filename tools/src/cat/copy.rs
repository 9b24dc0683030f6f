//! The loop of `ringcat`: from the ring through a sink to the output.
//!
//! Contract: the output is whole datagrams in order; a torn one is removed before it is written.
//! Output is gathered, and written when the stream pauses or enough has arrived. Between two
//! datagrams the loop checks whether it has to end.

use super::options::Cli;
use crate::account::ReaderAccount;
use crate::arguments::Time;
use crate::sink::{About, Format, Settings, Sink};
use crate::stop::Stop;
use anyhow::Context;
use ringweir::{CopyError, DetachedBy, End, Item, Reader};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::time::Instant;

/// Bytes that are written at once, even if the stream does not pause.
const BATCH: usize = 256 << 10;

/// Why the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Count,
    StreamEnded,
    Detached(DetachedBy),
    Idle,
    Timeout,
    Signal,
    OutputGone,
}

/// One run of the program, from the first datagram to the summary.
pub(super) struct Cat<'a> {
    cli: &'a Cli,
    sink: Box<dyn Sink>,
    to: File,
    out: Vec<u8>,
    pub(super) account: ReaderAccount,
    /// Turns publish times into dates.
    date_offset: u64,
}

impl<'a> Cat<'a> {
    pub(super) fn new(cli: &'a Cli, format: &Format, to: File, reader: &Reader) -> Self {
        let settings =
            Settings { link_type: cli.link_type.0, max_datagram: reader.geometry().max_datagram() };
        Self {
            cli,
            sink: (format.make)(&settings),
            to,
            out: Vec::with_capacity(2 * BATCH),
            account: ReaderAccount::new(
                format!("ringcat: {}", cli.stream),
                cli.quiet,
                cli.verify,
                reader,
            ),
            date_offset: reader.publish_date(0),
        }
    }

    /// Copies until something ends it. The caller must then flush what is still in the buffer.
    pub(super) fn run(&mut self, reader: &mut Reader, stop: &Stop) -> anyhow::Result<Why> {
        let began = Instant::now();
        let mut last_datagram = began;
        let mut idle = false;
        let mut taken = 0u64;
        self.sink.begin(&mut self.out);
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) {
                return Ok(Why::Count);
            }
            if stop.came() {
                return Ok(Why::Signal);
            }
            match reader.next()? {
                Item::Datagram(mut datagram) => {
                    idle = false;
                    let about = About::of(&datagram, self.date_offset);
                    let begin = self.out.len();
                    self.sink.before(&mut self.out, &about);
                    let start = self.out.len();
                    self.out.resize(start + about.len, 0);
                    match datagram.copy_to(&mut self.out[start..]) {
                        Ok(_) => {}
                        Err(CopyError::Torn(_)) => {
                            // The next item is a gap that begins with this datagram.
                            self.out.truncate(begin);
                            continue;
                        }
                        Err(e) => return Err(e.into()),
                    }
                    taken += 1;
                    self.account.datagram(&self.out[start..], &about);
                    self.sink.after(&mut self.out, start, &about);
                    if self.out.len() >= BATCH && !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                }
                Item::Gap(gap) => self.account.gap(&gap),
                Item::Demoted(demoted) => self.account.demoted(demoted),
                Item::Restarted(restart) => {
                    self.account.restarted(restart);
                    self.date_offset = reader.publish_date(0);
                }
                Item::Ended(End::Detached(by)) => return Ok(Why::Detached(by)),
                Item::Ended(_) => return Ok(Why::StreamEnded),
                Item::Empty => {
                    if !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                    let now = Instant::now();
                    if !idle {
                        idle = true;
                        last_datagram = now;
                    }
                    let left = |limit: Option<Time>, since: Instant| {
                        limit.map(|t| t.0.saturating_sub(now.duration_since(since)))
                    };
                    let (until_idle, until_timeout) =
                        (left(self.cli.until_idle, last_datagram), left(self.cli.timeout, began));
                    if until_timeout.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Timeout);
                    }
                    if until_idle.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Idle);
                    }
                    let limit = until_idle.into_iter().chain(until_timeout).min();
                    stop.wait(reader, limit, self.cli.spin, None)?;
                }
            }
            if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                return Ok(Why::Timeout);
            }
        }
    }

    /// Writes what is in the buffer. Returns false if the reader of the output has gone.
    pub(super) fn flush(&mut self) -> anyhow::Result<bool> {
        let written = self.to.write_all(&self.out);
        self.out.clear();
        match written {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => match &self.cli.write {
                Some(path) => Err(e).with_context(|| format!("cannot write to {}", path.display())),
                None => Err(e).context("cannot write to standard output"),
            },
        }
    }

    /// Prints the summary. Returns whether the account adds up.
    pub(super) fn conclude(&mut self, reader: &mut Reader, why: Why) -> anyhow::Result<bool> {
        self.account.conclude(reader, self.cli.stats || self.cli.verify || why == Why::Signal, "")
    }
}
