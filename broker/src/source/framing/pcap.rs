//! `pcap`: the capture file of tcpdump, in micro- or nanoseconds and either byte order; also the
//! modified format of old Linux systems, whose records have a longer header.
//!
//! Contract: a packet is a datagram, with its capture time and its original length. The parser is
//! written by hand, because one that needs the whole packet in its buffer would add a copy. It is
//! tested against `pcap-parser`.
//!
//! ```text
//! file:    magic u32 · version u16 u16 · zone u32 · accuracy u32 · snapshot length u32 ·
//!          link type u32
//! record:  seconds u32 · fraction u32 · captured length u32 · original length u32 · payload
//! modified record:  the same, and before the payload: interface u32 · protocol u16 · type u8 ·
//!          padding u8
//! ```

use super::step::{Fault, Machine, Order, Payload, Step, check_length, nothing_left, truncated};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const MODIFIED_HEADER: usize = 24;

/// What the file header says about the records.
#[derive(Clone, Copy)]
struct Format {
    order: Order,
    /// The unit of the fraction, in ns.
    fraction_ns: u64,
    record_header: usize,
    link_type: u16,
}

impl Format {
    /// Reads a file header of [`FILE_HEADER`] bytes.
    fn read(offset: u64, header: &[u8]) -> Result<Self, Fault> {
        let magic = Order::Little.u32(header, 0);
        let (order, fraction_ns, record_header) = match magic {
            0xa1b2_c3d4 => (Order::Little, 1000, RECORD_HEADER),
            0xd4c3_b2a1 => (Order::Big, 1000, RECORD_HEADER),
            0xa1b2_3c4d => (Order::Little, 1, RECORD_HEADER),
            0x4d3c_b2a1 => (Order::Big, 1, RECORD_HEADER),
            0xa1b2_cd34 => (Order::Little, 1000, MODIFIED_HEADER),
            0x34cd_b2a1 => (Order::Big, 1000, MODIFIED_HEADER),
            found => {
                let what = match found {
                    0x0a0d_0d0a => "not a pcap file but a pcapng file (framing pcapng)",
                    _ if found & 0xffff == 0x8b1f => "not a pcap file but a compressed one (gzip)",
                    0xfd2f_b528 => "not a pcap file but a compressed one (zstd)",
                    _ => "not a pcap file: unknown magic",
                };
                return Err(Fault::BadFormat { what, found, offset });
            }
        };
        match order.u16(header, 4) {
            // The upper half has other flags, such as the length of a checksum.
            2 => Ok(Format {
                order,
                fraction_ns,
                record_header,
                link_type: order.u32(header, 20) as u16,
            }),
            major => Err(Fault::BadFormat {
                what: "unknown major version of a pcap file",
                found: major.into(),
                offset: offset + 4,
            }),
        }
    }
}

/// The decoder.
pub(super) struct Pcap {
    max: usize,
    /// `None` until the file header has been read.
    format: Option<Format>,
}

impl Pcap {
    pub(super) fn new(max: usize) -> Self {
        Pcap { max, format: None }
    }
}

