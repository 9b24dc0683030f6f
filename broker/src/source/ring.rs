//! `ring:` — datagrams of another stream: all of them, those of some channels, one in so many, or
//! so many per second.
//!
//! Contract: a reader of the other stream like any other, so that stream does not wait for it.
//! Datagrams are copied once, from ring to ring, and keep their channel, their original length and
//! the time of their source; if the other stream has no such time, the time of publishing there
//! takes its place.
//!
//! Each datagram that the other stream has published is published here, counted as skipped (left
//! out on purpose), or lost: as a kernel loss if this source was lapped there, as a broker loss if
//! it is too long for this ring. What the other stream itself has lost is a loss of the same layer
//! here.
//!
//! The other stream is a device that may come back: if it is not there yet, ends, or its broker
//! dies, readers here learn that the source is gone. Attaching can wait for the other broker, which
//! may be this process, so it is done by a thread of its own.

use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use super::ready::readable;
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use attach::{Attach, Found};
use choice::Choice;
use ringweir::{Cause, End, Error, Item, Reader, Start};
use ringweir_proto::ring::{Layer, LinkType};
use ringweir_proto::stats::PumpCounter;
use rustix::thread::CpuSet;
use std::fmt::Display;
use std::os::fd::AsFd;
use std::path::Path;

mod attach;
mod choice;
mod spec;
#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "ring",
    usage: "ring:NAME[,channel=N[+N…]][,every=K|rate=N/s][,from=oldest|latest]",
    about: "datagrams of another stream: of some channels, every K-th, or so many per second",
    open,
};

/// Most datagrams looked at in a round: what is skipped publishes nothing, and must not keep the
/// pump for long.
const STEPS: u32 = 1024;
/// How often to look whether a stream that has ended is gone.
const LOOK_NS: u64 = 50_000_000;

/// A reader of the same ring that is attached to the broker which now serves it.
type Attached = Option<Box<Reader>>;

enum State {
    /// Waiting for the other stream; with the reader of the one that has ended.
    Attaching(Attach, Option<Box<Reader>>),
    Reading(Box<Reader>),
    /// The other stream has ended, and this reader has read all of it. Its socket may still be
    /// there, with the same ring: until when to leave it alone, and how to see that it is gone.
    Ended(Box<Reader>, Attached, u64),
}

struct Ring {
    /// The other stream, as it was named.
    name: String,
    /// What to attach to.
    target: String,
    label: String,
    choice: Choice,
    description: String,
    /// `None` before the first round.
    state: Option<State>,
    from: Start,
    /// Where the broker may run, apart from this pump.
    processors: Option<CpuSet>,
    away: bool,
    /// The reader will make its descriptor readable.
    armed: bool,
    /// If the ring that is read has ended, and not with the broker that this reader knows.
    attached: Attached,
    link_type: LinkType,
}

/// Counts the first `datagrams` of a new ring, which were overwritten before it was read.
fn lapped(intake: &mut Intake, datagrams: u64) {
    if datagrams > 0 {
        intake.lost(Layer::Kernel, datagrams, true);
    }
}

fn open(argument: &str, _stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let spec = spec::parse(argument)?;
    Ok(Box::new(Ring {
        label: "ring:".into(),
        target: spec.stream.clone(),
        choice: Choice::new(&spec),
        description: spec.to_string(),
        name: spec.stream,
        state: None,
        from: spec.from,
        processors: rustix::thread::sched_getaffinity(None).ok(),
        away: false,
        armed: false,
        attached: None,
        link_type: LinkType::Unknown,
    }))
}

impl Ring {
    fn attach(&mut self, from: Start, ended: Option<Box<Reader>>) -> Result<(), SourceError> {
        self.attached = None;
        let attach = Attach::start(&self.target, &self.label, from, self.processors)?;
        self.state = Some(State::Attaching(attach, ended));
        Ok(())
    }

