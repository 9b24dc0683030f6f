//! The ring of a stream: adopted from a broker that died, or made.
//!
//! Contract: the caller holds the stream's lock. A ring that matches the configuration is adopted,
//! any other is replaced, and the log says why. No reader can attach before the new generation is
//! in the ring, so a reader that attaches finds it there; a reader that is still attached reads on
//! all the while.

use crate::process::fd_store::{FdStore, StoredRing};
use crate::process::memory_limit;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::{self, RingObject, RingSpec};
use ringweir_proto::ring::{Publisher, Restarted, WritableRing};

/// A ring, its writing end, and where it came from.
pub(super) struct Ring {
    pub(super) object: RingObject,
    pub(super) publisher: Publisher,
    /// Removes the ring from the fd store when the stream ends.
    pub(super) stored: Option<StoredRing>,
    pub(super) generation: u64,
    adopted: Option<Restarted>,
}

impl Ring {
    /// Adopts the ring that a dead broker left under `object_name` or in the `store`, if it is the
    /// one that `spec` describes; `position` as in `Source::position`. Otherwise makes a new one.
    /// The generation is above all earlier ones; that of `spec` is ignored.
    pub(super) fn adopt_or_create(
        object_name: &str,
        spec: RingSpec<'_>,
        position: Option<u32>,
        lock: &StreamLock,
        store: &mut FdStore,
    ) -> anyhow::Result<Self> {
        // Before adopting, which removes a leftover that does not match.
        let leftover = object::leftover_generation(object_name);
        let mut ring = match adopt(object_name, &spec, position, lock, store)? {
            Some(ring) => ring,
            None => create(object_name, spec, leftover, lock)?,
        };
        if spec.memory == Memory::StoredMemfd {
            ring.stored = store.store(spec.name, ring.object.take_for_store())?;
        }
        Ok(ring)
    }

    /// Whether it is the ring of an earlier broker.
    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    /// For the start message, after the generation.
    pub(super) fn describe_adoption(&self) -> String {
        let Some(Restarted { first, lost, exact, .. }) = self.adopted else { return String::new() };
        let least = if exact { "" } else { "at least " };
        format!(" (adopted, from seq {first}, {least}{lost} lost by the restart)")
    }

    /// For the start message, after the memory.
    pub(super) fn describe_storage(&self) -> String {
        match (&self.stored, self.object.immutable()) {
            (None, _) => String::new(),
            (Some(_), Ok(())) => " (stored by the service manager)".into(),
            (Some(_), Err(e)) => format!(" (stored by the service manager, not immutable: {e})"),
        }
    }
}

fn create(
    object_name: &str,
    spec: RingSpec<'_>,
    leftover: u64,
    lock: &StreamLock,
) -> anyhow::Result<Ring> {
    memory_limit::check(spec.geometry.footprint())?;
    let generation = leftover.max(lock.last_generation()).wrapping_add(1).max(1);
    lock.remember(generation)?;
    let (object, ring) = RingObject::create(object_name, &RingSpec { generation, ..spec })?;
    let publisher = Publisher::new(ring);
    Ok(Ring { object, publisher, stored: None, generation, adopted: None })
}

fn adopt(
    object_name: &str,
    spec: &RingSpec<'_>,
    position: Option<u32>,
    lock: &StreamLock,
    store: &mut FdStore,
) -> anyhow::Result<Option<Ring>> {
    let named = RingObject::adopt(object_name, spec)
        .map_or_else(|why| why.map(Err), |object| Some(Ok(object)));
    let stored = || {
        let fd = if spec.memory == Memory::StoredMemfd { store.claim(spec.name) } else { None };
        fd.map(|fd| RingObject::adopt_stored(fd, spec))
    };
    for found in named.into_iter().chain(std::iter::from_fn(stored)) {
        let adopted = match found {
            Ok(object) => take_over(object, position, lock)?,
            Err(why) => Err(why),
        };
        match adopted {
            Ok(ring) => return Ok(Some(ring)),
            Err(why) => {
                let name = spec.name;
                tracing::warn!(
                    "{name}: the ring of an earlier broker cannot be adopted and is replaced: {why}"
                );
            }
        }
    }
    Ok(None)
}

/// Adopts this ring, or returns why it cannot be adopted.
fn take_over(
    (object, ring): (RingObject, WritableRing),
    position: Option<u32>,
    lock: &StreamLock,
) -> anyhow::Result<Result<Ring, String>> {
    let memory = ring.memory();
    // A later generation has been served elsewhere: only the store still had this ring.
    let next = memory.generation().saturating_add(1);
    if lock.last_generation() > next {
        return Ok(Err(format!("its generation {} is out of date", next - 1)));
    }
    // Before readers can see the generation, so that no new ring ever gets one that was seen.
    lock.remember(next.max(lock.last_generation()))?;
    Ok(Publisher::adopt(ring, position).map_err(|why| why.to_string()).map(
        |(publisher, restarted)| Ring {
            object,
            publisher,
            stored: None,
            generation: restarted.generation,
            adopted: Some(restarted),
        },
    ))
}
