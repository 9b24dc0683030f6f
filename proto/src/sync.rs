//! The loom switch: the only file that names `core::sync::atomic` or loom for what processes or
//! threads share of a ring. (The stop flags of signal handlers are `std`'s, as signal-hook wants
//! them.)
//!
//! Contract: everything that takes part in the ring algorithm gets its atomics, its fences and its
//! orderings from here, so that the lines which loom explores are the lines which production runs.
//! The switch is the cfg `ringweir_loom`, our own, so that third-party crates with a `loom` cfg are
//! not flipped along with us.
//!
//! Every ordering of an algorithm is a named [`Site`]. Under `ringweir_loom` a test may weaken one
//! site at a time (`mutant::with`) and must then see a model fail; in production a site is a
//! constant and costs nothing. Loom treats `SeqCst` *accesses* as `AcqRel` but implements the
//! *fence*, so the algorithm uses `SeqCst` only in fences.

#[cfg(not(ringweir_loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(ringweir_loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One place of an algorithm that a model may weaken: an ordering, or a step. The ring's are in
/// [`crate::ring::site`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Site {
    number: u32,
    name: &'static str,
}

impl Site {
    /// A site. `number` is its own in all crates.
    pub const fn new(number: u32, name: &'static str) -> Self {
        Self { number, name }
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a test has switched this site off. In production: never, and the compiler knows it.
#[cfg(not(any(ringweir_loom, ringweir_tsan)))]
#[inline(always)]
pub const fn weakened(_site: Site) -> bool {
    false
}
#[cfg(any(ringweir_loom, ringweir_tsan))]
pub use mutant::weakened;

/// A word that processes or threads share.
pub trait Word {
    /// What it holds.
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

/// Loads a word such that everything stored before its partner's Release is visible afterwards.
///
/// A relaxed load and an acquire fence, not an acquire load: of memory that may be mapped read-only
/// `core::sync::atomic` promises relaxed loads only. The fence is free on x86-64.
#[inline(always)]
pub fn load_acquire<W: Word>(word: &W) -> W::Value {
    // ThreadSanitizer knows no fences, and loom is to look at each site alone: the fence of one load
    // would cover the loads before it. An acquire load gives less than the fence, so what holds
    // with it holds with the fence. Both look at writable memory.
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
    /// [`load_acquire`], here.
    #[inline(always)]
    pub fn load_acquire<W: Word>(self, word: &W) -> W::Value {
        if weakened(self) { word.load(Ordering::Relaxed) } else { load_acquire(word) }
    }

    /// A store with Release, here.
    #[inline(always)]
    pub fn store_release<W: Word>(self, word: &W, value: W::Value) {
        word.store(value, if weakened(self) { Ordering::Relaxed } else { Ordering::Release });
    }

    /// A release fence, here: stores after it are seen only together with stores before it.
    #[inline(always)]
    pub fn fence_release(self) {
        self.fence(Ordering::Release);
    }

    /// An acquire fence, here: loads before it happen before loads after it.
    #[inline(always)]
    pub fn fence_acquire(self) {
        self.fence(Ordering::Acquire);
    }

    /// A full fence, here: of two threads that store, fence and load, one sees the other's store.
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

/// Switching one site off, for tests only: exists under `ringweir_loom` alone.
#[cfg(ringweir_loom)]
pub mod mutant {
    use super::Site;
    use std::cell::Cell;

    // Loom runs all threads of a model as coroutines of the calling OS thread, so a plain
    // thread-local reaches them all.
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

/// The same under ThreadSanitizer (`tests/sanitize`), for all threads of the process.
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
