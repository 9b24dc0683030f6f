//! Landlock: which files, ports and processes a thread can reach.
//!
//! Contract: everything landlock knows is forbidden, except what [`Needs`] names. Older kernels
//! apply as much of it as they support. Descriptors that are already open stay usable.

use super::needs::Needs;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use std::path::PathBuf;

/// The newest version of the interface that the tests have run on.
const NEWEST: ABI = ABI::V7;

/// Restricts the calling thread. Returns the version of the kernel's interface.
pub(super) fn restrict(needs: &Needs) -> Result<u32, String> {
    let status =
        ruleset(needs).and_then(RulesetCreated::restrict_self).map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("switched off in this kernel (enable it with lsm=landlock,… on its command line)"
                .into())
        }
        (RulesetStatus::NotEnforced, _) => Err("not in this kernel (needs Linux 5.13)".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u32),
        (_, status) => Err(format!("the kernel reports {status:?}")),
    }
}

fn ruleset(needs: &Needs) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let make =
        write | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::Truncate;
    let allowed: [(&[PathBuf], BitFlags<AccessFs>); 4] = [
        (&needs.read, AccessFs::ReadFile.into()),
        (&needs.write, write),
        (&needs.make, make),
        (&needs.remove, AccessFs::RemoveFile.into()),
    ];
    for (paths, access) in allowed {
        for path in paths {
            // A path that does not exist needs no rule.
            let Ok(fd) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules)
}
