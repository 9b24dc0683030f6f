//! A device that may disconnect: it is either present and drained (`drain`), or looked for.
//!
//! Contract: never blocks except in [`Device::open`]. It is reported once that the device is gone,
//! and once that it is back.

use super::drain::{Link, MS, Next};
use super::location::Location;
use super::transport::{Gone, Opener, Opening, Transport};
use crate::intake::for_sources::Intake;
use crate::process::sandbox::needs::{Needs, directory_of};
use crate::source::contract::{Fill, OpenFor, Source, SourceError, WaitFor};
use ringweir_cli::quantity::{Bytes, Rate, Span};
use ringweir_device::Shape;
use ringweir_proto::os::{clock, socket::ANSWER};
use std::path::PathBuf;
use std::time::Duration;

/// How often to look for a device that is gone.
const LOOK_FOR_NS: u64 = 100 * MS;

/// A way to reach devices.
pub(super) struct DeviceKind {
    /// The name in `--source`.
    pub(super) name: &'static str,
    pub(super) opener: Opener,
    /// Families of the sockets that it opens when the device is back.
    pub(super) families: &'static [i32],
    /// Directories to which it writes, besides those of the device.
    pub(super) writes: &'static [&'static str],
}

/// Opens a device, and starts it if it does not run.
pub(super) fn open(
    kind: &'static DeviceKind,
    location: Location,
    stream: &OpenFor,
) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Device::open(kind, location, stream.max_datagram)?))
}

/// A source: one device, present or looked for.
pub(super) struct Device {
    kind: &'static DeviceKind,
    location: Location,
    most: usize,
    link: Option<Link>,
    /// The device that is being opened, and how long that may take.
    opening: Option<(Opening, u64)>,
    /// Its shape when it was last present.
    shape: Shape,
    description: String,
    away: bool,
    until: Option<u64>,
}

impl Device {
    /// Opens the device, and resets it if it does not run. It is started when the pump begins to
    /// drain.
    pub(super) fn open(
        kind: &'static DeviceKind,
        location: Location,
        most: usize,
    ) -> Result<Self, SourceError> {
        let until = clock::monotonic_ns() + ANSWER.as_nanos() as u64;
        let mut opening = (kind.opener)(&location)?;
        let transport = loop {
            opening = match opening.advance()? {
                Opening::Done(transport) => break transport,
                _ if clock::monotonic_ns() >= until => {
                    return Err(SourceError(format!(
                        "{}: no answer within {} s",
                        location.path,
                        ANSWER.as_secs()
                    )));
                }
                not_yet => not_yet,
            };
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut link = Link::new(transport, &location);
        loop {
            match link.start(clock::monotonic_ns(), false) {
                Ok(None) => break,
                Ok(Some(_)) => std::thread::sleep(Duration::from_millis(1)),
                Err(Gone(why)) => return Err(SourceError(format!("{}: {why}", location.path))),
            }
        }
        let (shape, description) = (link.shape, link.transport.describe());
        Ok(Self {
            kind,
            location,
            most,
            link: Some(link),
            opening: None,
            shape,
            description,
            away: false,
            until: None,
        })
    }

    /// Whether the device is present and runs. If not, `until` is when to look for it again.
    fn is_there(&mut self, intake: &mut Intake) -> bool {
        let now = intake.now();
        if self.link.is_none() {
            if self.until.is_some_and(|until| now < until) {
                return false;
            }
            self.until = Some(now + LOOK_FOR_NS);
            let Some(transport) = self.look_for(now) else { return false };
            self.link = Some(Link::new(transport, &self.location));
        }
        let Some(link) = &mut self.link else { return false };
        match link.start(now, true) {
            Ok(None) if !self.away => true,
            Ok(None) => {
                self.away = false;
                (self.shape, self.description) = (link.shape, link.transport.describe());
                intake.device_back(format_args!(
                    "{}: {} is back",
                    self.kind.name, self.location.path
                ));
                true
            }
            Ok(Some(again)) => {
                self.until = Some(again);
                false
            }
            Err(Gone(why)) if !self.away => {
                self.gone(intake, &why);
                false
            }
            // It was already reported as gone.
            Err(_) => {
                self.link = None;
                self.until = Some(now + LOOK_FOR_NS);
                false
            }
        }
    }

    /// One step towards opening it. Errors are not reported: there are ten attempts per second.
    fn look_for(&mut self, now: u64) -> Option<Box<dyn Transport>> {
        let (opening, until) = match self.opening.take() {
            Some(begun) => begun,
            None => ((self.kind.opener)(&self.location).ok()?, now + ANSWER.as_nanos() as u64),
        };
        match opening.advance().ok()? {
            Opening::Done(transport) => return Some(transport),
            not_yet if now < until => {
                self.opening = Some((not_yet, until));
                self.until = Some(now + MS);
            }
            // No answer in time; the next attempt may get one.
            _silent => {}
        }
        None
    }

    fn gone(&mut self, intake: &mut Intake, why: &str) {
        self.link = None;
        self.away = true;
        // The device that comes back may be another one, or may have been reset.
        intake.set_position(None);
        self.until = Some(intake.now() + LOOK_FOR_NS);
        let path = &self.location.path;
        intake.device_gone(format_args!(
            "{}: {path} is gone: {why}; looking for it ten times per second",
            self.kind.name
        ));
    }
}

impl Source for Device {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        if !self.is_there(intake) {
            return Ok(Fill::Idle);
        }
        let Some(link) = &mut self.link else { return Ok(Fill::Idle) };
        match link.round(intake, self.kind.name, self.most) {
            Ok(Next::Go) => Ok(Fill::Took),
            Ok(Next::Sleep(until)) => {
                self.until = Some(until);
                Ok(Fill::Idle)
            }
            Err(Gone(why)) => {
                self.gone(intake, &why);
                Ok(Fill::Idle)
            }
        }
    }

