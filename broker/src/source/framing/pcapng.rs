//! `pcapng`: the capture file of Wireshark, in either byte order, with any number of sections and
//! interfaces.
//!
//! Contract: the packets of enhanced, simple and (obsolete) packet blocks are datagrams. The
//! channel is the index of the interface within its section. The time follows from the interface's
//! resolution and offset; simple packets have no time, and get 0. Other blocks are skipped. A block
//! need not fit into the buffer. The parser is written by hand, because one that needs the whole
//! block in its buffer would add a copy. It is tested against `pcap-parser`.
//!
//! ```text
//! block:     type u32 · total length u32 · body · padding to 4 · total length u32
//! section:   byte-order magic u32 · version u16 u16 · section length u64 · options
//! interface: link type u16 · reserved u16 · snapshot length u32 · options
//! enhanced:  interface u32 · time high u32, low u32 · captured u32 · original u32 · payload ·
//!            options
//! packet:    interface u16 · drops u16 · then as enhanced
//! simple:    original u32 · payload
//! ```

use super::step::{
    Fault, Machine, Order, Payload, SKIP_LIMIT, Step, check_length, nothing_left, truncated,
};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Length of the shortest block: type and both lengths.
const EMPTY_BLOCK: usize = 12;
/// Length of the length field at the end of each block.
const TRAILER: usize = 4;
/// Bytes of an enhanced packet before its payload: the longest header that is read at once.
const PACKET_HEADER: usize = 28;

/// The unit in which an interface counts time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Units {
    /// One unit is this many ns.
    Nanoseconds(u64),
    /// This many units are one ns.
    PerNanosecond(u64),
    /// One unit is 2^-n s.
    Binary(u8),
}

impl Units {
    /// From the option `if_tsresol`: 10^-n s, or 2^-n s if the highest bit is set.
    fn from_option(value: u8) -> Self {
        let n = u32::from(value & 0x7f);
        if value & 0x80 != 0 {
            Units::Binary(n as u8)
        } else if n <= 9 {
            Units::Nanoseconds(10_u64.pow(9 - n))
        } else {
            // In units below 10^-28 s, 64 bits count less than a ns.
            Units::PerNanosecond(10_u64.checked_pow(n - 9).unwrap_or(u64::MAX))
        }
    }

    /// `count` units in ns, rounded down; `u64::MAX` if that is too much.
    #[inline]
    fn to_ns(self, count: u64) -> u64 {
        match self {
            Units::Nanoseconds(ns) => count.saturating_mul(ns),
            Units::PerNanosecond(units) => count / units,
            Units::Binary(n) => {
                let ns = (u128::from(count) * 1_000_000_000) >> n;
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
    }
}

/// What is needed of an interface to decode its packets.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u16,
    snap_len: u32,
    units: Units,
    /// Added to every time.
    offset_ns: i64,
}

/// The position of the decoder.
#[derive(Debug, Clone, Copy)]
enum State {
    /// At the beginning of a block.
    Block,
    /// Within an interface's options, `left` bytes before the trailer of a block of `total` bytes.
    Options { left: u32, total: u32 },
    /// Within bytes that are skipped, `left` bytes before the trailer of a block of `total` bytes.
    Tail { left: u32, total: u32 },
}

/// The decoder.
pub(super) struct Pcapng {
    max: usize,
    /// Byte order of the section; `None` before the first one.
    order: Option<Order>,
    interfaces: Vec<Interface>,
    state: State,
}

/// Skips bytes of a block that have been used.
fn pass(bytes: usize) -> Step {
    Step::Skip { bytes: bytes as u64, fault: None }
}

impl Pcapng {
    pub(super) fn new(max: usize) -> Self {
        Pcapng { max, order: None, interfaces: Vec::new(), state: State::Block }
    }

