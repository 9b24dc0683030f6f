//! The TPACKET_V3 ring: blocks of packets that kernel and broker hand to each other.
//!
//! Contract: a block is read between the Acquire load that shows it as ours and the Release store that gives it back;
//! the kernel writes none of it in between. Every offset and length in it is checked against the block all the same: a
//! block that contradicts itself is given up, and nothing outside it is ever touched.

use ringweir_proto::sync::{AtomicU32, Ordering};
use std::any::Any;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Where block status, number of packets and offset of the first one lie in a block.
const STATUS: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, block_status);
const PACKETS: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, num_pkts);
const FIRST: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt);
const BLOCK: usize = offset_of!(libc::tpacket_block_desc, hdr);
/// Bytes between a packet's header and its link-layer address.
const HEADER: usize = size_of::<libc::tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Smallest block that holds its own header.
const LEAST: usize = size_of::<libc::tpacket_block_desc>();

/// One packet of the block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'b> {
    /// What was captured.
    pub bytes: &'b [u8],
    /// Its length before it was cut.
    pub wire_len: u32,
    /// CLOCK_REALTIME ns, or the network card's clock.
    pub time_ns: u64,
    /// Type and tag that the kernel took out of the frame.
    pub vlan: Option<(u16, u16)>,
    /// `PACKET_HOST`, `PACKET_OUTGOING`, …
    pub kind: u8,
}

/// The open block contradicts itself; this many of its packets cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged {
    pub left: u32,
}

/// Where in the open block the next packet is.
#[derive(Clone, Copy)]
struct Open {
    left: u32,
    at: usize,
}

/// The ring, from its consuming end.
pub(super) struct Blocks {
    base: NonNull<u8>,
    block: usize,
    count: usize,
    current: usize,
    open: Option<Open>,
    // Invariant: dropping it is what unmaps `base`; nothing else may.
    _owner: Box<dyn Any + Send>,
}

// SAFETY: the memory belongs to this struct alone within the process; the owner is Send itself.
unsafe impl Send for Blocks {}

impl Blocks {
    /// # Safety
    /// `base` is aligned to 8 and valid for reads and writes of `block * count` bytes while `owner` lives; `block` is a
    /// multiple of 8 of at least 48 bytes, `count` at least 1. Who writes the memory beside this struct does so only in blocks
    /// whose status has no `TP_STATUS_USER`, and sets that with Release semantics when it is done.
    pub(super) unsafe fn new(base: NonNull<u8>, block: usize, count: usize, owner: Box<dyn Any + Send>) -> Self {
        assert!(block >= LEAST && block.is_multiple_of(8) && count > 0, "blocks of {block} bytes");
        Self { base, block, count, current: 0, open: None, _owner: owner }
    }

    /// The status word of the current block.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: current < count, and STATUS lies within a block: inside the memory.
        let at = unsafe { self.base.add(self.current * self.block + STATUS) };
        // SAFETY: valid, aligned to 4 (base and block are to 8), and written atomically by both sides.
        unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }
    }

    /// The current block; only while it is open.
    fn bytes(&self) -> &[u8] {
        // SAFETY: current < count: inside the memory.
        let at = unsafe { self.base.add(self.current * self.block) };
        // SAFETY: valid for `block` bytes; an open block is written by nobody until `release`, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), self.block) }
    }

    /// Whether a block is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens the next block if the kernel has handed it over; its status bits.
    pub(super) fn open(&mut self) -> Option<u32> {
        // Pairs with the kernel's barrier before it sets the status: all it wrote to the block is visible.
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let bytes = self.bytes();
        // Both lie in the first LEAST bytes, which every block has.
        let (left, at) = (u32_at(bytes, PACKETS)?, u32_at(bytes, FIRST)? as usize);
        self.open = Some(Open { left, at });
        Some(status)
    }

    /// The next packet of the open block; `None` at its end.
    pub(super) fn next(&mut self) -> Result<Option<Packet<'_>>, Damaged> {
        let Some(Open { left, at }) = self.open else { return Ok(None) };
        if left == 0 {
            return Ok(None);
        }
        let parsed = parse(self.bytes(), at).filter(|(_, next)| left == 1 || *next >= HEADER);
        // A block that is damaged stays so: nothing behind the damage is looked at.
        let next = parsed.map_or(Open { left: 0, at }, |(_, next)| Open { left: left - 1, at: at.saturating_add(next) });
        self.open = Some(next);
        // Parsed again for the borrow checker's sake only if it were not for this: the packet borrows the block, not `open`.
        match parse(self.bytes(), at) {
            Some((packet, _)) if parsed_ok(left, &next) => Ok(Some(packet)),
            _ => Err(Damaged { left }),
        }
    }

    /// Gives the open block back to the kernel.
    pub(super) fn release(&mut self) {
        if self.open.take().is_some() {
            // Pairs with the kernel's look at the status before it writes the block: all our reads are done by then.
            self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.current = if self.current + 1 == self.count { 0 } else { self.current + 1 };
        }
    }
}
