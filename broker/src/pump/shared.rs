//! A pump's work in a program that publishes itself: shared with the control thread, which sees to
//! readers while the program is silent.
//!
//! Contract: the control thread takes the lock only if there was no round since it last looked. So
//! a program that publishes all the time never waits for it, and one that is silent keeps no reader
//! waiting for longer than two of the control thread's periods. Each side holds the lock for some
//! microseconds, except that a publisher holds it while it waits for lossless readers and then sees
//! to readers itself.

use super::core::PumpCore;
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The core of a pump, until the publisher ends.
pub struct SharedCore {
    core: Mutex<Option<PumpCore>>,
    /// Rounds so far; counted by the publisher.
    rounds: AtomicU64,
    /// The same when the control thread last looked.
    seen: AtomicU64,
}

impl SharedCore {
    /// Shares a core.
    pub fn new(core: PumpCore) -> Self {
        let [rounds, seen] = [const { AtomicU64::new(0) }; 2];
        Self { core: Mutex::new(Some(core)), rounds, seen }
    }

    /// The publisher: its core; `None` once it was taken.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Option<PumpCore>> {
        // Whatever panicked under the lock, the core is consistent between its calls.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The publisher: counts a round, under the lock.
    #[inline]
    pub fn count_round(&self) {
        // Relaxed: only a hint. The lock orders everything else. Only the publisher writes it.
        self.rounds.store(self.rounds.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The control thread: learns of readers that have come and gone, if the publisher is silent.
    pub fn take_commands_if_silent(&self) {
        let rounds = self.rounds.load(Ordering::Relaxed);
        if self.seen.swap(rounds, Ordering::Relaxed) != rounds {
            return;
        }
        let Ok(mut core) = self.core.try_lock() else { return };
        // Commands are taken when everything is flushed. A round that is open may stay open for as
        // long as its publisher likes, but what it has committed may be shown.
        if let Some(core) = &mut *core {
            core.flush();
            core.take_commands();
        }
    }
}
