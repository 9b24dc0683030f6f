//! The sites of the ring: orderings and steps that a model weakens to show that they are needed.
//!
//! Contract: numbers P1.. are the ordering pairs of `proto/DESIGN.md`; each ordering names its
//! partner. Under `ringweir_loom` each of [`ALL`] is switched off in turn, and a model must fail.

use crate::sync::Site;

/// P1, publisher: store of the write cursor (Release). Partner: [`COMMIT_LOAD`].
pub const COMMIT_STORE: Site = Site::new(1, "COMMIT_STORE");
/// P1, reader: load of the write cursor (Acquire). Partner: [`COMMIT_STORE`].
pub const COMMIT_LOAD: Site = Site::new(2, "COMMIT_LOAD");
/// P2, publisher: fence between moving the claim line and overwriting what it claims. Partner:
/// [`VALIDATE_FENCE`].
pub const CLAIM_FENCE: Site = Site::new(3, "CLAIM_FENCE");
/// P2, reader: fence between the loads of a datagram and the re-check of the claim line. Partner:
/// [`CLAIM_FENCE`].
pub const VALIDATE_FENCE: Site = Site::new(4, "VALIDATE_FENCE");
/// P3, publisher: fence between the commit and the load of the summary of sleepers. Partner:
/// [`SLEEP_FENCE`].
pub const WAKE_FENCE: Site = Site::new(5, "WAKE_FENCE");
/// P3, waker: fence between entering a sleeper and checking the write cursor again. Partner:
/// [`WAKE_FENCE`].
pub const SLEEP_FENCE: Site = Site::new(6, "SLEEP_FENCE");
/// P4, publisher: store of the end mark after the last commit (Release). Partner: [`END_LOAD`].
pub const END_STORE: Site = Site::new(7, "END_STORE");
/// P4, reader: load of the end mark before the last load of the write cursor (Acquire). Partner:
/// [`END_STORE`].
pub const END_LOAD: Site = Site::new(8, "END_LOAD");
/// P11, publisher: store of the source's word after the flush of all earlier datagrams (Release).
/// Partner: [`GONE_LOAD`].
pub const GONE_STORE: Site = Site::new(9, "GONE_STORE");
/// P11, reader: load of the source's word before the last load of the write cursor (Acquire).
/// Partner: [`GONE_STORE`].
pub const GONE_LOAD: Site = Site::new(10, "GONE_LOAD");
/// P12, adopter: store of the generation after its record (Release). Partner: [`RESTART_LOAD`].
pub const RESTART_STORE: Site = Site::new(11, "RESTART_STORE");
/// P12, reader: load of the generation after the write cursor (Acquire). Partner:
/// [`RESTART_STORE`].
pub const RESTART_LOAD: Site = Site::new(12, "RESTART_LOAD");
/// P14, publisher: fence between reporting a reader's demotion to it and claiming what it had not
/// read. Partner: [`VALIDATE_FENCE`].
pub const DEMOTE_FENCE: Site = Site::new(13, "DEMOTE_FENCE");
/// Not an ordering: the publisher claims *after* it has overwritten. Shows that the models check
/// I2.
pub const CLAIM_LATE: Site = Site::new(14, "CLAIM_LATE");
/// Not an ordering: the reader does not re-check the claim line. Shows that the models can see a
/// torn datagram.
pub const VALIDATE_SKIPPED: Site = Site::new(15, "VALIDATE_SKIPPED");
/// Not an ordering: the waker does not check the write cursor again after entering a sleeper.
pub const LOOK_AGAIN_SKIPPED: Site = Site::new(16, "LOOK_AGAIN_SKIPPED");
/// Not an ordering: a lap is counted one datagram short. Shows that the models check conservation.
pub const LAP_MISCOUNTED: Site = Site::new(17, "LAP_MISCOUNTED");
/// Not an ordering: an adopter publishes what its predecessor had begun. Shows that the models
/// check I8.
pub const ADOPTED_HALF: Site = Site::new(18, "ADOPTED_HALF");
/// Not an ordering: an adopter moves the claim back to what was published. Shows that the models
/// check I7.
pub const ADOPTED_CLAIM_BACK: Site = Site::new(19, "ADOPTED_CLAIM_BACK");
/// Not an ordering: an adopter does not increment the generation.
pub const RESTART_UNREPORTED: Site = Site::new(20, "RESTART_UNREPORTED");
/// Not an ordering: a reader does not remember that it reported a restart.
pub const RESTART_TWICE: Site = Site::new(21, "RESTART_TWICE");
/// Not an ordering: a reader reads beyond the end of its generation. Shows that the models check
/// I9.
pub const BOUNDARY_IGNORED: Site = Site::new(22, "BOUNDARY_IGNORED");
/// Not an ordering: the publisher does not wait for lossless readers.
pub const GATE_OPEN: Site = Site::new(23, "GATE_OPEN");
/// Not an ordering: a reader is granted a seq, but the claim is not limited by it.
pub const GRANT_NOT_KEPT: Site = Site::new(24, "GRANT_NOT_KEPT");
/// Not an ordering: a lossless reader releases the datagram that it still holds.
pub const RELEASED_EARLY: Site = Site::new(25, "RELEASED_EARLY");
/// Not an ordering: a lossless reader is demoted, but its page does not say so.
pub const DEMOTION_UNREPORTED: Site = Site::new(26, "DEMOTION_UNREPORTED");

/// Every site of the ring, for the test that kills each mutant in turn.
pub const ALL: [Site; 26] = [
    COMMIT_STORE,
    COMMIT_LOAD,
    CLAIM_FENCE,
    VALIDATE_FENCE,
    WAKE_FENCE,
    SLEEP_FENCE,
    END_STORE,
    END_LOAD,
    GONE_STORE,
    GONE_LOAD,
    RESTART_STORE,
    RESTART_LOAD,
    DEMOTE_FENCE,
    CLAIM_LATE,
    VALIDATE_SKIPPED,
    LOOK_AGAIN_SKIPPED,
    LAP_MISCOUNTED,
    ADOPTED_HALF,
    ADOPTED_CLAIM_BACK,
    RESTART_UNREPORTED,
    RESTART_TWICE,
    BOUNDARY_IGNORED,
    GATE_OPEN,
    GRANT_NOT_KEPT,
    RELEASED_EARLY,
    DEMOTION_UNREPORTED,
];
