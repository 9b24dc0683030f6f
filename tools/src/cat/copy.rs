//! The loop of `ringcat`: from the ring through a sink to the output.
//!
//! Contract: the output is whole datagrams in order; a torn one is removed before it is written.
//! Output is gathered, and written when the stream pauses or enough has arrived. Between two
//! datagrams the loop checks whether it has to end. If the output fails or takes nothing any more,
//! what it took of a datagram is taken back where that is possible, and the datagrams that were
//! read and not written are counted.

use super::options::Cli;
use crate::account::ReaderAccount;
use crate::arguments::Time;
use crate::output::{Output, Written};
use crate::sink::{About, Capture, Format, Sink};
use crate::stop::Stop;
use ringweir::{CopyError, DetachedBy, End, Item, LinkType, Reader};
use std::time::Instant;

/// Bytes that are written at once, even if the stream does not pause.
const BATCH: usize = 256 << 10;
/// Link type of a capture whose source gives none.
const ETHERNET: u16 = 1;

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
    /// The output cannot be continued: [`Cat::failure`] says why.
    Failed,
}

/// One run of the program, from the first datagram to the summary.
pub(super) struct Cat<'a> {
    cli: &'a Cli,
    stop: &'a Stop,
    began: Instant,
    sink: Box<dyn Sink>,
    has_link_type: bool,
    /// The link type with which the output begins, once it has begun.
    link_type: Option<LinkType>,
    to: Output,
    out: Vec<u8>,
    /// Where in `out` the beginning of the output ends, and each datagram.
    head: usize,
    ends: Vec<usize>,
    max_datagram: u64,
    pub(super) account: ReaderAccount,
    /// Datagrams that were read and are not in the output.
    unwritten: u64,
    failure: Option<String>,
    /// Turns publish times into dates.
    date_offset: u64,
}

impl<'a> Cat<'a> {
    pub(super) fn new(
        cli: &'a Cli,
        format: &Format,
        to: Output,
        reader: &Reader,
        stop: &'a Stop,
        began: Instant,
    ) -> Self {
        Self {
            cli,
            stop,
            began,
            sink: (format.make)(),
            has_link_type: format.has_link_type,
            link_type: None,
            to,
            out: Vec::with_capacity(2 * BATCH),
            head: 0,
            ends: Vec::new(),
            max_datagram: reader.geometry().max_datagram(),
            account: ReaderAccount::new(
                format!("ringcat: {}", cli.stream),
                cli.quiet,
                cli.verify,
                reader,
            ),
            unwritten: 0,
            failure: None,
            date_offset: reader.publish_date(0),
        }
    }

    /// Copies until something ends it, and writes what is still in the buffer.
    pub(super) fn run(&mut self, reader: &mut Reader) -> anyhow::Result<Why> {
        let why = self.copy(reader)?;
        if matches!(why, Why::OutputGone | Why::Failed) {
            return Ok(why);
        }
        // A capture without datagrams has a beginning, too.
        if !self.begin(reader.link_type(), true) {
            return Ok(Why::Failed);
        }
        Ok(self.flush(reader).err().unwrap_or(why))
    }

