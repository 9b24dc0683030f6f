//! What the broker gives up, and keeps others from having.

use ringweir_proto::os::OsError;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Forbids other processes of the broker's own user to trace it, to write its memory, and to open
/// its fds through /proc: without this, a memfd's seals could be gone around. Root still may. There
/// are no core dumps from here on.
pub fn forbid_inspection() -> Result<(), OsError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(OsError::at("prctl PR_SET_DUMPABLE"))
}

/// Has the calling thread give up its capabilities for good, but those in `kept` that it has; which
/// these are.
pub fn keep_only(kept: CapabilitySet) -> Result<CapabilitySet, Errno> {
    let kept = capabilities(None)?.permitted & kept;
    // What a program that is executed could get. Taking that away is a privilege itself; without it
    // there is none to get.
    for capability in CapabilitySet::all().iter().filter(|c| !kept.contains(*c)) {
        let _unprivileged = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    // A kernel without them has none to clear.
    let _old = rustix::thread::clear_ambient_capability_set();
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(kept)
}

/// "CAP_NET_RAW CAP_CHOWN".
pub fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(" ")
}
