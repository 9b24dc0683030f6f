//! The consumer's end of one channel: it loads the index, checks the entries, counts losses
//! exactly, and recovers from garbage.
//!
//! Contract: nothing that the device writes makes this read outside the FIFO, hand out more than
//! the longest datagram, loop, or panic. `producer` is loaded once per batch. Losses are exact and
//! are reported before the datagram that follows them. After garbage, what was discarded to
//! resynchronise is known exactly as soon as the next good entry is seen, since entries are
//! numbered.

use super::map::{ENTRY_HEADER, Fifo, MARK, Shape};
use crate::site;
use ringweir_proto::sync::Ordering;

/// A checked datagram in the FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Payload bytes.
    pub len: usize,
    /// Device time in ns, if the device has one.
    pub time: Option<u64>,
    /// Datagrams that the device lost between the previous entry and this one.
    pub lost: u32,
    /// Datagrams that were discarded before it to resynchronise.
    pub discarded: u32,
    /// Its numbers contradicted the earlier ones. Counting starts afresh with it, and how many are
    /// missing before it is unknown.
    pub renumbered: bool,
    sequence: u32,
    lost_ever: u32,
    payload: u32,
    next: u32,
}

/// The device wrote something impossible. The channel is resynchronised already: everything that it
/// held was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// The index exceeds the size of the FIFO, or is not where an entry can end.
    #[error(
        "producer index {producer:#x} is not within {fifo} bytes of consumer index {consumer:#x}, \
        or no multiple of 8"
    )]
    Producer {
        /// As loaded.
        producer: u32,
        /// Our index.
        consumer: u32,
        /// FIFO bytes.
        fifo: u32,
    },
    /// There is no header where one should be.
    #[error("no entry at {at:#x}: it begins with {found:#010x}")]
    Mark {
        /// Position.
        at: u32,
        /// The word found there.
        found: u32,
    },
    /// Longer than the device's longest datagram, or than the bytes in the FIFO.
    #[error("entry of {len} bytes at {at:#x}: longer than {most}")]
    Length {
        /// Position.
        at: u32,
        /// The length in its header.
        len: u32,
        /// The longest possible there.
        most: u32,
    },
}

/// Losses that no entry reports yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Datagrams the device lost since the last entry.
    pub lost: u32,
}

/// The consuming end of one channel.
#[derive(Clone, Debug)]
pub struct Drain {
    shape: Shape,
    /// Our index. The register is a copy for the device and for the next consumer.
    consumer: u32,
    /// The device's index as last loaded. `cached - consumer` is a multiple of 8 and at most the
    /// FIFO's size.
    cached: u32,
    next_sequence: u32,
    lost_reported: u32,
    resynchronised: bool,
    /// No entry was read yet.
    fresh: bool,
}

impl Drain {
    /// Takes over a channel that was just reset, or that another consumer has drained so far. What
    /// that one left in the registers is used as far as it is plausible.
    pub fn new(shape: &Shape, fifo: Fifo<'_>) -> Self {
        let load = |register: &ringweir_proto::sync::AtomicU32| register.load(Ordering::Relaxed);
        let (consumer, next_sequence) =
            (load(&fifo.registers.consumer), load(&fifo.registers.next_sequence));
        let lost_reported = load(&fifo.registers.lost_reported);
        Self {
            shape: *shape,
            consumer,
            cached: consumer,
            next_sequence,
            lost_reported,
            resynchronised: false,
            fresh: true,
        }
    }

    /// Numbers accounted for, modulo 2^32: of datagrams taken, or known to be lost.
    pub fn accounted(&self) -> u32 {
        self.next_sequence
    }

    /// Bytes known to be in the FIFO, without loading the index again.
    pub fn level(&self) -> u32 {
        self.cached.wrapping_sub(self.consumer)
    }

    /// Whether the device has stored nothing beyond what was taken. For the check after arming.
    pub fn is_empty(&self, fifo: Fifo<'_>) -> bool {
        fifo.registers.producer.load(Ordering::Relaxed) == self.consumer
    }

