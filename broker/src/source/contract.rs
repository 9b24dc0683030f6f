//! The interface of a source: to the pump, and to the code that opens it.
//!
//! Contract: a source only fills memory that the [`Intake`] claims for it in the ring, and reports
//! what was lost below it. It never blocks, sleeps, logs, allocates per datagram or touches
//! readers: waiting, waking, flushing and stopping are the pump's work. A device that goes away and
//! may come back is [`Intake::device_gone`], not an error. Whatever cannot be published is counted
//! ([`Intake::lost`]) and explained ([`Intake::fault`]); nothing is dropped silently.

use crate::intake::for_sources::Intake;
use crate::process::sandbox::needs::Needs;
use ringweir_cli::quantity::Rate;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// Result of one round of [`Source::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Something was taken; there may be more at once.
    Took,
    /// There is nothing now: wait as [`Source::wait_for`] says.
    Idle,
    /// No more datagrams will come.
    Ended,
}

/// What the pump waits for when a source is idle: whichever comes first. With neither it waits
/// forever.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitFor<'s> {
    /// Until this is readable.
    pub readable: Option<BorrowedFd<'s>>,
    /// Until this moment, CLOCK_MONOTONIC ns.
    pub until: Option<u64>,
}

/// A source that cannot be opened or cannot continue. The text is for the person who configured it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl SourceError {
    /// From anything that can be shown.
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string())
    }
}

/// A source of datagrams.
pub trait Source: Send {
    /// Takes the datagrams that are available now, until [`Intake::has_room`] is false or none is
    /// left. Never blocks.
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError>;

    /// What to wait for after [`Fill::Idle`].
    fn wait_for(&self) -> WaitFor<'_>;

    /// What also ends the wait: readable when something has happened that is not a datagram, such
    /// as a change of the network interface.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The stream is about to end: takes nothing new from now on. Returns how long to continue
    /// filling until everything that was taken before is here; `None`: nothing is under way.
    fn stop_taking(&mut self) -> Option<Duration> {
        None
    }

    /// Called once, after it was opened: where the control socket of its stream will be.
    ///
    /// # Errors
    /// If the source cannot serve that stream.
    #[doc(hidden)]
    fn set_socket(&mut self, _socket: &Path) -> Result<(), SourceError> {
        Ok(())
    }

    /// Its expected rate, if it knows one: converts `--depth 3s` into bytes.
    fn rate(&self) -> Option<Rate> {
        None
    }

    /// How long the device's buffer takes to fill at the device's rate, if that is known. The
    /// pump's drains are compared with it.
    fn slack(&self) -> Option<Duration> {
        None
    }

    /// What it still needs of the system beside its open descriptors: to find a device again, to
    /// remove files.
    #[doc(hidden)]
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// How many numbers its consumer has accounted for, modulo 2^32, if the source has numbers that
    /// outlive a broker and that were not reset: see [`Intake::set_position`].
    fn position(&self) -> Option<u32> {
        None
    }

    /// One line for the start message on what was opened ("rcvbuf 8 MiB, kernel timestamps").
    fn describe(&self) -> String {
        String::new()
    }
}

/// What a source must know about the stream when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenFor {
    /// Largest datagram the ring takes. Longer ones are cut or dropped as the source documents.
    pub max_datagram: usize,
}

/// One kind of source, as `--source NAME:ARGUMENT` names it.
pub struct SourceKind {
    /// The part before the colon.
    pub name: &'static str,
    /// The whole syntax, one line.
    pub usage: &'static str,
    /// What it does, one line.
    pub about: &'static str,
    /// Opens it with the part after the colon.
    pub open: Open,
}

/// Opens a source.
pub type Open = fn(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError>;
