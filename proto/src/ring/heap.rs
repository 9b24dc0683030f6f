//! A ring on the heap, for loom, unit tests and benches. It serves only one process.
//!
//! Contract: the same layout structs as in shared memory. Each is constructed, since loom's atomics
//! cannot be cast from bytes.

#![allow(unsafe_code)]

use super::memory::{Access, Parts, RingMemory};
use super::writable::WritableRing;
use crate::layout::{
    ClaimLine, CounterLines, Geometry, RestartLines, RestartRecord, Slot, StateLine, WriteLine,
};
use crate::sync::AtomicU64;
use std::ptr::NonNull;
use std::sync::Arc;

/// Owns the boxes that the raw pointers of [`RingMemory`] point into.
struct Boxes {
    claim: *mut ClaimLine,
    write: *mut WriteLine,
    state: *mut StateLine,
    counters: *mut CounterLines,
    restarts: *mut RestartLines,
    slots: *mut [Slot],
    payload: *mut [AtomicU64],
}

// SAFETY: the boxes are plain owned memory, and only this struct drops them.
unsafe impl Send for Boxes {}
// SAFETY: a shared `Boxes` gives no access to its pointers; all it holds are atomics and constants.
unsafe impl Sync for Boxes {}

impl Drop for Boxes {
    fn drop(&mut self) {
        fn free<T: ?Sized>(leaked: *mut T) {
            // SAFETY: it came from Box::into_raw in `on_heap` and is freed once, here.
            drop(unsafe { Box::from_raw(leaked) });
        }
        free(self.claim);
        free(self.write);
        free(self.state);
        free(self.counters);
        free(self.restarts);
        free(self.slots);
        free(self.payload);
    }
}

fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

fn slot() -> Slot {
    Slot {
        stamp: zero(),
        pos: zero(),
        offset: zero(),
        lengths: zero(),
        tags: zero(),
        source_time: zero(),
        publish_time: zero(),
        bytes_before: zero(),
    }
}

fn restart() -> RestartRecord {
    RestartRecord { generation: zero(), first: zero(), lost: zero(), inexact: zero() }
}

impl WritableRing {
    /// A fresh, empty ring of this geometry on the heap.
    pub fn on_heap(geometry: Geometry) -> Self {
        let boxes = Boxes {
            claim: Box::into_raw(Box::new(ClaimLine {
                seq: zero(),
                pos: zero(),
                reserved: [0; 14],
            })),
            write: Box::into_raw(Box::new(WriteLine { seq: zero(), reserved: [0; 15] })),
            state: Box::into_raw(Box::new(StateLine {
                ended: zero(),
                generation: AtomicU64::new(1),
                upstream: zero(),
                source: zero(),
                position: zero(),
                reserved: [0; 11],
            })),
            counters: Box::into_raw(Box::new(CounterLines {
                count: std::array::from_fn(|_| zero()),
            })),
            restarts: Box::into_raw(Box::new(RestartLines {
                record: std::array::from_fn(|_| restart()),
            })),
            slots: Box::into_raw((0..geometry.depth()).map(|_| slot()).collect()),
            payload: Box::into_raw((0..geometry.capacity() / 8).map(|_| zero()).collect()),
        };
        fn pointer<T: ?Sized>(leaked: *mut T) -> NonNull<T> {
            NonNull::new(leaked).expect("Box::into_raw is never null")
        }
        let parts = Parts {
            claim: pointer(boxes.claim),
            write: pointer(boxes.write),
            state: pointer(boxes.state),
            counters: pointer(boxes.counters),
            restarts: pointer(boxes.restarts),
            slots: pointer(boxes.slots),
            payload: pointer(boxes.payload),
        };
        // SAFETY: each pointer comes from a live box of the right length, freed only when `boxes`
        // is dropped.
        let memory =
            unsafe { RingMemory::from_parts(geometry, Access::Heap, parts, Box::new(boxes)) };
        // SAFETY: the memory is new, and no other code has a reference to it.
        unsafe { Self::assume_unique(Arc::new(memory)) }
    }
}
