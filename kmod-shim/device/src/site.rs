//! The sites of a device's FIFO: orderings and steps that a model weakens to show that they are
//! needed.
//!
//! Contract: numbers P8.. are the ordering pairs of `proto/DESIGN.md`; each ordering names its
//! partner. Under `ringweir_loom` each of [`ALL`] is switched off in turn, and a model must fail.

use ringweir_proto::sync::Site;

/// P8, consumer of a FIFO: fence between enabling interrupts and checking the FIFO again. Partner:
/// [`RAISE_FENCE`].
pub const ARM_FENCE: Site = Site::new(101, "ARM_FENCE");
/// P8, device: fence between storing and checking the interrupt mask. Partner: [`ARM_FENCE`].
pub const RAISE_FENCE: Site = Site::new(102, "RAISE_FENCE");
/// P9, device: store of the producer index (Release). Partner: [`PRODUCER_LOAD`].
pub const PRODUCER_STORE: Site = Site::new(103, "PRODUCER_STORE");
/// P9, consumer of a FIFO: load of the producer index (Acquire). Partner: [`PRODUCER_STORE`].
pub const PRODUCER_LOAD: Site = Site::new(104, "PRODUCER_LOAD");
/// Not an ordering: the consumer of a FIFO does not check it again after enabling interrupts.
pub const ARM_LOOK_SKIPPED: Site = Site::new(105, "ARM_LOOK_SKIPPED");

/// Every site of a FIFO, for the test that kills each mutant in turn.
pub const ALL: [Site; 5] =
    [ARM_FENCE, RAISE_FENCE, PRODUCER_STORE, PRODUCER_LOAD, ARM_LOOK_SKIPPED];
