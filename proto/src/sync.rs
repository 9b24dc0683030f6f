//! The loom switch: the only file that names `core::sync::atomic` or loom for what processes or threads share of a ring.
//! (The stop flags of signal handlers are `std`'s, as signal-hook wants them.)
//!
//! Contract: everything that takes part in the ring algorithm gets its atomics, its fences and its orderings from
//! here, so that the lines which loom explores are the lines which production runs. The switch is the cfg
//! `ringweir_loom`, our own, so that third-party crates with a `loom` cfg are not flipped along with us.
//!
//! Every ordering of the algorithm is a named [`Site`]. Under `ringweir_loom` a test may weaken one site at a time
//! (`mutant::with`) and must then see a model fail; in production a site is a constant and costs nothing. Loom treats
//! `SeqCst` *accesses* as `AcqRel` but implements the *fence*, so the algorithm uses `SeqCst` only in fences.

#[cfg(not(ringweir_loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(ringweir_loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One place of the algorithm whose ordering matters; numbers P1.. are those of `proto/DESIGN.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// P1, publisher: store of the write cursor (Release). Partner: [`Site::CommitLoad`].
    CommitStore,
    /// P1, reader: load of the write cursor (Acquire). Partner: [`Site::CommitStore`].
    CommitLoad,
    /// P2, publisher: fence between moving the claim line and overwriting what it claims. Partner: [`Site::ValidateFence`].
    ClaimFence,
    /// P2, reader: fence between the loads of a datagram and the re-check of the claim line. Partner: [`Site::ClaimFence`].
    ValidateFence,
    /// P3, publisher: fence between the commit and the look at the summary of sleepers. Partner: [`Site::DozeFence`].
    WakeFence,
    /// P3, waker: fence between entering a sleeper and looking at the write cursor again. Partner: [`Site::WakeFence`].
    DozeFence,
    /// P4, publisher: store of the end mark after the last commit (Release). Partner: [`Site::EndLoad`].
    EndStore,
    /// P4, reader: load of the end mark before the last look at the write cursor (Acquire). Partner: [`Site::EndStore`].
    EndLoad,
    /// P11, publisher: store of the source's word after the last flush before it went (Release). Partner: [`Site::GoneLoad`].
    GoneStore,
    /// P11, reader: load of the source's word before the last look at the write cursor (Acquire). Partner: [`Site::GoneStore`].
    GoneLoad,
    /// P12, adopter: store of the generation after its record (Release). Partner: [`Site::RestartLoad`].
    RestartStore,
    /// P12, reader: load of the generation after the write cursor (Acquire). Partner: [`Site::RestartStore`].
    RestartLoad,
    /// P14, publisher: fence between telling a reader that it is demoted and claiming what it had not read. Partner:
    /// [`Site::ValidateFence`].
    DemoteFence,
    /// P8, consumer of a FIFO: fence between allowing interrupts and looking again. Partner: [`Site::RaiseFence`].
    ArmFence,
    /// P8, device: fence between storing and looking at the interrupt mask. Partner: [`Site::ArmFence`].
    RaiseFence,
    /// P9, device: store of the producer index (Release). Partner: [`Site::ProducerLoad`].
    ProducerStore,
    /// P9, consumer of a FIFO: load of the producer index (Acquire). Partner: [`Site::ProducerStore`].
    ProducerLoad,
    /// Not an ordering: the consumer of a FIFO does not look again after allowing interrupts.
    ArmLookSkipped,
    /// Not an ordering: the publisher claims *after* it has overwritten. Shows that the models look at I2 at all.
    ClaimLate,
    /// Not an ordering: the reader does not re-check the claim line. Shows that the models can see a torn datagram.
    ValidateSkipped,
    /// Not an ordering: the waker does not look again after entering a sleeper.
    LookAgainSkipped,
    /// Not an ordering: a lap is counted one datagram short. Shows that the models check conservation.
    LapMiscounted,
    /// Not an ordering: an adopter publishes what its predecessor had begun. Shows that the models look at I8.
    AdoptedHalf,
    /// Not an ordering: an adopter puts the claim back to what was published. Shows that they look at I7.
    AdoptedClaimBack,
    /// Not an ordering: an adopter does not count the generation up.
    RestartUntold,
    /// Not an ordering: a reader does not remember that it told a restart.
    RestartTwice,
    /// Not an ordering: a reader looks beyond the end of its generation. Shows that they look at I9.
    BoundaryIgnored,
    /// Not an ordering: the publisher does not wait for lossless readers.
    GateOpen,
    /// Not an ordering: a reader is granted a seq and the claim is not limited by it.
    GrantedUnkept,
    /// Not an ordering: a lossless reader releases the datagram it has in hand.
    ReleasedEarly,
    /// Not an ordering: a lossless reader is not waited for any more and not told.
    DemotionUntold,
}

impl Site {
    /// Every site of the ring, for the test that kills each mutant in turn.
    pub const RING: [Site; 26] = [
        Site::CommitStore,
        Site::CommitLoad,
        Site::ClaimFence,
        Site::ValidateFence,
        Site::WakeFence,
        Site::DozeFence,
        Site::EndStore,
        Site::EndLoad,
        Site::GoneStore,
        Site::GoneLoad,
        Site::ClaimLate,
        Site::ValidateSkipped,
        Site::LookAgainSkipped,
        Site::LapMiscounted,
        Site::RestartStore,
        Site::RestartLoad,
        Site::AdoptedHalf,
        Site::AdoptedClaimBack,
        Site::RestartUntold,
        Site::RestartTwice,
        Site::BoundaryIgnored,
        Site::DemoteFence,
        Site::GateOpen,
        Site::GrantedUnkept,
        Site::ReleasedEarly,
        Site::DemotionUntold,
    ];

    /// Every site of a device's FIFO.
    pub const FIFO: [Site; 5] =
        [Site::ArmFence, Site::RaiseFence, Site::ProducerStore, Site::ProducerLoad, Site::ArmLookSkipped];
}

/// Whether a test has switched this site off. In production: never, and the compiler knows it.
#[cfg(not(any(ringweir_loom, ringweir_tsan)))]
#[inline(always)]
pub(crate) const fn weakened(_site: Site) -> bool {
    false
}
#[cfg(any(ringweir_loom, ringweir_tsan))]
pub(crate) use mutant::weakened;

/// The ordering of an access at `site`.
#[inline(always)]
pub(crate) fn ordering(site: Site, strong: Ordering) -> Ordering {
    if weakened(site) { Ordering::Relaxed } else { strong }
}

/// The fence at `site`.
#[inline(always)]
pub(crate) fn fence(site: Site, strong: Ordering) {
    if !weakened(site) {
        #[cfg(not(ringweir_loom))]
        core::sync::atomic::fence(strong);
        #[cfg(ringweir_loom)]
        loom::sync::atomic::fence(strong);
    }
}

/// A release fence outside the ring's own protocol (statistics, which loom does not model).
pub(crate) fn fence_release() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
}

/// An acquire fence outside the ring's own protocol.
pub(crate) fn fence_acquire() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}

/// Switching one site off, for tests only: exists under `ringweir_loom` alone.
#[cfg(ringweir_loom)]
pub mod mutant {
    use super::Site;
    use std::cell::Cell;

    // Loom runs all threads of a model as coroutines of the calling OS thread, so a plain thread-local reaches them all.
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

    pub(crate) fn weakened(site: Site) -> bool {
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
        WEAKENED.store(site as u32, Ordering::Relaxed);
    }

    pub(crate) fn weakened(site: Site) -> bool {
        WEAKENED.load(Ordering::Relaxed) == site as u32
    }
}
