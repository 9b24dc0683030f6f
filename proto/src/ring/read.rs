//! The reader: cursor, validation, laps and their exact account. It never stores to the ring.
//!
//! Contract: [`RingReader::step`] never blocks. What it hands out was committed whole, and it is
//! counted as delivered only after a check that it stayed whole. At all times (I4), `start +
//! delivered + lost` is the read cursor.

mod generations;
mod overruns;

#[cfg(not(ringweir_loom))]
use super::copy::prefetch;
use super::loss::{Account, Cause, Gap, Layer, Restarted};
use super::memory::{Access, RingMemory};
use super::site;
use crate::layout::{Slot, flags};
use crate::sync::Ordering;
use std::sync::Arc;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Start {
    /// With what is published after it attached.
    Latest,
    /// With the oldest available datagram.
    Oldest,
    /// With this seq. If it is overwritten already, a [`Gap`] reports what is missing. If it is
    /// still to come, the reader begins at the write cursor.
    Seq(u64),
}

/// Where a lapped reader resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Near the oldest available datagram: an eighth of the history after it, so as not to be
    /// lapped again at once.
    #[default]
    Oldest,
    /// With the newest datagram.
    Newest,
}

/// One datagram, as its slot describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Number.
    pub seq: u64,
    /// Offset in the payload area. The range of `len` bytes is checked to be inside.
    pub(crate) offset: usize,
    /// Bytes.
    pub len: usize,
    /// Bytes before it was cut; equals `len` if it was not.
    pub original_len: usize,
    /// Channel.
    pub channel: u16,
    /// CLOCK_REALTIME ns, 0 = unknown.
    pub source_time: u64,
    /// CLOCK_MONOTONIC ns.
    pub publish_time: u64,
    pos: u64,
    bytes_before: u64,
    upstream: u32,
    upstream_flags: u16,
}

impl Descriptor {
    /// How often the source's device had gone away before it, modulo 2^11.
    #[inline(always)]
    fn gone(&self) -> u16 {
        self.upstream_flags >> flags::GONE_SHIFT
    }
}

/// Whether a slot's stamp is that of `seq`. It wraps, because a damaged cursor may be any number.
#[inline(always)]
fn is_stamp_of(stamp: u64, seq: u64) -> bool {
    stamp == seq.wrapping_add(1)
}

/// `times` reduced like [`Descriptor::gone`].
fn times_gone(times: u64) -> u16 {
    times as u16 & u16::MAX >> flags::GONE_SHIFT
}

/// The result of [`RingReader::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A datagram; it is held until the next step.
    Datagram(Descriptor),
    /// Something was lost.
    Gap(Gap),
    /// A new broker adopted the ring. Everything earlier has been reported to this reader.
    Restarted(Restarted),
    /// Nothing new.
    Empty,
    /// Nothing new, and there never will be.
    Ended,
}

/// The ring contradicts itself: its memory is damaged, or it is not a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ring is corrupt at seq {seq}: {what}")]
pub struct Corrupt {
    /// Where.
    pub seq: u64,
    /// What was wrong.
    pub what: &'static str,
}

/// The datagram was overwritten while it was being read, so what was read is invalid. The next step
/// reports the gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("overwritten while it was being read: the reader was lapped")]
pub struct Torn;

/// State of the datagram handed out last. This is a tag beside the descriptor, not an enum around
/// it: moving ninety bytes from state to state would cost more than reading a small datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    /// Handed out, and not yet checked to have stayed whole.
    Unverified,
    /// Left unread: the next step hands it out again, or reports the gap that begins with it.
    Unread,
    /// Copied out and found whole: it counts as delivered, whatever happens to the ring now.
    Verified,
    /// Found overwritten.
    Torn,
}

/// Above every possible seq: at 10^9 datagrams per second it is reached after 146 years.
const SEQ_BOUND: u64 = 1 << 62;

/// Number of datagrams by which prefetching runs ahead of reading.
#[cfg(not(ringweir_loom))]
const AHEAD: u64 = 8;

