//! The incremental decoder of a byte stream.
//!
//! Contract: a [`Decoder`] never sees more of the stream than a small refill buffer, copies
//! nothing, allocates nothing per datagram and reads no input itself. It returns how many bytes to
//! skip and where a payload begins. The caller copies the part of the payload that it already has
//! and reads the rest *straight into ring memory*:
//!
//! ```text
//! loop:  decoder.next(&buffer[at..]) ─▶ NeedMore   read more, call again; at the end of the
//!                                                  input call finish(rest)
//!                                    ─▶ Payload    skip header_bytes, take len bytes
//!                                    ─▶ Skip       skip bytes, count the fault if any
//!                                    ─▶ Broken     count the fault, the stream has ended
//! ```
//!
//! `Payload` and `Skip` may reach beyond the buffer.
//!
//! After `Payload` and `Skip` the decoder has passed those bytes. If the input ends within them,
//! [`Decoder::cut`] gives the fault and the datagram is not published. However the input is split,
//! the datagrams are the same.
//!
//! Damaged input: no datagram is delivered in part, and none is dropped silently. A datagram longer
//! than the maximum is skipped whole and reported as one fault ([`Fault::TooLong`]); so is a record
//! that contradicts itself within valid boundaries. If boundaries are lost (a length beyond
//! `SKIP_LIMIT`, a broken file structure), the stream ends with a fault: guessing where the next
//! datagram begins would deliver garbage as data.

use super::fixed::Fixed;
use super::format::{Framing, FramingError};
use super::length::{Length, Prefix};
use super::lines::Lines;
use super::pcap::Pcap;
use super::pcapng::Pcapng;
use super::step::{Fault, Machine, Payload, Step};

/// An incremental decoder of one byte stream.
pub struct Decoder {
    machine: Box<dyn Machine + Send>,
    offset: u64,
    /// The unit that the last bytes belong to: named in the fault if the input ends within them.
    within: &'static str,
    broken: Option<Fault>,
}

impl Decoder {
    /// A decoder at the beginning of a stream whose datagrams may have up to `max` bytes.
    ///
    /// # Errors
    /// [`FramingError::AboveMaximum`], or [`FramingError::ZeroSize`] for a [`Framing::Fixed`] of 0
    /// bytes.
    pub fn new(framing: Framing, max: usize) -> Result<Self, FramingError> {
        // A payload's original length is a 32-bit number everywhere.
        let max = max.min(u32::MAX as usize);
        let machine: Box<dyn Machine + Send> = match framing {
            Framing::Len32Le => Box::new(Length::new(Prefix::U32Le, max)),
            Framing::Len16Be => Box::new(Length::new(Prefix::U16Be, max)),
            Framing::Fixed(0) => return Err(FramingError::ZeroSize(framing.to_string())),
            Framing::Fixed(size) if size > max => {
                return Err(FramingError::AboveMaximum { size, max });
            }
            Framing::Fixed(size) => Box::new(Fixed::new(size)),
            Framing::Lines => Box::new(Lines::new(max)),
            Framing::Pcap => Box::new(Pcap::new(max)),
            Framing::Pcapng => Box::new(Pcapng::new(max)),
        };
        Ok(Decoder { machine, offset: 0, within: "record", broken: None })
    }

    /// Decodes the beginning of `input`: all unread bytes from [`offset`](Self::offset) on.
    pub fn next(&mut self, input: &[u8]) -> Step {
        if let Some(fault) = self.broken {
            return Step::Broken(fault);
        }
        let step = self.machine.next(self.offset, input);
        match step {
            Step::NeedMore { .. } => {}
            Step::Payload(payload) => {
                self.within = "datagram";
                self.offset += (payload.header_bytes + payload.len) as u64;
            }
            Step::Skip { bytes, fault } => {
                self.within = if fault.is_some() { "datagram" } else { "record" };
                self.offset += bytes;
            }
            Step::Broken(fault) => self.broken = Some(fault),
        }
        step
    }

    /// Ends the stream. `rest` is the remaining input, fewer bytes than [`next`](Self::next) last
    /// requested. Returns the last datagram if its framing allows it to end here. It lies in `rest`
    /// entirely.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the stream ends within a datagram or record; [`Fault::LineTooLong`]
    /// if its last line is.
    pub fn finish(&mut self, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        match self.broken {
            // This fault was reported when it was found.
            Some(_) => Ok(None),
            None => self.machine.finish(self.offset, rest),
        }
    }

    /// The fault of an input that ended `missing` bytes before the end of the last payload or skip.
    pub fn cut(&self, missing: u64) -> Fault {
        Fault::Truncated { what: self.within, offset: self.offset.saturating_sub(missing), missing }
    }

    /// Offset in the stream, in bytes, of the next input.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size in bytes of a refill buffer that is always enough; a larger one saves reads.
    pub fn buffer_len(&self) -> usize {
        self.machine.buffer_len()
    }
}
