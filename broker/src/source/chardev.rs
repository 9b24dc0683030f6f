//! `chardev:` — a device or terminal; each `read()` of it is one datagram.
//!
//! Contract: the read goes straight into ring memory, unless the ring is too small for two
//! datagrams in a row. It requests one byte more than the longest datagram. A read that fills that
//! byte too was cut by the driver's interface. It is published cut, and its original length is *at
//! least* the length of the read (the real length is unknown). With `size=N` exactly N bytes are
//! requested, for drivers that insist on it (UIO: 4); such reads are always whole. The device is
//! polled before it is read, so that a driver that ignores O_NONBLOCK does not hold up the pump. A
//! driver that reports "readable" and then has nothing does not support polling: it is read every
//! millisecond. `raw` puts a terminal into raw mode and `baud=` sets its speed. No other setting is
//! changed, and all are restored at the end. Without `raw`, a terminal in its usual mode delivers
//! lines.
//!
//! Errors of the driver's `read`: EAGAIN and EINTR are no errors. EPIPE and EOVERFLOW mean that the
//! device's buffer overflowed: at least one loss in the device. EMSGSIZE means that a datagram was
//! longer than requested: at least one loss in the broker. If any of these comes twice without a
//! datagram in between, or any other error comes (EIO, ENODEV: unplugged), the source fails; so it
//! does when a terminal is hung up, whose reads then return no bytes. Any other read of no bytes
//! ends it. With `reopen`, a device that is unplugged or hung up is looked for and opened again,
//! with the same settings.

use super::bytes::{Reopen, open_nonblocking};
use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use super::options::options_and_path;
use super::ready::{hung_up, readable};
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use ringweir_cli::quantity::Bytes;
use ringweir_proto::ring::Layer;
use ringweir_proto::stats::PumpCounter;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, OwnedFd};

#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "chardev",
    usage: "chardev:[raw,baud=N,size=N,reopen:]PATH",
    about: "a character device or terminal, each read() one datagram; raw and baud= for serial \
        lines, size= for drivers that want it exact, reopen for devices that come back",
    open,
};

/// How often a device is read that does not support polling.
const LOOK_NS: u64 = 1_000_000;

/// The part after `chardev:`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spec<'a> {
    raw: bool,
    baud: Option<u32>,
    size: Option<u64>,
    reopen: bool,
    path: &'a str,
}

impl<'a> Spec<'a> {
    fn parse(argument: &'a str) -> Result<Self, SourceError> {
        let (options, path) = options_and_path(argument)?;
        let mut spec = Self { path, ..Self::default() };
        for option in options {
            let number = |value: &str| value.parse().ok().filter(|n| *n > 0);
            match option.split_once('=').unwrap_or((option, "")) {
                ("raw", "") => spec.raw = true,
                ("reopen", "") => spec.reopen = true,
                ("baud", value) => {
                    let baud = number(value)
                        .ok_or_else(|| SourceError(format!("{option}: say bits per second")))?;
                    spec.baud = Some(baud);
                }
                ("size", value) => {
                    spec.size = Some(value.parse::<Bytes>().map_err(SourceError::new)?.0)
                }
                _ => {
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there are raw, baud=, size= and reopen"
                    )));
                }
            }
        }
        Ok(spec)
    }
}

/// A terminal, and its settings when it was opened.
struct Terminal {
    found: Termios,
    raw: bool,
    baud: Option<u32>,
}

impl Terminal {
    /// Makes the terminal raw and sets its speed, as `spec` says.
    fn set(fd: &OwnedFd, spec: &Spec<'_>) -> Result<Self, SourceError> {
        let found = tcgetattr(fd).map_err(|e| match e {
            Errno::NOTTY => {
                SourceError(format!("raw and baud= are for terminals; {} is none", spec.path))
            }
            e => SourceError(format!("reading its settings: {e}")),
        })?;
        let mut terminal = Self { found, raw: spec.raw, baud: spec.baud };
        terminal.apply(fd)?;
        Ok(terminal)
    }

    /// Makes a terminal that came back as this one was.
    fn set_again(&mut self, fd: &OwnedFd) -> Result<(), SourceError> {
        self.found = tcgetattr(fd).map_err(SourceError::new)?;
        self.apply(fd)
    }

