//! The rule for what is still safe to read, shared by publisher, reader and statistics.
//!
//! Contract: seqs and virtual positions are 64-bit and never wrap (at 10^9 per second, they last
//! 500 years). Nothing here loads memory; it only compares loaded values.

use crate::layout::Geometry;

/// The values loaded from the claim line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimEnd {
    /// Seqs below this one may be being written.
    pub seq: u64,
    /// Virtual positions below this one may be being written.
    pub pos: u64,
}

impl ClaimEnd {
    /// Whether the slot of `seq` cannot have been overwritten.
    #[inline(always)]
    pub const fn slot_is_valid(&self, geometry: &Geometry, seq: u64) -> bool {
        self.seq <= seq.saturating_add(geometry.depth())
    }

    /// Whether payload from virtual position `pos` on cannot have been overwritten.
    #[inline(always)]
    pub const fn payload_is_valid(&self, geometry: &Geometry, pos: u64) -> bool {
        self.pos <= pos.saturating_add(geometry.capacity())
    }

    /// First seq whose slot cannot have been overwritten.
    #[inline(always)]
    pub const fn first_slot(&self, geometry: &Geometry) -> u64 {
        self.seq.saturating_sub(geometry.depth())
    }
}
