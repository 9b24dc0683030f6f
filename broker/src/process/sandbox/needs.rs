//! What a thread still needs after it has confined itself.

use rustix::thread::CapabilitySet;
use std::path::{Path, PathBuf};

/// Files, sockets and capabilities that stay allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Files that are opened for reading: these, and everything below these directories.
    pub read: Vec<PathBuf>,
    /// The same for reading and writing, device nodes and their ioctls included.
    pub write: Vec<PathBuf>,
    /// Directories in which files and sockets are made, written and removed, and device nodes
    /// opened.
    pub make: Vec<PathBuf>,
    /// Directories in which this process removes files it made.
    pub remove: Vec<PathBuf>,
    /// Families of sockets it opens, `AF_…`.
    pub families: Vec<i32>,
    /// It connects or disconnects sockets that are open.
    pub connect: bool,
    /// It waits for a process that was started before.
    pub wait: bool,
    /// Capabilities it uses.
    pub capabilities: CapabilitySet,
    /// Files it must be able to open with its own user's rights. If that user cannot, the thread
    /// keeps CAP_DAC_OVERRIDE.
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
            connect: false,
            wait: false,
            capabilities: CapabilitySet::empty(),
            opens,
        }
    }
}

impl Needs {
    /// What the control thread needs: to remove its sockets and lock files in `run_dir`, and its
    /// rings.
    pub fn of_control(run_dir: &Path) -> Self {
        Self {
            // The reserve descriptor.
            read: vec!["/dev/null".into()],
            remove: vec![run_dir.into(), "/dev/shm".into()],
            ..Self::default()
        }
    }

    /// Both together.
    pub fn and(mut self, more: Self) -> Self {
        let Self { read, write, make, remove, families, connect, wait, capabilities, opens } = more;
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
        self.connect |= connect;
        self.wait |= wait;
        self.capabilities |= capabilities;
        self
    }
}

/// The directory of a file.
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => ".".into(),
    }
}