    /// Decodes the beginning of a block.
    fn block(&mut self, offset: u64, input: &[u8]) -> Result<Step, Fault> {
        if input.len() < EMPTY_BLOCK {
            return Ok(Step::NeedMore { at_least: EMPTY_BLOCK });
        }
        let bad = |what, found, at| Fault::BadFormat { what, found, offset: offset + at };
        // A section's type is the same in both byte orders. Its third word shows which one is used.
        let kind = self.order.unwrap_or(Order::Little).u32(input, 0);
        let order = match (kind, self.order) {
            (SECTION, _) => match Order::Little.u32(input, 8) {
                0x1a2b_3c4d => Order::Little,
                0x4d3c_2b1a => Order::Big,
                found => return Err(bad("unknown byte order of a pcapng section", found, 8)),
            },
            (_, Some(order)) => order,
            (found, None) => return Err(bad("not a pcapng file: no section header", found, 0)),
        };
        let total = order.u32(input, 4);
        let header = match kind {
            SECTION | INTERFACE => 16,
            ENHANCED_PACKET | PACKET => PACKET_HEADER,
            SIMPLE_PACKET => 12,
            _ => 8,
        };
        if u64::from(total) > SKIP_LIMIT {
            return Err(Fault::TooLong { len: total.into(), max: SKIP_LIMIT, offset: offset + 4 });
        }
        if !total.is_multiple_of(4) || (total as usize) < header + TRAILER {
            return Err(bad("impossible length of a pcapng block", total, 4));
        }
        if input.len() < header {
            return Ok(Step::NeedMore { at_least: header });
        }
        // Bytes between the header and the trailer.
        let left = total - (header + TRAILER) as u32;
        self.state = State::Tail { left, total };
        match kind {
            SECTION => {
                let major = order.u16(input, 12);
                if major != 1 {
                    return Err(bad("unknown version of a pcapng section", major.into(), 12));
                }
                self.order = Some(order);
                self.interfaces.clear();
            }
            INTERFACE => {
                if self.interfaces.len() > usize::from(u16::MAX) {
                    return Err(bad("more than 65536 interfaces in a section, type", kind, 0));
                }
                let (link_type, snap_len) = (order.u16(input, 8), order.u32(input, 12));
                self.interfaces.push(Interface {
                    link_type,
                    snap_len,
                    units: Units::Nanoseconds(1000),
                    offset_ns: 0,
                });
                self.state = State::Options { left, total };
            }
            ENHANCED_PACKET | PACKET | SIMPLE_PACKET => {
                return Ok(self.packet(kind, order, offset, input, left, total));
            }
            _ => {}
        }
        Ok(pass(header))
    }

    /// Decodes a packet block with its header in `input`. `room` bytes are left for payload,
    /// padding and options.
    fn packet(
        &mut self,
        kind: u32,
        order: Order,
        offset: u64,
        input: &[u8],
        room: u32,
        total: u32,
    ) -> Step {
        let header = if kind == SIMPLE_PACKET { 12 } else { PACKET_HEADER };
        let index = match kind {
            ENHANCED_PACKET => order.u32(input, 8),
            PACKET => order.u16(input, 8).into(),
            _ => 0,
        };
        let bad = |what, found| {
            let fault = Some(Fault::BadRecord { what, found, offset });
            Step::Skip { bytes: header as u64, fault }
        };
        let Some(interface) = self.interfaces.get(index as usize) else {
            return bad("packet of an interface not described", index);
        };
        let (captured, original, source_time_ns) = if kind == SIMPLE_PACKET {
            let original = order.u32(input, 8);
            // A simple packet has no captured length: it is the original length, limited by the
            // interface.
            let limit = if interface.snap_len == 0 { u32::MAX } else { interface.snap_len };
            (original.min(limit), original, 0)
        } else {
            let count = u64::from(order.u32(input, 12)) << 32 | u64::from(order.u32(input, 16));
            let ns = interface.units.to_ns(count).saturating_add_signed(interface.offset_ns);
            (order.u32(input, 20), order.u32(input, 24), ns)
        };
        if captured > room {
            return bad("packet longer than its block", captured);
        }
        self.state = State::Tail { left: room - captured, total };
        let field = if kind == SIMPLE_PACKET { 8 } else { 20 };
        match check_length(header, captured.into(), self.max, offset + field) {
            Ok(len) => Step::Payload(Payload {
                header_bytes: header,
                len,
                original_len: original.max(captured),
                source_time_ns,
                // This fits: there are at most 65536 interfaces.
                channel: index as u16,
                link_type: Some(interface.link_type),
            }),
            Err(step) => step,
        }
    }