    /// Reads on with `reader`, unless it reads the same ring as the one that has `ended`: the next
    /// broker has taken it over, and its datagrams up to there are copied. A new ring is copied
    /// from its beginning, and what it does not hold any more is lost.
    fn attached(&mut self, reader: Box<Reader>, ended: Option<Box<Reader>>, intake: &mut Intake) {
        (self.armed, self.attached) = (false, None);
        let reader = match ended {
            Some(ended) if ended.reads_ring_of(&reader) => {
                // That one attaches by itself, but not if there is nothing to wait for.
                self.attached = reader.stream_has_ended().then_some(reader);
                ended
            }
            Some(_) => {
                lapped(intake, reader.read_cursor());
                reader
            }
            // What was published before this source began is no loss, and a ring may be older.
            None => reader,
        };
        self.state = Some(State::Reading(reader));
    }

    fn gone(&mut self, intake: &mut Intake, why: &dyn Display) {
        self.away = true;
        intake.device_gone(format_args!("{why}; it is read on when it is back"));
    }

    #[inline]
    fn back(&mut self, intake: &mut Intake) {
        if std::mem::take(&mut self.away) {
            intake.device_back(format_args!("stream {:?} is back", self.name));
        }
    }

    /// Copies what has been published.
    fn copy(&mut self, mut reader: Box<Reader>, intake: &mut Intake) -> Result<Fill, SourceError> {
        for _ in 0..STEPS {
            if !intake.has_room() {
                break;
            }
            // Whatever comes, and each step of attaching again, needs a new promise.
            let armed = std::mem::take(&mut self.armed) && !reader.is_without_broker();
            let item = match reader.next() {
                Ok(item) => item,
                Err(e) => {
                    if !reader.is_without_broker() || matches!(e, Error::Corrupt(_)) {
                        return Err(SourceError::new(e));
                    }
                    // Such as no room for more readers: that may pass.
                    self.gone(intake, &e);
                    self.attach(Start::Oldest, Some(reader))?;
                    return Ok(Fill::Idle);
                }
            };
            match item {
                Item::Datagram(mut datagram) => {
                    self.back(intake);
                    let (len, channel) = (datagram.len(), datagram.channel());
                    let takes = self.choice.takes(channel, datagram.publish_time());
                    if !takes || len > intake.max_datagram() {
                        // If it was overwritten meanwhile, it is part of a gap.
                        if datagram.view(|_| ()).is_err() {
                            continue;
                        }
                        if takes {
                            intake.lost(Layer::Broker, 1, true);
                            intake.fault(format_args!(
                                "stream {:?}: a datagram of {len} bytes is longer than the \
                                maximum of {}; left out",
                                self.name,
                                intake.max_datagram()
                            ));
                        } else {
                            intake.count(PumpCounter::Skipped, 1);
                        }
                        continue;
                    }
                    let original_len = datagram.original_len();
                    let original_len = if original_len > len { original_len as u32 } else { 0 };
                    let (source_time, published) =
                        (datagram.source_time(), datagram.publish_time());
                    let link_type = datagram.link_type();
                    let mut claim = intake.claim(len).map_err(SourceError::new)?;
                    if datagram.copy_to(&mut claim.bytes()[..len]).is_err() {
                        continue;
                    }
                    if link_type != self.link_type {
                        self.link_type = link_type;
                        if let LinkType::Is(number) = link_type {
                            intake.set_link_type(number);
                        }
                    }
                    let source_time = source_time.unwrap_or_else(|| reader.publish_date(published));
                    intake.commit(0, len, Arrival { original_len, channel, source_time });
                }
                Item::Gap(gap) => match gap.cause {
                    Cause::Lapped => intake.lost(Layer::Kernel, gap.count, true),
                    Cause::Upstream { layer, exact } => intake.lost(layer, gap.count, exact),
                    Cause::SourceGone => {
                        let why = format!("the source of stream {:?} is gone", self.name);
                        self.gone(intake, &why);
                    }
                },
                Item::Restarted(restart) => {
                    if restart.lost > 0 {
                        intake.lost(Layer::Broker, restart.lost, restart.exact);
                    }
                    if !restart.adopted {
                        lapped(intake, restart.first);
                    }
                    let how = if restart.adopted { "its ring goes on" } else { "with a new ring" };
                    let why = format!("stream {:?}: its broker was restarted, {how}", self.name);
                    self.gone(intake, &why);
                }
                // Only for a lossless reader.
                Item::Demoted(_) => {}
                Item::Empty => {
                    self.armed = armed && !readable(reader.as_fd())
                        || reader.arm().map_err(SourceError::new)?;
                    if reader.is_without_broker() && !self.away {
                        let why = format!("stream {:?}: its broker is gone", self.name);
                        self.gone(intake, &why);
                    }
                    if self.armed {
                        self.state = Some(State::Reading(reader));
                        return Ok(Fill::Idle);
                    }
                }
                Item::Ended(End::Detached(by)) => {
                    return Err(SourceError(format!(
                        "stream {:?}: this reader of it was detached by pid {}, uid {}",
                        self.name, by.pid, by.uid
                    )));
                }
                Item::Ended(_) => {
                    let why = format!("stream {:?} has ended", self.name);
                    self.gone(intake, &why);
                    let attached = self.attached.take();
                    let look = intake.now() + LOOK_NS;
                    self.state = Some(State::Ended(reader, attached, look));
                    return Ok(Fill::Took);
                }
            }
        }
        self.state = Some(State::Reading(reader));
        Ok(Fill::Took)
    }
}

