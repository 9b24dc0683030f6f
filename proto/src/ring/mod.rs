//! The ring: one publisher, any number of readers, no waiting. `DESIGN.md` is the paper, this is
//! its code.
//!
//! Contract: nothing here makes a system call, allocates on the hot path, takes a lock, looks at a
//! clock or logs. The algorithm works on references to header, slots and payload words
//! ([`RingMemory`]); who made them, shared memory ([`crate::os::object`]) or the heap
//! ([`WritableRing::on_heap`]), it does not know, so loom, tests and production run the same lines.

mod adopt;
mod copy;
pub mod crash;
pub mod gate;
mod heap;
mod loss;
mod memory;
mod publish;
mod read;
pub mod site;
mod wake;
mod writable;

pub use adopt::Unfit;
pub use gate::{Budget, Demoted, LosslessGate};
pub use loss::{Account, Cause, Gap, Layer, Restarted};
#[cfg(not(ringweir_loom))]
pub(crate) use memory::{Access, Parts};
pub use memory::{Looked, RingMemory};
#[cfg(not(ringweir_loom))]
pub use publish::ClaimBytes;
pub use publish::{Claim, Meta, Publisher, SpanTooLong};
pub use read::{Corrupt, Descriptor, Resume, RingReader, Start, Step, Torn, first_seq};
pub use wake::{Sleepers, Wake, WakeGate};
pub use writable::WritableRing;