    fn wait_for(&self) -> WaitFor<'_> {
        let armed = self.link.as_ref().filter(|link| link.armed);
        WaitFor { readable: armed.and_then(|link| link.transport.interrupt()), until: self.until }
    }

    fn rate(&self) -> Option<Rate> {
        self.location
            .rate
            .or((self.shape.rate > 0).then_some(f64::from(self.shape.rate)))
            .map(Rate::Bytes)
    }

    fn position(&self) -> Option<u32> {
        self.link.as_ref()?.position()
    }

    fn slack(&self) -> Option<Duration> {
        let Some(Rate::Bytes(rate)) = self.rate() else { return None };
        Duration::try_from_secs_f64(f64::from(self.shape.fifo_bytes) / rate).ok()
    }

    /// A device that comes back has a new node, so the directories of its files stay allowed.
    fn needs(&self) -> Needs {
        let paths = [Some(&self.location.path), self.location.memory.as_ref()];
        let opens: Vec<PathBuf> = paths.into_iter().flatten().map(PathBuf::from).collect();
        let mut write: Vec<_> = opens.iter().map(|path| directory_of(path)).collect();
        write.extend(self.kind.writes.iter().map(PathBuf::from));
        let families = self.kind.families.to_vec();
        Needs { read: vec!["/sys".into()], write, families, opens, ..Needs::default() }
    }

    fn describe(&self) -> String {
        let fifo = Bytes(self.shape.fifo_bytes.into());
        let slack = match (self.slack(), self.rate()) {
            (Some(slack), Some(rate)) => format!("FIFO slack {} ({fifo} at {rate})", Span(slack)),
            _ => format!("FIFO of {fifo}, its rate not known (rate=)"),
        };
        let channels = self.shape.channels;
        format!(
            "{slack}, {channels} channel{}, {}",
            if channels == 1 { "" } else { "s" },
            self.description
        )
    }
}
