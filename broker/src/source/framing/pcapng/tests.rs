//! pcapng files built block by block, and `pcap-parser` as the oracle.

use super::Units;
use crate::source::framing::tests::{Outcome, Packet, run};
use crate::source::framing::{Fault, Framing};
use pcap_parser::{Block, parse_block_be, parse_block_le};
use proptest::prelude::*;

/// Writes blocks in one byte order.
struct Writer {
    big: bool,
    file: Vec<u8>,
}

impl Writer {
    fn u16(&self, x: u16) -> Vec<u8> {
        if self.big { x.to_be_bytes().into() } else { x.to_le_bytes().into() }
    }

    fn u32(&self, x: u32) -> Vec<u8> {
        if self.big { x.to_be_bytes().into() } else { x.to_le_bytes().into() }
    }

    fn words(&self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|&x| self.u32(x)).collect()
    }

    fn block(&mut self, kind: u32, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
        let total = body.len() as u32 + 12;
        let block = [self.words(&[kind, total]), body, self.u32(total)].concat();
        self.file.extend(block);
    }

    fn section(&mut self) {
        let body = [self.u32(0x1a2b_3c4d), self.u16(1), self.u16(0), vec![0xFF; 8]].concat();
        self.block(super::SECTION, body);
    }

    fn interface(&mut self, snap_len: u32, options: &[(u16, &[u8])]) {
        let mut body = [self.u16(1), self.u16(0), self.u32(snap_len)].concat();
        for (code, value) in options {
            body.extend([self.u16(*code), self.u16(value.len() as u16)].concat());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(super::INTERFACE, body);
    }

    fn enhanced(&mut self, interface: u32, time: u64, payload: &[u8], original: u32) {
        let captured = payload.len() as u32;
        let mut body =
            self.words(&[interface, (time >> 32) as u32, time as u32, captured, original]);
        body.extend(payload);
        self.block(super::ENHANCED_PACKET, body);
    }

    fn simple(&mut self, payload: &[u8], original: u32) {
        let body = [self.u32(original), payload.to_vec()].concat();
        self.block(super::SIMPLE_PACKET, body);
    }
}

fn writer(big: bool) -> Writer {
    let mut writer = Writer { big, file: Vec::new() };
    writer.section();
    writer
}

/// The interface of each packet says which; one that has no packets does not count.
#[test]
fn packets_have_the_link_type_of_their_interface() {
    use crate::source::framing::{Decoder, Step};
    let mut writer = writer(false);
    for link_type in [101, 1, 113] {
        writer.interface(0, &[]);
        let at = writer.file.len() - 12;
        writer.file[at] = link_type;
    }
    for interface in [1, 0, 1] {
        writer.enhanced(interface, 0, b"abcd", 4);
    }
    let mut decoder = Decoder::new(Framing::Pcapng, 64).unwrap();
    let mut found = Vec::new();
    loop {
        match decoder.next(&writer.file[decoder.offset() as usize..]) {
            Step::Payload(payload) => found.push(payload.link_type),
            Step::Skip { .. } => {}
            Step::NeedMore { .. } => break,
            Step::Broken(fault) => panic!("{fault}"),
        }
    }
    assert_eq!(found, [Some(1), Some(101), Some(1)]);
}

/// A section header and some interfaces with options, to which other bytes are appended.
pub fn section(big: bool, interfaces: usize) -> Vec<u8> {
    let mut writer = writer(big);
    for _ in 0..interfaces {
        writer.interface(40, &[(2, b"eth0"), (9, &[9]), (14, &[0; 8])]);
    }
    writer.file
}

fn packet(payload: &[u8], original_len: u32, source_time_ns: u64, channel: u16) -> Packet {
    Packet { payload: payload.to_vec(), original_len, source_time_ns, channel }
}

