//! The loop of `ringcat`: from the ring through a sink to the output, and what is said at the end.
//!
//! Contract: what is written is whole datagrams in order; a torn one is taken back. Output is gathered and written when
//! the stream pauses or enough has come; between two datagrams the loop looks whether it is to end.

use super::books::{Proof, Window, Words, gap_words};
use super::options::{Cli, Time};
use crate::sink::{About, Format, Settings, Sink};
use anyhow::Context;
use ringweir::{Cause, CopyError, Gap, Read, Reader, Restart};
use ringweir_proto::quantity::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes gathered before they are written although the stream does not pause.
const BATCH: usize = 256 << 10;

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Count,
    StreamEnded,
    Idle,
    Timeout,
    Signal,
    OutputGone,
}

/// One run of the program, from the first datagram to the last word.
pub(super) struct Cat<'a> {
    cli: &'a Cli,
    sink: Box<dyn Sink>,
    to: File,
    out: Vec<u8>,
    pub(super) words: Words,
    window: Window,
    /// Of the generations before this one.
    earlier: Window,
    proof: Option<Proof>,
    /// Turns publish times into dates.
    date_offset: u64,
}

impl<'a> Cat<'a> {
    pub(super) fn new(cli: &'a Cli, format: &Format, to: File, reader: &Reader) -> Self {
        let settings = Settings { link_type: cli.link_type.0, max_datagram: reader.geometry().max_datagram() };
        Self {
            cli,
            sink: (format.make)(&settings),
            to,
            out: Vec::with_capacity(2 * BATCH),
            words: Words::new(&cli.stream, cli.quiet),
            window: Window::beginning(reader.account().start),
            earlier: Window::default(),
            proof: cli.verify.then(Proof::new),
            date_offset: reader.publish_date(0),
        }
    }

