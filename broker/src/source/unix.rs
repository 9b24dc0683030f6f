//! `unix:` — datagrams of processes on this machine, by a unix socket: many senders, boundaries
//! kept, nothing lost unsaid.
//!
//! Contract: received in batches straight into ring memory, see [`super::batch`]. *dgram* is one
//! socket that anybody who may write to its file sends to. *seqpacket* is a listening socket: each
//! sender has a connection, its order is kept, and the number of its connection (1, 2 … 65535, 1 …)
//! is the channel of its datagrams; one that hangs up is forgotten. Empty datagrams are datagrams.
//! The source time is the kernel's, CLOCK_REALTIME; what a seqpacket sender sent before it was
//! accepted gets the time at which it is taken.
//!
//! There is no kernel loss: a sender whose receiver has `net.unix.max_dgram_qlen` datagrams waiting
//! blocks, or is told EAGAIN. File descriptors that somebody sends along are never installed here;
//! from Linux 6.16 on the kernel refuses them to the sender, before that the pump's thread closes
//! them, and closing can be made to last (a TCP socket with SO_LINGER): there `mode=` is for
//! senders that are trusted, and the start message says so. The socket's file is made with its
//! mode, replaces only a socket at which nobody listens, and is removed at the end unless it is not
//! ours any more.

use super::batch::Batch;
use super::socket::{Control, set_option};
use super::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor, options_and_path};
use crate::intake::{Arrival, Intake};
use crate::sandbox::{Needs, directory_of};
use ringweir_proto::os::socket_file::SocketFile;
use rustix::net::SocketType;
use std::os::fd::{AsFd, BorrowedFd};

mod seqpacket;
#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "unix",
    usage: "unix:[dgram|seqpacket[,mode=0600][,senders=256]:]PATH",
    about: "a unix socket: one for all (dgram), or a connection and a channel for each sender \
        (seqpacket); senders wait, nothing is lost",
    open,
};

/// Control messages of a datagram: one time, and no room for file descriptors behind it.
const CONTROL_LEN: usize = 32;

/// What stands behind `unix:`.
#[derive(Debug, PartialEq, Eq)]
struct Spec<'a> {
    seqpacket: bool,
    mode: u32,
    /// Senders that may be connected at once (seqpacket).
    senders: u32,
    path: &'a str,
}

impl<'a> Spec<'a> {
    fn parse(argument: &'a str) -> Result<Self, SourceError> {
        let (options, path) = options_and_path(argument)?;
        let mut spec = Self { seqpacket: false, mode: 0o600, senders: 256, path };
        let (mut asked_dgram, mut asked_senders) = (false, false);
        for option in options {
            match option.split_once('=').unwrap_or((option, "")) {
                ("dgram", "") => asked_dgram = true,
                ("seqpacket", "") => spec.seqpacket = true,
                ("mode", mode) => {
                    spec.mode =
                        u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o777).ok_or_else(
                            || SourceError(format!("mode={mode}: say an octal mode such as 0660")),
                        )?;
                }
                ("senders", n) => {
                    asked_senders = true;
                    spec.senders =
                        n.parse().ok().filter(|n| (1..=16_384).contains(n)).ok_or_else(|| {
                            SourceError(format!("senders={n}: say a number from 1 to 16384"))
                        })?;
                }
                _ => {
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there are dgram, seqpacket, mode= and senders="
                    )));
                }
            }
        }
        if asked_dgram && spec.seqpacket {
            return Err(SourceError::new("it is either dgram or seqpacket"));
        }
        if asked_senders && !spec.seqpacket {
            return Err(SourceError::new(
                "senders= is for seqpacket: a dgram socket has no connections",
            ));
        }
        Ok(spec)
    }
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let spec = Spec::parse(argument)?;
    if spec.seqpacket {
        return Ok(Box::new(seqpacket::Seqpacket::open(&spec, stream)?));
    }
    let file =
        SocketFile::bind(spec.path, SocketType::DGRAM, spec.mode).map_err(SourceError::new)?;
    let trusting = prepare(file.fd.as_fd())?.words();
    let waiting = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
    let description = format!(
        "dgram {} mode {:04o}, senders wait while {} datagrams do (sysctl \
        net.unix.max_dgram_qlen), \
        kernel timestamps{trusting}",
        spec.path,
        spec.mode,
        waiting.as_deref().map_or("some", str::trim),
    );
    Ok(Box::new(Dgram { batch: Batch::new(stream.max_datagram, CONTROL_LEN), file, description }))
}

/// Linux 6.16: whether others may send file descriptors along.
const SO_PASSRIGHTS: i32 = 83;

/// What becomes of file descriptors that are sent along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptors {
    /// The kernel refuses them to the sender.
    Refused,
    /// The pump's thread closes them.
    ClosedHere,
}

impl Descriptors {
    /// For the start message.
    fn words(self) -> &'static str {
        match self {
            Self::Refused => "",
            Self::ClosedHere => {
                "; let only trusted senders in: before Linux 6.16 one that sends file descriptors \
                along can hold up the pump"
            }
        }
    }
}

/// Has the kernel say when each datagram came, and keep file descriptors out if it can.
fn prepare(fd: BorrowedFd<'_>) -> Result<Descriptors, SourceError> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
        .map_err(|e| SourceError(format!("SO_TIMESTAMPNS: {e}")))?;
    let refused = set_option(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, &0_i32).is_ok();
    Ok(if refused { Descriptors::Refused } else { Descriptors::ClosedHere })
}

/// The socket's file goes with the source.
fn to_remove(file: &SocketFile) -> Needs {
    Needs { remove: vec![directory_of(file.path())], ..Needs::default() }
}

/// One socket for all senders.
struct Dgram {
    file: SocketFile,
    batch: Batch,
    description: String,
}

impl Source for Dgram {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            let judge = |_: &mut Intake, control: Control, _| {
                Some(Arrival { source_time: control.time_ns, ..Arrival::default() })
            };
            match self.batch.receive(self.file.fd.as_fd(), intake, judge) {
                Ok(count) if count.got == count.most => {}
                // Fewer than asked for: the socket is empty, and asking again would only say so.
                Ok(_) => return Ok(Fill::Idle),
                Err(e) => return e.outcome("unix", intake),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.file.fd.as_fd()), until: None }
    }

    fn needs(&self) -> Needs {
        to_remove(&self.file)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
