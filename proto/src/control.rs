//! The control protocol: the messages that a client and the broker exchange over the unix socket.
//!
//! Contract: one SEQPACKET packet is one message: `"RW"`, protocol version (u16 LE), then a bincode
//! body (little-endian, fixed-width integers). A message has at most [`MESSAGE_MAX`] bytes and
//! nothing after the body. The client sends a request and the broker replies once; file descriptors
//! travel with the reply. The socket of an attached reader stays open: closing it detaches the
//! reader. This module only encodes and decodes; it makes no system call. The golden vectors in the
//! tests are the format.

use crate::printable::printable;
use crate::ring::Start;
use bincode::{Decode, Encode};

/// Version of this protocol.
pub const PROTOCOL_VERSION: u16 = 2;
/// Longest message in bytes, header included.
pub const MESSAGE_MAX: usize = 4096;
/// Longest reader label in bytes.
pub const LABEL_MAX: usize = 32;

const PREFIX: [u8; 2] = *b"RW";
const HEADER: usize = 4;

/// What a client requests.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Become a reader.
    Attach(AttachRequest),
    /// Get the statistics area.
    View,
    /// Get a description of the stream's configuration.
    Describe,
    /// Get the latencies of one reader, named by its index ([`crate::stats::ReaderFact::Index`]).
    Latency {
        /// The reader index.
        index: u32,
    },
    /// Detach a reader by force. Only root and the broker's own user may.
    Detach(DetachRequest),
    /// Get the drain gaps of a device: how long its FIFO filled before each drain. The reply is
    /// [`Reply::Latency`].
    DrainGaps,
    /// Read the stream file again and apply it. Only root and the broker's own user may.
    Reload,
}

/// The reader to detach. Its index alone is not enough: another reader may have it by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DetachRequest {
    /// Index of the reader.
    pub index: u32,
    /// When it attached, ns since 1970, as in the statistics.
    pub attached_realtime: u64,
}

/// How a reader wants to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttachRequest {
    /// Name shown to people; at most [`LABEL_MAX`] bytes of printable text.
    pub label: String,
    /// How it reads.
    pub mode: Mode,
    /// Whether it may ever sleep. While no reader may, the pump needs no fence.
    pub parks: bool,
}

/// How a reader relates to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Mode {
    /// The stream never waits for it.
    Lossy,
    /// The stream waits for it as long as its budget lasts. It begins at the seq that the broker
    /// grants in its page.
    Lossless {
        /// Where it wants to begin. A requested seq is granted only as far back as the budget
        /// reaches.
        start: Start,
    },
}

/// What the broker replies.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// The client is a reader now. The fds, in this order: the ring (read-only), the reader's page,
    /// an epoll fd that watches its wake event, its sleep request eventfd.
    Attached(Attached),
    /// The fd: the statistics area.
    Viewing,
    /// The stream's description.
    Described(Description),
    /// The request was refused.
    Refused(Refusal),
    /// What that reader, or the pump of a device, has sampled. `None`: there is no such reader or
    /// device.
    Latency(Option<LatencyReport>),
    /// The reader was detached. Its page says who requested it.
    Detached,
    /// The stream file was read again.
    Reloaded(Reloaded),
}

/// What reading the stream file again has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Reloaded {
    /// One entry per stream; those that are not in effect come first. A stream that is not listed,
    /// nor left out, runs on as before.
    pub changes: Vec<StreamChange>,
    /// Number of changes that did not fit into the message.
    pub left_out: u32,
}

/// What happened to one stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StreamChange {
    /// Its name.
    pub stream: String,
    /// What happened to it.
    pub outcome: Outcome,
    /// Why, for people; may be empty.
    pub text: String,
}

/// What reading the stream file again did to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// The file does not list it any more.
    Ended,
    /// The file lists it for the first time.
    Begun,
    /// The file changes its configuration, which takes a restart of the broker.
    Stays,
    /// It is new and could not be started.
    Failed,
}

