//! The ring of a broker that died, taken over: what is ours is adopted, everything else is replaced, and it is said which.
//!
//! Contract: the caller holds the stream's lock. Nobody is let in before the new generation stands in the ring, so a
//! reader that attaches finds it there; one that is still attached reads on all the while.

use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::ring::{Publisher, Restarted};

/// The ring that a dead broker left under this name, with its writing end, if it is the one that `spec` describes; `position` as
/// [`crate::source::Source::position`]. `None`: make a fresh one, of a generation above all that there were.
pub fn adopt(
    object_name: &str,
    spec: &RingSpec<'_>,
    position: Option<u32>,
    lock: &StreamLock,
) -> anyhow::Result<Option<(RingObject, Publisher, Restarted)>> {
    let name = spec.name;
    let object = match RingObject::adopt(object_name, spec) {
        Ok(object) => object,
        Err(None) => return Ok(None),
        Err(Some(why)) => {
            tracing::warn!("{name}: the ring of an earlier broker is not adopted but replaced: {why}");
            return Ok(None);
        }
    };
    let memory = object.memory().clone();
    // A later generation has been served from elsewhere: this ring was forgotten by everybody but the file system.
    let next = memory.generation().saturating_add(1);
    if lock.last_generation() > next {
        tracing::warn!("{name}: the ring of generation {} is not adopted but replaced: it is out of date", next - 1);
        return Ok(None);
    }
    // Before readers can see it, so that no fresh ring is ever given a number that was seen.
    lock.remember(next.max(lock.last_generation()))?;
    match Publisher::adopt(memory, position) {
        Ok((publisher, restarted)) => Ok(Some((object, publisher, restarted))),
        Err(why) => {
            tracing::warn!("{name}: the ring of an earlier broker is not adopted but replaced: {why}");
            Ok(None)
        }
    }
}

/// For the start message, behind the generation.
pub fn words(adopted: Option<Restarted>) -> String {
    let Some(Restarted { first, lost, exact, .. }) = adopted else { return String::new() };
    let least = if exact { "" } else { "at least " };
    format!(" (adopted, from seq {first}, {least}{lost} lost by the restart)")
}
