//! The TPACKET_V3 ring: blocks of packets that kernel and broker hand over to each other.
//!
//! Contract: a block is read between the Acquire load that shows it to be ours and the Release
//! store that gives it back. The kernel does not write to it in between. Every offset and length in
//! a block is checked all the same: the rest of a block that contradicts itself is skipped, and
//! nothing outside the block is accessed.

#![allow(unsafe_code)]

use ringweir_proto::sync::{AtomicU32, Ordering};
use std::any::Any;
use std::cell::Cell;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Offsets in a block: its status, the number of packets, and the offset of the first packet.
const STATUS: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, block_status);
const PACKETS: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, num_pkts);
const FIRST: usize = BLOCK + offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt);
const BLOCK: usize = offset_of!(libc::tpacket_block_desc, hdr);
/// Bytes from a packet's header to its link-layer address.
const HEADER: usize = size_of::<libc::tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Size of the smallest block that holds its own header.
const LEAST: usize = size_of::<libc::tpacket_block_desc>();

/// One packet of the open block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'b> {
    /// What was captured.
    pub bytes: &'b [u8],
    /// Its length before it was cut.
    pub wire_len: u32,
    /// CLOCK_REALTIME ns, or the network card's clock.
    pub time_ns: u64,
    /// Type and tag of a VLAN that the kernel removed from the frame.
    pub vlan: Option<(u16, u16)>,
    /// `PACKET_HOST`, `PACKET_OUTGOING`, …
    pub kind: u8,
}

/// The open block contradicts itself, and this many of its packets cannot be read.
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

/// The ring, as its reader sees it.
pub(super) struct Blocks {
    base: NonNull<u8>,
    block: usize,
    count: usize,
    current: usize,
    /// Blocks from the current one on that are known to be ours, and were looked at for losses.
    seen: usize,
    open: Cell<Option<Open>>,
    // Invariant: only dropping the owner unmaps `base`.
    _owner: Box<dyn Any + Send>,
}

// SAFETY: `base` points to memory that the owner keeps valid, that only this struct accesses within
// the process, and that is not bound to a thread. The owner is `Send`.
unsafe impl Send for Blocks {}

