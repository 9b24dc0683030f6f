//! A scratch segment for contenders that share memory: words by index, room for slots, events.
//!
//! Contract: uses `shared_memory` and `raw_sync`, whose limits do no harm here. Its name comes from
//! the run's directory. It is removed from /dev/shm as soon as all processes have it open, so that
//! nothing is left if one dies.

#![allow(unsafe_code)]

use anyhow::Context;
use raw_sync::Timeout;
use raw_sync::events::{Event, EventImpl, EventInit, EventState};
use ringweir_proto::sync::AtomicU64;
use shared_memory::{Shmem, ShmemConf};
use std::path::Path;

/// Bytes of a place, which holds a word or an event in its own cache lines.
const PLACE: usize = 256;

/// The segment.
pub struct Segment {
    segment: Shmem,
    places: usize,
}

fn os_id(dir: &Path) -> String {
    format!(
        "/ringbench.{:08x}.{}",
        crc32fast::hash(dir.as_os_str().as_encoded_bytes()),
        rustix::process::getuid().as_raw()
    )
}

impl Segment {
    /// Creates one, all zero: `places` words or events, and `bytes` after them.
    pub fn create(dir: &Path, places: usize, bytes: usize) -> anyhow::Result<Self> {
        let conf = ShmemConf::new().os_id(os_id(dir)).size(places * PLACE + bytes);
        Ok(Self { segment: conf.create().context("a scratch segment")?, places })
    }

    /// Opens the segment that the publisher has created.
    pub fn open(dir: &Path, places: usize) -> anyhow::Result<Self> {
        Ok(Self {
            segment: ShmemConf::new()
                .os_id(os_id(dir))
                .open()
                .context("the publisher's segment")?,
            places,
        })
    }

    /// Removes its name, when all processes have it open.
    pub fn forget(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::remove_file(format!("/dev/shm{}", os_id(dir))).context("the segment's name")
    }

    fn place(&self, index: usize) -> *mut u8 {
        assert!(index < self.places);
        // SAFETY: inside the segment, whose size covers all places.
        unsafe { self.segment.as_ptr().add(index * PLACE) }
    }

    /// A word that all share.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: aligned (page-aligned segment, places of 256), inside it, alive as long as self;
        // an atomic.
        unsafe { &*self.place(index).cast::<AtomicU64>() }
    }

    /// Makes an event in place `index` that resets itself.
    pub fn make_event(&self, index: usize) -> anyhow::Result<Box<dyn EventImpl>> {
        // SAFETY: fresh zeroed memory of PLACE bytes, of which an event takes about 100; dropped
        // before the mapping.
        let made = unsafe { Event::new(self.place(index), true) };
        made.map(|(event, _)| event).map_err(|e| anyhow::anyhow!("an event: {e}"))
    }

    /// The event that another process made in place `index`.
    pub fn event(&self, index: usize) -> anyhow::Result<Box<dyn EventImpl>> {
        // SAFETY: its maker made an event there before it reported that it was ready; dropped
        // before the mapping.
        let made = unsafe { Event::from_existing(self.place(index)) };
        made.map(|(event, _)| event).map_err(|e| anyhow::anyhow!("an event: {e}"))
    }

    /// Address of byte `at` after the places; at least `len` bytes follow.
    pub fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(self.places * PLACE + at + len <= self.segment.len());
        // SAFETY: inside the segment by the assertion.
        unsafe { self.segment.as_ptr().add(self.places * PLACE + at) }
    }
}

/// Sets an event.
pub fn set(event: &dyn EventImpl) -> anyhow::Result<()> {
    event.set(EventState::Signaled).map_err(|e| anyhow::anyhow!("set an event: {e}"))
}

/// Waits for an event. The run's watchdog ends a process that waits in vain (a timeout of this
/// crate cannot be relied on).
pub fn wait(event: &dyn EventImpl) -> anyhow::Result<()> {
    event.wait(Timeout::Infinite).map_err(|e| anyhow::anyhow!("wait for an event: {e}"))
}
