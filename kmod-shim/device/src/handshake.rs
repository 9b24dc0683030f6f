//! The wake handshake between a device and its consumer: no interrupt is missed, and none comes
//! while the consumer is awake.
//!
//! Contract: the consumer enables interrupts only after it found every FIFO empty, and checks again
//! before it sleeps. The device checks the mask after it has stored. The handler of an interrupt
//! disables the next one ([`disarm`]). Interrupts coalesce: one means "look", never "one datagram".
//! `ringshim.ko` does the consumer's half in its `poll` and `read`, in the same order. Over a bus,
//! the load of `producer` after the fence also pushes the write of the mask to the device, since
//! reads do not pass posted writes.

use super::map::IRQ_DATA;
use crate::site;
use ringweir_proto::sync::{AtomicU32, Ordering, weakened};

/// Consumer: enables interrupts, then checks again. Returns true if the consumer may sleep, since
/// an interrupt will come. Returns false if there is data after all; interrupts are then disabled
/// again.
#[inline]
pub fn arm(interrupt_mask: &AtomicU32, empty: impl FnOnce() -> bool) -> bool {
    interrupt_mask.store(IRQ_DATA, Ordering::Relaxed);
    // P8: either `empty` sees what the device stored before its fence, or the device sees the mask;
    // partner: RAISE_FENCE.
    site::ARM_FENCE.fence_full();
    if weakened(site::ARM_LOOK_SKIPPED) || empty() {
        return true;
    }
    disarm(interrupt_mask);
    false
}

/// Consumer: disables interrupts. An interrupt handler calls this first.
#[inline]
pub fn disarm(interrupt_mask: &AtomicU32) {
    interrupt_mask.store(0, Ordering::Relaxed);
}

/// Device: whether to raise an interrupt for what was stored before this call.
#[inline]
pub fn may_interrupt(interrupt_mask: &AtomicU32) -> bool {
    // P8: partner: ARM_FENCE.
    site::RAISE_FENCE.fence_full();
    interrupt_mask.load(Ordering::Relaxed) & IRQ_DATA != 0
}
