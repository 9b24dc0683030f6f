//! Adopting the ring of a broker that died: `DESIGN.md` §7, step by step.
//!
//! Contract: only the caller may write the ring (it holds the stream's lock); readers may be
//! reading it all the while. Few words are trusted, and they are first checked against each other.
//! A process that is killed here leaves a ring that the next one can still adopt.

use super::crash::{self, Point};
use super::loss::{Layer, Restarted};
use super::memory::RingMemory;
use super::publish::Publisher;
use super::site;
use super::writable::WritableRing;
use crate::layout::{align8, flags};
use crate::seq::ClaimEnd;
use crate::stats::PumpCounter;
use crate::sync::{Ordering, weakened};

/// Why a ring cannot be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its end has been reported to readers.
    #[error("its stream has ended")]
    Ended,
    /// It was damaged, or is not a ringweir ring.
    #[error("its numbers contradict each other: {0}")]
    Damaged(&'static str),
}

/// The state that the dead publisher left, checked.
struct Left {
    /// The write cursor.
    next: u64,
    /// The claim line: a watermark.
    claim: ClaimEnd,
    /// Where the payload of the newest datagram ends, virtual.
    end: u64,
    /// Payload bytes of all datagrams.
    bytes: u64,
    /// Losses before the ring, as in the newest datagram's slot.
    upstream: u32,
    upstream_flags: u16,
    generation: u64,
    /// Sums over the restarts so far.
    lost: u64,
    inexact: u64,
    /// Number of slots from `next` on that the dead broker began to write.
    begun: u64,
}

impl Publisher {
    /// The writing end of a ring whose publisher died. What was flushed stays as it is, and the
    /// next datagram gets the next seq. What was claimed stays claimed. `position` is how many of
    /// its own numbers the source's consumer has accounted for, if it has such numbers and knows
    /// ([`Self::set_position`]).
    ///
    /// # Errors
    /// [`Unfit`]; the ring is then unchanged.
    pub fn adopt(ring: WritableRing, position: Option<u32>) -> Result<(Self, Restarted), Unfit> {
        let memory = ring.into_memory();
        let left = Left::of(&memory)?;
        let geometry = *memory.geometry();
        let Left { next, end, generation, .. } = left;
        let claim = if weakened(site::ADOPTED_CLAIM_BACK) {
            ClaimEnd { seq: next, pos: end }
        } else {
            left.claim
        };
        // I7, P2: the claim is announced as if this publisher had made it; partner: the reader's
        // VALIDATE_FENCE.
        memory.claim_line().seq.store(claim.seq, Ordering::Relaxed);
        memory.claim_line().pos.store(claim.pos, Ordering::Relaxed);
        site::CLAIM_FENCE.fence_release();
        crash::at(Point::A1);

        let known = memory.position().zip(position).map(|(base, position)| {
            let reported = base
                .wrapping_add(next as u32)
                .wrapping_add(left.upstream)
                .wrapping_add(left.lost as u32);
            position.wrapping_sub(reported)
        });
        let exact = known.filter(|lost| *lost < 1 << 31).map(u64::from);
        let pending = pending(&memory, left.upstream);
        let record = memory.restart(generation + 1);
        let (lost, inexact) = match exact {
            Some(lost) => (left.lost + lost, left.inexact),
            None => {
                let (mut lost, inexact) = (left.lost + left.begun + pending, left.inexact + 1);
                // An adopter that was killed here may have cleared the slots that it had counted.
                let stood = [&record.generation, &record.first, &record.inexact]
                    .map(|w| w.load(Ordering::Relaxed));
                if stood == [generation + 1, next, inexact] {
                    lost = lost.max(record.lost.load(Ordering::Relaxed));
                }
                (lost, inexact)
            }
        };
        record.first.store(next, Ordering::Relaxed);
        record.lost.store(lost, Ordering::Relaxed);
        crash::at(Point::A2);
        record.inexact.store(inexact, Ordering::Relaxed);
        record.generation.store(generation + 1, Ordering::Relaxed);
        crash::at(Point::A3);

        // I8: all begun slots are cleared, so that no later adopter counts them again.
        let discard = if crash::adopts_half() { 0 } else { left.begun };
        for seq in next..next + discard {
            memory.slot(seq).stamp.store(0, Ordering::Relaxed);
        }
        settle(&memory, pending);
        crash::at(Point::A4);
        if !weakened(site::RESTART_UNREPORTED) {
            // P12: a thread that sees this also sees the record above; partner: the reader's
            // RESTART_LOAD.
            site::RESTART_STORE.store_release(&memory.state_line().generation, generation + 1);
        }
        crash::at(Point::A5);

        let next = if crash::adopts_half() { next + left.begun } else { next };
        let (capacity, max_span) = (geometry.capacity(), geometry.max_span());
        let source = memory.source_word();
        let mut publisher = Self {
            memory,
            capacity,
            max_span,
            next,
            flushed: next,
            span_pos: end,
            span_offset: end % capacity,
            span_len: 0,
            used: 0,
            claim_seq: claim.seq,
            claim_pos: claim.pos,
            bytes: left.bytes,
            upstream: left.upstream,
            upstream_flags: left.upstream_flags
                & !(flags::LOSS_UNKNOWN | flags::TRUNCATED | !0 << flags::GONE_SHIFT),
            source,
            restart_lost: lost as u32,
            limit: ClaimEnd { seq: u64::MAX, pos: u64::MAX },
        };
        // The dead publisher's counters may be behind (K7).
        publisher.flush();
        // The source has been opened, so a device that was away is back.
        publisher.source_back();
        publisher.add(PumpCounter::Restarts, 1);
        publisher.set(PumpCounter::RestartLost, lost);
        let cost = lost - left.lost;
        Ok((
            publisher,
            Restarted {
                generation: generation + 1,
                first: next,
                lost: cost,
                exact: exact.is_some(),
            },
        ))
    }
}

