//! What the broker gives up once it has what it needs: capabilities, the way to new privileges, the
//! file system, and the system calls it never makes.
//!
//! Contract: each thread shuts itself in ([`Needs::enter`]) when everything is open, so pumps can
//! be started at real-time class and with rights that nobody has afterwards; what a thread starts
//! later is shut in with it. What stays possible follows from the sources that are configured
//! ([`crate::source::Source::needs`]). Nothing here fails a start: what the kernel cannot do is
//! said ([`Confined`]). `--no-sandbox` leaves all of it out.

mod calls;
mod files;
#[cfg(test)]
mod tests;

use crate::privilege;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::thread::{CapabilitySet, capabilities};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a thread goes on needing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Files that are opened for reading: these, and everything below these directories.
    pub read: Vec<PathBuf>,
    /// The same for reading and writing, device nodes and their ioctls included.
    pub write: Vec<PathBuf>,
    /// Directories in which files and sockets are made, written and removed, and device nodes
    /// opened.
    pub make: Vec<PathBuf>,
    /// Directories in which files of its own are removed.
    pub remove: Vec<PathBuf>,
    /// Families of sockets it makes, `AF_…`.
    pub families: Vec<i32>,
    /// Capabilities it uses.
    pub capabilities: CapabilitySet,
    /// What it must be able to open as the user it is; if that user cannot, it keeps
    /// CAP_DAC_OVERRIDE.
    pub opens: Vec<PathBuf>,
}

impl Default for Needs {
    /// Nothing.
    fn default() -> Self {
        let [read, write, make, remove, opens] = [const { Vec::new() }; 5];
        Self {
            read,
            write,
            make,
            remove,
            families: Vec::new(),
            capabilities: CapabilitySet::empty(),
            opens,
        }
    }
}

/// The directory in which a file is.
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => ".".into(),
    }
}

/// How a stream's threads are shut in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Not at all: `--no-sandbox`.
    Off,
    /// Each by itself.
    On,
    /// By the thread that starts them, which was shut in so.
    Inherited(Confined),
}

impl Sandbox {
    /// Has the calling thread shut itself in with no more than it `needs`.
    pub fn enter(&self, needs: &Needs) -> Confined {
        match self {
            Self::Off => Confined::default(),
            Self::On => needs.enter(),
            Self::Inherited(confined) => confined.clone(),
        }
    }
}

impl Needs {
    /// What the control thread needs: to take away its sockets and locks in `run_dir` and its
    /// rings.
    pub fn of_control(run_dir: &Path) -> Self {
        Self {
            // Its reserve.
            read: vec!["/dev/null".into()],
            remove: vec![run_dir.into(), "/dev/shm".into()],
            ..Self::default()
        }
    }

    /// Both.
    pub fn and(mut self, more: Self) -> Self {
        let Self { read, write, make, remove, families, capabilities, opens } = more;
        for (to, from) in [
            (&mut self.read, read),
            (&mut self.write, write),
            (&mut self.make, make),
            (&mut self.remove, remove),
            (&mut self.opens, opens),
        ] {
            to.extend(from);
        }
        self.families.extend(families);
        self.capabilities |= capabilities;
        self
    }

    /// Shuts the calling thread in for good.
    fn enter(&self) -> Confined {
        let mut kept = self.capabilities;
        if self.is_in_others_hands() {
            kept |= CapabilitySet::DAC_OVERRIDE;
        }
        // First: without it landlock and seccomp would take a privilege.
        let no_new_privileges = rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string());
        // Opens the files of its rules, so while there are rights to.
        let landlock = files::restrict(self);
        let capabilities = privilege::keep_only(kept).map_err(|e| e.to_string());
        // Last: what came before takes calls that end here.
        let seccomp = calls::restrict(self);
        Confined { asked: true, no_new_privileges, capabilities, seccomp, landlock }
    }

    /// Whether something it must open or clear up belongs to another user, so that only root's
    /// privilege gets at it.
    fn is_in_others_hands(&self) -> bool {
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
        let others = self.remove.iter().any(|dir| refused(dir, Access::WRITE_OK | Access::EXEC_OK))
            || self.opens.iter().any(|path| refused(path, Access::READ_OK | Access::WRITE_OK));
        // Only lowered, so it can be raised again.
        let _raised = rustix::thread::set_capabilities(None, now);
        others
    }
}

/// What a thread got of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    asked: bool,
    no_new_privileges: Result<(), String>,
    /// Those it kept.
    capabilities: Result<CapabilitySet, String>,
    seccomp: Result<(), String>,
    /// Version of the kernel's interface.
    landlock: Result<u32, String>,
}

impl Default for Confined {
    /// Not at all.
    fn default() -> Self {
        let no = || "not asked for".to_string();
        let (capabilities, seccomp, landlock) = (Err(no()), Err(no()), Err(no()));
        Self { asked: false, no_new_privileges: Err(no()), capabilities, seccomp, landlock }
    }
}

impl Confined {
    /// What was asked for and could not be had, in one line; `None`: all was.
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
            Ok(kept) => write!(f, " {}", privilege::names(*kept))?,
            Err(_) => f.write_str(" ALL its capabilities")?,
        }
        f.write_str(if self.seccomp.is_ok() { ", seccomp" } else { ", NO seccomp" })?;
        match &self.landlock {
            Ok(version) => write!(f, ", landlock {version}"),
            Err(_) => f.write_str(", NO landlock"),
        }
    }
}
