//! Framings: how a byte stream (`stdin:`, `file:`) is cut into datagrams.
//!
//! Contract: a [`Decoder`] never sees more of the stream than a small refill buffer, copies
//! nothing, allocates nothing per datagram and performs no input. It says how many bytes to pass
//! over and where a payload begins; the caller copies what it already has of the payload and reads
//! the remainder *straight into ring memory*:
//!
//! ```text
//! loop:  decoder.next(&buffer[at..]) ─▶ NeedMore   read on, ask again; at the end of input: finish(rest)
//!                                    ─▶ Payload    pass over header_bytes, take len bytes   ┐ both may reach beyond
//!                                    ─▶ Skip       pass over bytes, count the fault if any  ┘ the buffer
//!                                    ─▶ Broken     count the fault, the stream has ended
//! ```
//!
//! After `Payload` and `Skip` the decoder stands behind those bytes. If the input ends within them,
//! [`Decoder::cut`] gives the fault and the datagram is not published. However the input is split,
//! the datagrams are the same.
//!
//! Policy on damage: nothing is delivered cut and nothing is left out silently. A datagram longer
//! than the maximum is skipped whole and reported as one fault ([`Fault::TooLong`]); so is a record
//! that contradicts itself within sound boundaries. Where boundaries cannot be trusted any more — a
//! length beyond [`SKIP_LIMIT`], a broken file structure — the stream ends with a fault: guessing
//! where the next datagram begins would deliver garbage as data.

mod fixed;
mod length;
mod lines;
mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;

use ringweir_cli::quantity::{Bytes, QuantityError};
use std::fmt;
use std::str::FromStr;

/// Longest single datagram or record, in bytes, that is skipped; a larger length is taken for
/// damage. 1 GiB.
pub const SKIP_LIMIT: u64 = 1 << 30;

/// How datagrams lie in a byte stream; parses and prints as in `stdin:FRAMING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `len32le`: each behind its length, 32 bits little-endian.
    Len32Le,
    /// `len16be`: each behind its length, 16 bits big-endian.
    Len16Be,
    /// `fixed:N`: each of N bytes, N at least 1.
    Fixed(usize),
    /// `lines`: each ended by a newline, which is not part of it; a carriage return is.
    Lines,
    /// `pcap`: a capture file of tcpdump, micro- or nanoseconds, either byte order.
    Pcap,
    /// `pcapng`: a capture file of Wireshark, either byte order; the channel is the interface's
    /// index in its section.
    Pcapng,
}

/// Why a framing was refused; the message names what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// There is no such framing.
    #[error("unknown framing \"{0}\"; there are len32le, len16be, fixed:N, lines, pcap and pcapng")]
    Unknown(String),
    /// `fixed` without a size.
    #[error("framing \"{0}\" needs the size of a datagram, such as fixed:188")]
    NoSize(String),
    /// The size of `fixed` is not one.
    #[error("framing \"{0}\": {1}")]
    BadSize(String, QuantityError),
    /// Datagrams of no bytes would never end.
    #[error("framing \"{0}\": a datagram has at least one byte")]
    ZeroSize(String),
    /// Every datagram would be longer than the stream allows.
    #[error(
        "framing fixed:{size}: datagrams of {size} bytes are longer than the stream's maximum of \
        {max}"
    )]
    AboveMaximum {
        /// Size asked for, in bytes.
        size: usize,
        /// Longest datagram of the stream, in bytes.
        max: usize,
    },
}

impl FromStr for Framing {
    type Err = FramingError;

    fn from_str(text: &str) -> Result<Self, FramingError> {
        Ok(match text {
            "len32le" => Framing::Len32Le,
            "len16be" => Framing::Len16Be,
            "lines" => Framing::Lines,
            "pcap" => Framing::Pcap,
            "pcapng" => Framing::Pcapng,
            "fixed" | "fixed:" => return Err(FramingError::NoSize(text.to_owned())),
            _ => {
                let size = text
                    .strip_prefix("fixed:")
                    .ok_or_else(|| FramingError::Unknown(text.to_owned()))?;
                match size.parse::<Bytes>() {
                    Ok(Bytes(0)) => return Err(FramingError::ZeroSize(text.to_owned())),
                    Ok(Bytes(size)) => Framing::Fixed(size as usize),
                    Err(error) => return Err(FramingError::BadSize(text.to_owned(), error)),
                }
            }
        })
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Framing::Len32Le => f.write_str("len32le"),
            Framing::Len16Be => f.write_str("len16be"),
            Framing::Fixed(size) => write!(f, "fixed:{size}"),
            Framing::Lines => f.write_str("lines"),
            Framing::Pcap => f.write_str("pcap"),
            Framing::Pcapng => f.write_str("pcapng"),
        }
    }
}

