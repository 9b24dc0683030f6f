//! The right to write one ring.
//!
//! Contract: each ring has one [`WritableRing`]. It is not `Clone`. It is created only together
//! with the ring, or by the process that adopts the ring of a dead broker, and [`super::Publisher`]
//! consumes it. All other code in this process sees the ring as a [`RingMemory`], which has no
//! method that stores.
//!
//! A publisher needs a writable ring, and keeps it:
//!
//! ```compile_fail,E0382
//! use ringweir_proto::{layout::Geometry, ring::{Publisher, WritableRing}};
//! let ring = WritableRing::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap());
//! let first = Publisher::new(ring);
//! let second = Publisher::new(ring); // moved already
//! ```
//!
//! The memory that readers share is not enough:
//!
//! ```compile_fail,E0308
//! use ringweir_proto::{layout::Geometry, ring::{Publisher, WritableRing}};
//! let ring = WritableRing::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap());
//! let publisher = Publisher::new(ring.memory().clone());
//! ```
//!
//! Control: with one of each it compiles.
//!
//! ```
//! use ringweir_proto::{layout::Geometry, ring::{Publisher, WritableRing}};
//! let ring = WritableRing::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap());
//! let memory = ring.memory().clone();
//! let publisher = Publisher::new(ring);
//! assert_eq!(memory.write_cursor(), publisher.next_seq());
//! ```

#![allow(unsafe_code)]

use super::memory::{Access, RingMemory};
use crate::sync::Ordering;
use std::sync::Arc;

/// The writing end of a ring, before it has a publisher.
pub struct WritableRing {
    memory: Arc<RingMemory>,
}

impl WritableRing {
    /// The writing end of `memory`.
    ///
    /// # Safety
    /// No other writing end of this ring exists, in this process or another: the caller has just
    /// created the ring, or holds the lock that its dead publisher held.
    ///
    /// # Panics
    /// If `memory` is mapped read-only.
    pub unsafe fn assume_unique(memory: Arc<RingMemory>) -> Self {
        assert!(memory.access() != Access::ReadOnly, "this ring is mapped read-only");
        Self { memory }
    }

    /// The ring, for readers and statistics.
    pub fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    pub(super) fn into_memory(self) -> Arc<RingMemory> {
        self.memory
    }

    /// Sets the generation of a fresh ring, before readers attach.
    pub fn set_generation(&mut self, generation: u64) {
        self.memory.state_line().generation.store(generation, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for WritableRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WritableRing")
            .field("geometry", self.memory.geometry())
            .finish_non_exhaustive()
    }
}