    /// Decodes an option of the newest interface.
    fn option(&mut self, offset: u64, input: &[u8], left: u32, total: u32) -> Result<Step, Fault> {
        let order = self.order.unwrap_or(Order::Little);
        if input.len() < 4 {
            return Ok(Step::NeedMore { at_least: 4 });
        }
        let (code, len) = (order.u16(input, 0), order.u16(input, 2));
        let all = 4 + u32::from(len).next_multiple_of(4);
        if all > left {
            let what = "interface option longer than its block";
            return Err(Fault::BadFormat { what, found: len.into(), offset: offset + 2 });
        }
        // Wait for the whole value only of an option that is used; other options may have any
        // length.
        let read = match (code, len) {
            (0, _) => {
                self.state = State::Tail { left: left - 4, total };
                return Ok(pass(4));
            }
            (9, 1..) => 5,
            (14, 8) => 12,
            _ => 4,
        };
        if input.len() < read {
            return Ok(Step::NeedMore { at_least: read });
        }
        if let Some(interface) = self.interfaces.last_mut() {
            match read {
                5 => interface.units = Units::from_option(input[4]),
                12 => {
                    interface.offset_ns = (order.u64(input, 4) as i64).saturating_mul(1_000_000_000)
                }
                _ => {}
            }
        }
        self.state = State::Options { left: left - all, total };
        Ok(pass(all as usize))
    }

    /// Skips the rest of a block, and checks its trailer.
    fn tail(&mut self, offset: u64, input: &[u8], left: u32, total: u32) -> Result<Step, Fault> {
        let before = left as usize;
        let Some(trailer) = input.get(before..before + TRAILER) else {
            if left == 0 {
                return Ok(Step::NeedMore { at_least: TRAILER });
            }
            self.state = State::Tail { left: 0, total };
            return Ok(pass(before));
        };
        let found = self.order.unwrap_or(Order::Little).u32(trailer, 0);
        if found != total {
            let what = "pcapng block does not end with its own length";
            return Err(Fault::BadFormat { what, found, offset: offset + u64::from(left) });
        }
        self.state = State::Block;
        Ok(pass(before + TRAILER))
    }
}

impl Machine for Pcapng {
    fn next(&mut self, offset: u64, input: &[u8]) -> Step {
        let step = match self.state {
            State::Block => self.block(offset, input),
            State::Options { left: left @ 4.., total } => self.option(offset, input, left, total),
            State::Options { left, total } | State::Tail { left, total } => {
                self.tail(offset, input, left, total)
            }
        };
        step.unwrap_or_else(Step::Broken)
    }

    fn finish(&mut self, offset: u64, rest: &[u8]) -> Result<Option<Payload>, Fault> {
        match self.state {
            // An empty file is not valid: even a capture without packets has a section header.
            State::Block if self.order.is_none() => {
                Err(truncated("pcapng section header", 28, offset, rest))
            }
            State::Block => nothing_left("pcapng block", EMPTY_BLOCK, offset, rest),
            State::Options { left, .. } | State::Tail { left, .. } => {
                Err(truncated("pcapng block", left as usize + TRAILER, offset, rest))
            }
        }
    }

    fn buffer_len(&self) -> usize {
        PACKET_HEADER
    }
}

#[cfg(test)]
pub(super) mod tests;
