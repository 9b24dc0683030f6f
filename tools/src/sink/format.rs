//! What a format is: the bytes it puts around each payload.

/// What is known of a datagram beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Number in the stream.
    pub seq: u64,
    /// Bytes that follow.
    pub len: usize,
    /// Bytes before it was cut.
    pub original_len: usize,
    /// Channel.
    pub channel: u16,
    /// When the source saw it, else when it was published: ns since 1970.
    pub time: u64,
}

impl About {
    /// Of a datagram in hand; `date_offset` turns its publish time into a date.
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
    /// Appends what the output begins with.
    fn begin(&mut self, _out: &mut Vec<u8>) {}
    /// Appends what goes before a payload.
    fn before(&mut self, _out: &mut Vec<u8>, _about: &About) {}
    /// The payload is in `out` from `start` on; nothing is behind it yet.
    fn after(&mut self, _out: &mut Vec<u8>, _start: usize, _about: &About) {}
}

/// What a format may be told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Link type of a capture.
    pub link_type: u32,
    /// Longest datagram of the stream.
    pub max_datagram: u64,
}

/// A format in the list.
pub struct Format {
    /// As typed behind `--format`.
    pub name: &'static str,
    /// For the help.
    pub about: &'static str,
    /// Whether it is not for a terminal.
    pub binary: bool,
    /// Makes one.
    pub make: fn(&Settings) -> Box<dyn Sink>,
}