/// Losses before the ring, as a slot or the end mark reports them: the sum so far, modulo 2^32.
#[derive(Clone, Copy)]
struct Upstream {
    first: u64,
    time: u64,
    count: u32,
    flags: u16,
}

/// The reading end of a ring.
pub struct RingReader {
    memory: Arc<RingMemory>,
    resume: Resume,
    /// Next seq to read.
    seq: u64,
    /// The write cursor as last loaded, or the end of `generation` if that is less. Invariant:
    /// `seq <= cached`.
    cached: u64,
    /// Whether `generation` had ended when `cached` was loaded.
    generation_ended: bool,
    /// The generation in which it reads, and the sums of the restarts up to it.
    generation: u64,
    restart_lost: u64,
    restart_inexact: u64,
    /// `bytes_before` of `seq`, if known.
    bytes: Option<u64>,
    upstream: Option<u32>,
    /// How often the source's device had gone away, modulo 2^11, as last reported.
    gone: Option<u16>,
    /// The source's word as last loaded.
    source_seen: u64,
    /// Whether `upstream` is from before the datagram `seq - 1`.
    upstream_stale: bool,
    held: Held,
    /// The datagram handed out last.
    current: Descriptor,
    /// A gap to report again ([`Self::report_later`]).
    unreported: Option<Gap>,
    account: Account,
}

/// The seq at which a reader of `memory` that starts at `start` would begin.
pub fn first_seq(memory: &Arc<RingMemory>, start: Start) -> u64 {
    RingReader::of(memory.clone(), start, Resume::Oldest).seq
}

impl RingReader {
    /// A reader of `memory`.
    ///
    /// # Panics
    /// If `memory` is the publisher's own mapping, since the publisher lends parts of it as
    /// `&mut [u8]`. A reader in the same process must attach like any other and gets a separate
    /// mapping.
    pub fn new(memory: Arc<RingMemory>, start: Start, resume: Resume) -> Self {
        assert!(memory.access() != Access::Publisher, "a reader of the publisher's own mapping");
        Self::of(memory, start, resume)
    }

    fn of(memory: Arc<RingMemory>, start: Start, resume: Resume) -> Self {
        let mut reader = Self {
            generation: memory.generation(),
            memory,
            resume,
            seq: 0,
            cached: 0,
            generation_ended: false,
            restart_lost: 0,
            restart_inexact: 0,
            bytes: None,
            upstream: None,
            gone: None,
            source_seen: 0,
            upstream_stale: false,
            held: Held::Nothing,
            current: Descriptor::default(),
            unreported: None,
            account: Account::default(),
        };
        reader.refresh();
        let at = match start {
            Start::Latest => reader.cached,
            Start::Oldest => reader.oldest(),
            Start::Seq(seq) => seq.min(reader.cached),
        };
        let latest = at == reader.cached;
        reader.seq = at;
        reader.account.start = at;
        reader.find_generation();
        // Before seq 0 there are no bytes and no losses.
        if at == 0 {
            reader.bytes = Some(0);
            reader.upstream = Some(0);
            reader.gone = Some(0);
        } else if latest {
            // Losses recorded with the last datagram happened before this reader attached.
            reader.upstream = reader.describe(at - 1).map(|d| d.upstream);
            // The same holds for a device that went away, unless it is away now, which is reported.
            reader.source_seen = reader.memory.source_word();
            reader.gone = Some(times_gone(reader.source_seen / 2));
        }
        reader
    }

    /// The read cursor: the next seq to read. A held datagram counts as not yet read.
    pub fn read_cursor(&self) -> u64 {
        self.seq
    }

    /// The read cursor in bytes since the stream began, if known.
    pub fn read_bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The reader's account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The ring.
    pub fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    /// The source's word ([`RingMemory::source_word`]) as this reader last saw it.
    pub fn source_seen(&self) -> u64 {
        self.source_seen
    }