    /// The next entry, which stays in the FIFO until it is [taken](Self::take). `None`: empty.
    ///
    /// # Errors
    /// If there is garbage. The channel continues with what the device stores from now on.
    pub fn look(&mut self, fifo: Fifo<'_>) -> Result<Option<Entry>, Garbage> {
        if self.cached == self.consumer {
            self.refresh(fifo)?;
            if self.cached == self.consumer {
                return Ok(None);
            }
        }
        let (at, level) = (self.consumer, self.level());
        let word = |at: u32| fifo.word(at).load(Ordering::Relaxed);
        let first = word(at);
        let (mark, len) = (first as u32, (first >> 32) as u32);
        if mark != MARK || level < ENTRY_HEADER {
            return Err(self.resynchronise(fifo, Garbage::Mark { at, found: mark }));
        }
        // Checked before it is used in a sum, since it may be any number.
        let most = self.shape.max_datagram;
        if len > most || self.shape.entry_bytes(len) > level {
            return Err(
                self.resynchronise(fifo, Garbage::Length { at, len, most: most.min(level) })
            );
        }
        let second = word(at.wrapping_add(8));
        let (sequence, lost_ever) = (second as u32, (second >> 32) as u32);
        if std::mem::take(&mut self.fresh) && sequence.wrapping_add(1) == self.next_sequence {
            // The previous consumer died between storing this number and the index. It has
            // accounted for this entry.
            self.consumer = at.wrapping_add(self.shape.entry_bytes(len));
            self.lost_reported = lost_ever;
            self.publish(fifo);
            return self.look(fifo);
        }
        let time = self.shape.timed().then(|| word(at.wrapping_add(ENTRY_HEADER)));
        let lost = lost_ever.wrapping_sub(self.lost_reported);
        let between = sequence.wrapping_sub(self.next_sequence).wrapping_sub(lost);
        let plausible =
            lost < 1 << 31 && if self.resynchronised { between < 1 << 31 } else { between == 0 };
        Ok(Some(Entry {
            len: len as usize,
            time,
            lost: if plausible { lost } else { 0 },
            discarded: if plausible { between } else { 0 },
            renumbered: !plausible,
            sequence,
            lost_ever,
            payload: at.wrapping_add(self.shape.front()),
            next: at.wrapping_add(self.shape.entry_bytes(len)),
        }))
    }

    /// Copies the payload of `entry` into `to`, as much of it as fits.
    ///
    /// # Panics
    /// If `to` is longer than the payload.
    pub fn copy(&self, fifo: Fifo<'_>, entry: &Entry, to: &mut [u8]) {
        assert!(to.len() <= entry.len, "there is no more of it");
        let mut at = entry.payload;
        let mut word = || {
            let word = fifo.word(at).load(Ordering::Relaxed);
            at = at.wrapping_add(8);
            word.to_le_bytes()
        };
        let (whole, rest) = to.as_chunks_mut::<8>();
        for to in whole {
            *to = word();
        }
        if !rest.is_empty() {
            let last = word();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    /// Takes `entry` out and returns its room to the device.
    pub fn take(&mut self, fifo: Fifo<'_>, entry: &Entry) {
        self.consumer = entry.next;
        self.next_sequence = entry.sequence.wrapping_add(1);
        self.lost_reported = entry.lost_ever;
        self.resynchronised = false;
        self.publish(fifo);
    }

    /// To be called when the FIFO was found empty: the losses since the last entry, if nothing was
    /// stored meanwhile. They are reported once.
    pub fn tail(&mut self, fifo: Fifo<'_>) -> Option<Tail> {
        // Acquire: `is_empty` below sees the entries that were stored before that loss; partner:
        // the device's store of `lost` in `Feed::store`.
        let lost_ever = fifo.registers.lost.load(Ordering::Acquire);
        let lost = lost_ever.wrapping_sub(self.lost_reported);
        if lost == 0 || lost >= 1 << 31 || !self.is_empty(fifo) || self.resynchronised {
            return None;
        }
        self.lost_reported = lost_ever;
        self.next_sequence = self.next_sequence.wrapping_add(lost);
        self.publish(fifo);
        Some(Tail { lost })
    }

    fn refresh(&mut self, fifo: Fifo<'_>) -> Result<(), Garbage> {
        // P9: everything stored below this index is visible; partner: the device's PRODUCER_STORE.
        let producer = site::PRODUCER_LOAD.load_acquire(&fifo.registers.producer);
        let level = producer.wrapping_sub(self.consumer);
        self.cached = producer;
        if level > fifo.bytes() || !level.is_multiple_of(8) {
            let (consumer, fifo_bytes) = (self.consumer, fifo.bytes());
            return Err(self
                .resynchronise(fifo, Garbage::Producer { producer, consumer, fifo: fifo_bytes }));
        }
        Ok(())
    }

    /// Skips everything up to the index last loaded.
    #[cold]
    fn resynchronise(&mut self, fifo: Fifo<'_>, why: Garbage) -> Garbage {
        self.consumer = self.cached;
        self.resynchronised = true;
        self.publish(fifo);
        why
    }

    fn publish(&self, fifo: Fifo<'_>) {
        fifo.registers.next_sequence.store(self.next_sequence, Ordering::Relaxed);
        fifo.registers.lost_reported.store(self.lost_reported, Ordering::Relaxed);
        // P10: the device may overwrite what was read before this store; partner: its load of the
        // register in `Feed::store`.
        fifo.registers.consumer.store(self.consumer, Ordering::Release);
    }
}
