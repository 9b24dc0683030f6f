//! The pump's own list of readers, and how it wakes them.
//!
//! Contract: on the pump's thread only. Nothing here allocates, takes a lock or logs. The one
//! system call is a wake, made only if a reader sleeps.

use super::commands::{CommandReceiver, ReaderCommand};
use super::entry::ReaderEntry;
use crate::wake::event::Event;
use crate::wake::slow_wake::SlowWakeDetector;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Wake, WakeGate};
use std::sync::Arc;

/// The pump's readers.
pub struct PumpReaders {
    gate: Arc<WakeGate>,
    commands: CommandReceiver,
    entries: Vec<Option<Arc<ReaderEntry>>>,
    /// How many of them may sleep.
    sleepers_most: u32,
    waker_event: Arc<Event>,
    slow_wakes: SlowWakeDetector,
}

/// What the pump did after a flush.
pub enum Woken<'r> {
    /// No reader slept.
    NoReader,
    /// The one reader that slept.
    One,
    /// The same, and this reader was found to be slow to wake: the waker does it from now on.
    OneSlow(&'r ReaderEntry),
    /// The waker wakes the readers.
    ByWaker,
}

impl PumpReaders {
    /// A list for at most `most` readers.
    pub fn new(
        gate: Arc<WakeGate>,
        commands: CommandReceiver,
        most: u32,
        waker_event: Arc<Event>,
    ) -> Self {
        Self {
            gate,
            commands,
            entries: (0..most).map(|_| None).collect(),
            sleepers_most: 0,
            waker_event,
            slow_wakes: SlowWakeDetector::default(),
        }
    }

    /// The next change among the readers. The caller passes it to [`Self::apply`].
    #[inline]
    pub fn next_command(&mut self) -> Option<ReaderCommand> {
        self.commands.pop().ok()
    }

    /// Makes a change.
    pub fn apply(&mut self, command: ReaderCommand) {
        match command {
            ReaderCommand::Attach(entry) => {
                self.sleepers_most += u32::from(entry.may_sleep);
                entry.set_known_to_pump();
                let index = entry.index as usize;
                self.entries[index] = Some(entry);
            }
            ReaderCommand::Detach(index) => {
                if let Some(entry) = self.entries[index as usize].take() {
                    self.sleepers_most -= u32::from(entry.may_sleep);
                }
            }
        }
    }

    /// The reader with this index.
    pub fn get(&self, index: u32) -> Option<&ReaderEntry> {
        self.entries.get(index as usize)?.as_deref()
    }

    /// After a flush: wakes a sleeping reader, or has the waker wake several.
    #[inline]
    pub fn wake(&mut self) -> Woken<'_> {
        if self.sleepers_most == 0 {
            return Woken::NoReader;
        }
        match self.gate.after_commit() {
            Wake::Nobody => Woken::NoReader,
            Wake::One(index) => self.wake_one(index),
            Wake::Several => {
                self.waker_event.signal();
                Woken::ByWaker
            }
        }
    }

    fn wake_one(&mut self, index: u32) -> Woken<'_> {
        let Some(Some(entry)) = self.entries.get(index as usize) else { return Woken::One };
        if !self.slow_wakes.count_wake() {
            entry.kit.wake.signal();
            return Woken::One;
        }
        let before = clock::thread_cpu_ns();
        entry.kit.wake.signal();
        if !self.slow_wakes.record(index, clock::thread_cpu_ns() - before) {
            return Woken::One;
        }
        entry.mark_slow_to_wake();
        Woken::OneSlow(entry)
    }
}