    fn apply(&mut self, fd: &OwnedFd) -> Result<(), SourceError> {
        let mut wanted = self.found.clone();
        if self.raw {
            wanted.make_raw();
        }
        if let Some(baud) = self.baud {
            wanted.set_speed(baud).map_err(|e| SourceError(format!("baud={baud}: {e}")))?;
        }
        tcsetattr(fd, OptionalActions::Now, &wanted)
            .map_err(|e| SourceError(format!("changing its settings: {e}")))
    }
}

struct Chardev {
    fd: OwnedFd,
    path: String,
    terminal: Option<Terminal>,
    /// Bytes requested by a read, and how many of them may be published.
    ask: usize,
    most: usize,
    /// The last read returned an error and no datagram.
    complained: bool,
    /// When to read again a driver that reports "readable" and has nothing.
    look: Option<u64>,
    reported: bool,
    reopen: Option<Reopen>,
    /// It is gone and looked for.
    away: bool,
    /// The buffer for reads if the ring's longest claim is one datagram, and so has no room for the
    /// extra byte.
    beside: Vec<u8>,
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Chardev::open(&Spec::parse(argument)?, stream)?))
}

impl Chardev {
    fn open(spec: &Spec<'_>, stream: &OpenFor) -> Result<Self, SourceError> {
        let path = spec.path;
        // Checked before opening, because opening has an effect on some devices.
        let stat = rustix::fs::stat(path).map_err(|e| SourceError(format!("{path}: {e}")))?;
        let instead = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => None,
            FileType::RegularFile => {
                Some("a file, in which nothing says where a datagram ends: use file:FRAMING:")
            }
            FileType::Fifo => {
                Some("a named pipe, which does not keep boundaries: use file:FRAMING:")
            }
            FileType::Socket => Some("a socket: use unix:"),
            FileType::Directory => Some("a directory"),
            _ => Some("no character device"),
        };
        if let Some(instead) = instead {
            return Err(SourceError(format!("{path} is {instead}")));
        }
        let fd = open_nonblocking(path).map_err(|e| match e {
            Errno::ACCESS | Errno::PERM => {
                SourceError(format!("{path}: {e}: join the group that owns it (ls -l {path})"))
            }
            Errno::BUSY => SourceError(format!(
                "{path}: {e}: another process has it, and its driver allows one (fuser {path})"
            )),
            Errno::NXIO | Errno::NODEV => {
                SourceError(format!("{path}: {e}: there is a file but no device"))
            }
            e => SourceError(format!("{path}: {e}")),
        })?;
        let terminal =
            (spec.raw || spec.baud.is_some()).then(|| Terminal::set(&fd, spec)).transpose()?;
        let longest = stream.max_datagram;
        let (ask, most) = match spec.size {
            None => (longest + 1, longest),
            Some(0) => return Err(SourceError::new("size=0 would read nothing")),
            Some(size) if size > longest as u64 => {
                return Err(SourceError(format!(
                    "size={size} is longer than the stream's maximum of {longest}"
                )));
            }
            Some(size) => (size as usize, size as usize),
        };
        Ok(Self {
            fd,
            path: path.into(),
            terminal,
            ask,
            most,
            complained: false,
            look: None,
            reported: false,
            reopen: spec.reopen.then(|| Reopen::new(path)),
            away: false,
            beside: Vec::new(),
        })
    }

    /// The driver had nothing. `announced`: it had reported "readable".
    fn nothing(&mut self, intake: &mut Intake, announced: bool) -> Fill {
        self.look = announced.then(|| intake.now() + LOOK_NS);
        if announced && !std::mem::replace(&mut self.reported, true) {
            intake.fault(format_args!(
                "chardev: {} cannot be polled: looked at every millisecond",
                self.path
            ));
        }
        Fill::Idle
    }

    /// The device is gone: it is looked for, or the source fails.
    fn gone(&mut self, intake: &mut Intake, why: &str) -> Result<Fill, SourceError> {
        let path = &self.path;
        let why =
            format!("chardev: {path} is gone: {why} (unplugged, or its other side was closed)");
        let Some(reopen) = &mut self.reopen else { return Err(SourceError(why)) };
        reopen.gone(intake, &why);
        (self.away, self.complained) = (true, false);
        Ok(Fill::Idle)
    }

    /// Opens a device that is back. Returns whether it is there.
    fn look_for(&mut self, intake: &mut Intake) -> bool {
        let Some(fd) = self.reopen.as_mut().and_then(|reopen| reopen.open(intake.now())) else {
            return false;
        };
        // The name of a terminal that was hung up may lead to it for a moment.
        if hung_up(fd.as_fd()) {
            return false;
        }
        if let Some(terminal) = &mut self.terminal
            && terminal.set_again(&fd).is_err()
        {
            return false;
        }
        self.fd = fd;
        self.away = false;
        if let Some(reopen) = &mut self.reopen {
            reopen.came_back(intake, &self.path);
        }
        true
    }

    /// The driver reports a loss. An error if it has reported nothing else since the last datagram.
    fn lost(&mut self, intake: &mut Intake, layer: Layer, e: Errno) -> Result<(), SourceError> {
        if std::mem::replace(&mut self.complained, true) {
            return Err(SourceError(format!("chardev: {} gives nothing but: {e}", self.path)));
        }
        intake.lost(layer, 1, false);
        intake.fault(format_args!(
            "chardev: {}: {e}: datagrams were lost, an unknown number",
            self.path
        ));
        Ok(())
    }
}