#[test]
fn packets_keep_interface_time_and_original_length() {
    for big in [false, true] {
        let mut writer = writer(big);
        let offset = if big { 100_i64.to_be_bytes() } else { 100_i64.to_le_bytes() };
        writer.interface(65535, &[]);
        writer.interface(4, &[(1, b"a comment of some length"), (9, &[9]), (14, &offset)]);
        writer.enhanced(0, 1_700_000_000_123_456, b"abcde", 5);
        writer.block(0x0bad, vec![7; 50]);
        writer.enhanced(1, 5_000_000_001, b"", 60);
        writer.simple(b"simple", 6);
        // The obsolete packet block: interface and drop count share a word.
        let body = [writer.u16(1), writer.u16(9), writer.words(&[0, 7, 2, 9]), b"pk".to_vec()];
        writer.block(super::PACKET, body.concat());
        for piece in [1, 5, 1000] {
            let outcome = run(Framing::Pcapng, 64, &writer.file, piece);
            let packets = vec![
                packet(b"abcde", 5, 1_700_000_000_123_456_000, 0),
                packet(b"", 60, 105_000_000_001, 1),
                packet(b"simple", 6, 0, 0),
                packet(b"pk", 9, 100_000_000_007, 1),
            ];
            assert_eq!(outcome, Outcome { packets, faults: vec![] });
        }
    }
}

#[test]
fn a_new_section_has_its_own_order_and_interfaces() {
    let mut file = section(false, 2);
    let mut second = writer(true);
    second.interface(3, &[]);
    second.simple(b"abc", 10);
    second.enhanced(1, 0, b"x", 1);
    second.enhanced(0, 2, b"y", 1);
    let (what, offset) = ("packet of an interface not described", file.len() + 28 + 20 + 20);
    file.extend(second.file);
    let outcome = run(Framing::Pcapng, 64, &file, 11);
    assert_eq!(outcome.packets, [packet(b"abc", 10, 0, 0), packet(b"y", 1, 2000, 0)]);
    assert_eq!(outcome.faults, [Fault::BadRecord { what, found: 1, offset: offset as u64 }]);
}

#[test]
fn units_of_time_are_scaled_and_never_wrap() {
    let ns = |option, count| Units::from_option(option).to_ns(count);
    assert_eq!(ns(0, 3), 3_000_000_000);
    assert_eq!(ns(6, 5), 5_000);
    assert_eq!(ns(9, 5), 5);
    assert_eq!(ns(12, 5_999), 5);
    assert_eq!(ns(127, u64::MAX), 1);
    assert_eq!(ns(0x80, 2), 2_000_000_000);
    assert_eq!(ns(0x80 | 10, 1536), 1_500_000_000);
    assert_eq!(ns(0xff, u64::MAX), 0);
    assert_eq!(ns(0, u64::MAX), u64::MAX);
    assert_eq!(ns(0x80, u64::MAX), u64::MAX);
}

#[test]
fn too_long_packets_are_skipped_and_counted() {
    let mut writer = writer(false);
    writer.interface(0, &[]);
    let start = writer.file.len() as u64;
    writer.enhanced(0, 0, &[1; 65], 65);
    writer.simple(&[2; 70], 70);
    writer.enhanced(0, 0, b"ok", 2);
    for piece in [1, 1000] {
        let outcome = run(Framing::Pcapng, 64, &writer.file, piece);
        assert_eq!(outcome.datagrams(), [b"ok"]);
        let fault = |len, offset| Fault::TooLong { len, max: 64, offset };
        assert_eq!(outcome.faults, [fault(65, start + 20), fault(70, start + 100 + 8)]);
    }
}

#[test]
fn a_packet_longer_than_its_block_is_skipped_with_the_block() {
    let mut writer = writer(false);
    writer.interface(0, &[]);
    let at = writer.file.len();
    writer.enhanced(0, 0, b"abcd", 4);
    writer.file[at + 20] = 5;
    writer.enhanced(0, 0, b"ok", 2);
    let outcome = run(Framing::Pcapng, 64, &writer.file, 64);
    assert_eq!(outcome.datagrams(), [b"ok"]);
    let what = "packet longer than its block";
    assert_eq!(outcome.faults, [Fault::BadRecord { what, found: 5, offset: at as u64 }]);
}

#[test]
fn broken_structure_ends_the_file_with_a_reason() {
    let whole = |change: fn(&mut Vec<u8>)| {
        let mut file = section(false, 1);
        change(&mut file);
        let outcome = run(Framing::Pcapng, 64, &file, 64);
        assert_eq!(outcome.faults.len(), 1, "{outcome:?}");
        outcome.faults[0].to_string()
    };
    let pcap = whole(|f| f[..4].copy_from_slice(&[0xd4, 0xc3, 0xb2, 0xa1]));
    assert_eq!(pcap, "not a pcapng file: no section header at offset 0: found 0xa1b2c3d4");
    assert!(whole(|f| f[8] = 0).starts_with("unknown byte order of a pcapng section at offset 8"));
    assert!(whole(|f| f[12] = 2).starts_with("unknown version of a pcapng section at offset 12"));
    assert!(whole(|f| f[24] = 32).contains("not end with its own length at offset 24"));
    assert!(whole(|f| f[32] += 1).starts_with("impossible length of a pcapng block at offset 32"));
    assert!(whole(|f| f[32] = 8).starts_with("impossible length"));
    assert!(whole(|f| f[35] = 0xFF).starts_with("length field says 4278190"));
    assert!(
        whole(|f| f[46] = 200).starts_with("interface option longer than its block at offset 46")
    );
}

