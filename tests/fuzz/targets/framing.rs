//! File framings. For any bytes the datagrams must be in bounds and finite in number, and must be
//! the same however the input is split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_broker::source::framing::{Decoder, Framing, Step};

const MAX: usize = 300;
const FRAMINGS: [Framing; 7] = [
    Framing::Len32Le,
    Framing::Len16Be,
    Framing::Fixed(7),
    Framing::Fixed(1),
    Framing::Lines,
    Framing::Pcap,
    Framing::Pcapng,
];

/// One result of the decoder, with the bytes of the payload.
#[derive(Debug, PartialEq)]
enum Said {
    Datagram(Vec<u8>, u32, u64, u16),
    Fault(String),
}

/// Decodes the input, making at most `most` new bytes available at a time, or more if the decoder
/// asks for more.
fn decode(framing: Framing, input: &[u8], most: usize) -> Vec<Said> {
    let mut decoder = Decoder::new(framing, MAX).expect("fits the maximum");
    let (mut at, mut seen, mut said, mut steps) = (0, most.min(input.len()), Vec::new(), 0);
    loop {
        steps += 1;
        assert!(steps <= 4 * input.len() + 16, "no progress");
        assert_eq!(decoder.offset(), at as u64);
        match decoder.next(&input[at..seen]) {
            Step::NeedMore { at_least } => {
                assert!(at_least > seen - at && at_least <= decoder.buffer_len());
                if seen == input.len() {
                    let rest = &input[at..];
                    match decoder.finish(rest) {
                        Ok(None) => {}
                        Ok(Some(p)) => said.push(datagram(&rest[p.header_bytes..], &p)),
                        Err(fault) => said.push(Said::Fault(fault.to_string())),
                    }
                    return said;
                }
                seen = (at + at_least.max(most)).min(input.len()).max(seen + 1);
            }
            Step::Payload(p) => {
                assert!(
                    p.len <= MAX && p.header_bytes <= seen - at && p.original_len as usize >= p.len
                );
                let begin = at + p.header_bytes;
                if begin + p.len > input.len() {
                    said.push(Said::Fault(
                        decoder.cut((begin + p.len - input.len()) as u64).to_string(),
                    ));
                    return said;
                }
                said.push(datagram(&input[begin..], &p));
                at = begin + p.len;
            }
            Step::Skip { bytes, fault } => {
                assert!(bytes > 0);
                said.extend(fault.map(|f| Said::Fault(f.to_string())));
                let end = at as u64 + bytes;
                if end > input.len() as u64 {
                    said.push(Said::Fault(decoder.cut(end - input.len() as u64).to_string()));
                    return said;
                }
                at = end as usize;
            }
            Step::Broken(fault) => {
                said.push(Said::Fault(fault.to_string()));
                assert_eq!(decoder.next(&input[at..seen]), Step::Broken(fault));
                return said;
            }
        }
        seen = seen.max(at);
    }
}

fn datagram(bytes: &[u8], p: &ringweir_broker::source::framing::Payload) -> Said {
    Said::Datagram(bytes[..p.len].to_vec(), p.original_len, p.source_time_ns, p.channel)
}

fuzz_target!(|data: &[u8]| {
    let [which, split, input @ ..] = data else { return };
    let framing = FRAMINGS[*which as usize % FRAMINGS.len()];
    let whole = decode(framing, input, input.len().max(1));
    assert_eq!(whole, decode(framing, input, 1 + *split as usize), "{framing}");
});