impl Source for Ring {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        match self.state.take() {
            None => {
                self.attach(self.from, None)?;
                Ok(Fill::Took)
            }
            Some(State::Attaching(attach, ended)) => {
                match attach.found() {
                    Some(Found::Reader(reader)) => {
                        self.back(intake);
                        self.attached(reader, ended, intake);
                        Ok(Fill::Took)
                    }
                    found => {
                        self.state = Some(State::Attaching(attach, ended));
                        let Some(Found::Nothing(why)) = found else { return Ok(Fill::Idle) };
                        if self.away {
                            intake.log(why);
                        } else {
                            self.gone(intake, &why);
                        }
                        // The event is cleared, and more may have been found before.
                        Ok(Fill::Took)
                    }
                }
            }
            Some(State::Reading(reader)) => self.copy(reader, intake),
            Some(State::Ended(mut reader, mut attached, mut look)) => {
                if intake.now() >= look {
                    let newest = attached.as_mut().unwrap_or(&mut reader);
                    newest.arm().map_err(SourceError::new)?;
                    if newest.is_without_broker() {
                        self.attach(Start::Oldest, Some(reader))?;
                        return Ok(Fill::Idle);
                    }
                    look = intake.now() + LOOK_NS;
                }
                self.state = Some(State::Ended(reader, attached, look));
                Ok(Fill::Idle)
            }
        }
    }

    fn wait_for(&self) -> WaitFor<'_> {
        match &self.state {
            None => WaitFor { readable: None, until: Some(0) },
            Some(State::Attaching(attach, _)) => {
                WaitFor { readable: Some(attach.event()), until: None }
            }
            Some(State::Reading(reader)) => WaitFor { readable: Some(reader.as_fd()), until: None },
            Some(State::Ended(.., look)) => WaitFor { readable: None, until: Some(*look) },
        }
    }

    fn set_socket(&mut self, socket: &Path) -> Result<(), SourceError> {
        self.target = spec::locate(&self.name, socket)?;
        let own = socket.file_stem().unwrap_or_default().to_string_lossy();
        self.label = format!("ring: for {own}");
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs {
            families: vec![libc::AF_UNIX],
            opens: vec![self.target.clone().into()],
            ..Needs::default()
        }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