    /// The generation in which this reader reads.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The write cursor as this reader last saw it, or the end of its generation if that came
    /// before.
    pub fn write_cursor_seen(&self) -> u64 {
        self.cached
    }

    #[inline(always)]
    fn refresh(&mut self) {
        // P1: everything committed below this cursor is visible; partner: the publisher's
        // COMMIT_STORE. No sound cursor comes near the bound. It keeps calculations with a damaged
        // cursor from overflowing.
        let cursor = site::COMMIT_LOAD.load_acquire(&self.memory.write_line().seq);
        self.cached = cursor.min(SEQ_BOUND);
        self.generation_ended = self.newest_generation() != self.generation;
        if self.generation_ended {
            self.stop_at_boundary();
        }
    }

    /// The datagram handed out last.
    #[inline(always)]
    pub fn current(&self) -> &Descriptor {
        &self.current
    }

    /// The hot path of [`Self::step`]: releases the datagram handed out last and puts the next one
    /// into [`Self::current`]. Returns false if something else is to be reported, or if there is
    /// nothing new up to the last seen cursor. [`Self::step`] then finds out what.
    #[inline(always)]
    pub fn advance(&mut self) -> bool {
        match self.held {
            Held::Nothing | Held::Unread => {}
            Held::Verified => self.delivered(),
            Held::Unverified if self.intact(&self.current) => self.delivered(),
            Held::Unverified | Held::Torn => {
                self.held = Held::Torn;
                return false;
            }
        }
        self.held = Held::Nothing;
        if self.seq >= self.cached {
            return false;
        }
        let Some(found) = self.describe(self.seq) else {
            // Overwritten before it was read, which is reported in the same way.
            self.held = Held::Torn;
            return false;
        };
        let reported = self.upstream == Some(found.upstream) && self.gone == Some(found.gone());
        if !reported || self.upstream_stale || !self.is_inside(&found) {
            return false;
        }
        self.current = found;
        self.held = Held::Unverified;
        #[cfg(not(ringweir_loom))]
        self.look_ahead(found.seq);
        true
    }

    /// Prefetches what is read soon from the publisher's cache: the slot of a later datagram, and
    /// the first line of one whose slot has arrived. It never goes beyond the write cursor, where
    /// the publisher would have to fetch the line back.
    #[cfg(not(ringweir_loom))]
    #[inline(always)]
    fn look_ahead(&self, seq: u64) {
        let (slot_of, payload_of) = (seq + 2 * AHEAD, seq + AHEAD);
        if slot_of < self.cached {
            prefetch(self.memory.slot(slot_of));
        }
        if payload_of < self.cached {
            self.memory
                .payload()
                .prefetch(self.memory.slot(payload_of).offset.load(Ordering::Relaxed) as usize);
        }
    }

    /// Releases the datagram handed out last and finds what comes next.
    #[inline]
    pub fn step(&mut self) -> Result<Step, Corrupt> {
        if self.advance() { Ok(Step::Datagram(self.current)) } else { self.step_slowly() }
    }

