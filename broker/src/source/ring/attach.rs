//! Attaching to the other stream, on a thread of its own.
//!
//! Contract: the pump never waits for it. The thread tries until it has attached or this is
//! dropped; it reports why it could not, each reason once. It begins where the source says if the
//! stream is there at the first attempt, and with the oldest datagram if it comes later.

use crate::process::sched;
use crate::source::contract::SourceError;
use crate::wake::event::Event;
use ringweir::{Options, Reader, Start};
use ringweir_proto::sync::{AtomicU32, Ordering};
use rustix::thread::CpuSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What an attempt came to.
pub(super) enum Found {
    Reader(Box<Reader>),
    /// Nothing yet; why.
    Nothing(String),
}

/// The attempts to attach to one stream.
pub(super) struct Attach {
    event: Arc<Event>,
    found: Receiver<Found>,
    stop: Arc<AtomicU32>,
}

impl Attach {
    /// Attaches to `target` as a reader called `label`, on one of these `processors`.
    pub(super) fn start(
        target: &str,
        label: &str,
        from: Start,
        processors: Option<CpuSet>,
    ) -> Result<Self, SourceError> {
        let event = Arc::new(Event::new().map_err(SourceError::new)?);
        let (sender, found) = sync_channel(4);
        let stop = Arc::new(AtomicU32::new(0));
        let (target, label) = (target.to_owned(), label.chars().take(31).collect::<String>());
        let (signal, stopped) = (event.clone(), stop.clone());
        std::thread::Builder::new()
            .name("attach".into())
            .spawn(move || {
                sched::become_ordinary();
                // A pump that spins on its own processor leaves nothing of it.
                if let Some(processors) = processors {
                    let _refused = rustix::thread::sched_setaffinity(None, &processors);
                }
                let is_stopped = || {
                    // Acquire: partner: the Release store in `drop`.
                    stopped.load(Ordering::Acquire) != 0
                };
                attach(&target, &label, from, &sender, &signal, is_stopped);
            })
            .map_err(|e| SourceError(format!("cannot start a thread to attach: {e}")))?;
        Ok(Self { event, found, stop })
    }

    /// What has been found, if anything new.
    pub(super) fn found(&self) -> Option<Found> {
        self.event.clear();
        self.found.try_recv().ok()
    }

    /// Readable when something was found.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.fd()
    }
}

impl Drop for Attach {
    /// The thread ends by itself: an attempt that waits for a broker takes seconds.
    fn drop(&mut self) {
        // Release: partner: the Acquire load of the thread.
        self.stop.store(1, Ordering::Release);
    }
}

fn attach(
    target: &str,
    label: &str,
    mut from: Start,
    sender: &SyncSender<Found>,
    signal: &Event,
    is_stopped: impl Fn() -> bool,
) {
    let mut said = String::new();
    while !is_stopped() {
        // Filling page tables would only delay the first datagram.
        let options = Options::new(label).start(from).prefault(false).not_in_children();
        match options.attach(target) {
            Ok(reader) => {
                let _dropped = sender.send(Found::Reader(Box::new(reader)));
                return signal.signal();
            }
            Err(e) => {
                let text = e.to_string();
                if text != said && sender.try_send(Found::Nothing(text.clone())).is_ok() {
                    signal.signal();
                    said = text;
                }
            }
        }
        from = Start::Oldest;
        std::thread::sleep(PAUSE);
    }
}
