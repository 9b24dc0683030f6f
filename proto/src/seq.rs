//! What is still safe to read: the one rule that publisher, reader and statistics share.
//!
//! Contract: seqs and virtual positions are 64-bit and never wrap (at 10^9 a second for 500 years).
//! Nothing here loads memory; it only compares what was loaded.

use crate::layout::Geometry;

/// A reading of the claim line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimEnd {
    /// Seqs below this one may be in writing.
    pub seq: u64,
    /// Virtual positions below this one may be in writing.
    pub pos: u64,
}

impl ClaimEnd {
    /// Whether the slot of `seq` cannot have been touched.
    #[inline(always)]
    pub const fn slot_is_valid(&self, geometry: &Geometry, seq: u64) -> bool {
        self.seq <= seq.saturating_add(geometry.depth())
    }

    /// Whether payload at virtual position `pos` and after cannot have been touched.
    #[inline(always)]
    pub const fn payload_is_valid(&self, geometry: &Geometry, pos: u64) -> bool {
        self.pos <= pos.saturating_add(geometry.capacity())
    }

    /// First seq whose slot cannot have been touched.
    #[inline(always)]
    pub const fn first_slot(&self, geometry: &Geometry) -> u64 {
        self.seq.saturating_sub(geometry.depth())
    }
}
