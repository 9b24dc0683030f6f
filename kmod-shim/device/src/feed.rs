//! The device's end of one channel: a program that does what the logic of an FPGA does.
//!
//! Contract: a datagram is stored whole or lost whole. A lost one takes a number and is counted.
//! The other side writes `consumer`. With an impossible value the FIFO counts as full, so a broken
//! consumer loses datagrams and does no other harm.

use super::map::{Fifo, MARK, Shape};
use crate::site;
use ringweir_proto::sync::Ordering;

/// The counters that a channel's device registers show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes ever stored, modulo 2^32.
    pub producer: u32,
    /// Datagrams produced, including lost ones.
    pub produced: u32,
    /// Datagrams lost.
    pub lost: u32,
    /// Their payload bytes.
    pub lost_bytes: u32,
}

/// The producing end of one channel.
#[derive(Clone, Debug)]
pub struct Feed {
    shape: Shape,
    counters: Counters,
}

impl Feed {
    /// An empty channel of a device of `shape`.
    pub fn new(shape: &Shape) -> Self {
        Self::at(shape, Counters::default())
    }

    /// A channel that begins with other counters, for instance near their wrap, or wrong ones.
    pub fn at(shape: &Shape, counters: Counters) -> Self {
        Self { shape: *shape, counters }
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Datagrams produced, including lost ones.
    pub fn produced(&self) -> u32 {
        self.counters.produced
    }

    /// Datagrams lost.
    pub fn lost(&self) -> u32 {
        self.counters.lost
    }

    /// Whether the consumer has taken everything, as far as its register shows.
    pub fn is_empty(&self, fifo: Fifo<'_>) -> bool {
        // P10: partner: the consumer's store of the register in `Drain::publish`.
        fifo.registers.consumer.load(Ordering::Acquire) == self.counters.producer
    }

    /// Stores `payload`, with device time `time` if the shape has one. Returns false if there is no
    /// room: it is then lost and counted.
    ///
    /// # Panics
    /// If `payload` is longer than the shape's longest datagram.
    pub fn store(&mut self, fifo: Fifo<'_>, payload: &[u8], time: u64) -> bool {
        assert!(
            payload.len() <= self.shape.max_datagram as usize,
            "longer than the device's longest datagram"
        );
        let takes = self.shape.entry_bytes(payload.len() as u32);
        // P10: the consumer has finished reading the room that it returned; partner: its store of
        // the register in `Drain::publish`.
        let consumer = fifo.registers.consumer.load(Ordering::Acquire);
        let free = fifo.bytes().saturating_sub(self.counters.producer.wrapping_sub(consumer));
        let sequence = self.counters.produced;
        self.counters.produced = sequence.wrapping_add(1);
        fifo.registers.produced.store(self.counters.produced, Ordering::Relaxed);
        if takes > free {
            self.counters.lost = self.counters.lost.wrapping_add(1);
            self.counters.lost_bytes = self.counters.lost_bytes.wrapping_add(payload.len() as u32);
            fifo.registers.lost_bytes.store(self.counters.lost_bytes, Ordering::Relaxed);
            // A thread that sees this count also sees the entries stored before it; partner: the
            // consumer's load of it in `Drain::tail`.
            fifo.registers.lost.store(self.counters.lost, Ordering::Release);
            return false;
        }
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut at = self.counters.producer;
        let mut put = |word: u64| {
            fifo.word(at).store(word, Ordering::Relaxed);
            at = at.wrapping_add(8);
        };
        put(pair(MARK, payload.len() as u32));
        put(pair(sequence, self.counters.lost));
        if self.shape.timed() {
            put(time);
        }
        let (whole, rest) = payload.as_chunks::<8>();
        for word in whole {
            put(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            put(u64::from_le_bytes(last));
        }
        self.counters.producer = at;
        // P9: a thread that sees this index also sees the entry; partner: the consumer's
        // PRODUCER_LOAD.
        site::PRODUCER_STORE.store_release(&fifo.registers.producer, at);
        true
    }
}
