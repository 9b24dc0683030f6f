//! The gate: how far the publisher may go before it waits for lossless readers, and for how long it
//! does.
//!
//! Contract: the publisher's alone; it looks at one word of each lossless reader's page, clamps it,
//! and believes it only against that reader's own interest: a cursor that is too old costs its
//! budget, one that is too new its own datagrams. Without lossless readers nothing here is called
//! and nobody's limit is looked at. `DESIGN.md` §12.

use super::publish::Publisher;
use super::read::Start;
use super::site;
use crate::layout::{ReaderBlock, align8};
use crate::seq::ClaimEnd;
use crate::sync::{AtomicU64, Ordering, weakened};

/// What a stream bears of a lossless reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Payload bytes that the publisher may be ahead of it; the ring's capacity if that is less.
    pub bytes: u64,
    /// Time it may hold the stream back in all until it has caught up to half of `bytes`, ns;
    /// `u64::MAX` = for ever.
    pub time_ns: u64,
}

/// That a reader used up its budget: the stream does not wait for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demoted {
    /// For how long it had held the stream back, ns (to the microsecond).
    pub held_ns: u64,
}

impl Demoted {
    const SET: u64 = 1 << 63;

    fn pack(self) -> u64 {
        Self::SET | (self.held_ns / 1000)
    }

    fn unpack(word: u64) -> Option<Self> {
        (word & Self::SET != 0).then(|| Self { held_ns: (word & !Self::SET).saturating_mul(1000) })
    }
}

/// The reader's side: tells the publisher that nothing below `seq` is being read any more.
#[inline(always)]
pub fn release(block: &ReaderBlock, seq: u64) {
    // P13: all loads of what is released come before; partner: the publisher's load in
    // `LosslessGate::look`.
    block.read_seq.store(seq + u64::from(weakened(site::RELEASED_EARLY)), Ordering::Release);
}

/// The reader's side: whether it has been demoted. Asked behind a gap, it knows of the demotion
/// that made the gap possible.
pub fn demoted(block: &ReaderBlock) -> Option<Demoted> {
    // P14: a thread that saw the claim move over its datagrams sees the word: `RingReader::lap`
    // fences between the two; partner: the publisher's DEMOTE_FENCE.
    Demoted::unpack(block.demoted.load(Ordering::Relaxed))
}

/// The reader's side: the seq it begins at, as the publisher granted it; `None`: not yet.
pub fn granted(block: &ReaderBlock) -> Option<u64> {
    // Partner: the store in `LosslessGate::admit`. What is granted stays, since the claim is
    // limited by it already.
    block.granted.load(Ordering::Acquire).checked_sub(1)
}

/// One lossless reader.
#[derive(Debug)]
struct Holder {
    index: u32,
    /// Nothing from this seq on may be claimed again. Only grows, whatever its reader says.
    floor: u64,
    /// Claim line it allows.
    limit: ClaimEnd,
    /// For how long it has held the stream back since it last was less than half behind.
    held_ns: u64,
}

/// The publisher's list of lossless readers.
#[derive(Debug)]
pub struct LosslessGate {
    budget: Budget,
    holders: Vec<Holder>,
}

impl LosslessGate {
    /// For at most `most` readers, each with `budget`; never allocates after this.
    pub fn new(budget: Budget, most: u32) -> Self {
        Self { budget, holders: Vec::with_capacity(most as usize) }
    }

    /// Whether nobody is waited for.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Lets reader `index` in, which has `block` and asked to begin at `start`, with everything
    /// flushed; from now on nothing from what it is granted on is overwritten.
    pub fn admit(
        &mut self,
        publisher: &mut Publisher,
        index: u32,
        start: Start,
        block: &ReaderBlock,
    ) {
        let window = self.window(publisher);
        let floor = publisher.oldest_to_keep(start, window);
        self.holders.retain(|h| h.index != index);
        self.holders.push(Holder {
            index,
            floor,
            limit: publisher.limit_of(floor, window),
            held_ns: 0,
        });
        if !weakened(site::GRANTED_UNKEPT) {
            self.restrict(publisher);
        }
        block.granted.store(floor + 1, Ordering::Release);
    }

