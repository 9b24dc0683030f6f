//! Confining the calling thread: no new privileges, landlock, capabilities, seccomp.
//!
//! Contract: what is given up is given up for good, for this thread and the threads it starts
//! later. Each part that the kernel refuses is recorded in [`Confined`], and the others still
//! apply.

use super::needs::Needs;
use super::{files, syscalls};
use crate::process::privilege;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::thread::{CapabilitySet, capabilities};
use std::fmt;
use std::path::PathBuf;

/// How the threads of a stream are confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Not at all: `--no-sandbox`.
    Off,
    /// Each thread confines itself.
    On,
    /// They inherit the confinement of the thread that starts them.
    Inherited(Confined),
}

impl Sandbox {
    /// Confines the calling thread to what it `needs`.
    pub fn enter(&self, needs: &Needs) -> Confined {
        match self {
            Self::Off => Confined::default(),
            Self::On => confine(needs),
            Self::Inherited(confined) => confined.clone(),
        }
    }
}

/// Confines the calling thread for good.
pub(super) fn confine(needs: &Needs) -> Confined {
    let mut kept = needs.capabilities;
    if needs_dac_override(needs) {
        kept |= CapabilitySet::DAC_OVERRIDE;
    }
    // First: without it landlock and seccomp would require a privilege.
    let no_new_privileges = rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string());
    // Before the capabilities go: it opens the files of its rules.
    let landlock = files::restrict(needs);
    let capabilities = privilege::drop_capabilities_except(kept).map_err(|e| e.to_string());
    // Last: the steps above make calls that are forbidden from here on.
    let seccomp = syscalls::restrict(needs);
    Confined { asked: true, no_new_privileges, capabilities, seccomp, landlock }
}

/// Whether something it must open or remove belongs to another user, so that only root's
/// privilege reaches it.
fn needs_dac_override(needs: &Needs) -> bool {
    let Ok(now) = capabilities(None) else { return false };
    let over = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    if !now.effective.intersects(over) {
        return false;
    }
    let mut plain = now;
    plain.effective -= over;
    let refused = |path: &PathBuf, access| {
        let plain = rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS);
        matches!(plain, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM))
    };
    if rustix::thread::set_capabilities(None, plain).is_err() {
        return false;
    }
    let others = needs.remove.iter().any(|dir| refused(dir, Access::WRITE_OK | Access::EXEC_OK))
        || needs.opens.iter().any(|path| refused(path, Access::READ_OK | Access::WRITE_OK));
    // Only the effective set was lowered, so it can be raised again.
    let _raised = rustix::thread::set_capabilities(None, now);
    others
}
/// What a thread's confinement came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    pub(super) asked: bool,
    pub(super) no_new_privileges: Result<(), String>,
    /// The capabilities it kept.
    pub(super) capabilities: Result<CapabilitySet, String>,
    pub(super) seccomp: Result<(), String>,
    /// Version of the kernel's landlock interface.
    pub(super) landlock: Result<u32, String>,
}

impl Default for Confined {
    /// Not confined.
    fn default() -> Self {
        let no = || "not asked for".to_string();
        let (capabilities, seccomp, landlock) = (Err(no()), Err(no()), Err(no()));
        Self { asked: false, no_new_privileges: Err(no()), capabilities, seccomp, landlock }
    }
}

impl Confined {
    /// Whether confinement was requested.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// The parts that were requested and failed, in one line. `None`: nothing failed.
    pub fn missing(&self) -> Option<String> {
        let Self { no_new_privileges, capabilities, seccomp, landlock, .. } = self;
        let missing: Vec<_> = [
            ("no_new_privs", no_new_privileges.as_ref().err()),
            ("dropping capabilities", capabilities.as_ref().err()),
            ("seccomp", seccomp.as_ref().err()),
            ("landlock", landlock.as_ref().err()),
        ]
        .into_iter()
        .filter_map(|(what, error)| error.map(|e| format!("{what}: {e}")))
        .collect();
        (self.asked && !missing.is_empty()).then(|| missing.join("; "))
    }
}

/// For the start message and for `ringctl doctor`.
impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.asked {
            return f.write_str("not confined (--no-sandbox)");
        }
        f.write_str("confined:")?;
        match &self.capabilities {
            Ok(kept) if kept.is_empty() => f.write_str(" no capabilities")?,
            Ok(kept) => write!(f, " {}", privilege::capability_names(*kept))?,
            Err(_) => f.write_str(" ALL its capabilities")?,
        }
        f.write_str(if self.seccomp.is_ok() { ", seccomp" } else { ", NO seccomp" })?;
        match &self.landlock {
            Ok(version) => write!(f, ", landlock {version}"),
            Err(_) => f.write_str(", NO landlock"),
        }
    }
}
