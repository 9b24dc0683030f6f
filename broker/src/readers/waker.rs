//! The waker thread: takes the sleep requests of readers, and wakes sleepers for the pump.
//!
//! Contract: one thread for each stream, at normal priority. It ends when the [`Waker`] is dropped.

use super::registry::{Readers, WakerEvent};
use crate::wake::event::Event;
use ringweir_proto::sync::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The waker thread of one stream.
pub struct Waker {
    event: Arc<Event>,
    stop: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Waker {
    /// Starts it. `event` is what the pump signals, `prepare` runs first on the new thread.
    pub fn start(
        thread_name: String,
        readers: &Arc<Readers>,
        event: Arc<Event>,
        prepare: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicU32::new(0));
        let (readers, its_event, its_stop) = (readers.clone(), event.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(thread_name).spawn(move || {
            prepare();
            run(&readers, &its_event, &its_stop);
        })?;
        Ok(Self { event, stop, thread: Some(thread) })
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // Release: partner: the Acquire load in `run`.
        self.stop.store(1, Ordering::Release);
        self.event.signal();
        if let Some(thread) = self.thread.take() {
            // If it panicked, the panic was printed to stderr; the stream ends either way.
            let _over = thread.join();
        }
    }
}

fn run(readers: &Readers, event: &Event, stop: &AtomicU32) {
    let (mut events, mut found) = (Vec::with_capacity(256), Vec::with_capacity(256));
    let mut limit = None;
    // Acquire: partner: the Release store in `Waker::drop`.
    while stop.load(Ordering::Acquire) == 0 {
        if let Err(e) = readers.wait(&mut events, &mut found, limit) {
            tracing::error!("waker: epoll_wait: {e}");
            return;
        }
        for ready in &found {
            match ready {
                WakerEvent::Pump => {
                    event.clear();
                    readers.wake_sleepers();
                }
                WakerEvent::SleepRequest(index) => readers.sleep_request(*index),
            }
        }
        limit = readers.wake_postponed();
    }
}
