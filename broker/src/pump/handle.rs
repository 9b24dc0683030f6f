//! How other threads control a pump: stop it, or let it begin.

use crate::wake::event::Event;
use ringweir_proto::sync::{AtomicU32, Ordering};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

const RUN: u32 = 0;
const STOP: u32 = 1;
const ABANDON: u32 = 2;

/// A pump as other threads see it.
pub struct PumpHandle {
    event: Arc<Event>,
    /// [`RUN`], [`STOP`] or [`ABANDON`].
    stop: AtomicU32,
    waiting: AtomicU32,
}

impl PumpHandle {
    /// A handle; `event` is what the pump sleeps on. With `wait`, the pump waits for
    /// [`Self::begin`] before it reads from its source.
    pub fn new(event: Arc<Event>, wait: bool) -> Self {
        Self { event, stop: AtomicU32::new(RUN), waiting: AtomicU32::new(u32::from(wait)) }
    }

    /// Ends the stream: what was taken from the source is published, then the pump returns.
    pub fn stop(&self) {
        // Release: partner: the Acquire load in `is_stopped`.
        self.stop.store(STOP, Ordering::Release);
        self.event.signal();
    }

    /// Stops the pump and leaves the ring as a broker that is killed does.
    pub fn abandon(&self) {
        // Release: partner: the Acquire loads in `is_stopped` and `is_abandoned`.
        self.stop.store(ABANDON, Ordering::Release);
        self.event.signal();
    }

    /// Whether the ring is to stay as it is.
    pub(super) fn is_abandoned(&self) -> bool {
        // Acquire: partner: the Release store in `abandon`.
        self.stop.load(Ordering::Acquire) == ABANDON
    }

    /// Lets a waiting pump begin.
    pub fn begin(&self) {
        // Release: partner: the Acquire load in `is_waiting`.
        self.waiting.store(0, Ordering::Release);
        self.event.signal();
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        // Acquire: partner: the Release stores in `stop` and `abandon`.
        self.stop.load(Ordering::Acquire) != RUN
    }

    /// The pump: whether it must not begin yet.
    pub(super) fn is_waiting(&self) -> bool {
        // Acquire: partner: the Release store in `begin`.
        self.waiting.load(Ordering::Acquire) != 0
    }

    /// The pump: what it sleeps on.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.fd()
    }

    /// The pump: clears its event.
    pub(super) fn clear_event(&self) {
        self.event.clear();
    }
}
