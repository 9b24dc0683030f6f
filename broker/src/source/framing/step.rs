//! What a decoder reports for each piece of input, and what all framings share.
//!
//! Contract: nothing here reads input or allocates.

/// Length in bytes of the longest datagram or record that is skipped: 1 GiB. A larger length is
/// taken for damage.
pub const SKIP_LIMIT: u64 = 1 << 30;

/// What is wrong with a byte stream. Offsets are in bytes from the beginning of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A length above the maximum. The datagram is skipped; beyond [`SKIP_LIMIT`] the stream ends.
    #[error("length field says {len} at offset {offset}, maximum is {max}")]
    TooLong {
        /// Length in the stream, in bytes.
        len: u64,
        /// Longest datagram of the stream, or longest record that is skipped, in bytes.
        max: u64,
        /// Offset of the length field.
        offset: u64,
    },
    /// A line above the maximum: skipped.
    #[error("line of {len} bytes at offset {offset}, maximum is {max}")]
    LineTooLong {
        /// Length of the line without newline, in bytes.
        len: u64,
        /// Longest datagram of the stream, in bytes.
        max: u64,
        /// Offset of the line.
        offset: u64,
    },
    /// The input ended too early.
    #[error("input ends at offset {offset}, {missing} bytes before the end of a {what}")]
    Truncated {
        /// What is incomplete: "length field", "datagram", "record header" …
        what: &'static str,
        /// Offset of the end of the input.
        offset: u64,
        /// Bytes that are known to be missing, at least 1.
        missing: u64,
    },
    /// The file does not have the right format: the stream ends.
    #[error("{what} at offset {offset}: found {found:#x}")]
    BadFormat {
        /// What is wrong with it.
        what: &'static str,
        /// The value that shows it.
        found: u32,
        /// Offset of that value.
        offset: u64,
    },
    /// A record that contradicts itself or its file: skipped.
    #[error("{what} at offset {offset}: found {found}")]
    BadRecord {
        /// What is wrong with it.
        what: &'static str,
        /// The value that shows it.
        found: u32,
        /// Offset of the record.
        offset: u64,
    },
}

/// A datagram that was found, and where its payload is.
///
/// An empty line may consume no bytes at all, neither header nor payload; the step after it always
/// consumes some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Bytes to skip before the payload. All of them are in the input.
    pub header_bytes: usize,
    /// Length of the payload in bytes, at most the maximum. It may reach beyond the input.
    pub len: usize,
    /// Length the datagram had before a capture cut it, in bytes; never below `len`.
    pub original_len: u32,
    /// Capture time in ns since 1970, 0 if the framing has none.
    pub source_time_ns: u64,
    /// Interface index in pcapng, otherwise 0.
    pub channel: u16,
    /// Link type, if the framing has one.
    pub link_type: Option<u16>,
}

impl Payload {
    /// A payload of a framing that gives only the length.
    pub(super) fn plain(header_bytes: usize, len: usize) -> Self {
        let original_len = len as u32;
        let (source_time_ns, channel, link_type) = (0, 0, None);
        Payload { header_bytes, len, original_len, source_time_ns, channel, link_type }
    }
}

/// What the decoder found in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing was consumed. Call again with at least this many bytes, which is more than there
    /// were and never more than [`Decoder::buffer_len`](super::Decoder::buffer_len).
    NeedMore {
        /// Bytes of input needed.
        at_least: usize,
    },
    /// A datagram.
    Payload(Payload),
    /// Bytes to skip. They may reach beyond the input.
    Skip {
        /// How many, at least 1.
        bytes: u64,
        /// The datagram that is lost with these bytes, reported once; `None` for headers and
        /// padding.
        fault: Option<Fault>,
    },
    /// The stream cannot be decoded any further. Every later call returns the same.
    Broken(Fault),
}

/// The state machine of one framing. The decoder keeps the offset for all framings.
pub(super) trait Machine {
    /// Like `Decoder::next`. `offset` is that of `input` in the stream.
    fn next(&mut self, offset: u64, input: &[u8]) -> Step;

    /// Like `Decoder::finish`. `offset` is that of `rest` in the stream.
    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault>;

    /// The most bytes that the machine may request at once.
    fn buffer_len(&self) -> usize;
}

/// Checks a length field. Returns the length, or what to do if it is too long.
///
/// `header_bytes` are the bytes before the payload, `offset` is that of the length field.
pub(super) fn check_length(
    header_bytes: usize,
    len: u64,
    max: usize,
    offset: u64,
) -> Result<usize, Step> {
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

/// Ends a stream that may end only if `rest` is empty. Otherwise a `what` of `needed` bytes is
/// incomplete.
pub(super) fn nothing_left(
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

/// The fault of a stream that ended with `rest`, a part of a `what` of `needed` bytes.
pub(super) fn truncated(what: &'static str, needed: usize, offset: u64, rest: &[u8]) -> Fault {
    let missing = needed.saturating_sub(rest.len()).max(1) as u64;
    Fault::Truncated { what, offset: offset + rest.len() as u64, missing }
}

/// Byte order of a capture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16 bits at `at`, which the caller has checked to exist.
    #[inline]
    pub(super) fn u16(self, input: &[u8], at: usize) -> u16 {
        let bytes = [input[at], input[at + 1]];
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The 32 bits at `at`, which the caller has checked to exist.
    #[inline]
    pub(super) fn u32(self, input: &[u8], at: usize) -> u32 {
        let bytes = [input[at], input[at + 1], input[at + 2], input[at + 3]];
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The 64 bits at `at`, which the caller has checked to exist.
    #[inline]
    pub(super) fn u64(self, input: &[u8], at: usize) -> u64 {
        let (first, second) = (u64::from(self.u32(input, at)), u64::from(self.u32(input, at + 4)));
        match self {
            Order::Little => second << 32 | first,
            Order::Big => first << 32 | second,
        }
    }
}