impl Outcome {
    /// Whether the stream is now as the file has it.
    pub const fn is_in_effect(self) -> bool {
        matches!(self, Self::Ended | Self::Begun)
    }
}

impl Reloaded {
    /// Holds as many of `changes` as fit into a message; those that are not in effect come first.
    pub fn of(mut changes: Vec<StreamChange>) -> Self {
        changes.sort_by_key(|change| change.outcome.is_in_effect());
        let mut fit = Self::default();
        for change in changes {
            if fit.left_out == 0 {
                fit.changes.push(change);
                // Decoding decides what fits: the decoder charges more for a list than its encoded
                // bytes.
                if Reply::decode(&Reply::Reloaded(fit.clone()).encode()).is_ok() {
                    continue;
                }
                fit.changes.pop();
            }
            fit.left_out += 1;
        }
        fit
    }
}

/// One reader's latencies ([`crate::latency`]) as it reports them: the buckets that are not empty.
/// Two lists, since a list of pairs would exceed the decoder's limit for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct LatencyReport {
    /// When the reader attached, ns since 1970. With the index, it identifies the reader.
    pub attached: u64,
    /// Sum of all samples, ns.
    pub sum_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
    /// The bucket numbers.
    pub places: Vec<u16>,
    /// Number of samples in each.
    pub counts: Vec<u64>,
}

/// What a new reader needs to know to map its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attached {
    /// Its reader index.
    pub index: u32,
    /// Offset of its block in its page.
    pub block_offset: u32,
    /// The ring's generation.
    pub generation: u64,
}

/// The description of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Its source as configured.
    pub source: String,
    /// The broker's start message.
    pub summary: String,
    /// Version of the broker's program.
    pub broker_version: String,
    /// Key/value metadata.
    pub metadata: Vec<(String, String)>,
}

/// Why the broker refused, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people: what was wrong, with which value, what to do.
    pub text: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reason {
    /// The peer's user and groups are not on the stream's list.
    NotAllowed,
    /// All reader indexes are taken.
    Full,
    /// The message could not be decoded.
    Malformed,
    /// The peer speaks another version of the protocol.
    Version,
    /// The broker ran out of a resource.
    Resources,
    /// The named reader is not attached, or no longer.
    NoSuchReader,
    /// The broker was started without a stream file, or the file is invalid. Nothing was changed.
    File,
}

/// Why a message cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than a header, or without the "RW" prefix.
    #[error("not a ringweir control message ({0} bytes)")]
    NotOurs(usize),
    /// Another version.
    #[error(
        "control protocol version {found}, this program speaks {PROTOCOL_VERSION}: use programs of \
        one release"
    )]
    Version {
        /// What the peer speaks.
        found: u16,
    },
    /// Longer than [`MESSAGE_MAX`].
    #[error("control message of {0} bytes is over {MESSAGE_MAX}")]
    TooLong(usize),
    /// The body does not decode.
    #[error("malformed control message: {0}")]
    Body(String),
    /// Bytes after the body.
    #[error("{0} bytes behind the control message")]
    Trailing(usize),
}

// Without the limit, nine hostile bytes could make the decoder allocate exabytes.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::Limit<MESSAGE_MAX>,
> = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<MESSAGE_MAX>();

fn encode(body: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend(PREFIX);
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bincode::encode_into_std_write(body, &mut bytes, CONFIG)
        .expect("writing to a Vec, of types that always encode");
    bytes
}

fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER).filter(|(h, _)| h[..2] == PREFIX)
    else {
        return Err(DecodeError::NotOurs(bytes.len()));
    };
    let found = u16::from_le_bytes([header[2], header[3]]);
    if found != PROTOCOL_VERSION {
        return Err(DecodeError::Version { found });
    }
    let (message, used) =
        bincode::decode_from_slice(body, CONFIG).map_err(|e| DecodeError::Body(e.to_string()))?;
    if used != body.len() {
        return Err(DecodeError::Trailing(body.len() - used));
    }
    Ok(message)
}

