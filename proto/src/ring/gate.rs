//! The gate for lossless readers: how far the publisher may go before it waits for them, and how
//! long it waits.
//!
//! Contract: only the publisher uses the gate. It loads one word of each lossless reader's page and
//! clamps it. A false cursor harms only its own reader: one that is too old costs the reader's
//! budget, and one that is too new costs its datagrams. Without lossless readers nothing here is
//! called and no limit applies. `DESIGN.md` §12.

use super::publish::Publisher;
use super::read::Start;
use super::site;
use crate::layout::{ReaderBlock, align8};
use crate::seq::ClaimEnd;
use crate::sync::{AtomicU64, Ordering, weakened};

/// How much a stream tolerates from a lossless reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Payload bytes that the publisher may run ahead of it, at most the ring's capacity.
    pub bytes: u64,
    /// Total time in ns that it may delay the stream before it has caught up to half of `bytes`;
    /// `u64::MAX` = for ever.
    pub time_ns: u64,
}

/// A reader used up its budget, and the stream no longer waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demoted {
    /// How long it had delayed the stream, ns (to the microsecond).
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

/// For the reader: announces to the publisher that it has finished with everything below `seq`.
#[inline(always)]
pub fn release(block: &ReaderBlock, seq: u64) {
    // P13: all loads of the released datagrams happen before this store; partner: the publisher's
    // load in `LosslessGate::look`.
    block.read_seq.store(seq + u64::from(weakened(site::RELEASED_EARLY)), Ordering::Release);
}

/// For the reader: whether it has been demoted. Called after a gap, it sees the demotion that made
/// the gap possible.
pub fn demoted(block: &ReaderBlock) -> Option<Demoted> {
    // P14: a thread that saw the claim move over its datagrams also sees this word, since
    // `RingReader::lap` fences between the two loads; partner: the publisher's DEMOTE_FENCE.
    Demoted::unpack(block.demoted.load(Ordering::Relaxed))
}

/// For the reader: the seq at which the publisher lets it begin; `None`: not granted yet.
pub fn granted(block: &ReaderBlock) -> Option<u64> {
    // Partner: the store in `LosslessGate::admit`. What is granted is not overwritten, since the
    // claim was limited before that store.
    block.granted.load(Ordering::Acquire).checked_sub(1)
}

/// One lossless reader.
#[derive(Debug)]
struct Holder {
    index: u32,
    /// Nothing from this seq on may be claimed again. It only grows, whatever the reader's cursor
    /// says.
    floor: u64,
    /// The claim line that it allows.
    limit: ClaimEnd,
    /// How long it has delayed the stream since it was last less than half a window behind.
    held_ns: u64,
}

/// The publisher's list of lossless readers.
#[derive(Debug)]
pub struct LosslessGate {
    budget: Budget,
    holders: Vec<Holder>,
}

impl LosslessGate {
    /// A gate for at most `most` readers, each with `budget`. It never allocates after this.
    pub fn new(budget: Budget, most: u32) -> Self {
        Self { budget, holders: Vec::with_capacity(most as usize) }
    }

