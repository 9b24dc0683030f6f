//! The ring of a broker that died, taken over: what is ours is adopted, everything else is
//! replaced, and it is said which.
//!
//! Contract: the caller holds the stream's lock. Nobody is let in before the new generation stands
//! in the ring, so a reader that attaches finds it there; one that is still attached reads on all
//! the while.

use crate::store::Store;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::ring::{Publisher, Restarted};

/// The ring that a dead broker left under this name, or in the `store`, with its writing end, if it
/// is the one that `spec` describes; `position` as [`crate::source::Source::position`]. `None`:
/// make a fresh one, of a generation above all that there were.
pub fn adopt(
    object_name: &str,
    spec: &RingSpec<'_>,
    position: Option<u32>,
    lock: &StreamLock,
    store: &mut Store,
) -> anyhow::Result<Option<Adopted>> {
    let named = RingObject::adopt(object_name, spec)
        .map_or_else(|why| why.map(Err), |object| Some(Ok(object)));
    let kept = || {
        let fd = if spec.memory == Memory::StoredMemfd { store.claim(spec.name) } else { None };
        fd.map(|fd| RingObject::adopt_stored(fd, spec))
    };
    for found in named.into_iter().chain(std::iter::from_fn(kept)) {
        let adopted = match found {
            Ok(object) => take_over(object, position, lock)?,
            Err(why) => Err(why),
        };
        match adopted {
            Ok(adopted) => return Ok(Some(adopted)),
            Err(why) => {
                let name = spec.name;
                tracing::warn!(
                    "{name}: the ring of an earlier broker is not adopted but replaced: {why}"
                );
            }
        }
    }
    Ok(None)
}

type Adopted = (RingObject, Publisher, Restarted);

/// Adopts this one, or says why it cannot be.
fn take_over(
    object: RingObject,
    position: Option<u32>,
    lock: &StreamLock,
) -> anyhow::Result<Result<Adopted, String>> {
    let memory = object.memory().clone();
    // A later generation has been served from elsewhere: this ring was forgotten by everybody but
    // who kept it.
    let next = memory.generation().saturating_add(1);
    if lock.last_generation() > next {
        return Ok(Err(format!("its generation {} is out of date", next - 1)));
    }
    // Before readers can see it, so that no fresh ring is ever given a number that was seen.
    lock.remember(next.max(lock.last_generation()))?;
    let adopted = Publisher::adopt(memory, position);
    Ok(adopted
        .map(|(publisher, restarted)| (object, publisher, restarted))
        .map_err(|why| why.to_string()))
}

/// For the start message, behind the generation.
pub fn words(adopted: Option<Restarted>) -> String {
    let Some(Restarted { first, lost, exact, .. }) = adopted else { return String::new() };
    let least = if exact { "" } else { "at least " };
    format!(" (adopted, from seq {first}, {least}{lost} lost by the restart)")
}
