//! The device's logic: registers, FIFOs, what is stored and what is lost.
//!
//! Contract: uses no clock, socket or thread; the caller passes the time. Each register that the
//! consumer writes is read once, and its value is used as far as it is plausible. Each channel
//! numbers its datagrams, lost ones included, so that every reader can prove what it received.

use super::account::ChannelAccount;
use super::digest::Digest;
use super::spec::Spec;
use ringweir_device::{
    DO_RESET, DO_RUN, DeviceMemory, Feed, Fifo, IRQ_DATA, IS_RESETTING, IS_RUNNING, MARK, Shape,
    may_interrupt,
};
use ringweir_pattern::crc;
use ringweir_pattern::generate::Lengths;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// How an entry is spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// It does not begin with the mark.
    Mark,
    /// Its length is longer than the FIFO.
    Length,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// In the FIFO.
    Stored,
    /// Lost: no room.
    Lost,
    /// In the FIFO, but unreadable.
    Spoiled(Spoil),
}

struct Channel {
    feed: Feed,
    /// Number of the next datagram: its sequence, not cut to 32 bits.
    number: u64,
    /// Where each entry in the FIFO ends.
    ends: VecDeque<u32>,
    /// Its index counter was disturbed. It is corrected when the consumer has resynchronised.
    upset: bool,
    device_account: ChannelAccount,
    digest: Digest,
}

/// The device.
pub struct DeviceModel {
    window: DeviceMemory,
    spec: Spec,
    lengths: Lengths,
    /// Length and channel of the next datagram.
    len: u32,
    turn: usize,
    channels: Vec<Channel>,
    running: bool,
    resetting: bool,
    /// An index has moved without a datagram.
    jumped: bool,
    payload: Vec<u8>,
    spoil: Option<Spoil>,
    resets: u64,
}

impl DeviceModel {
    /// A device whose memory is `window`, which was formatted for it.
    pub fn new(window: DeviceMemory, spec: Spec) -> Self {
        let shape = *window.shape();
        let mut lengths = Lengths::new(spec.sizes, spec.seed);
        let channel = || Channel {
            feed: Feed::new(&shape),
            number: 0,
            ends: VecDeque::new(),
            upset: false,
            device_account: ChannelAccount::default(),
            digest: Digest::default(),
        };
        let mut model = Self {
            len: lengths.draw(),
            lengths,
            turn: 0,
            channels: (0..shape.channels).map(|_| channel()).collect(),
            running: spec.autostart,
            resetting: false,
            jumped: false,
            payload: vec![0; spec.sizes.max()],
            spoil: None,
            resets: 0,
            spec,
            window,
        };
        model.power_on();
        model
    }

    /// The memory that consumers see.
    pub fn window(&self) -> &DeviceMemory {
        &self.window
    }

    /// Whether it takes datagrams in.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Payload bytes of the next datagram.
    pub fn next_len(&self) -> usize {
        self.len as usize
    }

    /// Unplugs the device: from now on, its first register reads as if there were no device.
    pub fn vanish(&mut self) {
        self.running = false;
        self.window.registers().identity.magic.store(u32::MAX, Ordering::Release);
    }

    /// Plugs the device in again: it moves to another window, empty and not running.
    pub fn replug(&mut self, window: DeviceMemory) {
        self.forget_entries();
        self.window = window;
        (self.running, self.resetting, self.turn) = (self.spec.autostart, false, 0);
        self.power_on();
    }

    /// Obeys the consumer's registers, and notes what the consumer has taken, at device time
    /// `time`.
    pub fn look(&mut self, time: u64) {
        let registers = &self.window.registers().control;
        let control = registers.control.load(Ordering::Acquire);
        let clear = registers.interrupt_clear.swap(0, Ordering::AcqRel);
        if clear != 0 {
            self.window.registers().status.interrupt_status.fetch_and(!clear, Ordering::AcqRel);
        }
        if control & DO_RESET != 0 && !self.resetting {
            self.reset();
        }
        let resetting = control & DO_RESET != 0;
        let running = !resetting && control & DO_RUN != 0;
        if (running, resetting) != (self.running, self.resetting) {
            (self.running, self.resetting) = (running, resetting);
            self.show_state();
        }
        self.show_time(time);
        for index in 0..self.channels.len() {
            self.observe(index);
        }
    }