    fn copy(&mut self, reader: &mut Reader) -> anyhow::Result<Why> {
        let began = self.began;
        let mut last_datagram = began;
        let mut idle = false;
        let mut taken = 0u64;
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) {
                return Ok(Why::Count);
            }
            if self.stop.came() {
                return Ok(Why::Signal);
            }
            match reader.next()? {
                Item::Datagram(mut datagram) => {
                    idle = false;
                    let about = About::of(&datagram, self.date_offset);
                    if self.has_link_type && !self.begin(datagram.link_type(), true) {
                        return Ok(Why::Failed);
                    }
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
                    if self.cli.leaves_out(about.channel) {
                        self.account.datagram(&self.out[start..], &about);
                        self.account.left_out += 1;
                        self.out.truncate(begin);
                        if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                            return Ok(Why::Timeout);
                        }
                        continue;
                    }
                    taken += 1;
                    self.account.datagram(&self.out[start..], &about);
                    self.sink.after(&mut self.out, start, &about);
                    self.ends.push(self.out.len());
                    if self.out.len() >= BATCH
                        && let Err(why) = self.flush(reader)
                    {
                        return Ok(why);
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
                    // The reader of the output sees its beginning before the first datagram.
                    if !self.begin(reader.link_type(), false) {
                        return Ok(Why::Failed);
                    }
                    if let Err(why) = self.flush(reader) {
                        return Ok(why);
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
                    self.stop.wait(reader, limit, self.cli.spin, None)?;
                }
            }
            if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                return Ok(Why::Timeout);
            }
        }
    }

    /// Begins the output if it has not begun: a capture as soon as the link type of the `source` is
    /// known, or it `must`. Returns false if the output cannot hold datagrams of this type.
    #[inline]
    fn begin(&mut self, source: LinkType, must: bool) -> bool {
        self.link_type == Some(source) || self.begin_or_refuse(source, must)
    }

    #[cold]
    fn begin_or_refuse(&mut self, source: LinkType, must: bool) -> bool {
        let given = self.cli.link_type.map(|given| given.0);
        let refused = match (self.link_type, source) {
            (None, _) if !self.has_link_type || given.is_some() => None,
            (Some(_), _) if !self.has_link_type || given.is_some() => return true,
            (None, LinkType::Unknown) if !must => return true,
            (None, LinkType::Unknown | LinkType::Is(_)) => None,
            // Another broker has taken over, whose source gives none or not yet.
            (Some(_), LinkType::Unknown) => return true,
            (Some(LinkType::Unknown), LinkType::Is(ETHERNET)) => return true,
            (Some(before), LinkType::Is(now)) => Some(format!("link type {now} after {before}")),
            (_, LinkType::Mixed) => Some("several link types".to_owned()),
        };
        if let Some(types) = refused {
            self.failure = Some(format!(
                "the source has {types}, and a capture holds one: --link-type TYPE writes all \
                datagrams as TYPE"
            ));
            return false;
        }
        let link_type = match source {
            LinkType::Is(link_type) => link_type,
            _ => ETHERNET,
        };
        self.link_type = Some(source);
        let capture = Capture {
            link_type: given.unwrap_or(link_type.into()),
            max_datagram: self.max_datagram,
        };
        self.sink.begin(&mut self.out, &capture);
        self.head = self.out.len();
        true
    }

    /// Writes what is in the buffer. An error is the reason for which the run ends.
    fn flush(&mut self, reader: &Reader) -> Result<(), Why> {
        // The clock may have been set.
        self.date_offset = reader.publish_date(0);
        let mut taken = 0;
        let until = self.cli.timeout.map(|t| self.began + t.0);
        let written = self.to.write(&self.out, &mut taken, self.stop, until);
        let outcome = match written {
            Ok(Written::All) => Ok(()),
            Ok(Written::Gone) => Err(Why::OutputGone),
            Ok(Written::Stuck) => Err(self.failed(taken, "it takes nothing any more".into())),
            Err(e) => Err(self.failed(taken, e.to_string())),
        };
        self.out.clear();
        self.head = 0;
        self.ends.clear();
        outcome
    }

    /// The output has failed after `taken` bytes of the buffer.
    fn failed(&mut self, taken: usize, why: String) -> Why {
        let written = self.ends.partition_point(|end| *end <= taken);
        self.unwritten = (self.ends.len() - written) as u64;
        let whole = match self.ends[..written].last() {
            Some(end) => *end,
            None if self.head <= taken => self.head,
            None => 0,
        };
        let rest = match self.to.take_back(taken - whole) {
            true => "",
            false => "; it ends within a datagram",
        };
        let place = match self.cli.file() {
            Some(path) => path.display().to_string(),
            None => "standard output".into(),
        };
        self.failure = Some(format!("cannot write to {place}: {why}{rest}"));
        Why::Failed
    }

    /// Prints why the output failed, and the summary. Returns whether everything that was read was
    /// written and the account adds up.
    pub(super) fn conclude(&mut self, reader: &mut Reader, why: Why) -> anyhow::Result<bool> {
        if let Some(failure) = &self.failure {
            self.account.messages.print(failure);
        }
        let more = match self.unwritten {
            0 => String::new(),
            n => format!("; {n} of them are not in the output"),
        };
        let failed = self.failure.is_some();
        let wanted = self.cli.stats || self.cli.verify || why == Why::Signal || failed;
        Ok(self.account.conclude(reader, wanted, &more)? && !failed)
    }
}
