//! The queue in which the pump learns of readers that come and go.
//!
//! Contract: bounded; the pump empties it once a round. Pushing also signals the pump's event, so
//! an idle pump wakes up for it.

use super::entry::ReaderEntry;
use crate::wake::event::Event;
use std::sync::Arc;

/// A change among the readers.
pub enum ReaderCommand {
    /// Count this reader among those that may sleep.
    Attach(Arc<ReaderEntry>),
    /// Forget the reader with this index.
    Detach(u32),
}

/// The registry's end.
pub struct CommandSender {
    queue: rtrb::Producer<ReaderCommand>,
    pump_event: Arc<Event>,
}

/// The pump's end.
pub type CommandReceiver = rtrb::Consumer<ReaderCommand>;

/// A queue for at most `readers_max` readers; `pump_event` is what the pump sleeps on.
pub fn queue(readers_max: u32, pump_event: Arc<Event>) -> (CommandSender, CommandReceiver) {
    let (queue, receiver) = rtrb::RingBuffer::new(readers_max as usize * 4 + 16);
    (CommandSender { queue, pump_event }, receiver)
}

impl CommandSender {
    /// Whether the pump has ended. It uses no readers any more then, and nothing takes commands.
    pub fn pump_has_ended(&self) -> bool {
        self.queue.is_abandoned()
    }

    /// Whether no command fits at the moment.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Reports a reader. False if there is no room.
    pub fn attach(&mut self, entry: Arc<ReaderEntry>) -> bool {
        let pushed = self.queue.push(ReaderCommand::Attach(entry)).is_ok();
        self.pump_event.signal();
        pushed
    }

    /// Reports that reader `index` is gone. Waits for room: the pump makes some each round.
    pub fn detach(&mut self, index: u32) {
        let mut command = ReaderCommand::Detach(index);
        while !self.pump_has_ended()
            && let Err(rtrb::PushError::Full(back)) = self.queue.push(command)
        {
            command = back;
            self.pump_event.signal();
            std::thread::yield_now();
        }
        self.pump_event.signal();
    }
}