impl Blocks {
    /// # Safety
    ///
    /// `base` is aligned to 8 and valid for reads and writes of `block * count` bytes while `owner`
    /// lives. `block` is a multiple of 8 and at least 48, `count` at least 1. Any other writer of
    /// this memory writes only to blocks whose status lacks `TP_STATUS_USER`, and sets that bit
    /// with Release semantics when it has finished.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        block: usize,
        count: usize,
        owner: Box<dyn Any + Send>,
    ) -> Self {
        assert!(block >= LEAST && block.is_multiple_of(8) && count > 0, "blocks of {block} bytes");
        Self { base, block, count, current: 0, seen: 0, open: Cell::new(None), _owner: owner }
    }

    /// The status word of the current block.
    fn status(&self) -> &AtomicU32 {
        self.status_of(self.current)
    }

    /// The status word of a block.
    fn status_of(&self, number: usize) -> &AtomicU32 {
        assert!(number < self.count, "there is no block {number}");
        // SAFETY: `number < count`, and the status lies within the first LEAST bytes of a block,
        // which is at least that long (`new` checks it). So the address is inside the memory.
        let at = unsafe { self.base.add(number * self.block + STATUS) };
        // SAFETY: the address is inside the memory, which is valid while `self` lives. It is
        // aligned to 4: `base` and `block` are multiples of 8, and STATUS is one of 4. This process
        // and the kernel access the word atomically. `bytes` reads it too, but only while neither
        // writes it.
        unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }
    }

    /// The current block. Call it only when the block belongs to this process.
    fn bytes(&self) -> &[u8] {
        // SAFETY: `current < count` always, so the address is inside the memory.
        let at = unsafe { self.base.add(self.current * self.block) };
        // SAFETY: `block` bytes from here on are inside the memory and valid while `self` lives.
        // The callers have seen TP_STATUS_USER, so the kernel does not write to the block until
        // `release`. This process writes only in `release`, which takes `&mut self` and so ends
        // this borrow.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), self.block) }
    }

    /// Whether a block is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.get().is_some()
    }

    /// Number of the current block.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// The number of the block that the drops come before which the kernel has counted by now, and
    /// was not asked for before.
    ///
    /// The kernel drops only while all blocks are ours, and sets `TP_STATUS_LOSING` in each block
    /// that it hands over while it has counted drops that nobody has asked for. So they come before
    /// the first block that has it and was not looked at here before. Without such a block they
    /// come before what the kernel is filling, or fills next. Call it right before the question: a
    /// drop that is counted in between is reported early, and never late.
    pub(super) fn drops_are_before(&mut self) -> usize {
        let mut losing = None;
        loop {
            let number = (self.current + self.seen) % self.count;
            if self.seen == self.count {
                return losing.unwrap_or(number);
            }
            // Relaxed: only these bits are used, nothing else of the block.
            let status = self.status_of(number).load(Ordering::Relaxed);
            if status & libc::TP_STATUS_USER == 0 {
                return losing.unwrap_or(number);
            }
            if status & libc::TP_STATUS_LOSING != 0 {
                losing = losing.or(Some(number));
            }
            self.seen += 1;
        }
    }

    /// Whether the open block was handed over with drops that nobody has asked for since.
    pub(super) fn is_losing(&self) -> bool {
        // Relaxed: the block is ours, and its status does not change until it is given back.
        self.seen == 0 && self.status().load(Ordering::Relaxed) & libc::TP_STATUS_LOSING != 0
    }

    /// Whether all blocks are ours. The kernel fills them in turn, so it is enough to look at the
    /// one that it would have filled last.
    pub(super) fn are_all_ours(&self) -> bool {
        let last = self.current.checked_sub(1).unwrap_or(self.count - 1);
        // Acquire: as in `open`.
        self.status_of(last).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Opens the next block. False: the kernel has not handed it over.
    pub(super) fn open(&self) -> bool {
        // Acquire: what the kernel wrote to the block before is visible. Partner: the kernel's
        // barrier before it sets the status.
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return false;
        }
        let bytes = self.bytes();
        // Both lie in the first LEAST bytes, which every block has.
        let open = u32_at(bytes, PACKETS).zip(u32_at(bytes, FIRST));
        self.open.set(open.map(|(left, at)| Open { left, at: at as usize }));
        true
    }

    /// The next packet of the open block. `None`: there are no more.
    pub(super) fn next(&self) -> Result<Option<Packet<'_>>, Damaged> {
        let Some(Open { left, at }) = self.open.get().filter(|open| open.left > 0) else {
            return Ok(None);
        };
        // Only the last packet may lack a distance to the next one.
        let parsed = parse(self.bytes(), at).filter(|(_, next)| left == 1 || *next >= HEADER);
        let Some((packet, next)) = parsed else {
            // Skip the rest of the block.
            self.open.set(Some(Open { left: 0, at }));
            return Err(Damaged { left });
        };
        self.open.set(Some(Open { left: left - 1, at: at.saturating_add(next) }));
        Ok(Some(packet))
    }

    /// Gives the open block back to the kernel.
    pub(super) fn release(&mut self) {
        if self.open.take().is_some() {
            // Release: all our reads of the block come before. Partner: the kernel checks the
            // status before it writes to the block.
            self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.current = (self.current + 1) % self.count;
            self.seen = self.seen.saturating_sub(1);
        }
    }
}

/// The 32 bits at `at`, if `bytes` has them.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

