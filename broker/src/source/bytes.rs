//! What `stdin:`, `file:` and `exec:` share: datagrams read from a byte stream, divided by one of
//! the [framings](super::framing).
//!
//! Contract: the part of a payload that is in the refill buffer is copied into the ring. The rest
//! is read straight into the ring, in the same call as the header that follows: while datagrams are
//! large, only headers pass through the buffer. An incomplete datagram stays in its claim over any
//! number of rounds: it is claimed again with the same length, and nothing is committed in between.
//! Other processes may share the descriptor, so its flags are not changed: it is polled first, and
//! then only what is available is read.
//!
//! A datagram too long for the ring is left out, and counted as one broker loss and as a fault with
//! its offset; so is one that is cut by the end of the input. A part of a datagram is never
//! delivered. The source fails, after everything before has been published, if the input cannot be
//! read to its end: if it ends within a record, if boundaries are lost (at least one broker loss),
//! if reading fails, or if a device is hung up.
//!
//! With `reopen`, a named pipe or device is opened again instead, and read on from its beginning:
//! for readers the device went away and came back.

use super::contract::{Fill, Source, SourceError, WaitFor};
use super::framing::{Decoder, Fault, Framing, Payload, Step};
use super::ready::{hung_up, readable};
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use pace::Schedule;
pub(super) use pace::{LONGEST_PAUSE, Pace};
pub(super) use reopen::{Reopen, open_nonblocking};
use ringweir_cli::quantity::Span;
use ringweir_proto::ring::Layer;
use ringweir_proto::stats::PumpCounter;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};

mod pace;
mod reopen;
#[cfg(test)]
mod tests;

/// Size of the refill buffer, unless the framing needs a larger one.
const BUFFER: usize = 64 << 10;
/// After payloads of this length or more, only the next header is read ahead: reading more would
/// only copy the next payload twice.
const LARGE: usize = 16 << 10;
/// Most reads in a round: a long skip publishes nothing, and must not keep the pump for long.
const READS: u32 = 64;

/// The position in the stream.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Between two datagrams.
    Between,
    /// Before a payload that must not be published before this moment (CLOCK_MONOTONIC ns).
    Before(Payload, u64),
    /// Within a payload: this many of its bytes are in the ring.
    Within(Payload, usize),
    /// Skipping this many bytes.
    Skip(u64),
    /// At the end, and looking for the named pipe or device to be opened again.
    Away,
    /// At the end.
    Ended,
}

/// Datagrams read from a byte stream.
pub(super) struct ByteStream {
    name: String,
    fd: OwnedFd,
    /// Whether more input may come after a read that finds none: true for everything but a regular
    /// file.
    live: bool,
    framing: Framing,
    decoder: Decoder,
    /// `start..end` is unread input.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The end of the part of the buffer that a read may fill.
    ahead: usize,
    state: State,
    /// The input has ended, and the decoder was notified.
    finished: bool,
    pace: Pace,
    /// With [`Pace::Original`].
    schedule: Option<Schedule>,
    /// The due time that viewers see.
    shown_due: Option<u64>,
    link_type: Option<u16>,
    max_datagram: usize,
    is_device: bool,
    reopen: Option<Reopen>,
    /// Without `reopen`: an input before this one has ended, and nothing of this one has come yet.
    away: bool,
    /// Why the input could not be read to its end.
    failure: Option<String>,
}

/// The result of a read.
enum Read {
    Some(usize),
    Nothing,
    End,
}

