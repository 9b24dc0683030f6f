//! The service manager's fd store: a ring without a name outlives its broker there
//! (`proto/DESIGN.md` §7).
//!
//! Contract: used only if the manager says that it stores descriptors (`FDSTORE`). A ring is stored
//! under `ring-NAME` before any reader can attach, and removed from the store when the stream ends
//! for any reason but the death of this process.

use super::service_manager::ServiceManager;
use anyhow::Context;
use ringweir_proto::os::{OsError, event, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prefix of the names of stored rings.
const PREFIX: &str = "ring-";
/// How long the manager may take to accept a descriptor.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store, and the rings that came out of it at the start.
#[derive(Default)]
pub struct FdStore {
    manager: Option<Arc<UnixDatagram>>,
    rings: Vec<(String, OwnedFd)>,
}

/// A ring in the store. Dropping it removes the ring from the store.
pub struct StoredRing {
    manager: Arc<UnixDatagram>,
    name: String,
}

impl FdStore {
    /// The store of `manager`, if it has one, and the `rings` that were passed out of it.
    pub fn new(manager: &ServiceManager, rings: Vec<(String, OwnedFd)>) -> Self {
        Self { manager: manager.fd_store_socket(), rings }
    }

    /// Whether a passed descriptor of this name is a stored ring.
    pub fn is_ring(name: &str, fd: impl AsFd) -> bool {
        name.starts_with(PREFIX) && !is_socket(fd)
    }

    /// Whether rings can be stored.
    pub fn is_open(&self) -> bool {
        self.manager.is_some()
    }

    /// Takes a ring that was stored for stream `name`. There may be several.
    pub fn claim(&mut self, name: &str) -> Option<OwnedFd> {
        let matches = |(ring, _): &(String, OwnedFd)| ring.strip_prefix(PREFIX) == Some(name);
        let found = self.rings.iter().position(matches)?;
        Some(self.rings.swap_remove(found).1)
    }

    /// Stores `ring` for stream `name` in place of any older one. With `None` the ring that is
    /// already stored stays.
    ///
    /// # Errors
    /// If the manager does not accept it.
    pub fn store(&self, name: &str, ring: Option<OwnedFd>) -> anyhow::Result<Option<StoredRing>> {
        let Some(manager) = &self.manager else { return Ok(None) };
        let stored = StoredRing { manager: manager.clone(), name: format!("{PREFIX}{name}") };
        if let Some(ring) = ring {
            stored.remove();
            let state = format!("FDSTORE=1\nFDNAME={}", stored.name);
            send(manager, &state, &[ring.as_fd()])
                .and_then(|()| barrier(manager))
                .map_err(OsError::at("passing the ring to the service manager"))
                .context(
                    "FDSTORE is set, so the ring would be stored; unset it to run without the \
                    store",
                )?;
        }
        Ok(Some(stored))
    }

    /// Removes rings that no stream claimed from the store, and returns their names.
    pub fn remove_unclaimed(&mut self) -> Vec<String> {
        let rings = std::mem::take(&mut self.rings);
        let remove = |(name, _fd): (String, OwnedFd)| {
            if let Some(manager) = &self.manager {
                drop(StoredRing { manager: manager.clone(), name: name.clone() });
            }
            name
        };
        rings.into_iter().map(remove).collect()
    }
}

impl StoredRing {
    fn remove(&self) {
        // If the manager does not get this, it keeps a ring that no broker serves. The next broker
        // sees by the generation that it is out of date.
        let _undelivered =
            send(&self.manager, &format!("FDSTOREREMOVE=1\nFDNAME={}", self.name), &[]);
    }
}

impl Drop for StoredRing {
    fn drop(&mut self) {
        self.remove();
    }
}

fn is_socket(fd: impl AsFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Sends, and waits if the socket is full.
fn send(manager: &UnixDatagram, state: &str, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let until = Instant::now() + PATIENCE;
    loop {
        match socket::send(manager, state.as_bytes(), fds) {
            Err(Errno::AGAIN) => wait(manager.as_fd(), PollFlags::OUT, until)?,
            other => return other,
        }
    }
}

/// Waits until the manager has processed all messages so far: it closes the descriptor that comes
/// after them.
fn barrier(manager: &UnixDatagram) -> Result<(), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    send(manager, "BARRIER=1", &[theirs.as_fd()])?;
    drop(theirs);
    wait(ours.as_fd(), PollFlags::empty(), Instant::now() + PATIENCE)
}

/// Waits for `events` or a hang-up.
fn wait(fd: BorrowedFd<'_>, events: PollFlags, until: Instant) -> Result<(), Errno> {
    loop {
        let left = until.checked_duration_since(Instant::now()).ok_or(Errno::TIMEDOUT)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&event::timespec(left))) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}
