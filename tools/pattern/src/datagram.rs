//! What both kinds of test datagram share: lengths, the content of a header, and faults.

/// Length of the header, and so of the shortest datagram, in bytes.
pub const MIN_LEN: usize = 24;

/// Length of the longest datagram in bytes: the most that the length field can hold.
pub const MAX_LEN: usize = u32::MAX as usize;

/// The content of an accepted datagram's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the datagram, over all channels.
    pub number: u64,
    /// Length of the whole datagram in bytes.
    pub len: u32,
    /// Channel for which it was generated.
    pub channel: u16,
}

/// Why a datagram was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Shorter than the header.
    #[error("{len} bytes are too short for a test datagram, which has at least {MIN_LEN}")]
    TooShort {
        /// Length received, in bytes.
        len: usize,
    },
    /// It does not begin with the magic, so it is other data.
    #[error("not a test datagram: it begins with {found:02x?}, not \"RWg1\" or \"SM\"")]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The received length differs from the sent one: the datagram was cut, or boundaries were
    /// lost.
    #[error("datagram {number} was sent with {sent} bytes and received with {received}")]
    WrongLength {
        /// Number in the header; not proved.
        number: u64,
        /// Length in the header, in bytes.
        sent: u32,
        /// Length received, in bytes.
        received: usize,
    },
    /// A byte after the checksum is wrong.
    #[error("datagram {number}: checksum is {stored:08x} in the header and {computed:08x} over the \
        data{}", At(.offset))]
    BadChecksum {
        /// Number in the header; not proved.
        number: u64,
        /// Checksum in the header.
        stored: u32,
        /// Checksum over the bytes received.
        computed: u32,
        /// Offset of the first body byte that does not belong to `number`; `None` if only the
        /// header is damaged.
        offset: Option<usize>,
    },
    /// The sum of a [sum-checked](crate::sum) datagram differs from the one in its header.
    #[error(
        "datagram {number}: sum is {stored:016x} in the header and {computed:016x} over the data"
    )]
    BadSum {
        /// Number in the header; not proved.
        number: u64,
        /// Sum in the header.
        stored: u64,
        /// Sum over the bytes received.
        computed: u64,
    },
    /// The checksum is right, but the content is not what [`crc::fill`](crate::crc::fill) writes:
    /// another program made it.
    #[error(
        "datagram {number}: the checksum is right, but byte {offset} is not what the generator \
        writes"
    )]
    BadPattern {
        /// Number in the header.
        number: u64,
        /// Offset of the first such byte.
        offset: usize,
    },
}

/// Prints where the damage begins, if that is known.
struct At<'a>(&'a Option<usize>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, ", first wrong byte {offset}"),
            None => Ok(()),
        }
    }
}