impl Source for Chardev {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        if self.ask > intake.max_span() {
            // Allocates only in the first round.
            self.beside.resize(self.ask, 0xFF);
        }
        if self.away && !self.look_for(intake) {
            return Ok(Fill::Idle);
        }
        while intake.has_room() {
            if !readable(self.fd.as_fd()) {
                return Ok(self.nothing(intake, false));
            }
            let beside = !self.beside.is_empty();
            let mut claim = intake
                .claim(if beside { self.most } else { self.ask })
                .map_err(SourceError::new)?;
            let got = if beside {
                rustix::io::read(&self.fd, &mut self.beside[..])
            } else {
                rustix::io::read(&self.fd, &mut claim.bytes()[..self.ask])
            };
            match got {
                Ok(0) if hung_up(self.fd.as_fd()) => return self.gone(intake, "it was hung up"),
                Ok(0) => return Ok(Fill::Ended),
                Ok(got) => {
                    if beside {
                        claim.write(0, &self.beside[..got.min(self.most)]);
                        intake.count(PumpCounter::Moved, 1);
                    }
                    let original_len = if got > self.most { got as u32 } else { 0 };
                    intake.commit(
                        0,
                        got.min(self.most),
                        Arrival { original_len, ..Arrival::default() },
                    );
                    (self.complained, self.look) = (false, None);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(self.nothing(intake, true)),
                Err(e @ (Errno::PIPE | Errno::OVERFLOW)) => self.lost(intake, Layer::Device, e)?,
                Err(e @ Errno::MSGSIZE) => self.lost(intake, Layer::Broker, e)?,
                Err(e @ (Errno::IO | Errno::NODEV | Errno::NXIO)) => {
                    return self.gone(intake, &e.to_string());
                }
                Err(Errno::INVAL) => {
                    return Err(SourceError(format!(
                        "chardev: {} refuses to be read {} bytes at a time: give what its driver \
                        wants with size=",
                        self.path, self.ask
                    )));
                }
                Err(e) => return Err(SourceError(format!("chardev: reading {}: {e}", self.path))),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        if let Some(reopen) = self.reopen.as_ref().filter(|_| self.away) {
            return WaitFor { readable: None, until: Some(reopen.look()) };
        }
        WaitFor { readable: self.look.is_none().then(|| self.fd.as_fd()), until: self.look }
    }

    fn needs(&self) -> Needs {
        self.reopen.as_ref().map_or_else(Needs::default, Reopen::needs)
    }

    fn describe(&self) -> String {
        let mode = match &self.terminal {
            Some(_) => ", a terminal of which the settings are put back at the end",
            None if rustix::termios::isatty(&self.fd) => {
                ", a terminal as it is set: in its usual mode a read is a line"
            }
            None => "",
        };
        let again = if self.reopen.is_some() { ", opened again when it is back" } else { "" };
        format!(
            "{}, each read of up to {} a datagram{mode}{again}",
            self.path,
            Bytes(self.most as u64)
        )
    }
}

impl Drop for Chardev {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // If the terminal no longer exists, there is nothing to restore.
            let _gone = tcsetattr(&self.fd, OptionalActions::Now, &terminal.found);
        }
    }
}