#[test]
fn every_cut_of_a_file_is_noticed() {
    let mut writer = writer(true);
    let mut ends = vec![writer.file.len()];
    writer.interface(0, &[(9, &[6])]);
    ends.push(writer.file.len());
    writer.enhanced(0, 0, b"abcde", 5);
    ends.push(writer.file.len());
    for end in 0..=writer.file.len() {
        let outcome = run(Framing::Pcapng, 64, &writer.file[..end], 7);
        assert_eq!(outcome.faults.is_empty(), ends.contains(&end), "{end}: {:?}", outcome.faults);
    }
}

/// The packets of `file` as `pcap-parser` decodes them, if every interface counts in
/// 10^-`resolution` s. Its conversion of time is not used: version 0.17 keeps only 32 bits of the
/// fraction and rejects binary resolutions.
fn oracle(mut file: &[u8], big: bool, resolution: u32, snap_len: u32) -> Vec<Packet> {
    let mut packets = Vec::new();
    while !file.is_empty() {
        let parse = if big { parse_block_be } else { parse_block_le };
        let (rest, block) = parse(file).unwrap();
        match block {
            Block::EnhancedPacket(p) => {
                let count = u128::from(p.ts_high) << 32 | u128::from(p.ts_low);
                let ns = count * 1_000_000_000 / 10_u128.pow(resolution);
                let payload = &p.data[..p.caplen as usize];
                let ns = u64::try_from(ns).unwrap_or(u64::MAX);
                packets.push(packet(payload, p.origlen.max(p.caplen), ns, p.if_id as u16));
            }
            Block::SimplePacket(p) => {
                let captured = p.origlen.min(snap_len) as usize;
                packets.push(packet(&p.data[..captured], p.origlen, 0, 0));
            }
            _ => {}
        }
        file = rest;
    }
    packets
}

#[derive(Debug, Clone)]
enum Item {
    Enhanced(u32, u64, Vec<u8>, u32),
    Simple(Vec<u8>, u32),
    Other(u32, Vec<u8>),
}

fn items() -> impl Strategy<Value = Item> {
    let payload = || prop::collection::vec(any::<u8>(), 0..50);
    prop_oneof![
        (0u32..3, any::<u64>(), payload(), any::<u32>())
            .prop_map(|(i, t, p, o)| Item::Enhanced(i, t, p, o)),
        (payload(), any::<u32>()).prop_map(|(p, o)| Item::Simple(p, o)),
        (0x100u32..0x200, payload()).prop_map(|(kind, body)| Item::Other(kind, body)),
    ]
}

proptest! {
    #[test]
    fn files_decode_as_pcap_parser_decodes_them(
        big: bool,
        resolution in 0u8..15,
        items in prop::collection::vec(items(), 0..10),
        piece in 1usize..100,
    ) {
        const SNAP_LEN: u32 = 32;
        let mut writer = writer(big);
        for _ in 0..3 {
            writer.interface(SNAP_LEN, &[(2, b"an interface"), (9, &[resolution])]);
        }
        for item in items {
            match item {
                Item::Enhanced(interface, time, payload, original) => {
                    writer.enhanced(interface, time, &payload, original);
                }
                // A simple packet has as many bytes as its original length, up to the limit.
                Item::Simple(mut payload, original) => {
                    let original = original % 60;
                    payload.resize(original.min(SNAP_LEN) as usize, 3);
                    writer.simple(&payload, original);
                }
                Item::Other(kind, body) => writer.block(kind, body),
            }
        }
        let outcome = run(Framing::Pcapng, 64, &writer.file, piece);
        let packets = oracle(&writer.file, big, resolution.into(), SNAP_LEN);
        prop_assert_eq!(outcome, Outcome { packets, faults: vec![] });
    }
}
