//! Batches of outgoing datagrams: gathered in one buffer, sent by one `sendmmsg`.
//!
//! Contract: if the socket or the device queue is full, the batch waits; at worst the ring laps
//! this reader, which is counted exactly. A datagram that the kernel refuses is counted, reported
//! and, with headers, recorded for the receiver; the others of its batch are sent. Before that it
//! is tried with another socket, in case the interface is another one now. A signal ends the wait:
//! the rest of the batch then counts as failed.

use super::header::{self, LEN, Why};
use super::target::Connection;
use crate::messages::Messages;
use crate::sink::About;
use crate::stop::Stop;
use anyhow::Context;
use ringweir_cli::quantity::Bytes;
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags};
use serde::Serialize;
use std::io::IoSlice;
use std::ops::Range;
use std::time::Duration;

/// Datagrams sent by one call.
const MOST: usize = 64;
/// Longest datagram UDP carries over IPv6. IPv4 carries 20 bytes less; there the kernel refuses.
const UDP_MOST: usize = 65_527;
/// Bytes gathered at most before they are sent.
const BYTES: usize = 512 << 10;

/// What became of the datagrams that were taken from the ring.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Tally {
    /// Given to the kernel.
    pub(super) sent: u64,
    /// Their payload.
    pub(super) sent_bytes: u64,
    /// Longer than UDP carries, or than the path carries without fragments (`df`).
    pub(super) too_long: u64,
    /// Not sent for another reason.
    pub(super) failed: u64,
    /// Records of gaps that were sent (`--header seq`).
    pub(super) records: u64,
    /// Times the receiver's host reported that no socket is open on the port.
    pub(super) refused: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, sent_bytes, too_long, failed, records, refused } = self;
        write!(f, "{sent} sent ({}), {too_long} too long, {failed} failed", Bytes(*sent_bytes))?;
        if *records > 0 {
            write!(f, ", {records} gap records")?;
        }
        if *refused > 0 {
            write!(f, "; refused {refused} times (no receiver on that port)")?;
        }
        Ok(())
    }
}

/// One message of a batch.
struct Part {
    range: Range<usize>,
    /// Seq and length of its datagram; `None`: it is a record.
    datagram: Option<(u64, usize)>,
}

/// A socket and the batch that will be sent through it.
pub(super) struct Batch {
    connection: Connection,
    headers: bool,
    generation: u16,
    buffer: Vec<u8>,
    parts: Vec<Part>,
    /// A second buffer and list, empty, so that nothing is allocated again.
    spare: (Vec<u8>, Vec<Part>),
    pub(super) tally: Tally,
}

impl Batch {
    pub(super) fn new(connection: Connection, headers: bool, generation: u64) -> Self {
        let room = || Vec::with_capacity(BYTES + UDP_MOST + LEN);
        Self {
            connection,
            headers,
            generation: generation as u16,
            buffer: room(),
            parts: Vec::with_capacity(MOST + 1),
            spare: (room(), Vec::with_capacity(MOST + 1)),
            tally: Tally::default(),
        }
    }

    /// A new generation begins, in which seqs may start again. Flush the older datagrams first.
    pub(super) fn generation(&mut self, generation: u64) {
        self.generation = generation as u16;
    }

    fn header_len(&self) -> usize {
        if self.headers { LEN } else { 0 }
    }

