//! A named pipe or device that is opened again after its end.
//!
//! Contract: never waits. Readers learn once that it went away and once that it came back: when the
//! first bytes come, because a named pipe can be opened before it has a writer.

use crate::intake::for_sources::Intake;
use crate::process::sandbox::needs::{Needs, directory_of};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How often to look for it.
const LOOK_NS: u64 = 200_000_000;

/// Opens a file, pipe or device for reading, without waiting for a writer or a carrier.
pub(in crate::source) fn open_nonblocking(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

/// What is opened again, and whether it is away.
pub(in crate::source) struct Reopen {
    path: String,
    away: bool,
    /// When to look for it next, CLOCK_MONOTONIC ns.
    look: u64,
    needs: Needs,
}

impl Reopen {
    pub(in crate::source) fn new(path: &str) -> Self {
        // What comes back is another file or node, so its directories stay allowed: of the name,
        // and of what the name leads to now.
        let mut directories: Vec<PathBuf> = vec![directory_of(Path::new(path))];
        if let Ok(real) = std::fs::canonicalize(path) {
            directories.push(directory_of(&real));
        }
        directories.dedup();
        let opens = vec![path.into()];
        let needs = Needs { write: directories, opens, ..Needs::default() };
        Self { path: path.into(), away: false, look: 0, needs }
    }

    /// What its thread needs.
    pub(in crate::source) fn needs(&self) -> Needs {
        self.needs.clone()
    }

    /// When to look for it next.
    pub(in crate::source) fn look(&self) -> u64 {
        self.look
    }

    /// Its input has ended, for the reason `why`.
    pub(in crate::source) fn gone(&mut self, intake: &mut Intake, why: &dyn Display) {
        if !std::mem::replace(&mut self.away, true) {
            intake.device_gone(format_args!("{why}; it is opened again when it is back"));
        }
        self.look = intake.now() + LOOK_NS;
    }

    /// Bytes have come from it.
    #[inline]
    pub(in crate::source) fn came_back(&mut self, intake: &mut Intake, name: &str) {
        if std::mem::take(&mut self.away) {
            intake.device_back(format_args!("{name} is back"));
        }
    }

    /// Opens it, if it is time to look for it and it is there.
    pub(in crate::source) fn open(&mut self, now: u64) -> Option<OwnedFd> {
        if now < self.look {
            return None;
        }
        self.look = now + LOOK_NS;
        open_nonblocking(&self.path).ok()
    }
}