    /// Whether there is no lossless reader to wait for.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Admits reader `index`, which has `block` and asked to begin at `start`. Call it with
    /// everything flushed. From now on nothing from the granted seq on is overwritten.
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
        if !weakened(site::GRANT_NOT_KEPT) {
            self.restrict(publisher);
        }
        block.granted.store(floor + 1, Ordering::Release);
    }

    /// Removes reader `index`, which detached. Returns false if it was not on the list.
    pub fn remove(&mut self, publisher: &mut Publisher, index: u32) -> bool {
        let before = self.holders.len();
        self.holders.retain(|h| h.index != index);
        self.restrict(publisher);
        self.holders.len() != before
    }

    /// Reads how far each reader has come; `cursor_of` returns its read cursor. Call it with
    /// everything flushed.
    pub fn look<'a>(
        &mut self,
        publisher: &mut Publisher,
        cursor_of: impl Fn(u32) -> Option<&'a AtomicU64>,
    ) {
        let window = self.window(publisher);
        for holder in &mut self.holders {
            // P13: the reader has finished reading whatever is overwritten from now on; partner:
            // `release`. Loom does not explore loads that are satisfied late, so this is not a
            // site.
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

    /// The publisher could not claim `bytes` for another `ns`: charges that time to every reader in
    /// the way. `Some`: the index of a reader whose budget is used up. Call [`Self::demote`] for
    /// it, then call this again with `ns` 0.
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

    /// How long the stream may still wait for the readers in the way of a claim of `bytes`, ns.
    pub fn left_ns(&self, publisher: &Publisher, bytes: usize) -> u64 {
        let left =
            self.holding(publisher, bytes).map(|h| self.budget.time_ns.saturating_sub(h.held_ns));
        left.min().unwrap_or(0)
    }

    /// The indexes of all readers in the way of a claim of `bytes`, as of the last [`Self::look`].
    pub fn in_the_way(&self, publisher: &Publisher, bytes: usize) -> impl Iterator<Item = u32> {
        self.holding(publisher, bytes).map(|h| h.index)
    }

    fn holding(&self, publisher: &Publisher, bytes: usize) -> impl Iterator<Item = &Holder> {
        let need = publisher.need(bytes);
        self.holders.iter().filter(move |h| !within(need, h.limit))
    }

    /// Stops waiting for reader `index`, and reports that in its `block`.
    pub fn demote(
        &mut self,
        publisher: &mut Publisher,
        index: u32,
        block: &ReaderBlock,
    ) -> Demoted {
        let held_ns = self.holders.iter().find(|h| h.index == index).map_or(0, |h| h.held_ns);
        let demoted = Demoted { held_ns: held_ns / 1000 * 1000 };
        if !weakened(site::DEMOTION_UNREPORTED) {
            block.demoted.store(demoted.pack(), Ordering::Relaxed);
        }
        // P14: the word is stored before the claim moves over what this reader has not read;
        // partner: the load in `demoted`, after the reader's VALIDATE_FENCE.
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

/// What the gate needs from its publisher.
impl Publisher {
    /// The claim line that one more datagram needs, with claims of up to `bytes` bytes.
    pub(super) fn need(&self, bytes: usize) -> ClaimEnd {
        let (len, offset) = (align8(bytes as u64), self.span_offset + self.used);
        let tail = self.capacity - offset;
        let skipped = if len > tail { tail } else { 0 };
        ClaimEnd { seq: self.next + 1, pos: self.span_pos + self.used + skipped + len }
    }

    /// Whether the claim line may move to `seq` and `pos`; for an assertion.
    pub(super) fn may_claim(&self, seq: u64, pos: u64) -> bool {
        weakened(site::GATE_OPEN)
            || (seq <= self.limit.seq.max(self.claim_seq)
                && pos <= self.limit.pos.max(self.claim_pos))
    }

    /// Whether one more datagram, with claims of up to `bytes` bytes, overwrites nothing that
    /// lossless readers still need.
    pub fn fits(&self, bytes: usize) -> bool {
        weakened(site::GATE_OPEN) || within(self.need(bytes), self.limit)
    }

    /// How many datagrams of up to `len` bytes each are sure to fit, claimed one by one or all at
    /// once: at least 1 (if one fits), at most `most`.
    pub fn how_many_fit(&self, len: usize, most: usize) -> usize {
        let ClaimEnd { seq, pos } = self.limit;
        if pos == u64::MAX {
            return most;
        }
        let place = align8(len as u64).max(8);
        // The bytes skipped at the end of the area are fewer than those claimed there, and at most
        // one end is crossed.
        let free = pos.saturating_sub(self.span_pos + self.used);
        let by_bytes = free / (2 * place);
        let by_slots = seq.saturating_sub(self.next);
        by_bytes.min(by_slots).clamp(1, most as u64) as usize
    }

    /// The virtual position of a datagram, past or future.
    fn pos_of(&self, seq: u64) -> u64 {
        if seq >= self.next {
            return self.span_pos + self.used;
        }
        self.memory.slot(seq).pos.load(Ordering::Relaxed)
    }

    /// The furthest claim line that keeps everything from `floor` on and is at most `window` bytes
    /// ahead of it.
    fn limit_of(&self, floor: u64, window: u64) -> ClaimEnd {
        ClaimEnd { seq: floor + self.memory.geometry().depth(), pos: self.pos_of(floor) + window }
    }

    fn is_ahead_by_half(&self, floor: u64, window: u64) -> bool {
        let behind = self.span_pos + self.used - self.pos_of(floor);
        behind > window / 2 || self.next - floor > self.memory.geometry().depth() / 2
    }

    /// The oldest available seq that is not before `start` and at most a `window` behind. Without a
    /// requested seq it is half a window, so that the reader does not delay the stream at once.
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
