//! The loom switch: the only file that names `core::sync::atomic` or loom for the shared state of a
//! ring. (The stop flags of signal handlers are `std`'s, as signal-hook requires.)
//!
//! Contract: all code of the ring algorithm gets its atomics, fences and orderings from here, so
//! that loom explores the same lines that production runs. The switch is our own cfg,
//! `ringweir_loom`, so that it does not affect third-party crates with a `loom` cfg.
//!
//! Every ordering of an algorithm is a named [`Site`]. Under `ringweir_loom` a test may weaken one
//! site at a time (`mutant::with`), and a model must then fail. In production a site is a constant
//! and costs nothing. Loom treats `SeqCst` *accesses* as `AcqRel` but implements the *fence*, so
//! the algorithm uses `SeqCst` only in fences.

#[cfg(not(ringweir_loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(ringweir_loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One site of an algorithm that a model may weaken: an ordering, or a step. The ring's sites are
/// in [`crate::ring::site`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Site {
    number: u32,
    name: &'static str,
}

impl Site {
    /// A site. `number` is unique across all crates.
    pub const fn new(number: u32, name: &'static str) -> Self {
        Self { number, name }
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a test has switched this site off. In production this is the constant `false`.
#[cfg(not(any(ringweir_loom, ringweir_tsan)))]
#[inline(always)]
pub const fn weakened(_site: Site) -> bool {
    false
}
#[cfg(any(ringweir_loom, ringweir_tsan))]
pub use mutant::weakened;

/// A word that processes or threads share.
pub trait Word {
    /// The type of its value.
    type Value: Copy;
    /// Loads it.
    fn load(&self, order: Ordering) -> Self::Value;
    /// Stores it.
    fn store(&self, value: Self::Value, order: Ordering);
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            type Value = $value;
            #[inline(always)]
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
        }
    };
}
word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Loads a word so that everything stored before its partner's Release is visible afterwards.
///
/// This is a relaxed load and an acquire fence, not an acquire load: for memory that may be mapped
/// read-only, `core::sync::atomic` promises only relaxed loads. The fence is free on x86-64.
#[inline(always)]
pub fn load_acquire<W: Word>(word: &W) -> W::Value {
    // ThreadSanitizer does not support fences. Loom must examine each site alone, and the fence of
    // one load would also cover the loads before it. An acquire load is weaker than the fence, so
    // what holds with it holds with the fence. Under both, the memory is writable.
    if cfg!(any(ringweir_tsan, ringweir_loom)) {
        return word.load(Ordering::Acquire);
    }
    let value = word.load(Ordering::Relaxed);
    any_fence(Ordering::Acquire);
    value
}

#[inline(always)]
fn any_fence(order: Ordering) {
    #[cfg(not(ringweir_loom))]
    core::sync::atomic::fence(order);
    #[cfg(ringweir_loom)]
    loom::sync::atomic::fence(order);
}

impl Site {
    /// [`load_acquire`] at this site.
    #[inline(always)]
    pub fn load_acquire<W: Word>(self, word: &W) -> W::Value {
        if weakened(self) { word.load(Ordering::Relaxed) } else { load_acquire(word) }
    }

    /// A Release store at this site.
    #[inline(always)]
    pub fn store_release<W: Word>(self, word: &W, value: W::Value) {
        word.store(value, if weakened(self) { Ordering::Relaxed } else { Ordering::Release });
    }

    /// A release fence at this site: stores after it are seen only together with stores before it.
    #[inline(always)]
    pub fn fence_release(self) {
        self.fence(Ordering::Release);
    }

    /// An acquire fence at this site: loads before it happen before loads after it.
    #[inline(always)]
    pub fn fence_acquire(self) {
        self.fence(Ordering::Acquire);
    }

    /// A full fence at this site: of two threads that store, fence and load, one sees the other's
    /// store.
    #[inline(always)]
    pub fn fence_full(self) {
        self.fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn fence(self, order: Ordering) {
        if !weakened(self) {
            any_fence(order);
        }
    }
}

/// A release fence outside the ring's own protocol (statistics, which loom does not model).
pub fn fence_release() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
}

/// An acquire fence outside the ring's own protocol.
pub fn fence_acquire() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}

/// Switches one site off; only for tests, under `ringweir_loom`.
#[cfg(ringweir_loom)]
pub mod mutant {
    use super::Site;
    use std::cell::Cell;

    // Loom runs all threads of a model as coroutines of the calling OS thread, so a plain
    // thread-local applies to all of them.
    thread_local!(static WEAKENED: Cell<Option<Site>> = const { Cell::new(None) });

    /// Runs `body` with `site` weakened.
    pub fn with<R>(site: Site, body: impl FnOnce() -> R) -> R {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                WEAKENED.with(|w| w.set(None));
            }
        }
        let _restore = Restore;
        WEAKENED.with(|w| w.set(Some(site)));
        body()
    }

    /// Whether a test has switched `site` off.
    pub fn weakened(site: Site) -> bool {
        WEAKENED.with(|w| w.get()) == Some(site)
    }
}

/// Switches one site off under ThreadSanitizer (`tests/sanitize`), for all threads of the process.
#[cfg(ringweir_tsan)]
pub mod mutant {
    use super::Site;
    use core::sync::atomic::{AtomicU32, Ordering};

    static WEAKENED: AtomicU32 = AtomicU32::new(u32::MAX);

    /// Weakens `site` for good.
    pub fn weaken(site: Site) {
        WEAKENED.store(site.number, Ordering::Relaxed);
    }

    /// Whether a test has switched `site` off.
    pub fn weakened(site: Site) -> bool {
        WEAKENED.load(Ordering::Relaxed) == site.number
    }
}