impl ByteStream {
    /// A stream with this `framing`, read from `fd`. Faults call it `name`.
    pub(super) fn new(
        name: &str,
        fd: OwnedFd,
        framing: Framing,
        pace: Pace,
        max_datagram: usize,
    ) -> Result<Self, SourceError> {
        if matches!(pace, Pace::Original(_)) && !matches!(framing, Framing::Pcap | Framing::Pcapng)
        {
            return Err(SourceError(format!(
                "pace=original needs timestamps: framing pcap or pcapng, not {framing}"
            )));
        }
        let decoder = Decoder::new(framing, max_datagram).map_err(SourceError::new)?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| SourceError(format!("{name}: {e}")))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Err(SourceError(format!("{name} is a directory")));
        }
        // Filled, not merely reserved, so that no page fault happens later.
        let buffer = vec![0xFF; decoder.buffer_len().max(BUFFER)].into_boxed_slice();
        Ok(Self {
            name: name.into(),
            fd,
            live: kind != FileType::RegularFile,
            framing,
            decoder,
            ahead: buffer.len(),
            buffer,
            start: 0,
            end: 0,
            state: State::Between,
            finished: false,
            pace,
            schedule: match pace {
                Pace::Max => None,
                Pace::Original(longest_pause) => Some(Schedule::new(longest_pause)),
            },
            shown_due: None,
            link_type: None,
            max_datagram,
            is_device: kind == FileType::CharacterDevice,
            reopen: None,
            away: false,
            failure: None,
        })
    }

    /// Opens it again when its input ends.
    pub(super) fn reopen(mut self, reopen: Reopen) -> Result<Self, SourceError> {
        if !self.live {
            return Err(SourceError(format!(
                "{}: reopen is for named pipes and devices: a file does not come back",
                self.name
            )));
        }
        self.reopen = Some(reopen);
        Ok(self)
    }

    /// Reads what is available: first into the claim of `len` bytes, after the `have` bytes that
    /// are there, then into the buffer up to `until`.
    fn read(
        &mut self,
        intake: &mut Intake,
        (len, have): (usize, usize),
        until: usize,
    ) -> Result<Read, SourceError> {
        if self.live && !readable(self.fd.as_fd()) {
            return Ok(Read::Nothing);
        }
        let mut claim = intake.claim(len).map_err(SourceError::new)?;
        let mut room = claim.bytes();
        let ahead = &mut self.buffer[self.end..until];
        let vectors = &mut [IoSliceMut::new(&mut room[have..len]), IoSliceMut::new(ahead)];
        let got = rustix::io::retry_on_intr(|| rustix::io::readv(&self.fd, vectors));
        drop(room);
        Ok(match got {
            Ok(0) => {
                if self.is_device && hung_up(self.fd.as_fd()) {
                    self.fail(
                        intake,
                        format_args!("it is gone (unplugged, or its other side was closed)"),
                    );
                }
                Read::End
            }
            Ok(n) => {
                match &mut self.reopen {
                    Some(reopen) => reopen.came_back(intake, &self.name),
                    None if std::mem::take(&mut self.away) => {
                        intake.device_back(format_args!("{} is back", self.name));
                    }
                    None => {}
                }
                Read::Some(n)
            }
            Err(Errno::AGAIN) if self.live => Read::Nothing,
            Err(e) => {
                self.fail(intake, format_args!("reading: {e}"));
                Read::End
            }
        })
    }

    /// Decodes the next step after a datagram or a skip.
    fn decode(&mut self, intake: &mut Intake) -> Result<Option<Fill>, SourceError> {
        match self.decoder.next(&self.buffer[self.start..self.end]) {
            Step::Payload(payload) => self.found(intake, payload),
            Step::Skip { bytes, fault } => {
                if let Some(fault) = fault {
                    self.lose(intake, &fault, "; left out", true);
                }
                self.state = State::Skip(bytes);
            }
            Step::Broken(fault) => {
                intake.lost(Layer::Broker, 1, false);
                self.fail(intake, format_args!("{fault}; the stream cannot be read on"));
                self.end(intake);
            }
            Step::NeedMore { at_least } => {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                let until = self.ahead.max(at_least).min(self.buffer.len());
                match self.read(intake, (0, 0), until)? {
                    Read::Some(n) => self.end += n,
                    Read::Nothing => return Ok(Some(Fill::Idle)),
                    Read::End => self.finish(intake),
                }
            }
        }
        Ok(None)
    }

    /// A datagram begins here.
    fn found(&mut self, intake: &mut Intake, payload: Payload) {
        self.start += payload.header_bytes;
        self.ahead =
            if payload.len >= LARGE { self.decoder.buffer_len() } else { self.buffer.len() };
        if payload.link_type != self.link_type
            && let Some(link_type) = payload.link_type
        {
            self.link_type = payload.link_type;
            intake.set_link_type(link_type);
        }
        let due = match (&mut self.schedule, payload.source_time_ns) {
            (None, _) | (_, 0) => 0,
            (Some(schedule), time) => {
                let (due, jump) = schedule.due(time, intake.now());
                if let Some(jump) = jump {
                    intake.fault(format_args!("{}: {jump}", self.name));
                }
                due
            }
        };
        self.state = State::Before(payload, due);
    }

    /// The input has ended before a datagram, or within its header.
    fn finish(&mut self, intake: &mut Intake) {
        self.finished = true;
        match self.decoder.finish(&self.buffer[self.start..self.end]) {
            Ok(Some(payload)) => return self.found(intake, payload),
            Ok(None) => {}
            Err(fault @ Fault::LineTooLong { .. }) => self.lose(intake, &fault, "; left out", true),
            Err(fault) => {
                // The header is incomplete, so it is not certain that a datagram followed it: the
                // loss is not exact. At the very beginning of the stream nothing was lost.
                if self.decoder.offset() > 0 {
                    intake.lost(Layer::Broker, 1, false);
                }
                self.fail(intake, format_args!("{fault}"));
            }
        }
        self.end(intake);
    }

    /// The input has ended `missing` bytes before the end of the last payload or skip.
    fn cut(&mut self, intake: &mut Intake, missing: u64, datagram: bool) {
        let fault = self.decoder.cut(missing);
        if datagram {
            intake.lost(Layer::Broker, 1, true);
        }
        self.fail(intake, format_args!("{fault}"));
        self.end(intake);
    }

    /// The input cannot be read to its end. Only the first reason is kept.
    fn fail(&mut self, intake: &mut Intake, why: std::fmt::Arguments<'_>) {
        intake.count(PumpCounter::SourceFaults, 1);
        if self.failure.is_none() {
            self.failure = Some(format!("{}: {why}", self.name));
        }
    }

    /// Everything of this input has been taken.
    fn end(&mut self, intake: &mut Intake) {
        let Some(reopen) = &mut self.reopen else {
            self.state = State::Ended;
            return;
        };
        match self.failure.take() {
            Some(why) => reopen.gone(intake, &format_args!("{why}")),
            None => reopen.gone(intake, &format_args!("{}: its writer has closed it", self.name)),
        }
        self.state = State::Away;
    }

    /// Opens the named pipe or device again. Returns whether it could.
    fn begin_again(&mut self, intake: &mut Intake) -> Result<bool, SourceError> {
        let Some(reopen) = &mut self.reopen else { return Ok(false) };
        let Some(fd) = reopen.open(intake.now()) else { return Ok(false) };
        self.read_on(fd)?;
        Ok(true)
    }

    /// After its end: reads `fd` from its beginning. The device behind it, which was reported as
    /// gone, is back with the first bytes.
    pub(super) fn read_on(&mut self, fd: OwnedFd) -> Result<(), SourceError> {
        self.fd = fd;
        self.decoder = Decoder::new(self.framing, self.max_datagram).map_err(SourceError::new)?;
        (self.start, self.end, self.ahead) = (0, 0, self.buffer.len());
        (self.finished, self.state) = (false, State::Between);
        self.away = true;
        Ok(())
    }

    /// Nothing more comes, although the other end is open: the next read finds the end.
    pub(super) fn hang_up(&mut self) -> Result<(), SourceError> {
        let (end, _closed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| SourceError(format!("{}: {e}", self.name)))?;
        self.fd = end;
        Ok(())
    }

    fn lose(&self, intake: &mut Intake, fault: &Fault, what: &str, exact: bool) {
        intake.lost(Layer::Broker, 1, exact);
        intake.fault(format_args!("{}: {fault}{what}", self.name));
    }

    /// Copies the part of a payload that is in the buffer into the ring.
    fn begin(&mut self, intake: &mut Intake, payload: Payload) -> Result<(), SourceError> {
        let have = payload.len.min(self.end - self.start);
        let mut claim = intake.claim(payload.len).map_err(SourceError::new)?;
        claim.write(0, &self.buffer[self.start..self.start + have]);
        self.start += have;
        self.state = State::Within(payload, have);
        Ok(())
    }
}