    /// Forgets reader `index`: it detached. False if it was not waited for.
    pub fn remove(&mut self, publisher: &mut Publisher, index: u32) -> bool {
        let before = self.holders.len();
        self.holders.retain(|h| h.index != index);
        self.restrict(publisher);
        self.holders.len() != before
    }

    /// Looks how far all of them have come; `cursor_of` gives each one's word. Call it with
    /// everything flushed.
    pub fn look<'a>(
        &mut self,
        publisher: &mut Publisher,
        cursor_of: impl Fn(u32) -> Option<&'a AtomicU64>,
    ) {
        let window = self.window(publisher);
        for holder in &mut self.holders {
            // P13: what is overwritten from now on, its reader has read before; partner: `release`.
            // Loom explores no load that is satisfied late, so this is no site.
            let said = cursor_of(holder.index).map_or(0, |word| word.load(Ordering::Acquire));
            holder.floor = holder.floor.max(said.min(publisher.flushed));
            holder.limit = publisher.limit_of(holder.floor, window);
            if publisher.is_ahead_by_half(holder.floor, window) {
                continue;
            }
            holder.held_ns = 0;
        }
        self.restrict(publisher);
    }

    /// The publisher could not claim `bytes` for another `ns`: charges it to everyone in the way.
    /// `Some`: the place of one whose budget is used up; call [`Self::demote`] with it, then again
    /// with `ns` 0.
    pub fn charge(&mut self, publisher: &Publisher, bytes: usize, ns: u64) -> Option<u32> {
        let need = publisher.need(bytes);
        let mut over = None;
        for holder in self.holders.iter_mut().filter(|h| !within(need, h.limit)) {
            holder.held_ns = holder.held_ns.saturating_add(ns);
            if holder.held_ns >= self.budget.time_ns {
                over = Some(holder.index);
            }
        }
        over
    }

    /// How long those in the way of a claim of `bytes` may still be waited for, ns.
    pub fn left_ns(&self, publisher: &Publisher, bytes: usize) -> u64 {
        let left =
            self.holding(publisher, bytes).map(|h| self.budget.time_ns.saturating_sub(h.held_ns));
        left.min().unwrap_or(0)
    }

    /// The places of all in the way of a claim of `bytes`, as far as was looked.
    pub fn in_the_way(&self, publisher: &Publisher, bytes: usize) -> impl Iterator<Item = u32> {
        self.holding(publisher, bytes).map(|h| h.index)
    }

    fn holding(&self, publisher: &Publisher, bytes: usize) -> impl Iterator<Item = &Holder> {
        let need = publisher.need(bytes);
        self.holders.iter().filter(move |h| !within(need, h.limit))
    }

    /// Does not wait for reader `index` any more, and tells it so in its `block`.
    pub fn demote(
        &mut self,
        publisher: &mut Publisher,
        index: u32,
        block: &ReaderBlock,
    ) -> Demoted {
        let held_ns = self.holders.iter().find(|h| h.index == index).map_or(0, |h| h.held_ns);
        let demoted = Demoted { held_ns: held_ns / 1000 * 1000 };
        if !weakened(site::DEMOTION_UNTOLD) {
            block.demoted.store(demoted.pack(), Ordering::Relaxed);
        }
        // P14: the word is there before the claim moves over what this reader has not read;
        // partner: `demoted`.
        site::DEMOTE_FENCE.fence_release();
        self.remove(publisher, index);
        demoted
    }

    fn window(&self, publisher: &Publisher) -> u64 {
        let geometry = publisher.memory().geometry();
        self.budget.bytes.clamp(geometry.least_window(), geometry.capacity())
    }

    fn restrict(&self, publisher: &mut Publisher) {
        let none = ClaimEnd { seq: u64::MAX, pos: u64::MAX };
        publisher.limit = self.holders.iter().fold(none, |least, holder| ClaimEnd {
            seq: least.seq.min(holder.limit.seq),
            pos: least.pos.min(holder.limit.pos),
        });
    }
}

