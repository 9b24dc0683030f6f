//! Rights this process gives up, and inspection by others that it forbids.
//!
//! Contract: what is given up here cannot be taken back.

use ringweir_proto::os::OsError;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Forbids other processes of the same user to trace this process, to write its memory and to open
/// its descriptors through /proc. Without this they could get around a memfd's seals. Root still
/// can. There are no core dumps from here on.
pub fn forbid_inspection() -> Result<(), OsError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(OsError::at("prctl PR_SET_DUMPABLE"))
}

/// Drops all capabilities of the calling thread except those in `kept`, for good. Returns those it
/// still has.
pub fn drop_capabilities_except(kept: CapabilitySet) -> Result<CapabilitySet, Errno> {
    let kept = capabilities(None)?.permitted & kept;
    // The bounding set limits what an executed program can get. Removing from it is a privilege
    // itself; a thread without that privilege has nothing to pass on.
    for capability in CapabilitySet::all().iter().filter(|c| !kept.contains(*c)) {
        let _unprivileged = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    // An error means that the kernel has no ambient capabilities.
    let _old = rustix::thread::clear_ambient_capability_set();
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(kept)
}

/// "CAP_NET_RAW CAP_CHOWN".
pub fn capability_names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(" ")
}