    /// Makes the next datagram, at device time `time`.
    pub fn produce(&mut self, time: u64) -> Fate {
        let (index, len) = (self.turn, self.len as usize);
        self.turn = (index + 1) % self.channels.len();
        self.len = self.lengths.draw();
        self.observe(index);
        let channel = &mut self.channels[index];
        let payload = &mut self.payload[..len];
        crc::fill(payload, channel.number, index as u16);
        channel.number += 1;
        channel.device_account.produced += 1;
        let fifo = self.window.fifo(index as u32);
        // The bit comes first: a consumer that sees the entry must see the bit.
        self.window.registers().status.ready.fetch_or(1 << index, Ordering::AcqRel);
        let before = channel.feed.counters();
        if let Some(how) = self.spoil
            && forge(channel, self.window.shape(), fifo, how, len as u32)
        {
            self.spoil = None;
            channel.device_account.spoiled += 1;
            return Fate::Spoiled(how);
        }
        if channel.feed.store(fifo, payload, time) {
            channel.ends.push_back(channel.feed.counters().producer);
            channel.device_account.stored += 1;
            channel.digest.add(payload);
            return Fate::Stored;
        }
        channel.device_account.lost += 1;
        channel.device_account.lost_bytes +=
            u64::from(channel.feed.counters().lost_bytes.wrapping_sub(before.lost_bytes));
        Fate::Lost
    }

    /// Whether to interrupt for what was stored. If so, the status register shows it.
    pub fn raises(&self) -> bool {
        let registers = self.window.registers();
        let raises = may_interrupt(&registers.control.interrupt_mask);
        if raises {
            registers.status.interrupt_status.fetch_or(IRQ_DATA, Ordering::AcqRel);
        }
        raises
    }

    /// Whether an index has moved without a datagram since the last call. That calls for an
    /// interrupt as well.
    pub fn has_jumped(&mut self) -> bool {
        std::mem::take(&mut self.jumped)
    }

    /// Spoils the next datagram for which there is room.
    pub fn spoil_next(&mut self, how: Spoil) {
        self.spoil = Some(how);
    }

    /// Skips `count` numbers in the channel of the next datagram.
    pub fn skip(&mut self, count: u32) {
        let channel = &mut self.channels[self.turn];
        let mut counters = channel.feed.counters();
        counters.produced = counters.produced.wrapping_add(count);
        channel.feed = Feed::at(self.window.shape(), counters);
        channel.number += u64::from(count);
        channel.device_account.skipped += u64::from(count);
    }

    /// Disturbs the index counter of the channel of the next datagram: it jumps out of the FIFO
    /// and, if `unaligned`, also off the words, until the consumer has gone there. Until then the
    /// FIFO is as good as full. Returns how many entries were in it.
    pub fn upset(&mut self, unaligned: bool) -> u64 {
        self.observe(self.turn);
        let by = 4 * self.window.shape().fifo_bytes + if unaligned { 4 } else { 0 };
        self.jump(self.turn, by);
        self.channels[self.turn].upset = unaligned;
        self.channels[self.turn].ends.len() as u64
    }

    /// Whether the consumer has given all room back.
    pub fn is_drained(&mut self) -> bool {
        (0..self.channels.len()).for_each(|index| self.observe(index));
        self.channels.iter().all(|channel| channel.ends.is_empty())
    }

    /// The account of each channel.
    pub fn device_account(&mut self) -> Vec<ChannelAccount> {
        (0..self.channels.len()).for_each(|index| self.observe(index));
        let channels = self.channels.iter();
        channels
            .map(|c| ChannelAccount {
                left: c.ends.len() as u64,
                crc32: c.digest.hex(),
                ..c.device_account.clone()
            })
            .collect()
    }

    /// How often it was reset.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Empties everything and starts at the beginning.
    fn reset(&mut self) {
        self.forget_entries();
        self.resets += 1;
        self.turn = 0;
        let registers = self.window.registers();
        for channel in &registers.channel {
            for register in [
                &channel.producer,
                &channel.produced,
                &channel.lost,
                &channel.lost_bytes,
                &channel.consumer,
                &channel.next_sequence,
                &channel.lost_reported,
            ] {
                register.store(0, Ordering::Relaxed);
            }
        }
        registers.status.interrupt_status.store(0, Ordering::Relaxed);
        registers.status.ready.store(0, Ordering::Relaxed);
    }

