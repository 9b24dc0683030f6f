//! Two captures of one wire, compared packet by packet.
//!
//! Contract: captures are read by a foreign parser. The comparison is tried on files that are wrong
//! in one place.

use pcap_parser::parse_pcap;
use std::collections::HashMap;

/// One record of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub time: u64,
    pub original: u32,
    pub bytes: Vec<u8>,
}

impl Packet {
    pub fn what(&self) -> (&[u8], u32) {
        (&self.bytes, self.original)
    }

    /// Sender and receiver: link-layer source, and of IPv4 the protocol, the addresses and, unless
    /// it is a fragment, the ports.
    fn flow(&self) -> Vec<u8> {
        let bytes = |range: std::ops::Range<usize>| self.bytes.get(range).unwrap_or_default();
        let mut flow = bytes(6..14).to_vec();
        if bytes(12..14) == [8, 0] {
            flow.extend([bytes(23..24), bytes(26..34)].concat());
            let fragment =
                bytes(20..22).iter().zip([0x3F, 0xFF]).any(|(byte, mask)| byte & mask != 0);
            if !fragment && matches!(bytes(23..24), [6 | 17]) {
                flow.extend(bytes(34..38));
            }
        }
        flow
    }
}

/// A whole capture file with nanoseconds, read by a foreign parser.
pub fn capture(file: &[u8]) -> Vec<Packet> {
    let (rest, capture) = parse_pcap(file).unwrap_or_else(|e| panic!("not a capture: {e:?}"));
    assert!(rest.is_empty(), "{} bytes behind the last record", rest.len());
    assert!(capture.header.is_nanosecond_precision() && capture.header.network.0 == 1);
    let packet = |record: &pcap_parser::LegacyPcapBlock<'_>| Packet {
        time: u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec),
        original: record.origlen,
        bytes: record.data.to_vec(),
    };
    capture.blocks.iter().map(packet).collect()
}

/// How often each packet occurs, byte for byte and with its original length.
fn tally(packets: &[Packet]) -> HashMap<(&[u8], u32), i64> {
    let mut tally = HashMap::new();
    for packet in packets {
        *tally.entry(packet.what()).or_insert(0) += 1;
    }
    tally
}

/// Two captures of the same wire. Each may lack as many packets as it reports lost.
pub struct Captures<'c> {
    pub reference: &'c [Packet],
    pub reference_lost: u64,
    pub ours: &'c [Packet],
    pub ours_lost: u64,
    /// Packets that went over the wire.
    pub wire: u64,
}

impl Captures<'_> {
    /// Compares the two. They have the same multiset of (bytes, original length), except for what
    /// each reports as lost, and both add up to the wire's count. In each flow, packets that occur
    /// once have the same order, and the same time to within five seconds, because each socket
    /// takes its own. Returns of how many packets the order was compared.
    pub fn compare(&self) -> Result<usize, String> {
        for (who, packets, lost) in [
            ("tcpdump", self.reference, self.reference_lost),
            ("ringweir", self.ours, self.ours_lost),
        ] {
            if packets.len() as u64 + lost != self.wire {
                return Err(format!(
                    "{who}: {} captured + {lost} lost, on the wire {}",
                    packets.len(),
                    self.wire
                ));
            }
        }
        let (reference, ours) = (tally(self.reference), tally(self.ours));
        for (who, has, lacks, lost) in [
            ("ringweir", &reference, &ours, self.ours_lost),
            ("tcpdump", &ours, &reference, self.reference_lost),
        ] {
            let short = |what| has[what] - lacks.get(what).copied().unwrap_or(0).min(has[what]);
            let missing: i64 = has.keys().map(short).sum();
            if missing as u64 > lost {
                let (bytes, original) =
                    has.keys().find(|what| short(what) > 0).expect("one is missing");
                let (from, len) = (&bytes[..bytes.len().min(60)], bytes.len());
                return Err(format!(
                    "{who} lacks {missing} packets, lost {lost}; one has {len} of {original}: \
                    {from:02x?}"
                ));
            }
        }
        let once = |packet: &&Packet| {
            [&reference, &ours].iter().all(|t| t.get(&packet.what()) == Some(&1))
        };
        let flows = |packets| {
            let mut flows: HashMap<Vec<u8>, Vec<&Packet>> = HashMap::new();
            Iterator::filter(<[Packet]>::iter(packets), once)
                .for_each(|p| flows.entry(p.flow()).or_default().push(p));
            flows
        };
        let (theirs, ours) = (flows(self.reference), flows(self.ours));
        for (flow, theirs) in &theirs {
            for (position, (a, b)) in theirs.iter().zip(&ours[flow]).enumerate() {
                if a.what() != b.what() {
                    return Err(format!(
                        "another order in flow {flow:02x?} at its packet {position}"
                    ));
                }
                if a.time.abs_diff(b.time) > 5_000_000_000 {
                    return Err(format!("times {} and {} of one packet", a.time, b.time));
                }
            }
        }
        Ok(theirs.values().map(Vec::len).sum())
    }
}

/// The offset of each record in a capture file.
fn records(file: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        offsets.push(at);
        at += 16 + u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    offsets
}

/// The comparison must find what is wrong with a capture: it is repeated on files that are wrong in
/// one place.
pub fn wrong_captures_are_found(good: &Captures<'_>, file: &[u8]) {
    let offsets = records(file);
    let (one, next) = (offsets[offsets.len() / 2], offsets[offsets.len() / 2 + 1]);
    let spoil = |what: &str, says: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = file.to_vec();
        change(&mut bad);
        assert!(bad != file, "{what}: nothing was changed");
        let found = Captures { ours: &capture(&bad), ..*good }.compare();
        assert!(found.as_ref().is_err_and(|e| e.contains(says)), "{what}: {found:?}");
    };
    spoil("one bit of one packet", "lacks 1 packets", &|bad| bad[next - 1] ^= 4);
    spoil("one original length", "lacks 1 packets", &|bad| bad[one + 12] ^= 1);
    spoil("one packet missing", "on the wire", &|bad| drop(bad.drain(one..next)));
    spoil("one packet twice", "on the wire", &|bad| bad.extend_from_within(one..next));
    spoil("one packet in the place of another", "lacks 1 packets", &|bad| {
        let copy = bad[one..next].to_vec();
        bad.drain(offsets[0]..offsets[1]);
        bad.extend(copy);
    });
    spoil("one time", "of one packet", &|bad| bad[one] ^= 0x10);
    // Two different neighbours of one flow.
    let mut swapped = good.ours.to_vec();
    let at = swapped
        .iter()
        .zip(&swapped[1..])
        .position(|(a, b)| a.flow() == b.flow() && a.what() != b.what());
    let at = at.expect("two packets of a flow behind each other");
    swapped.swap(at, at + 1);
    let found = Captures { ours: &swapped, ..*good }.compare();
    assert!(found.as_ref().is_err_and(|e| e.contains("another order")), "{found:?}");
}