fn within(need: ClaimEnd, limit: ClaimEnd) -> bool {
    need.seq <= limit.seq && need.pos <= limit.pos
}

/// What the gate needs to know of its publisher.
impl Publisher {
    /// Where the claim line has to be for one more datagram, with claims of up to `bytes` bytes.
    pub(super) fn need(&self, bytes: usize) -> ClaimEnd {
        let (len, offset) = (align8(bytes as u64), self.span_offset + self.used);
        let tail = self.capacity - offset;
        let skipped = if len > tail { tail } else { 0 };
        ClaimEnd { seq: self.next + 1, pos: self.span_pos + self.used + skipped + len }
    }

    /// Whether the claim line may go to `seq` and `pos`: for an assertion.
    pub(super) fn may_claim(&self, seq: u64, pos: u64) -> bool {
        weakened(site::GATE_OPEN)
            || (seq <= self.limit.seq.max(self.claim_seq)
                && pos <= self.limit.pos.max(self.claim_pos))
    }

    /// Whether one more datagram, with claims of up to `bytes` bytes, leaves what lossless readers
    /// still need.
    pub fn fits(&self, bytes: usize) -> bool {
        weakened(site::GATE_OPEN) || within(self.need(bytes), self.limit)
    }

    /// How many datagrams of up to `len` bytes each surely fit, claimed one by one or all at once:
    /// at least 1 where one fits, `most` at most.
    pub fn how_many_fit(&self, len: usize, most: usize) -> usize {
        let ClaimEnd { seq, pos } = self.limit;
        if pos == u64::MAX {
            return most;
        }
        let place = align8(len as u64).max(8);
        // What is skipped where the area ends is shorter than what is claimed there, and there is
        // one end at most.
        let free = pos.saturating_sub(self.span_pos + self.used);
        let by_bytes = free / (2 * place);
        let by_slots = seq.saturating_sub(self.next);
        by_bytes.min(by_slots).clamp(1, most as u64) as usize
    }

    /// Where a datagram lies or will lie, virtual.
    fn pos_of(&self, seq: u64) -> u64 {
        if seq >= self.next {
            return self.span_pos + self.used;
        }
        self.memory.slot(seq).pos.load(Ordering::Relaxed)
    }

    /// The claim line that leaves everything from `floor` on, and is not further ahead of it than
    /// `window` bytes.
    fn limit_of(&self, floor: u64, window: u64) -> ClaimEnd {
        ClaimEnd { seq: floor + self.memory.geometry().depth(), pos: self.pos_of(floor) + window }
    }

    fn is_ahead_by_half(&self, floor: u64, window: u64) -> bool {
        let behind = self.span_pos + self.used - self.pos_of(floor);
        behind > window / 2 || self.next - floor > self.memory.geometry().depth() / 2
    }

    /// The oldest seq not before `start` that is there and at most a `window` behind; half a window
    /// where no seq was named, so that the stream is not held back at once.
    fn oldest_to_keep(&self, start: Start, window: u64) -> u64 {
        let (from, most) = match start {
            Start::Latest => return self.flushed,
            Start::Oldest => (0, window / 2),
            Start::Seq(seq) => (seq, window),
        };
        let geometry = self.memory.geometry();
        let claimed = ClaimEnd { seq: self.claim_seq, pos: self.claim_pos };
        let behind = (self.span_pos + self.used).saturating_sub(most);
        let (mut low, mut high) =
            (claimed.first_slot(geometry).max(from).min(self.flushed), self.flushed);
        while low < high {
            let middle = low + (high - low) / 2;
            let pos = self.pos_of(middle);
            if claimed.payload_is_valid(geometry, pos) && pos >= behind {
                high = middle
            } else {
                low = middle + 1
            }
        }
        low
    }
}