    fn forget_entries(&mut self) {
        for index in 0..self.channels.len() {
            self.observe(index);
            let channel = &mut self.channels[index];
            channel.device_account.reset += channel.ends.len() as u64;
            channel.ends.clear();
            channel.feed = Feed::new(self.window.shape());
            (channel.number, channel.upset) = (0, false);
        }
    }

    fn power_on(&mut self) {
        // The window was formatted, so the register is 0, or it holds what a quick consumer has
        // written since then: that stays.
        if self.spec.autostart {
            self.window.registers().control.control.fetch_or(DO_RUN, Ordering::Relaxed);
        }
        self.show_state();
    }

    fn show_state(&mut self) {
        let status = if self.resetting { IS_RESETTING } else { 0 }
            | if self.running { IS_RUNNING } else { 0 };
        // Release: a consumer that sees this status sees the emptied registers.
        self.window.registers().status.status.store(status, Ordering::Release);
    }

    fn show_time(&self, time: u64) {
        let status = &self.window.registers().status;
        // High first: a thread that sees the low half sees the high one that belongs to it, or a
        // later one.
        status.time_high.store((time >> 32) as u32, Ordering::Relaxed);
        status.time_low.store(time as u32, Ordering::Release);
    }

    /// Reads how far the consumer is.
    fn observe(&mut self, index: usize) {
        let fifo = self.window.fifo(index as u32);
        let channel = &mut self.channels[index];
        let producer = channel.feed.counters().producer;
        let level = producer.wrapping_sub(fifo.registers.consumer.load(Ordering::Acquire));
        if level <= fifo.bytes() {
            while channel.ends.front().is_some_and(|end| producer.wrapping_sub(*end) >= level) {
                channel.ends.pop_front();
                channel.device_account.drained += 1;
            }
        }
        if level != 0 {
            return;
        }
        self.window.registers().status.ready.fetch_and(!(1 << index), Ordering::AcqRel);
        if std::mem::take(&mut channel.upset) {
            self.jump(index, 4);
        }
    }

    fn jump(&mut self, index: usize, by: u32) {
        self.jumped = true;
        let channel = &mut self.channels[index];
        let mut counters = channel.feed.counters();
        counters.producer = counters.producer.wrapping_add(by);
        channel.feed = Feed::at(self.window.shape(), counters);
        self.window.registers().status.ready.fetch_or(1 << index, Ordering::AcqRel);
        self.window
            .fifo(index as u32)
            .registers
            .producer
            .store(counters.producer, Ordering::Release);
    }
}

/// Stores an unreadable entry for `len` payload bytes, if there is room for it.
fn forge(channel: &mut Channel, shape: &Shape, fifo: Fifo<'_>, how: Spoil, len: u32) -> bool {
    let takes = shape.entry_bytes(len);
    let mut counters = channel.feed.counters();
    let level = counters.producer.wrapping_sub(fifo.registers.consumer.load(Ordering::Acquire));
    if takes > fifo.bytes().saturating_sub(level) {
        return false;
    }
    let (mark, length) = match how {
        Spoil::Mark => (!MARK, len),
        Spoil::Length => (MARK, fifo.bytes() + 1),
    };
    let at = counters.producer;
    for (word, (low, high)) in
        [(mark, length), (counters.produced, counters.lost)].into_iter().enumerate()
    {
        let place = (at as usize / 8 + word) % fifo.words.len();
        fifo.words[place].store(u64::from(low) | u64::from(high) << 32, Ordering::Relaxed);
    }
    counters.producer = at.wrapping_add(takes);
    counters.produced = counters.produced.wrapping_add(1);
    channel.feed = Feed::at(shape, counters);
    fifo.registers.produced.store(counters.produced, Ordering::Relaxed);
    fifo.registers.producer.store(counters.producer, Ordering::Release);
    channel.ends.push_back(counters.producer);
    true
}
