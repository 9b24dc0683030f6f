//! `unix:` — datagrams from processes on this machine, over a unix socket: any number of senders,
//! with boundaries, and no silent loss.
//!
//! Contract: datagrams are received in batches straight into ring memory, see `batch`. *dgram* is
//! one socket to which all processes with write permission on its file can send. *seqpacket* is a
//! listening socket: each sender has a connection, its datagrams stay in order, and the number of
//! its connection (1, 2 … 65535, 1 …) is their channel. An empty datagram is a datagram too. The
//! source time is the kernel's, CLOCK_REALTIME. Datagrams sent over a connection before it was
//! accepted get the time at which they are received.
//!
//! The kernel loses nothing: if `net.unix.max_dgram_qlen` datagrams wait, a sender blocks or gets
//! EAGAIN. File descriptors that a sender attaches are never installed here. From Linux 6.16 on the
//! kernel refuses them; before that the pump's thread closes them, and closing can take long (a TCP
//! socket with SO_LINGER). On such kernels `mode=` should admit only trusted senders, and the
//! start message says so. The socket's file is created with its mode. It replaces only a socket at
//! which no process listens, and is removed at the end unless it was replaced by another file.

use super::dgram::Dgram;
use super::seqpacket::Seqpacket;
use super::spec::Spec;
use crate::source::contract::{OpenFor, Source, SourceError, SourceKind};

pub const KIND: SourceKind = SourceKind {
    name: "unix",
    usage: "unix:[dgram|seqpacket[,mode=0600][,senders=256]:]PATH",
    about: "a unix socket: one for all (dgram), or a connection and a channel for each sender \
        (seqpacket); senders wait, nothing is lost",
    open,
};

pub(super) fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let spec = Spec::parse(argument)?;
    Ok(if spec.seqpacket {
        Box::new(Seqpacket::open(&spec, stream)?)
    } else {
        Box::new(Dgram::open(&spec, stream)?)
    })
}
