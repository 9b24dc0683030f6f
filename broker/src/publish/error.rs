//! What can go wrong.

use ringweir_proto::ring::SpanTooLong;

/// A stream cannot be started. The text says what was wrong, with which value, and what to do; the
/// options that it names are those of `ringd`.
#[derive(Debug, thiserror::Error)]
#[error("stream {name:?}: {text}")]
pub struct StartError {
    name: String,
    text: String,
}

impl StartError {
    pub(super) fn new(name: &str, error: &anyhow::Error) -> Self {
        Self { name: name.into(), text: format!("{error:#}") }
    }
}

/// Something cannot be published. It was not, and the publisher can be used on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Longer than the stream's largest datagram.
    #[error(
        "a datagram of {asked} bytes: this stream takes up to {most}; start it with a larger \
        max_datagram"
    )]
    TooLong {
        /// The length that was asked for, bytes.
        asked: usize,
        /// The largest, bytes.
        most: usize,
    },
    /// More was committed than was claimed.
    #[error("a commit of {asked} bytes of a claim of {claimed}: claim at least what you commit")]
    PastTheClaim {
        /// The length that was committed, bytes.
        asked: usize,
        /// The length of the claim, bytes.
        claimed: usize,
    },
    /// A lossless reader has not read yet what would be overwritten. Only the `try_` calls return
    /// this; the others wait, for as long as the reader's budget allows.
    #[error("a lossless reader is not ready for more: try again later, or use a call that waits")]
    WouldWait,
    /// The control thread has ended, so that no reader can attach any more. The log says why.
    #[error("this stream is not served any more; the log says why: end it and start it again")]
    NotServed,
    /// This process is a child of the one that made the publisher, which alone may use it.
    #[error(
        "this publisher belongs to the process that forked this one: publish there, or start a \
        stream of another name here"
    )]
    Forked,
}

impl From<SpanTooLong> for PublishError {
    fn from(SpanTooLong { asked, most }: SpanTooLong) -> Self {
        Self::TooLong { asked, most }
    }
}
