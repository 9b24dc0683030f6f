//! The framings and their names.

use ringweir_cli::quantity::{Bytes, QuantityError};
use std::fmt;
use std::str::FromStr;

/// How datagrams are separated in a byte stream. Parses and prints as in `stdin:FRAMING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `len32le`: each datagram after its length, 32 bits little-endian.
    Len32Le,
    /// `len16be`: each datagram after its length, 16 bits big-endian.
    Len16Be,
    /// `fixed:N`: datagrams of N bytes, N at least 1.
    Fixed(usize),
    /// `lines`: each datagram ends with a newline that is not part of it; a carriage return is.
    Lines,
    /// `pcap`: a capture file of tcpdump, micro- or nanoseconds, either byte order.
    Pcap,
    /// `pcapng`: a capture file of Wireshark, either byte order; the channel is the interface's
    /// index in its section.
    Pcapng,
}

/// Why a framing was refused. The message contains the given text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// There is no such framing.
    #[error("unknown framing \"{0}\"; there are len32le, len16be, fixed:N, lines, pcap and pcapng")]
    Unknown(String),
    /// `fixed` without a size.
    #[error("framing \"{0}\" needs the size of a datagram, such as fixed:188")]
    NoSize(String),
    /// The size of `fixed` is not a size.
    #[error("framing \"{0}\": {1}")]
    BadSize(String, QuantityError),
    /// Datagrams of no bytes: the stream would never end.
    #[error("framing \"{0}\": a datagram has at least one byte")]
    ZeroSize(String),
    /// Every datagram would be longer than the stream allows.
    #[error(
        "framing fixed:{size}: datagrams of {size} bytes are longer than the stream's maximum of \
        {max}"
    )]
    AboveMaximum {
        /// The given size, in bytes.
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