/// What is wrong with a byte stream; every fault tells the absolute offset, in bytes from the
/// stream's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A length above the maximum: skipped, or, beyond [`SKIP_LIMIT`], the end of the stream.
    #[error("length field says {len} at offset {offset}, maximum is {max}")]
    TooLong {
        /// Length in the stream, in bytes.
        len: u64,
        /// Longest datagram of the stream, or longest record that is skipped, in bytes.
        max: u64,
        /// Where the length field stands.
        offset: u64,
    },
    /// A line above the maximum: skipped.
    #[error("line of {len} bytes at offset {offset}, maximum is {max}")]
    LineTooLong {
        /// Length of the line without newline, in bytes.
        len: u64,
        /// Longest datagram of the stream, in bytes.
        max: u64,
        /// Where the line begins.
        offset: u64,
    },
    /// The input ended within something.
    #[error("input ends at offset {offset}, {missing} bytes before the end of a {what}")]
    Truncated {
        /// In what: "length field", "datagram", "record header" …
        what: &'static str,
        /// Where the input ends.
        offset: u64,
        /// Bytes that are known to be missing, at least 1.
        missing: u64,
    },
    /// The file is not of the format it should be: the end of the stream.
    #[error("{what} at offset {offset}: found {found:#x}")]
    BadFormat {
        /// What was expected and not found.
        what: &'static str,
        /// The value found instead.
        found: u32,
        /// Where it stands.
        offset: u64,
    },
    /// A record that contradicts itself or its file: skipped.
    #[error("{what} at offset {offset}: found {found}")]
    BadRecord {
        /// What is wrong with it.
        what: &'static str,
        /// The value that shows it.
        found: u32,
        /// Where the record begins.
        offset: u64,
    },
}

/// A datagram that was found, and where its payload lies.
///
/// An empty line may take no bytes at all, neither header nor payload; the step after it always
/// takes some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Bytes to pass over before the payload; all of them are in the input given.
    pub header_bytes: usize,
    /// Length of the payload in bytes, at most the maximum; may reach beyond the input given.
    pub len: usize,
    /// Length the datagram had before a capture cut it, in bytes; never below `len`.
    pub original_len: u32,
    /// Capture time in ns since 1970, 0 if the framing has none.
    pub source_time_ns: u64,
    /// Interface index in pcapng, otherwise 0.
    pub channel: u16,
}

impl Payload {
    /// A payload of a framing that says no more than the length.
    fn plain(header_bytes: usize, len: usize) -> Self {
        Payload { header_bytes, len, original_len: len as u32, source_time_ns: 0, channel: 0 }
    }
}

/// What the decoder made of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing is consumed: ask again with at least this many bytes, which is more than there were
    /// and never more than [`Decoder::buffer_len`].
    NeedMore {
        /// Bytes of input needed.
        at_least: usize,
    },
    /// A datagram.
    Payload(Payload),
    /// Bytes to pass over; may reach beyond the input given.
    Skip {
        /// How many, at least 1.
        bytes: u64,
        /// The datagram that is thereby lost, reported once; `None` where there is none: headers,
        /// padding.
        fault: Option<Fault>,
    },
    /// The stream cannot be decoded any further; every later call says the same.
    Broken(Fault),
}

/// One framing's state machine; [`Decoder`] keeps the offset for all of them.
trait Machine {
    /// As [`Decoder::next`], with the absolute offset of `input`.
    fn next(&mut self, offset: u64, input: &[u8]) -> Step;

    /// As [`Decoder::finish`], with the absolute offset of `rest`.
    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault>;

    /// Bytes the machine may ask for at once.
    fn buffer_len(&self) -> usize;
}

