//! The device's end of one channel: what the logic of an FPGA does, as a program.
//!
//! Contract: a datagram is stored whole or lost whole; a lost one takes a number, and is counted.
//! `consumer` is the other side's word: a value that cannot be makes the FIFO full, so a broken
//! consumer loses datagrams and breaks nothing.

use super::map::{Fifo, MARK, Shape};
use crate::site;
use ringweir_proto::sync::Ordering;

/// The counters behind a channel's device registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes ever put in, modulo 2^32.
    pub producer: u32,
    /// Datagrams made, lost ones included.
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

    /// A channel whose counters stand elsewhere: near the end of their numbers, or upset.
    pub fn at(shape: &Shape, counters: Counters) -> Self {
        Self { shape: *shape, counters }
    }

    /// What was made, stored and lost.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Datagrams made, lost ones included.
    pub fn produced(&self) -> u32 {
        self.counters.produced
    }

    /// Datagrams lost.
    pub fn lost(&self) -> u32 {
        self.counters.lost
    }

    /// Whether the consumer has taken everything, as far as is seen.
    pub fn is_empty(&self, fifo: Fifo<'_>) -> bool {
        // P10: partner: the consumer's store of it.
        fifo.registers.consumer.load(Ordering::Acquire) == self.counters.producer
    }

    /// Stores `payload`, stamped with device time `time` where the shape has one. False: no room,
    /// it is lost and counted.
    ///
    /// # Panics
    /// If `payload` is longer than the shape's longest datagram.
    pub fn store(&mut self, fifo: Fifo<'_>, payload: &[u8], time: u64) -> bool {
        assert!(
            payload.len() <= self.shape.max_datagram as usize,
            "longer than the device's longest datagram"
        );
        let takes = self.shape.entry_bytes(payload.len() as u32);
        // P10: what the consumer has read of the room it gave back was read before; partner: its
        // store.
        let consumer = fifo.registers.consumer.load(Ordering::Acquire);
        let free = fifo.bytes().saturating_sub(self.counters.producer.wrapping_sub(consumer));
        let sequence = self.counters.produced;
        self.counters.produced = sequence.wrapping_add(1);
        fifo.registers.produced.store(self.counters.produced, Ordering::Relaxed);
        if takes > free {
            self.counters.lost = self.counters.lost.wrapping_add(1);
            self.counters.lost_bytes = self.counters.lost_bytes.wrapping_add(payload.len() as u32);
            fifo.registers.lost_bytes.store(self.counters.lost_bytes, Ordering::Relaxed);
            // Pairs with the consumer's load of it: a thread that sees this count sees the entries
            // stored before.
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
        // P9: a thread that sees this index sees the entry; partner: the consumer's ProducerLoad.
        site::PRODUCER_STORE.store_release(&fifo.registers.producer, at);
        true
    }
}