    /// Copies until something ends it; what is gathered then is still to be flushed.
    pub(super) fn run(&mut self, reader: &mut Reader, stopped: &AtomicBool, bell: &UnixStream) -> anyhow::Result<Why> {
        let began = Instant::now();
        let mut last_news = began;
        let mut idle = false;
        let mut taken = 0u64;
        self.sink.begin(&mut self.out);
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) {
                return Ok(Why::Count);
            }
            if stopped.load(Ordering::Relaxed) {
                return Ok(Why::Signal);
            }
            match reader.next()? {
                Read::Datagram(mut datagram) => {
                    idle = false;
                    let mut about = About {
                        seq: datagram.seq(),
                        len: datagram.len(),
                        original_len: datagram.original_len(),
                        channel: datagram.channel(),
                        time: datagram.source_time().unwrap_or(0),
                    };
                    if about.time == 0 {
                        about.time = datagram.publish_time().wrapping_add(self.date_offset);
                    }
                    let begin = self.out.len();
                    self.sink.before(&mut self.out, &about);
                    let start = self.out.len();
                    self.out.resize(start + about.len, 0);
                    match datagram.copy_to(&mut self.out[start..]) {
                        Ok(_) => {}
                        Err(CopyError::Torn(_)) => {
                            // The next read is the gap that begins with it.
                            self.out.truncate(begin);
                            continue;
                        }
                        Err(e) => return Err(e.into()),
                    }
                    taken += 1;
                    self.window.delivered += 1;
                    self.window.bytes += about.len as u64;
                    if let Some(proof) = &mut self.proof
                        && let Some(fault) = proof.check(&self.out[start..], &about)
                    {
                        self.words.tell(|| fault);
                    }
                    self.sink.after(&mut self.out, start, &about);
                    if self.out.len() >= BATCH && !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                }
                Read::Gap(gap) => self.gap(&gap),
                Read::Restarted(restart) => {
                    self.restarted(restart);
                    self.date_offset = reader.publish_date(0);
                }
                Read::Ended(_) => return Ok(Why::StreamEnded),
                Read::Empty => {
                    if !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                    let now = Instant::now();
                    if !idle {
                        idle = true;
                        last_news = now;
                    }
                    let left = |limit: Option<Time>, since: Instant| {
                        limit.map(|t| t.0.saturating_sub(now.duration_since(since)))
                    };
                    let (until_idle, until_timeout) =
                        (left(self.cli.until_idle, last_news), left(self.cli.timeout, began));
                    if until_timeout.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Timeout);
                    }
                    if until_idle.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Idle);
                    }
                    wait(reader, bell, until_idle.into_iter().chain(until_timeout).min(), self.cli.spin)?;
                }
            }
            if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                return Ok(Why::Timeout);
            }
        }
    }

    fn gap(&mut self, gap: &Gap) {
        match gap.cause {
            Cause::Lapped => {
                self.window.lost += gap.count;
                self.window.gaps += 1;
            }
            Cause::Upstream { .. } => self.window.upstream += gap.count,
        }
        if let Some(proof) = &mut self.proof {
            proof.told(gap);
        }
        self.words.tell(|| gap_words(gap));
    }

    fn restarted(&mut self, restart: Restart) {
        let Restart { generation, first } = restart;
        self.words.tell(|| format!("the broker was restarted: generation {generation}, from seq {first}"));
        let over = std::mem::replace(&mut self.window, Window::beginning(first));
        self.earlier.delivered += over.delivered;
        self.earlier.bytes += over.bytes;
        self.earlier.lost += over.lost;
        self.earlier.gaps += over.gaps;
        self.earlier.upstream += over.upstream;
        if let Some(proof) = &mut self.proof {
            proof.restarted();
        }
    }

    /// Writes what is gathered; false if nobody takes it any more.
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

    /// Datagrams that were delivered, over all generations.
    pub(super) fn delivered(&self) -> u64 {
        self.earlier.delivered + self.window.delivered
    }

    /// The last word; whether everything adds up.
    pub(super) fn conclude(&mut self, reader: &mut Reader, why: Why) -> anyhow::Result<bool> {
        // Nothing is held that is not counted, so this cannot find a gap; it brings the library's books up to date.
        if let Some(gap) = reader.release()? {
            self.gap(&gap);
        }
        self.words.sum_up();
        let Window { delivered, bytes, lost, gaps, upstream, .. } = self.earlier;
        let all = Window {
            first: self.window.first,
            delivered: delivered + self.window.delivered,
            bytes: bytes + self.window.bytes,
            lost: lost + self.window.lost,
            gaps: gaps + self.window.gaps,
            upstream: upstream + self.window.upstream,
        };
        let agrees = self.window.agrees(reader.account(), reader.read_cursor());
        let proved = self.proof.as_ref().is_none_or(Proof::holds);
        let wanted = self.cli.stats || self.cli.verify || all.lost + all.upstream > 0 || why == Why::Signal;
        if wanted && !self.cli.quiet {
            let mut text = format!(
                "{} published = {} delivered ({}) + {} lost in {} gaps",
                all.delivered + all.lost,
                all.delivered,
                Bytes(all.bytes),
                all.lost,
                all.gaps
            );
            if all.upstream > 0 {
                // Writing to a String cannot fail.
                let _infallible = write!(text, "; {} lost before the ring", all.upstream);
            }
            if let Some(proof) = &self.proof {
                let _infallible = write!(text, "; {proof}");
            }
            self.words.say(text);
        }
        if !agrees {
            self.words.say(format_args!(
                "the account does not add up, which is a bug: counted {:?}, told {:?}, at seq {}",
                self.window,
                reader.account(),
                reader.read_cursor()
            ));
        }
        Ok(agrees && proved)
    }
}

/// Sleeps until there is something to read, a signal came or the time is over.
fn wait(reader: &mut Reader, bell: &UnixStream, limit: Option<Duration>, spin: bool) -> anyhow::Result<()> {
    if spin {
        // Signals are looked at in between.
        let look = Duration::from_millis(100);
        return Ok(reader.wait(Some(limit.unwrap_or(look).min(look)))?);
    }
    if !reader.arm()? {
        // News; or the broker is gone, and then this sleeps until it is time to try again.
        return Ok(reader.wait(Some(limit.unwrap_or(Duration::MAX)))?);
    }
    let limit = limit.and_then(|t| Timespec::try_from(t).ok());
    let fd = reader.fd()?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(io::Error::from(e)).context("poll"),
    }
}