    fn step_slowly(&mut self) -> Result<Step, Corrupt> {
        if let Some(gap) = self.release()?.or_else(|| self.unreported.take()) {
            return Ok(Step::Gap(gap));
        }
        if self.seq >= self.cached {
            self.refresh();
            if self.seq == self.cached {
                let state = self.memory.state_line();
                // P11: partner: the publisher's GONE_STORE. A cursor loaded after the word is at
                // least as new.
                self.source_seen = site::GONE_LOAD.load_acquire(&state.source);
                let gone = times_gone(self.source_seen.div_ceil(2));
                // P4: partner: the publisher's END_STORE. A cursor loaded after the mark is the
                // final one.
                let ended = site::END_LOAD.load_acquire(&state.ended) != 0;
                if !ended && self.gone == Some(gone) && !self.generation_ended {
                    return Ok(Step::Empty);
                }
                self.refresh();
                if self.seq == self.cached {
                    if self.generation_ended {
                        return Ok(self.restarted()?.map_or(Step::Empty, Step::Restarted));
                    }
                    if let Some(gap) = self.gone_gap(gone, self.seq, 0) {
                        return Ok(Step::Gap(gap));
                    }
                    if !ended {
                        return Ok(Step::Empty);
                    }
                    let upstream = self.memory.state_line().upstream.load(Ordering::Relaxed);
                    let last = Upstream {
                        first: self.seq,
                        time: 0,
                        count: (upstream >> 32) as u32,
                        flags: (upstream >> 16) as u16,
                    };
                    return Ok(self.upstream_gap(last).map_or(Step::Ended, Step::Gap));
                }
            }
            if self.cached < self.seq {
                return Err(self.went_back());
            }
            self.account.lag_max = self.account.lag_max.max(self.cached - self.seq);
        }
        let Some(found) = self.describe(self.seq) else { return self.lap().map(Step::Gap) };
        let found = self.checked(found)?;
        let Descriptor { upstream: count, upstream_flags: flags, publish_time: time, .. } = found;
        if let Some(gap) = self.gone_gap(found.gone(), found.seq, time) {
            return Ok(Step::Gap(gap));
        }
        if let Some(gap) = self.upstream_gap(Upstream { first: found.seq, time, count, flags }) {
            return Ok(Step::Gap(gap));
        }
        self.current = found;
        self.held = Held::Unverified;
        Ok(Step::Datagram(found))
    }

    /// The gap that reports that the source's device went away before seq `first`, unless it was
    /// reported already.
    fn gone_gap(&mut self, gone: u16, first: u64, time: u64) -> Option<Gap> {
        let reported = self.gone.replace(gone).unwrap_or(gone);
        (reported != gone).then_some(Gap {
            first,
            count: 0,
            bytes: Some(0),
            time,
            cause: Cause::SourceGone,
        })
    }

    /// The gap for losses before the ring that this datagram, or the end, is the first to report.
    /// The slots hold sums modulo 2^32, so the count is exact even if slots in between were lapped.
    #[inline(always)]
    fn upstream_gap(&mut self, now: Upstream) -> Option<Gap> {
        let before = self.upstream.replace(now.count);
        let unknown =
            if self.upstream_stale { flags::LOSS_EVER_UNKNOWN } else { flags::LOSS_UNKNOWN };
        self.upstream_stale = false;
        let count = u64::from(now.count.wrapping_sub(before.unwrap_or(now.count)));
        if count == 0 {
            return None;
        }
        self.account.upstream_lost += count;
        let layer = Layer::from_bits(now.flags >> flags::LAYER_SHIFT);
        let cause = Cause::Upstream { layer, exact: now.flags & unknown == 0 };
        Some(Gap { first: now.first, count, bytes: None, time: now.time, cause })
    }

    /// Puts back the gap that the last step reported, so that the next step reports it again. This
    /// is for a caller that has to report something else first.
    pub fn report_later(&mut self, gap: Gap) {
        self.unreported = Some(gap);
        // Forces the next step off the hot path; it then loads the cursor again.
        self.cached = self.seq;
    }