    /// Room for the payload of the next datagram. `None`: it is longer than any UDP datagram.
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let begin = self.parts.last().map_or(0, |part| part.range.end);
        let whole = self.header_len() + len;
        if whole > UDP_MOST {
            return None;
        }
        self.buffer.resize(begin + whole, 0);
        let at = begin + self.header_len();
        Some(&mut self.buffer[at..])
    }

    /// Queues the datagram that was filled into the room.
    pub(super) fn push(&mut self, about: &About) {
        let begin = self.parts.last().map_or(0, |part| part.range.end);
        if self.headers {
            let cut = about.original_len > about.len;
            let header = header::datagram(about.seq, about.channel, cut, self.generation);
            self.buffer[begin..begin + LEN].copy_from_slice(&header);
        }
        let end = begin + self.header_len() + about.len;
        self.parts.push(Part { range: begin..end, datagram: Some((about.seq, about.len)) });
    }

    /// Queues a record of something that will not arrive.
    pub(super) fn record(&mut self, first: u64, count: u64, why: Why) {
        if self.headers {
            let begin = self.parts.last().map_or(0, |part| part.range.end);
            self.buffer.truncate(begin);
            self.buffer.extend_from_slice(&header::record(first, count, why, self.generation));
            self.parts.push(Part { range: begin..self.buffer.len(), datagram: None });
        }
    }

    /// Counts a datagram that is too long.
    pub(super) fn too_long(&mut self, about: &About, messages: &mut Messages) {
        self.tally.too_long += 1;
        messages.print_limited(|| {
            format!("seq {}: {} bytes are too long for UDP; not sent", about.seq, about.len)
        });
        self.record(about.seq, 1, Why::TooLong);
    }

    pub(super) fn is_full(&self) -> bool {
        self.parts.len() >= MOST || self.buffer.len() >= BYTES
    }

    /// Sends everything in the batch.
    pub(super) fn flush(&mut self, stop: &Stop, messages: &mut Messages) -> anyhow::Result<()> {
        // Records of datagrams that fail, and the datagrams after them, go into the other buffer
        // and are sent next.
        if self.connection.look() {
            messages
                .print_limited(|| "the interface is another one now; sending through it".into());
        }
        while !self.parts.is_empty() {
            std::mem::swap(&mut self.buffer, &mut self.spare.0);
            std::mem::swap(&mut self.parts, &mut self.spare.1);
            let (mut buffer, mut parts) = std::mem::take(&mut self.spare);
            let sent = self.send(&buffer, &parts, stop, messages);
            buffer.clear();
            parts.clear();
            self.spare = (buffer, parts);
            sent?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        buffer: &[u8],
        parts: &[Part],
        stop: &Stop,
        messages: &mut Messages,
    ) -> anyhow::Result<()> {
        let slices: Vec<_> =
            parts.iter().map(|part| [IoSlice::new(&buffer[part.range.clone()])]).collect();
        let mut controls: Vec<_> = parts.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut headers: Vec<_> =
            slices.iter().zip(&mut controls).map(|(s, c)| MMsgHdr::new(s, c)).collect();
        let mut at = 0;
        // The datagram that was refused once. An ICMP answer to an earlier datagram makes the next
        // call fail, which clears the error and sends nothing. So only a datagram that is refused
        // twice is itself the cause.
        let mut doubted = None;
        while at < parts.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmmsg(self.connection.socket(), &mut headers[at..], flags) {
                Ok(count) => {
                    for part in &parts[at..at + count] {
                        match part.datagram {
                            Some((_, len)) => {
                                self.tally.sent += 1;
                                self.tally.sent_bytes += len as u64;
                            }
                            None => self.tally.records += 1,
                        }
                    }
                    at += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) if stop.came() => {
                    for part in &parts[at..] {
                        self.tally.failed += u64::from(part.datagram.is_some());
                    }
                    return Ok(());
                }
                Err(Errno::AGAIN) => {
                    stop.wait_to_write(self.connection.socket(), Some(Duration::from_millis(100)))?
                }
                Err(Errno::NOBUFS | Errno::NOMEM) => stop.pause(Duration::from_millis(1))?,
                // An ICMP answer to an earlier datagram. The call has cleared it, and this datagram
                // is still to be sent.
                Err(Errno::CONNREFUSED) => {
                    self.tally.refused += 1;
                    messages.print_limited(|| {
                        "no receiver on that port (ICMP port unreachable)".into()
                    });
                }
                Err(
                    e @ (Errno::MSGSIZE
                    | Errno::PERM
                    | Errno::ACCESS
                    | Errno::INVAL
                    | Errno::NETUNREACH
                    | Errno::HOSTUNREACH
                    | Errno::NETDOWN
                    | Errno::HOSTDOWN
                    | Errno::NODEV
                    | Errno::NXIO
                    | Errno::ADDRNOTAVAIL),
                ) => {
                    if doubted.replace(at) != Some(at) {
                        continue;
                    }
                    if e == Errno::MSGSIZE || !self.connection.refused() {
                        let recorded = self.refuse(&parts[at], e, messages);
                        at += 1;
                        if recorded {
                            self.queue(buffer, &parts[at..]);
                            return Ok(());
                        }
                    }
                }
                Err(e) => return Err(std::io::Error::from(e)).context("sending"),
            }
        }
        Ok(())
    }

    /// Queues the rest of a batch after a record.
    fn queue(&mut self, buffer: &[u8], parts: &[Part]) {
        for part in parts {
            let begin = self.buffer.len();
            self.buffer.extend_from_slice(&buffer[part.range.clone()]);
            self.parts.push(Part { range: begin..self.buffer.len(), datagram: part.datagram });
        }
    }

    /// Counts a datagram that the kernel does not send. Returns whether a record is sent instead.
    fn refuse(&mut self, part: &Part, e: Errno, messages: &mut Messages) -> bool {
        // Without a record the receiver sees that a seq is missing, but not why.
        let Some((seq, len)) = part.datagram else { return false };
        let why = if e == Errno::MSGSIZE {
            self.tally.too_long += 1;
            Why::TooLong
        } else {
            self.tally.failed += 1;
            Why::Failed
        };
        messages.print_limited(|| format!("seq {seq}: {len} bytes were not sent: {e}"));
        self.record(seq, 1, why);
        self.headers
    }
}