impl Left {
    fn of(memory: &RingMemory) -> Result<Self, Unfit> {
        if memory.has_ended() {
            return Err(Unfit::Ended);
        }
        let geometry = memory.geometry();
        let damaged = |what| Err(Unfit::Damaged(what));
        let (next, claim, generation) =
            (memory.write_cursor(), memory.claimed(), memory.generation());
        // Bounded before anything is added to them: in a sound ring none of these numbers ever
        // wraps.
        if [next, claim.seq, claim.pos, generation, memory.source_word()]
            .iter()
            .any(|n| *n >= 1 << 62)
            || generation == 0
        {
            return damaged("a cursor, the generation or the source's word is out of range");
        }
        // Commits run ahead of the cursor by up to a batch, and the claim of slots ahead of the
        // commits.
        if !(next..=next + geometry.depth()).contains(&claim.seq) {
            return damaged("slots are claimed that cannot be");
        }
        let mut left = Self {
            next,
            claim,
            end: 0,
            bytes: 0,
            upstream: 0,
            upstream_flags: 0,
            generation,
            lost: 0,
            inexact: 0,
            begun: 0,
        };
        if let Some(newest) = next.checked_sub(1) {
            let slot = memory.slot(newest);
            let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
            let (pos, len, tags) =
                (load(&slot.pos), load(&slot.lengths) & 0xffff_ffff, load(&slot.tags));
            if load(&slot.stamp) != next || pos >= 1 << 62 || len > geometry.max_datagram() {
                return damaged("the newest datagram is not its own");
            }
            if load(&slot.offset) != pos % geometry.capacity()
                || !pos.is_multiple_of(8)
                || pos % geometry.capacity() + align8(len) > geometry.capacity()
            {
                return damaged("the newest datagram is not in the payload area");
            }
            left.end = pos + align8(len);
            left.bytes = load(&slot.bytes_before).saturating_add(len);
            if left.bytes >= 1 << 62 {
                return damaged("more bytes were published than there can have been");
            }
            (left.upstream, left.upstream_flags) = ((tags >> 32) as u32, (tags >> 16) as u16);
            if !claim.slot_is_valid(geometry, newest) || !claim.payload_is_valid(geometry, pos) {
                return damaged("the newest datagram is claimed again");
            }
        }
        if !(left.end..=left.end + geometry.capacity()).contains(&claim.pos)
            || !claim.pos.is_multiple_of(8)
        {
            return damaged("bytes are claimed that cannot be");
        }
        let record = memory.restart(generation);
        if record.generation.load(Ordering::Relaxed) == generation {
            if record.first.load(Ordering::Relaxed) > next {
                return damaged("its last restart is still to come");
            }
            left.lost = record.lost.load(Ordering::Relaxed);
            left.inexact = record.inexact.load(Ordering::Relaxed);
            if left.lost >= 1 << 62 || left.inexact >= 1 << 62 {
                return damaged("its restarts cost more than there can have been");
            }
        }
        let begun = (next..claim.seq)
            .take_while(|seq| memory.slot(*seq).stamp.load(Ordering::Relaxed) == seq + 1);
        left.begun = begun.count() as u64;
        Ok(left)
    }
}

/// The layers that have a loss counter.
const LAYERS: [Layer; 3] = [Layer::Device, Layer::Kernel, Layer::Broker];

/// Losses before the ring that were counted but that no datagram reports.
fn pending(memory: &RingMemory, reported: u32) -> u64 {
    let counted = LAYERS
        .iter()
        .fold(0, |sum: u32, layer| sum.wrapping_add(memory.counter(layer.counter()) as u32));
    let pending = counted.wrapping_sub(reported);
    // The counters may be behind; then there is nothing to report.
    if pending < 1 << 31 { pending.into() } else { 0 }
}

/// Subtracts `pending` losses from the layers' counters, since the restart reports them now.
fn settle(memory: &RingMemory, mut pending: u64) {
    for layer in LAYERS {
        let cell = &memory.counters().count[layer.counter() as usize];
        let counted = cell.load(Ordering::Relaxed);
        let taken = pending.min(counted);
        cell.store(counted - taken, Ordering::Relaxed);
        pending -= taken;
    }
}