    /// Settles the datagram handed out last. `Some` if it turned out to be torn: the gap that
    /// begins with it.
    #[inline]
    pub fn release(&mut self) -> Result<Option<Gap>, Corrupt> {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing | Held::Unread => return Ok(None),
            Held::Verified => self.delivered(),
            Held::Unverified if self.intact(&self.current) => self.delivered(),
            Held::Unverified | Held::Torn => return self.lap().map(Some),
        }
        Ok(None)
    }

    #[inline(always)]
    fn delivered(&mut self) {
        let d = &self.current;
        self.seq = d.seq + 1;
        self.bytes = Some(d.bytes_before.wrapping_add(d.len as u64));
        self.account.delivered += 1;
        self.account.bytes_delivered += d.len as u64;
    }

    /// Whether everything read of the held datagram so far is whole. The last result settles it:
    /// `Ok` as delivered, whatever happens to the ring afterwards; `Err` as a gap. Without a held
    /// datagram the result is `Err` and settles nothing.
    #[inline]
    pub fn validate(&mut self) -> Result<(), Torn> {
        match self.held {
            // A verified datagram is checked again: more of it may have been read since.
            Held::Verified | Held::Unverified | Held::Unread if self.intact(&self.current) => {
                self.held = Held::Verified;
                Ok(())
            }
            Held::Nothing => Err(Torn),
            _ => {
                self.held = Held::Torn;
                Err(Torn)
            }
        }
    }

    /// Leaves the held datagram unread. Unless it is validated after this, the next step hands it
    /// out again, or reports a gap that begins with it. A datagram that was validated or found torn
    /// before stays settled.
    pub fn leave_unread(&mut self) {
        if self.held == Held::Unverified {
            self.held = Held::Unread;
        }
    }

    /// Copies `dst.len()` bytes from `at` of the held datagram `d`, unvalidated: call
    /// [`Self::validate`] before using them.
    ///
    /// # Panics
    /// If the range is not inside the datagram.
    #[inline]
    pub fn copy_out(&self, d: &Descriptor, at: usize, dst: &mut [u8]) {
        assert!(
            at.checked_add(dst.len()).is_some_and(|end| end <= d.len),
            "range outside the datagram"
        );
        self.memory.payload().copy_out(d.offset + at, dst);
    }

    /// Address of the datagram's first byte, for reading in place. The bytes may change while they
    /// are read. What was computed from them is valid only if [`Self::validate`] succeeds
    /// afterwards.
    #[cfg(not(ringweir_loom))]
    #[inline]
    pub fn payload_ptr(&self, d: &Descriptor) -> *const u8 {
        self.memory.payload().at(d.offset, d.len)
    }

    /// Re-checks the claim line after loads of `d`'s slot or payload.
    #[inline(always)]
    fn intact(&self, d: &Descriptor) -> bool {
        // P2: if any of those loads saw a byte of a later datagram, the load below sees the claim
        // that preceded that byte; partner: the publisher's CLAIM_FENCE.
        site::VALIDATE_FENCE.fence_acquire();
        self.memory.is_valid(d.seq, d.pos)
    }

    /// Reads the slot of `seq`, if it still belongs to `seq`. The caller has loaded a write cursor
    /// above `seq`.
    #[inline(always)]
    fn describe(&self, seq: u64) -> Option<Descriptor> {
        let slot: &Slot = self.memory.slot(seq);
        let load = |word: &crate::sync::AtomicU64| word.load(Ordering::Relaxed);
        let (stamp, lengths, tags) = (load(&slot.stamp), load(&slot.lengths), load(&slot.tags));
        let found = Descriptor {
            seq,
            offset: load(&slot.offset) as usize,
            len: lengths as u32 as usize,
            original_len: (lengths >> 32) as usize,
            channel: tags as u16,
            source_time: load(&slot.source_time),
            publish_time: load(&slot.publish_time),
            pos: load(&slot.pos),
            bytes_before: load(&slot.bytes_before),
            upstream: (tags >> 32) as u32,
            upstream_flags: (tags >> 16) as u16,
        };
        (self.intact(&found) && is_stamp_of(stamp, seq)).then_some(found)
    }

    /// Checks every number before it is used: even an intact slot is untrusted.
    #[inline(always)]
    fn is_inside(&self, d: &Descriptor) -> bool {
        let geometry = self.memory.geometry();
        let fits = d.offset.checked_add(d.len).is_some_and(|end| end as u64 <= geometry.capacity());
        fits && d.len as u64 <= geometry.max_datagram() && d.original_len >= d.len
    }

    fn checked(&self, d: Descriptor) -> Result<Descriptor, Corrupt> {
        let what = "a slot describes a datagram outside the payload area";
        if self.is_inside(&d) { Ok(d) } else { Err(Corrupt { seq: d.seq, what }) }
    }
}
