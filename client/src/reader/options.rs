//! How to attach.

use super::dates::Dates;
use super::link::{Link, Retry};
use super::{Reader, wait};
use crate::Error;
use ringweir_proto::ring::{Resume, Start};
use std::time::Duration;

/// How to attach.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before Options::attach"]
pub struct Options {
    pub(super) label: String,
    pub(super) start: Start,
    pub(super) resume: Resume,
    pub(super) parks: bool,
    pub(super) prefault: bool,
    pub(super) in_children: bool,
    pub(super) reattach: bool,
    pub(super) lossless: bool,
    pub(super) spin: Duration,
}

impl Options {
    /// Defaults: start with what is published from now on; after a lap continue near the oldest
    /// datagram; sleep when idle after 5 µs of polling; page tables filled at attach; attach again
    /// when the broker restarts. `label` (at most 32 bytes) is what `ringstat` shows.
    pub fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            start: Start::Latest,
            resume: Resume::Oldest,
            parks: true,
            prefault: true,
            in_children: true,
            reattach: true,
            lossless: false,
            spin: Duration::from_micros(5),
        }
    }

    /// Where to begin.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to continue after a lap.
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = resume;
        self
    }

    /// How long [`Reader::wait`] polls before it sleeps. The longer, the lower the latency and the
    /// more processor time.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Never sleep: [`Reader::wait`] polls until there is something to read. If no reader of a
    /// stream ever sleeps, its pump saves a fence.
    pub fn always_spin(mut self) -> Self {
        self.parks = false;
        self
    }

    /// Whether to fill this process's page tables at attach, so that reading takes no page faults
    /// (default), or not, so that attaching to a large ring is quick.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Leaves the ring out of children of this process, which would hold its memory for as long as
    /// they live. A child that reads a datagram of this reader is killed.
    pub fn not_in_children(mut self) -> Self {
        self.in_children = false;
        self
    }

    /// Makes the stream wait for this reader, so that it loses nothing as long as its budget lasts
    /// (`--lossless` of `ringd`; without it attaching is refused). After that the reader gets
    /// [`Item::Demoted`](crate::Item::Demoted) and is lossy. What the source loses while the stream
    /// waits is lost to all readers. The stream does not wait before this reader has begun, nor
    /// between the death of a broker and attaching to the next.
    pub fn lossless(mut self) -> Self {
        self.lossless = true;
        self
    }

    /// Whether to attach to the restarted broker when this one dies (default), or to end with
    /// [`crate::End::BrokerGone`].
    pub fn reattach(mut self, reattach: bool) -> Self {
        self.reattach = reattach;
        self
    }

    /// Attaches to the stream `name`, or to the control socket at a path (anything with a `/`).
    ///
    /// # Errors
    /// [`Error`] says what was wrong and what to do: no such stream (and which are running), no
    /// broker answers, access denied, no free reader index, broker of another release.
    pub fn attach(&self, name: &str) -> Result<Reader, Error> {
        let (link, ring, seen) = Link::open(name, self, self.start)?;
        let poll_fd = wait::poll_set(&link)?;
        let mut reader = Reader {
            name: name.into(),
            options: self.clone(),
            lossless: self.lossless,
            demotion: None,
            link,
            ring,
            dates: Dates::now(),
            metadata: seen.metadata,
            sample_from: 0,
            broker_gone: false,
            empties: 0,
            retry: Retry::default(),
            attempt: None,
            poll_fd,
            retry_timer: None,
        };
        reader.report();
        Ok(reader)
    }
}