/// An incremental decoder of one byte stream.
pub struct Decoder {
    machine: Box<dyn Machine + Send>,
    offset: u64,
    /// What the bytes given last were part of, for the fault of an input that ends within them.
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
            Framing::Len32Le => Box::new(length::Length::new(length::Prefix::U32Le, max)),
            Framing::Len16Be => Box::new(length::Length::new(length::Prefix::U16Be, max)),
            Framing::Fixed(0) => return Err(FramingError::ZeroSize(framing.to_string())),
            Framing::Fixed(size) if size > max => {
                return Err(FramingError::AboveMaximum { size, max });
            }
            Framing::Fixed(size) => Box::new(fixed::Fixed::new(size)),
            Framing::Lines => Box::new(lines::Lines::new(max)),
            Framing::Pcap => Box::new(pcap::Pcap::new(max)),
            Framing::Pcapng => Box::new(pcapng::Pcapng::new(max)),
        };
        Ok(Decoder { machine, offset: 0, within: "record", broken: None })
    }

    /// Looks at `input`, the unread bytes from [`offset`](Self::offset) on, as many as there are.
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

    /// Ends the stream: the input is at its end, and `rest` is what is left of it, less than
    /// [`next`](Self::next) last asked for. Gives the last datagram if its framing allows it to end
    /// here; it lies in `rest` entirely.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the stream ends within a datagram or record; [`Fault::LineTooLong`]
    /// if its last line is.
    pub fn finish(&mut self, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        match self.broken {
            // Reported when it broke.
            Some(_) => Ok(None),
            None => self.machine.finish(self.offset, rest),
        }
    }

    /// The fault of an input that ended `missing` bytes before the end of the payload or skip given
    /// last.
    pub fn cut(&self, missing: u64) -> Fault {
        Fault::Truncated { what: self.within, offset: self.offset.saturating_sub(missing), missing }
    }

    /// Offset in the stream, in bytes, of the next input to be given.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size in bytes of a refill buffer that is always enough; a larger one saves reads.
    pub fn buffer_len(&self) -> usize {
        self.machine.buffer_len()
    }
}

/// Judges a length field: the payload, or what happens instead when it is too long.
///
/// `header_bytes` are those before the payload, `offset` is that of the length field.
fn judge(header_bytes: usize, len: u64, max: usize, offset: u64) -> Result<usize, Step> {
    if len <= max as u64 {
        return Ok(len as usize);
    }
    let max = max as u64;
    let fault = Fault::TooLong { len, max, offset };
    Err(if len <= SKIP_LIMIT {
        let bytes = header_bytes as u64 + len;
        Step::Skip { bytes, fault: Some(fault) }
    } else {
        Step::Broken(fault)
    })
}

/// The end of a stream that may end only where nothing is left: `needed` bytes of a `what` had to
/// come.
fn nothing_left(
    what: &'static str,
    needed: usize,
    offset: u64,
    rest: &[u8],
) -> Result<Option<Payload>, Fault> {
    if rest.is_empty() {
        return Ok(None);
    }
    Err(truncated(what, needed, offset, rest))
}

/// A stream that ended with `rest`, of a `what` of `needed` bytes.
fn truncated(what: &'static str, needed: usize, offset: u64, rest: &[u8]) -> Fault {
    let missing = needed.saturating_sub(rest.len()).max(1) as u64;
    Fault::Truncated { what, offset: offset + rest.len() as u64, missing }
}

/// Byte order of a capture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16 bits at `at`; the caller has checked that they are there.
    #[inline]
    fn u16(self, input: &[u8], at: usize) -> u16 {
        let bytes = [input[at], input[at + 1]];
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The 32 bits at `at`; the caller has checked that they are there.
    #[inline]
    fn u32(self, input: &[u8], at: usize) -> u32 {
        let bytes = [input[at], input[at + 1], input[at + 2], input[at + 3]];
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The 64 bits at `at`; the caller has checked that they are there.
    #[inline]
    fn u64(self, input: &[u8], at: usize) -> u64 {
        let (first, second) = (u64::from(self.u32(input, at)), u64::from(self.u32(input, at + 4)));
        match self {
            Order::Little => second << 32 | first,
            Order::Big => first << 32 | second,
        }
    }
}
