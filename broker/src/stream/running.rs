//! A running stream, as the control thread sees it.
//!
//! Contract: fields are private; the control thread reads what it shows and changes only the log.
//! Dropping a stream stops its threads and removes what it made: socket, ring object, lock file.

use super::listener::Listener;
use super::log::StreamLog;
use super::pump_thread::PumpThread;
use crate::process::fd_store::StoredRing;
use crate::pump::handle::PumpHandle;
use crate::pump::shared::SharedCore;
use crate::readers::registry::Readers;
use crate::readers::waker::Waker;
use crate::setup::access::Access;
use crate::setup::config::StreamConfig;
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::os::event;
use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::RingObject;
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::ring::RingMemory;
use ringweir_proto::stats::{Snapshot, StatsWriter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A running stream.
pub struct Stream {
    pub(super) config: StreamConfig,
    pub(super) summary: String,
    pub(super) nominal_rate: u64,
    pub(super) access: Access,
    pub(super) readers: Arc<Readers>,
    pub(super) log: StreamLog,
    pub(super) started: u64,
    pub(super) started_at: u64,
    pub(super) failure: Option<String>,
    pub(super) slack: Option<Duration>,
    pub(super) drain_gaps: Arc<LatencyBlock>,
    pub(super) stats: StatsArea,
    pub(super) stats_fd: OwnedFd,
    // Dropped in this order: the threads stop, then the ring is removed, then the socket, then the
    // lock, so that another broker may start.
    pub(super) pump: PumpThread,
    pub(super) pushed: Option<Arc<SharedCore>>,
    pub(super) _waker: Waker,
    pub(super) object: RingObject,
    pub(super) _stored: Option<StoredRing>,
    /// Whether the ring is that of an earlier broker.
    pub(super) is_adopted: bool,
    pub(super) listener: Listener,
    pub(super) lock: StreamLock,
}

impl Stream {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its configuration.
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// The start message: one line on what was granted.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Bytes per second it is sized for, 0 if no rate is known.
    pub fn nominal_rate(&self) -> u64 {
        self.nominal_rate
    }

    /// Which peers may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Its readers.
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// Its log.
    pub fn log(&mut self) -> &mut StreamLog {
        &mut self.log
    }

    /// How many peers were refused.
    pub fn refused_count(&self) -> u64 {
        self.log.refused_count()
    }

    /// When it began, ns since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The same as a time of CLOCK_MONOTONIC, which nobody sets.
    pub fn started_at(&self) -> u64 {
        self.started_at
    }

    /// The ring, for reading.
    pub fn memory(&self) -> &Arc<RingMemory> {
        self.object.memory()
    }

    /// The descriptor of the ring that readers get.
    pub fn ring_fd(&self) -> impl AsFd + '_ {
        self.object.read_only()
    }

    /// How long its device's FIFO takes to fill, if it has one.
    pub fn slack(&self) -> Option<Duration> {
        self.slack
    }

    /// For how long the FIFO had been filling when it was drained.
    pub fn drain_gaps(&self) -> &LatencyBlock {
        &self.drain_gaps
    }

    /// Shows statistics to viewers.
    pub fn publish_stats(&self, snapshot: &Snapshot) {
        StatsWriter::new(self.stats.words(), self.readers.most()).publish(snapshot);
    }

    /// The descriptor of the statistics that viewers get.
    pub fn stats_fd(&self) -> BorrowedFd<'_> {
        self.stats_fd.as_fd()
    }

    /// The socket to which peers connect.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.fd()
    }

    /// The pump, to stop it or to let it begin.
    pub fn pump(&self) -> &PumpHandle {
        self.pump.handle()
    }

    /// Does what a pump does between rounds, for a program that publishes itself and is silent.
    pub fn see_to_readers(&self) {
        if let Some(core) = &self.pushed {
            core.take_commands_if_silent();
        }
    }

    /// Readable once the pump has ended.
    pub fn pump_ended(&self) -> BorrowedFd<'_> {
        self.pump.ended()
    }

    /// Waits until the pump has ended, until this moment at the latest. Returns whether it has.
    pub fn ends_until(&self, until: Instant) -> bool {
        loop {
            let left = event::timespec(until.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(&self.pump_ended(), PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                polled => return polled == Ok(1),
            }
        }
    }

    /// Lets go of it before it has served anybody. An adopted ring stays as a broker that is killed
    /// leaves it, with its lock file and socket: readers that still have the ring wait for the next
    /// broker.
    pub fn abandon(mut self) {
        self.stop_abandoned();
        if self.is_adopted {
            self.join_pump();
            self.object.stay(true);
            self.listener.stay();
            self.lock.stay();
        }
    }

    /// Stops its pump, as far as [`Self::abandon`] does.
    fn stop_abandoned(&self) {
        if self.is_adopted {
            self.pump.handle().abandon();
        } else {
            self.pump.handle().stop();
        }
    }

    /// Waits for the pump, which has ended or was stopped.
    pub fn join_pump(&mut self) {
        if let Some(failure) = self.pump.join() {
            self.failure = Some(failure);
        }
    }

    /// Whether the pump has been waited for.
    pub fn has_ended(&self) -> bool {
        self.pump.is_joined()
    }

    /// Why its source failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Streams that have started but are not served yet. If the start fails after all, they are
/// abandoned: those whose ring was adopted do not end.
#[derive(Default)]
pub struct Started(Vec<Stream>);

impl Started {
    /// Adds one.
    pub fn push(&mut self, stream: Stream) {
        self.0.push(stream);
    }

    /// Those that have started.
    pub fn iter(&self) -> std::slice::Iter<'_, Stream> {
        self.0.iter()
    }

    /// They are served from now on.
    pub fn take(mut self) -> Vec<Stream> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // All pumps first, so that they end together.
        self.0.iter().for_each(Stream::stop_abandoned);
        self.0.drain(..).for_each(Stream::abandon);
    }
}

impl From<Vec<Stream>> for Started {
    fn from(streams: Vec<Stream>) -> Self {
        Self(streams)
    }
}
