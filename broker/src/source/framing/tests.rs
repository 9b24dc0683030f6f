//! Decodes as a byte-stream source does, and tests what holds for every framing: it does not matter
//! how the input is split, and nothing panics.

use super::*;
use proptest::prelude::*;

/// A datagram as the source would publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub payload: Vec<u8>,
    pub original_len: u32,
    pub source_time_ns: u64,
    pub channel: u16,
}

/// Everything that a stream gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub packets: Vec<Packet>,
    pub faults: Vec<Fault>,
}

impl Outcome {
    /// Whole datagrams without time and channel, and no fault.
    pub fn clean(datagrams: &[&[u8]]) -> Self {
        let packet = |datagram: &&[u8]| Packet {
            payload: datagram.to_vec(),
            original_len: datagram.len() as u32,
            source_time_ns: 0,
            channel: 0,
        };
        Outcome { packets: datagrams.iter().map(packet).collect(), faults: vec![] }
    }

    pub fn datagrams(&self) -> Vec<&[u8]> {
        self.packets.iter().map(|packet| &packet.payload[..]).collect()
    }

    fn push(&mut self, found: Payload, payload: Vec<u8>) {
        let Payload { original_len, source_time_ns, channel, .. } = found;
        self.packets.push(Packet { payload, original_len, source_time_ns, channel });
    }
}

/// The input: a stream that is read in pieces, and the refill buffer before it.
struct Input<'a> {
    stream: &'a [u8],
    read: usize,
    buffer: Vec<u8>,
    pieces: Box<dyn Iterator<Item = usize> + 'a>,
}

impl Input<'_> {
    /// Reads one piece into the buffer. Returns `false` at the end.
    fn refill(&mut self) -> bool {
        let piece = self.pieces.next().unwrap_or(1).clamp(1, 1 << 20);
        let piece = piece.min(self.stream.len() - self.read);
        self.buffer.extend_from_slice(&self.stream[self.read..self.read + piece]);
        self.read += piece;
        piece > 0
    }

    /// Takes up to `wanted` bytes, first from the buffer, then from the stream.
    fn take(&mut self, wanted: u64) -> Vec<u8> {
        let wanted = usize::try_from(wanted).unwrap();
        let mut taken: Vec<u8> = self.buffer.drain(..wanted.min(self.buffer.len())).collect();
        let direct = (wanted - taken.len()).min(self.stream.len() - self.read);
        taken.extend_from_slice(&self.stream[self.read..self.read + direct]);
        self.read += direct;
        taken
    }
}

/// Decodes `stream` as a source does, reading pieces of the given sizes again and again.
pub fn run_split(framing: Framing, max: usize, stream: &[u8], pieces: &[usize]) -> Outcome {
    let mut decoder = Decoder::new(framing, max).unwrap();
    let mut outcome = Outcome::default();
    let mut stalled = false;
    let pieces = Box::new(pieces.iter().copied().cycle());
    let mut input = Input { stream, read: 0, buffer: Vec::new(), pieces };
    loop {
        assert_eq!(decoder.offset(), (input.read - input.buffer.len()) as u64);
        match decoder.next(&input.buffer) {
            Step::NeedMore { at_least } => {
                assert!(at_least > input.buffer.len(), "asked for what is there");
                assert!(at_least <= decoder.buffer_len(), "asked for more than announced");
                while input.buffer.len() < at_least {
                    if !input.refill() {
                        match decoder.finish(&input.buffer) {
                            Ok(Some(last)) => {
                                assert_eq!(last.header_bytes + last.len, input.buffer.len());
                                outcome.push(last, input.buffer.split_off(last.header_bytes));
                            }
                            Ok(None) => {}
                            Err(fault) => outcome.faults.push(fault),
                        }
                        return outcome;
                    }
                }
            }
            Step::Payload(found) => {
                assert!(found.header_bytes <= input.buffer.len() && found.len <= max);
                // An empty line that follows no delivered line consumes no bytes: its newline
                // goes with the next step.
                let taken = found.header_bytes + found.len;
                assert!(taken > 0 || !stalled, "no progress");
                stalled = taken == 0;
                assert!(found.original_len as usize >= found.len);
                input.take(found.header_bytes as u64);
                let payload = input.take(found.len as u64);
                if payload.len() < found.len {
                    let missing = found.len - payload.len();
                    outcome.faults.push(decoder.cut(missing as u64));
                    return outcome;
                }
                outcome.push(found, payload);
            }
            Step::Skip { bytes, fault } => {
                assert!(bytes > 0, "no progress");
                stalled = false;
                outcome.faults.extend(fault);
                let missing = bytes - input.take(bytes).len() as u64;
                if missing > 0 {
                    outcome.faults.push(decoder.cut(missing));
                    return outcome;
                }
            }
            Step::Broken(fault) => {
                outcome.faults.push(fault);
                assert_eq!(decoder.next(b"whatever follows"), Step::Broken(fault));
                return outcome;
            }
        }
    }
}

/// Decodes `stream`, reading pieces of one size.
pub fn run(framing: Framing, max: usize, stream: &[u8], piece: usize) -> Outcome {
    run_split(framing, max, stream, &[piece])
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Len32Le),
        Just(Framing::Len16Be),
        (1usize..20).prop_map(Framing::Fixed),
        Just(Framing::Lines),
        Just(Framing::Pcap),
        Just(Framing::Pcapng),
    ]
}

/// Bytes that often pass the first check of some framing, and so reach the other checks.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let heads = prop::sample::select(vec![
        Vec::new(),
        pcap::tests::file(false, false, &[]),
        pcap::tests::file(true, true, &[]),
        pcapng::tests::section(false, 2),
        pcapng::tests::section(true, 1),
    ]);
    // Small values make small lengths; 10 is the newline.
    let byte = prop_oneof![
        4 => Just(0u8),
        3 => 0u8..16,
        1 => prop::sample::select(vec![10u8, 16, 20, 28, 32, 36, 40]),
        1 => any::<u8>(),
    ];
    (heads, prop::collection::vec(byte, 0..300)).prop_map(|(head, body)| [head, body].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn splits_do_not_matter(
        framing in framings(),
        stream in streams(),
        pieces in prop::collection::vec(1usize..40, 1..6),
        max in 20usize..200,
    ) {
        let whole = run(framing, max, &stream, stream.len());
        prop_assert_eq!(&run_split(framing, max, &stream, &pieces), &whole);
        prop_assert_eq!(&run(framing, max, &stream, 1), &whole);
    }

    #[test]
    fn a_framing_parses_what_it_prints(framing in framings()) {
        prop_assert_eq!(framing.to_string().parse(), Ok(framing));
    }
}

#[test]
fn framings_are_parsed_and_refused_with_reasons() {
    assert_eq!("fixed:188".parse(), Ok(Framing::Fixed(188)));
    assert_eq!("fixed:256KiB".parse(), Ok(Framing::Fixed(256 << 10)));
    for (text, parts) in [
        ("len32be", ["\"len32be\"", "len32le, len16be, fixed:N"]),
        ("", ["\"\"", "there are"]),
        ("fixed", ["\"fixed\"", "such as fixed:188"]),
        ("fixed:", ["\"fixed:\"", "such as fixed:188"]),
        ("fixed:0", ["\"fixed:0\"", "at least one byte"]),
        ("fixed:ten", ["\"ten\"", "does not begin with a number"]),
    ] {
        let message = text.parse::<Framing>().expect_err(text).to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
    }
}