impl Machine for Pcap {
    fn next(&mut self, offset: u64, input: &[u8]) -> Step {
        let Some(Format { order, fraction_ns, record_header, link_type }) = self.format else {
            if input.len() < FILE_HEADER {
                return Step::NeedMore { at_least: FILE_HEADER };
            }
            return match Format::read(offset, input) {
                Ok(format) => {
                    self.format = Some(format);
                    Step::Skip { bytes: FILE_HEADER as u64, fault: None }
                }
                Err(fault) => Step::Broken(fault),
            };
        };
        if input.len() < record_header {
            return Step::NeedMore { at_least: record_header };
        }
        let captured = order.u32(input, 8);
        match check_length(record_header, captured.into(), self.max, offset + 8) {
            Ok(len) => Step::Payload(Payload {
                header_bytes: record_header,
                len,
                original_len: order.u32(input, 12).max(captured),
                // At most 2^32 s and 2^32 us, far below 2^64 ns.
                source_time_ns: u64::from(order.u32(input, 0)) * 1_000_000_000
                    + u64::from(order.u32(input, 4)) * fraction_ns,
                channel: 0,
                link_type: Some(link_type),
            }),
            Err(step) => step,
        }
    }

    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        match self.format {
            // An empty file is not valid: even a capture without packets has a header.
            None => Err(truncated("pcap file header", FILE_HEADER, offset, rest)),
            Some(format) => nothing_left("record header", format.record_header, offset, rest),
        }
    }

    fn buffer_len(&self) -> usize {
        FILE_HEADER
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::source::framing::tests::{Outcome, Packet, run};
    use crate::source::framing::{Fault, Framing};
    use pcap_parser::{parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};
    use proptest::prelude::*;

    /// A pcap file with this byte order and resolution.
    pub fn file(big: bool, nanoseconds: bool, packets: &[(u32, u32, Vec<u8>, u32)]) -> Vec<u8> {
        let mut file = Vec::new();
        let word = |file: &mut Vec<u8>, x: u32| {
            file.extend(if big { x.to_be_bytes() } else { x.to_le_bytes() });
        };
        word(&mut file, if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
        let version = [2_u16, 4].map(|x| if big { x.to_be_bytes() } else { x.to_le_bytes() });
        file.extend(version.concat());
        for x in [0, 0, 65535, 1] {
            word(&mut file, x);
        }
        for (seconds, fraction, payload, original) in packets {
            for x in [*seconds, *fraction, payload.len() as u32, *original] {
                word(&mut file, x);
            }
            file.extend(payload);
        }
        file
    }

    /// The packets of `file` as `pcap-parser` sees them.
    fn oracle(file: &[u8], big: bool) -> Vec<Packet> {
        let (mut rest, header) = parse_pcap_header(file).unwrap();
        let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
        let mut packets = Vec::new();
        while !rest.is_empty() {
            let parse = if big { parse_pcap_frame_be } else { parse_pcap_frame };
            let (behind, frame) = parse(rest).unwrap();
            packets.push(Packet {
                payload: frame.data.to_vec(),
                original_len: frame.origlen.max(frame.caplen),
                source_time_ns: u64::from(frame.ts_sec) * 1_000_000_000
                    + u64::from(frame.ts_usec) * unit,
                channel: 0,
            });
            rest = behind;
        }
        packets
    }

    #[test]
    fn a_cut_packet_keeps_its_original_length_and_time() {
        let file = file(true, true, &[(1_700_000_000, 123_456_789, b"abc".to_vec(), 1500)]);
        let outcome = run(Framing::Pcap, 64, &file, 7);
        let packet = Packet {
            payload: b"abc".to_vec(),
            original_len: 1500,
            source_time_ns: 1_700_000_000_123_456_789,
            channel: 0,
        };
        assert_eq!(outcome, Outcome { packets: vec![packet], faults: vec![] });
    }

    #[test]
    fn a_too_long_packet_is_skipped_and_a_mad_one_ends_the_file() {
        let mut file = file(false, false, &[(0, 0, vec![0; 65], 65), (0, 0, vec![1], 1)]);
        let end = file.len() as u64;
        file.extend([0xFF; 16]);
        let outcome = run(Framing::Pcap, 64, &file, 64);
        assert_eq!(outcome.datagrams(), [[1]]);
        let fault = |len, offset| Fault::TooLong { len, max: 64, offset };
        assert_eq!(outcome.faults, [fault(65, 24 + 8), fault(u32::MAX.into(), end + 8)]);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let refused = |head: &[u8]| {
            let mut file = file(false, false, &[]);
            file[..head.len()].copy_from_slice(head);
            run(Framing::Pcap, 64, &file, 64).faults[0].to_string()
        };
        assert_eq!(
            refused(b"\x0a\x0d\x0d\x0a"),
            "not a pcap file but a pcapng file (framing pcapng) at offset 0: found 0xa0d0d0a"
        );
        assert!(refused(b"\x1f\x8b\x08\0").contains("a compressed one (gzip)"));
        assert!(refused(b"\x28\xb5\x2f\xfd").contains("a compressed one (zstd)"));
        assert!(refused(b"GIF8").starts_with("not a pcap file: unknown magic at offset 0"));
        assert!(
            refused(b"\xd4\xc3\xb2\xa1\x03\0")
                .contains("version of a pcap file at offset 4: found 0x3")
        );
    }

    /// In both byte orders. Control: with the usual magic the longer header is payload.
    #[test]
    fn a_modified_file_has_longer_record_headers() {
        for big in [false, true] {
            let payload = [&[0_u8; 8][..], b"abc"].concat();
            let mut file = file(big, false, &[(5, 6, payload.clone(), 11)]);
            assert_eq!(run(Framing::Pcap, 64, &file, 64).datagrams(), [payload]);
            let magic = 0xa1b2_cd34_u32;
            file[..4].copy_from_slice(&if big { magic.to_be_bytes() } else { magic.to_le_bytes() });
            for at in [32, 36] {
                let three = if big { 3_u32.to_be_bytes() } else { 3_u32.to_le_bytes() };
                file[at..at + 4].copy_from_slice(&three);
            }
            let outcome = run(Framing::Pcap, 64, &file, 7);
            assert_eq!((outcome.datagrams(), outcome.faults.len()), (vec![&b"abc"[..]], 0));
        }
    }

    #[test]
    fn every_cut_of_a_file_is_noticed() {
        let whole = file(false, false, &[(1, 2, b"abcd".to_vec(), 4), (3, 4, b"ef".to_vec(), 2)]);
        for end in 0..=whole.len() {
            let outcome = run(Framing::Pcap, 64, &whole[..end], 64);
            let clean = [24, 44, 62].contains(&end);
            assert_eq!(outcome.faults.is_empty(), clean, "{end}: {:?}", outcome.faults);
            assert_eq!(outcome.packets.len(), (end >= 44) as usize + (end >= 62) as usize);
        }
    }

    proptest! {
        #[test]
        fn files_decode_as_pcap_parser_decodes_them(
            big: bool,
            nanoseconds: bool,
            packets in prop::collection::vec(
                (
                    any::<u32>(),
                    any::<u32>(),
                    prop::collection::vec(any::<u8>(), 0..50),
                    any::<u32>(),
                ),
                0..8,
            ),
            chunk in 1usize..100,
        ) {
            let file = file(big, nanoseconds, &packets);
            let outcome = run(Framing::Pcap, 64, &file, chunk);
            prop_assert_eq!(outcome, Outcome { packets: oracle(&file, big), faults: vec![] });
        }
    }
}
