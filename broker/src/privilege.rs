//! What the broker gives up, and keeps others from having.

use ringweir_proto::os::OsError;

/// Forbids other processes of the broker's own user to trace it, to write its memory, and to open its fds through /proc:
/// without this, a memfd's seals could be gone around. Root still may. There are no core dumps from here on.
pub fn forbid_inspection() -> Result<(), OsError> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(OsError::at("prctl PR_SET_DUMPABLE"))
}
