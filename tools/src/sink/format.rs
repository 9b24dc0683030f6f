//! The parts of a format: the bytes that it puts around each payload.

/// What is known about a datagram, apart from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Number in the stream.
    pub seq: u64,
    /// Payload bytes.
    pub len: usize,
    /// Length before it was cut.
    pub original_len: usize,
    /// Channel.
    pub channel: u16,
    /// When the source saw it, else when it was published: ns since 1970.
    pub time: u64,
}

impl About {
    /// About `datagram`; `date_offset` turns its publish time into a date.
    pub fn of(datagram: &ringweir::Datagram<'_>, date_offset: u64) -> Self {
        Self {
            seq: datagram.seq(),
            len: datagram.len(),
            original_len: datagram.original_len(),
            channel: datagram.channel(),
            time: datagram
                .source_time()
                .unwrap_or_else(|| datagram.publish_time().wrapping_add(date_offset)),
        }
    }
}

/// One format.
pub trait Sink {
    /// Appends the beginning of the output.
    fn begin(&mut self, _out: &mut Vec<u8>, _capture: &Capture) {}
    /// Appends what comes before a payload.
    fn before(&mut self, _out: &mut Vec<u8>, _about: &About) {}
    /// Called when the payload is in `out` from `start` on, with nothing after it.
    fn after(&mut self, _out: &mut Vec<u8>, _start: usize, _about: &About) {}
}

/// What the beginning of a capture says.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// Link type of all its datagrams.
    pub link_type: u32,
    /// Longest datagram of the stream.
    pub max_datagram: u64,
}

/// A format in the list.
pub struct Format {
    /// The value of `--format`.
    pub name: &'static str,
    /// For the help.
    pub about: &'static str,
    /// Whether it must not go to a terminal.
    pub binary: bool,
    /// Whether its output has one link type.
    pub has_link_type: bool,
    /// Makes one.
    pub make: fn() -> Box<dyn Sink>,
}
