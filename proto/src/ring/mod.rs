//! The ring: one publisher, any number of readers, no waiting. `DESIGN.md` describes the algorithm.
//!
//! Contract: nothing here makes a system call, allocates on the hot path, takes a lock, reads a
//! clock or logs. The algorithm works on references to header, slots and payload words
//! ([`RingMemory`]). It does not depend on whether they are in shared memory
//! ([`crate::os::object`]) or on the heap ([`WritableRing::on_heap`]), so loom, tests and
//! production run the same lines.

mod adopt;
mod copy;
pub mod crash;
pub mod gate;
mod heap;
mod link_type;
mod loss;
mod memory;
mod publish;
mod read;
pub mod site;
mod wake;
mod writable;

pub use adopt::Unfit;
pub use gate::{Budget, Demoted, LosslessGate};
pub use link_type::LinkType;
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
