//! Landlock: which files, ports and processes are within reach.
//!
//! Contract: everything the interface knows is forbidden and what [`Needs`] names is allowed. Of
//! older kernels as much as they have is taken. What is open already stays open.

use super::Needs;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use std::path::PathBuf;

/// The newest version of the interface that our tests have run on.
const NEWEST: ABI = ABI::V7;

/// Restricts the calling thread; the version of the interface the kernel has.
pub(super) fn restrict(needs: &Needs) -> Result<u32, String> {
    let status =
        ruleset(needs).and_then(RulesetCreated::restrict_self).map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("this kernel has it, switched off (lsm=landlock,… on its command line)".into())
        }
        (RulesetStatus::NotEnforced, _) => Err("not in this kernel (Linux 5.13 has it)".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u32),
        (_, status) => Err(format!("the kernel says {status:?}")),
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
            // What is not there needs no rule.
            let Ok(fd) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules)
}