/// The packet at offset `at` of a block, and the distance to the next one.
fn parse(block: &[u8], at: usize) -> Option<(Packet<'_>, usize)> {
    use libc::tpacket3_hdr as H;
    const VLAN: usize = offset_of!(H, hv1);
    let from = block.get(at..)?;
    let header = from.get(..HEADER)?;
    let word = |at| u32_at(header, at);
    let half = |at: usize| header.get(at..)?.first_chunk().map(|half| u16::from_ne_bytes(*half));
    let status = word(offset_of!(H, tp_status))?;
    let (begin, len) =
        (half(offset_of!(H, tp_mac))? as usize, word(offset_of!(H, tp_snaplen))? as usize);
    let tci = word(VLAN + offset_of!(libc::tpacket_hdr_variant1, tp_vlan_tci))? as u16;
    let vlan = if status & libc::TP_STATUS_VLAN_VALID == 0 && tci == 0 {
        None
    } else if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
        Some((libc::ETH_P_8021Q as u16, tci))
    } else {
        Some((half(VLAN + offset_of!(libc::tpacket_hdr_variant1, tp_vlan_tpid))?, tci))
    };
    let (sec, nsec) = (word(offset_of!(H, tp_sec))?, word(offset_of!(H, tp_nsec))?);
    let packet = Packet {
        bytes: from.get(begin..begin.checked_add(len)?)?,
        wire_len: word(offset_of!(H, tp_len))?,
        time_ns: u64::from(sec) * 1_000_000_000 + u64::from(nsec),
        vlan,
        kind: *from.get(HEADER + offset_of!(libc::sockaddr_ll, sll_pkttype))?,
    };
    Some((packet, word(offset_of!(H, tp_next_offset))? as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4096;

    /// One block on the heap, as the kernel would have filled it with packets of these lengths.
    fn block(lengths: &[usize]) -> Vec<u64> {
        let mut bytes = vec![0_u8; SIZE];
        let put = |bytes: &mut Vec<u8>, at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes())
        };
        put(&mut bytes, STATUS, libc::TP_STATUS_USER | libc::TP_STATUS_BLK_TMO);
        put(&mut bytes, PACKETS, lengths.len() as u32);
        let mut at = LEAST;
        put(&mut bytes, FIRST, at as u32);
        for (i, &len) in lengths.iter().enumerate() {
            let size = (HEADER + 32 + len).next_multiple_of(16);
            put(
                &mut bytes,
                at + offset_of!(libc::tpacket3_hdr, tp_next_offset),
                if i + 1 < lengths.len() { size as u32 } else { 0 },
            );
            put(&mut bytes, at + offset_of!(libc::tpacket3_hdr, tp_snaplen), len as u32);
            put(&mut bytes, at + offset_of!(libc::tpacket3_hdr, tp_len), len as u32 + 1);
            bytes[at + offset_of!(libc::tpacket3_hdr, tp_mac)] = (HEADER + 32) as u8;
            bytes[at + HEADER + 32..][..len].fill(i as u8 + 1);
            at += size;
        }
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }

    fn ring(memory: Vec<u64>, block: usize) -> Blocks {
        let mut memory = memory.into_boxed_slice();
        let (base, count) =
            (NonNull::new(memory.as_mut_ptr().cast()).unwrap(), memory.len() * 8 / block);
        // SAFETY: the words stay in place until the ring drops their box, its owner. They are
        // aligned to 8, there are at least `block * count` bytes of them, and nothing else accesses
        // them. `new` checks `block` and `count`.
        unsafe { Blocks::new(base, block, count, Box::new(memory)) }
    }

    #[test]
    fn packets_come_in_order_and_the_block_goes_back() {
        let mut blocks = ring([block(&[1, 60, 0, 1500]), block(&[7]), block(&[])].concat(), SIZE);
        for lengths in [vec![1, 60, 0, 1500], vec![7], vec![]] {
            assert!(blocks.open());
            for (i, len) in lengths.into_iter().enumerate() {
                let packet = blocks.next().unwrap().unwrap();
                assert_eq!(
                    (packet.bytes, packet.wire_len),
                    (&vec![i as u8 + 1; len][..], len as u32 + 1)
                );
            }
            assert_eq!(blocks.next(), Ok(None));
            assert_eq!(blocks.are_all_ours(), blocks.current() == 0);
            blocks.release();
        }
        // All three blocks belong to the kernel again.
        assert_eq!((blocks.open(), blocks.current, blocks.is_open()), (false, 0, false));
    }

    #[test]
    fn drops_come_before_the_first_block_that_was_handed_over_with_them() {
        let empty = || block(&[]);
        let mut blocks = ring([empty(), empty(), empty(), empty()].concat(), SIZE);
        let fill = |blocks: &Blocks, number: usize, losing: bool| {
            let losing = if losing { libc::TP_STATUS_LOSING } else { 0 };
            blocks.status_of(number).store(libc::TP_STATUS_USER | losing, Ordering::Relaxed);
        };
        let give_back = |blocks: &mut Blocks| {
            assert!(blocks.open());
            let losing = blocks.is_losing();
            blocks.release();
            losing
        };
        // All are ours, and none has the mark: they come before what is filled next, which is 0.
        assert_eq!(blocks.drops_are_before(), 0);
        assert!(!give_back(&mut blocks));
        // The kernel is filling 0.
        assert_eq!((blocks.drops_are_before(), blocks.current()), (0, 1));
        // A drop of before was counted late. It is found although all are ours again.
        fill(&blocks, 0, true);
        assert!(blocks.are_all_ours());
        assert_eq!(blocks.drops_are_before(), 0);
        // Asked once. What is dropped from now on comes before 1.
        assert_eq!(blocks.drops_are_before(), 1);
        assert!(!give_back(&mut blocks) && !give_back(&mut blocks));
        // Both have the mark: the first one counts. An open block that was looked at has no more.
        fill(&blocks, 1, true);
        fill(&blocks, 2, true);
        assert!(!give_back(&mut blocks));
        fill(&blocks, 3, true);
        assert_eq!((blocks.current(), blocks.drops_are_before()), (0, 1));
        assert!((0..4).all(|_| !give_back(&mut blocks)));
        // Nobody asked: the first one that is opened says so.
        fill(&blocks, 0, false);
        fill(&blocks, 1, true);
        fill(&blocks, 2, true);
        assert_eq!([(); 3].map(|()| give_back(&mut blocks)), [false, true, true]);
    }

    #[test]
    fn a_block_that_lies_is_given_up_and_nothing_outside_is_read() {
        let good = block(&[60, 61, 62, 63]);
        let mut random = 1_u64;
        for byte in 0..1024 {
            for _ in 0..20 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut bad: Vec<u8> = good.iter().flat_map(|word| word.to_ne_bytes()).collect();
                bad[byte] = (random >> 40) as u8;
                bad[byte + 1 + (random >> 60) as usize] = (random >> 50) as u8;
                let blocks = ring(
                    bad.as_chunks::<8>().0.iter().map(|w| u64::from_ne_bytes(*w)).collect(),
                    SIZE,
                );
                if !blocks.open() {
                    continue;
                }
                for _ in 0..1000 {
                    match blocks.next() {
                        Ok(Some(packet)) => assert!(
                            packet.bytes.iter().map(|b| *b as usize).sum::<usize>() < 1 << 20
                        ),
                        Ok(None) => break,
                        Err(damaged) => {
                            assert!(damaged.left > 0);
                            assert_eq!(blocks.next(), Ok(None));
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_packet_that_ends_outside_is_damage() {
        let mut block = block(&[60, 61]);
        let at = (LEAST + offset_of!(libc::tpacket3_hdr, tp_snaplen)) / 8;
        block[at] |= 0xFFFF_FFFF;
        block[at] |= 0xFFFF_FFFF << 32;
        let blocks = ring(block, SIZE);
        assert!(blocks.open());
        assert_eq!(blocks.next(), Err(Damaged { left: 2 }));
        assert_eq!(blocks.next(), Ok(None));
    }
}
