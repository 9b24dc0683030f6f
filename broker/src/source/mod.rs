//! Sources: where datagrams come from. A new one is one file here and one line in [`SOURCES`].
//!
//! Contract: a source only fills memory that the [`Intake`] claims for it in the ring, and says
//! what was lost below it. It never blocks, sleeps, logs, allocates per datagram or touches
//! readers: waiting, waking, flushing and stopping belong to the pump. A device that goes away is
//! [`Intake::gone`], not an error, where it may come back. What it cannot publish it counts
//! ([`Intake::lost`]) and explains ([`Intake::fault`]); it never drops in silence.

use crate::intake::Intake;
use crate::sandbox::Needs;
use ringweir_cli::quantity::Rate;
use std::os::fd::BorrowedFd;
use std::time::Duration;

mod batch;
mod bytes;
mod chardev;
mod device;
mod file;
mod r#gen;
mod netlink;
mod packet;
mod socket;
mod stdin;
#[cfg(test)]
mod testing;
mod udp;
mod unix;

/// What one round of [`Source::fill`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Something was taken; there may be more at once.
    Took,
    /// Nothing is there now: wait as [`Source::wait_for`] says.
    Idle,
    /// Nothing will ever come again.
    Ended,
}

/// What the pump waits for when a source is idle: whichever comes first. With neither it would wait
/// for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitFor<'s> {
    /// Until this is readable.
    pub readable: Option<BorrowedFd<'s>>,
    /// Until this moment, CLOCK_MONOTONIC ns.
    pub until: Option<u64>,
}

/// A source that cannot be opened, or cannot go on; the text is for the person who typed it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl SourceError {
    /// From anything that can be shown.
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string())
    }
}

/// Something that brings datagrams in.
pub trait Source: Send {
    /// Takes what is there now, until [`Intake::has_room`] says no or nothing is left. Never
    /// blocks.
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError>;

    /// What to wait for after [`Fill::Idle`].
    fn wait_for(&self) -> WaitFor<'_>;

    /// The rate it will bring, if it knows: turns `--depth 3s` into bytes.
    fn rate(&self) -> Option<Rate> {
        None
    }

    /// How long the device's buffer takes to fill at the rate it was built for, if that is known:
    /// what the pump's drains are judged by.
    fn slack(&self) -> Option<Duration> {
        None
    }

    /// What it goes on needing of the system beside what it has open: to find a device again, to
    /// clear up.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// How many numbers its consumer has accounted for, modulo 2^32, if the source has numbers that
    /// outlive a broker and that nobody has begun anew: see [`Intake::positioned`].
    fn position(&self) -> Option<u32> {
        None
    }

    /// One line on what was opened, for the start message ("rcvbuf 8 MiB, kernel timestamps").
    fn describe(&self) -> String {
        String::new()
    }
}

/// What the stream tells a source that is being opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenFor {
    /// Largest datagram the ring takes; longer ones are cut or dropped as the source documents.
    pub max_datagram: usize,
}

/// One kind of source, as `--source NAME:ARGUMENT` names it.
pub struct SourceKind {
    /// Before the colon.
    pub name: &'static str,
    /// The whole syntax, one line.
    pub usage: &'static str,
    /// What it does, one line.
    pub about: &'static str,
    /// Opens it with what stands after the colon.
    pub open: Open,
}

/// How a source is opened.
pub type Open = fn(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError>;

/// Every kind there is.
pub const SOURCES: &[SourceKind] = &[
    r#gen::KIND,
    udp::KIND,
    packet::KIND,
    unix::KIND,
    netlink::KIND,
    chardev::KIND,
    device::SHIM,
    device::UIO,
    device::FIFO,
    stdin::KIND,
    file::KIND,
];

/// Opens `spec`, `NAME[:ARGUMENT]`.
pub fn open(spec: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let (name, argument) = spec.split_once(':').unwrap_or((spec, ""));
    let Some(kind) = SOURCES.iter().find(|k| k.name == name) else {
        let usages: Vec<_> = SOURCES.iter().map(|k| k.usage).collect();
        return Err(SourceError(format!("no source {name:?}; there are: {}", usages.join("  "))));
    };
    (kind.open)(argument, stream)
        .map_err(|e| SourceError(format!("source {spec:?}: {e} (usage: {})", kind.usage)))
}

/// Takes `[OPTION[,OPTION…]:]PATH` apart: a path, which may hold colons and commas, begins with `/`
/// or `.` unless options stand before it. An option's value may hold colons if the path behind it
/// begins so (a PCI address in `memory=`).
fn options_and_path(argument: &str) -> Result<(Vec<&str>, &str), SourceError> {
    if argument.starts_with(['/', '.']) {
        return Ok((Vec::new(), argument));
    }
    let colon =
        [":/", ":."].iter().filter_map(|c| argument.find(c)).min().or_else(|| argument.find(':'));
    match colon.map(|at| (&argument[..at], &argument[at + 1..])) {
        Some((options, path)) if !path.is_empty() => Ok((options.split(',').collect(), path)),
        _ => Err(SourceError(format!(
            "no path in {argument:?}: it begins with / or . or stands behind options and a colon"
        ))),
    }
}
