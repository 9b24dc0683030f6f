//! The service manager's descriptor store: a ring without a name outlives its broker there
//! (`proto/DESIGN.md` §7).
//!
//! Contract: used only where the manager says that it keeps descriptors (`FDSTORE`). A ring is in
//! its hands before anybody can attach, under `ring-NAME`, and is taken back when the stream ends,
//! for whatever reason but the death of this process.

use crate::service::{Manager, is_socket};
use anyhow::Context;
use ringweir_proto::os::{OsError, event, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the names of its descriptors begin with.
const PREFIX: &str = "ring-";
/// How long the manager may take to take one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store, and what came out of it.
#[derive(Default)]
pub struct Store {
    manager: Option<Arc<UnixDatagram>>,
    rings: Vec<(String, OwnedFd)>,
}

/// A ring in the store. Dropped, it is taken back.
pub struct StoredRing {
    manager: Arc<UnixDatagram>,
    name: String,
}

impl Store {
    /// The store of `manager`, if it has one, with the `rings` it passed on.
    pub fn of(manager: &Manager, rings: Vec<(String, OwnedFd)>) -> Self {
        Self { manager: manager.keeps(), rings }
    }

    /// Whether a descriptor of this name is one of a ring.
    pub fn is_ours(name: &str, fd: impl AsFd) -> bool {
        name.starts_with(PREFIX) && !is_socket(fd)
    }

    /// Whether it keeps anything.
    pub fn is_open(&self) -> bool {
        self.manager.is_some()
    }

    /// A ring that was kept for stream `name`; again, until there is none.
    pub fn claim(&mut self, name: &str) -> Option<OwnedFd> {
        let is_it = |(ring, _): &(String, OwnedFd)| ring.strip_prefix(PREFIX) == Some(name);
        let found = self.rings.iter().position(is_it)?;
        Some(self.rings.swap_remove(found).1)
    }

    /// Has the ring of stream `name` kept: `ring`, in place of any other; without one, that which
    /// is there.
    ///
    /// # Errors
    /// If the manager does not take it.
    pub fn keep(&self, name: &str, ring: Option<OwnedFd>) -> anyhow::Result<Option<StoredRing>> {
        let Some(manager) = &self.manager else { return Ok(None) };
        let stored = StoredRing { manager: manager.clone(), name: format!("{PREFIX}{name}") };
        if let Some(ring) = ring {
            stored.take_back();
            let state = format!("FDSTORE=1\nFDNAME={}", stored.name);
            send(manager, &state, &[ring.as_fd()])
                .and_then(|()| barrier(manager))
                .map_err(OsError::at("passing the ring to the service manager"))
                .context("FDSTORE says that it keeps descriptors: unset it to go without")?;
        }
        Ok(Some(stored))
    }

    /// Lets go of what is no stream's any more; names.
    pub fn let_go(&mut self) -> Vec<String> {
        let rings = std::mem::take(&mut self.rings);
        let gone = |(name, _fd): (String, OwnedFd)| {
            if let Some(manager) = &self.manager {
                drop(StoredRing { manager: manager.clone(), name: name.clone() });
            }
            name
        };
        rings.into_iter().map(gone).collect()
    }
}

impl StoredRing {
    fn take_back(&self) {
        // One that cannot be told keeps a ring that nobody serves; the next broker finds it out of
        // date.
        let _missed = send(&self.manager, &format!("FDSTOREREMOVE=1\nFDNAME={}", self.name), &[]);
    }
}

impl Drop for StoredRing {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Sends, waiting for room if there is none.
fn send(manager: &UnixDatagram, state: &str, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let until = Instant::now() + PATIENCE;
    loop {
        match socket::send(manager, state.as_bytes(), fds) {
            Err(Errno::AGAIN) => wait(manager.as_fd(), PollFlags::OUT, until)?,
            other => return other,
        }
    }
}

/// Waits until everything said so far was heard: the manager closes a descriptor that comes behind
/// it.
fn barrier(manager: &UnixDatagram) -> Result<(), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    send(manager, "BARRIER=1", &[theirs.as_fd()])?;
    drop(theirs);
    wait(ours.as_fd(), PollFlags::empty(), Instant::now() + PATIENCE)
}

/// Waits for `what` or a hang-up.
fn wait(fd: BorrowedFd<'_>, what: PollFlags, until: Instant) -> Result<(), Errno> {
    loop {
        let left = until.checked_duration_since(Instant::now()).ok_or(Errno::TIMEDOUT)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&event::timespec(left))) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}