impl Request {
    /// Encodes it as one packet.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// Decodes one packet of an untrusted peer.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        decode(packet)
    }
}

impl Reply {
    /// Encodes it as one packet.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// Decodes one packet.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        decode(packet)
    }
    /// A refusal.
    pub fn refuse(reason: Reason, text: impl Into<String>) -> Self {
        Reply::Refused(Refusal { reason, text: text.into() })
    }
}

impl AttachRequest {
    /// The label in a form that is safe to show: printable, at most [`LABEL_MAX`] bytes, never
    /// empty.
    pub fn clean_label(&self) -> String {
        let mut clean = printable(&self.label);
        clean.truncate(clean.floor_char_boundary(LABEL_MAX.min(clean.len())));
        if clean.is_empty() { "reader".into() } else { clean }
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The format itself, byte by byte. A change here takes a new [`PROTOCOL_VERSION`].
    #[test]
    fn golden_vectors() {
        let attach =
            Request::Attach(AttachRequest { label: "ids".into(), mode: Mode::Lossy, parks: true });
        for (request, golden) in [
            (
                attach,
                "52570200000000000300000000000000696473" /* label */
                    .to_string()
                    + "0000000001",
            ),
            (Request::View, "5257020001000000".into()),
            (Request::Describe, "5257020002000000".into()),
            (Request::Latency { index: 7 }, "525702000300000007000000".into()),
            (Request::DrainGaps, "5257020005000000".into()),
            (Request::Reload, "5257020006000000".into()),
            (
                Request::Detach(DetachRequest { index: 7, attached_realtime: 3 }),
                "5257020004000000070000000300000000000000".into(),
            ),
        ] {
            assert_eq!(hex(&request.encode()), golden);
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let attached = Attached { index: 7, block_offset: 1792, generation: 3 };
        for (reply, golden) in [
            (Reply::Attached(attached), "525702000000000007000000000700000300000000000000"),
            (Reply::Viewing, "5257020001000000"),
            (Reply::refuse(Reason::Full, "no"), "52570200030000000100000002000000000000006e6f"),
            (Reply::refuse(Reason::NoSuchReader, ""), "5257020003000000050000000000000000000000"),
            (Reply::Detached, "5257020005000000"),
        ] {
            assert_eq!(hex(&reply.encode()), golden);
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
        let report =
            LatencyReport { attached: 1, sum_ns: 2, max_ns: 3, places: vec![4], counts: vec![5] };
        let golden = "5257020004000000".to_string()
            + "01010000000000000002000000000000000300000000000000"
            + "010000000000000004000100000000000000"
            + "0500000000000000";
        assert_eq!(hex(&Reply::Latency(Some(report)).encode()), golden);
        let begun =
            StreamChange { stream: "a".into(), outcome: Outcome::Begun, text: String::new() };
        let golden = "525702000600000001000000000000000100000000000000610100000000000000000000000"
            .to_string()
            + "0000000";
        assert_eq!(hex(&Reply::Reloaded(Reloaded::of(vec![begun])).encode()), golden);
        let described = Reply::Described(Description {
            name: "demo".into(),
            source: "gen:".into(),
            summary: "s".into(),
            broker_version: "0.1.0".into(),
            metadata: vec![("channels".into(), "8".into())],
        });
        assert_eq!(Reply::decode(&described.encode()), Ok(described));
    }

    /// A reader that fills all its buckets must not make the broker's reply too long.
    #[test]
    fn the_longest_latency_report_is_a_message() {
        let buckets = crate::layout::LATENCY_BUCKETS as u16;
        let report = |most: u16| {
            let (places, counts) = ((0..most).collect(), vec![u64::MAX; most.into()]);
            Reply::Latency(Some(LatencyReport {
                attached: 1,
                sum_ns: u64::MAX,
                max_ns: u64::MAX,
                places,
                counts,
            }))
        };
        assert_eq!(Reply::decode(&report(buckets).encode()), Ok(report(buckets)));
        assert!(
            Reply::decode(&report(buckets + 64).encode()).is_err(),
            "the control: a longer one is none"
        );
    }

    /// A file with very many streams must not make the broker's reply too long.
    #[test]
    fn changed_fields_fit_into_a_message() {
        let change = |i: usize| StreamChange {
            stream: format!("{i:064}"),
            outcome: Outcome::Failed,
            text: "x".repeat(100),
        };
        let some = Reloaded::of((0..5).map(change).collect());
        assert_eq!((some.changes.len(), some.left_out), (5, 0));
        let many = Reloaded::of((0..1000).map(change).collect());
        assert!(
            many.changes.len() > 10 && many.changes.len() + many.left_out as usize == 1000,
            "{}",
            many.left_out
        );
        assert!(Reply::decode(&Reply::Reloaded(many).encode()).is_ok());
        // One that failed is not left out, though it came last.
        let begun = |i: usize| StreamChange { outcome: Outcome::Begun, ..change(i) };
        let mixed = Reloaded::of((0..300).map(begun).chain([change(300)]).collect());
        let outcomes: Vec<_> = mixed.changes.iter().map(|c| c.outcome).collect();
        assert_eq!(outcomes[..2], [Outcome::Failed, Outcome::Begun]);
        assert!(mixed.left_out > 0);
        let all = Reloaded { changes: (0..1000).map(change).collect(), left_out: 0 };
        assert!(Reply::decode(&Reply::Reloaded(all).encode()).is_err(), "the control");
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = Request::View.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Request::decode(&bytes)
        };
        assert_eq!(Request::decode(b""), Err(DecodeError::NotOurs(0)));
        assert_eq!(Request::decode(b"GET / HTTP/1.1\r\n"), Err(DecodeError::NotOurs(16)));
        assert_eq!(with(2, 9), Err(DecodeError::Version { found: 9 }));
        assert!(matches!(with(4, 99), Err(DecodeError::Body(_))), "no such request");
        assert!(matches!(Request::decode(&good[..6]), Err(DecodeError::Body(_))), "cut");
        assert_eq!(Request::decode(&[&good[..], b"x"].concat()), Err(DecodeError::Trailing(1)));
        assert_eq!(
            Request::decode(&vec![0; MESSAGE_MAX + 1]),
            Err(DecodeError::TooLong(MESSAGE_MAX + 1))
        );
        // A label that claims to be 2^63 bytes long: without the limit this would abort the
        // process.
        let hostile = [
            &Request::Attach(AttachRequest {
                label: String::new(),
                mode: Mode::Lossy,
                parks: true,
            })
            .encode()[..8],
            &[0xff; 8],
        ]
        .concat();
        assert!(matches!(Request::decode(&hostile), Err(DecodeError::Body(_))));
    }

    #[test]
    fn labels_are_made_fit_to_be_shown() {
        let clean = |label: &str| {
            AttachRequest { label: label.into(), mode: Mode::Lossy, parks: true }.clean_label()
        };
        assert_eq!(clean("ids"), "ids");
        assert_eq!(clean(""), "reader");
        assert_eq!(clean("a\x1b[2Jb\n"), "a?[2Jb?");
        assert_eq!(clean("a\u{202e}b"), "a?b");
        assert_eq!(clean(&"ü".repeat(40)), "ü".repeat(16));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ours in any::<bool>(),
        ) {
            let start = [b'R', b'W', PROTOCOL_VERSION as u8, 0];
            let bytes = if ours { [&start, &bytes[..]].concat() } else { bytes };
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            let _any = Reply::decode(&bytes);
        }
    }
}
