//! A pump's work in a program that publishes itself: shared with the control thread, which sees to
//! readers while the program is silent.
//!
//! Contract: the control thread takes the lock only if there was no round since it last looked. So
//! a program that publishes all the time never waits for it, and one that is silent keeps no reader
//! waiting for longer than two of the control thread's periods. Each side holds the lock for some
//! microseconds, except that a publisher holds it while it waits for lossless readers and then sees
//! to readers itself. The lock has no priority inheritance: the first call of a real-time program
//! after a silence may wait for the control thread, at most until that has woken a reader.

use super::core::PumpCore;
use ringweir_proto::sync::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// What is under the lock.
pub struct Shared {
    /// The pump without its source.
    pub core: PumpCore,
    /// Datagrams may be claimed without looking at lossless readers again.
    pub in_round: bool,
}

/// The core of a pump, until the publisher ends.
pub struct SharedCore {
    shared: Mutex<Option<Shared>>,
    /// Rounds so far; counted by the publisher.
    rounds: AtomicU64,
    /// The same when the control thread last looked.
    seen: AtomicU64,
}

impl SharedCore {
    /// Shares a core.
    pub fn new(core: PumpCore) -> Self {
        let [rounds, seen] = [const { AtomicU64::new(0) }; 2];
        let shared = Mutex::new(Some(Shared { core, in_round: false }));
        Self { shared, rounds, seen }
    }

    /// The publisher: its core; `None` once it was taken.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Option<Shared>> {
        // Whatever panicked under the lock, the core is consistent between its calls.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The publisher: counts a round, under the lock.
    #[inline]
    pub fn count_round(&self) {
        // Relaxed: only a hint. The lock orders everything else. Only the publisher writes it.
        self.rounds.store(self.rounds.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The control thread: if the publisher is silent, shows what it has committed, and learns of
    /// readers that have come and gone.
    pub fn take_commands_if_silent(&self) {
        let rounds = self.rounds.load(Ordering::Relaxed);
        if self.seen.swap(rounds, Ordering::Relaxed) != rounds {
            return;
        }
        let mut shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(Shared { core, in_round }) = &mut *shared {
            // Commands are taken when everything is flushed, and between rounds. An open claim may
            // stay open for as long as its publisher likes.
            core.flush();
            core.take_commands();
            *in_round = false;
        }
    }
}