impl Source for ByteStream {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let mut reads = READS;
        while intake.has_room() && reads > 0 {
            match self.state {
                State::Ended => {
                    return match self.failure.take() {
                        Some(failure) => Err(SourceError(failure)),
                        None => Ok(Fill::Ended),
                    };
                }
                State::Away => {
                    if !self.begin_again(intake)? {
                        return Ok(Fill::Idle);
                    }
                }
                State::Between => {
                    if self.finished {
                        self.end(intake);
                    } else {
                        reads -= u32::from(self.start == self.end);
                        if let Some(fill) = self.decode(intake)? {
                            return Ok(fill);
                        }
                    }
                }
                State::Before(_, due) if due > intake.now() => {
                    if self.shown_due != Some(due) {
                        self.shown_due = Some(due);
                        intake.set_due(self.shown_due);
                    }
                    return Ok(Fill::Idle);
                }
                State::Before(payload, _) => {
                    if self.shown_due.take().is_some() {
                        intake.set_due(None);
                    }
                    self.begin(intake, payload)?;
                }
                State::Within(payload, have) if have == payload.len => {
                    let Payload { original_len, channel, source_time_ns: source_time, .. } =
                        payload;
                    // Nothing was committed since the claim was filled, so claiming again returns
                    // the same bytes.
                    intake.claim(payload.len).map_err(SourceError::new)?;
                    let original_len =
                        if original_len as usize > payload.len { original_len } else { 0 };
                    intake.commit(0, payload.len, Arrival { original_len, channel, source_time });
                    self.state = State::Between;
                }
                State::Within(payload, have) => {
                    reads -= 1;
                    (self.start, self.end) = (0, 0);
                    match self.read(intake, (payload.len, have), self.ahead)? {
                        Read::Some(n) => {
                            let more = n.min(payload.len - have);
                            self.end = n - more;
                            self.state = State::Within(payload, have + more);
                        }
                        Read::Nothing => return Ok(Fill::Idle),
                        Read::End => self.cut(intake, (payload.len - have) as u64, true),
                    }
                }
                State::Skip(left) => {
                    let passed = left.min((self.end - self.start) as u64);
                    self.start += passed as usize;
                    if passed == left {
                        self.state = State::Between;
                        continue;
                    }
                    self.state = State::Skip(left - passed);
                    reads -= 1;
                    (self.start, self.end) = (0, 0);
                    match self.read(intake, (0, 0), self.buffer.len())? {
                        Read::Some(n) => self.end = n,
                        Read::Nothing => return Ok(Fill::Idle),
                        Read::End => self.cut(intake, left - passed, false),
                    }
                }
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        match self.state {
            State::Before(_, due) => WaitFor { readable: None, until: Some(due) },
            State::Away => {
                WaitFor { readable: None, until: self.reopen.as_ref().map(Reopen::look) }
            }
            _ => WaitFor { readable: self.live.then(|| self.fd.as_fd()), until: None },
        }
    }

    fn needs(&self) -> Needs {
        self.reopen.as_ref().map_or_else(Needs::default, Reopen::needs)
    }

    fn describe(&self) -> String {
        let pace = match self.pace {
            Pace::Max => String::new(),
            Pace::Original(longest) => {
                format!(", at its original pace, with pauses of up to {}", Span(longest))
            }
        };
        let again = if self.reopen.is_some() { ", opened again when it ends" } else { "" };
        format!("{} from {}{pace}{again}", self.framing, self.name)
    }
}
