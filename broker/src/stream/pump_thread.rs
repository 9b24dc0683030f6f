//! The thread of a pump, or the program that does a pump's work itself.
//!
//! Contract: its end is signalled however it ends, also by a panic. Dropping this stops a pump that
//! has a thread, and waits for it.

use crate::process::sandbox::Confined;
use crate::process::sched::{self, Class};
use crate::pump::handle::PumpHandle;
use crate::pump::run::Pump;
use crate::source::contract::SourceError;
use crate::wake::event::Event;
use anyhow::Context;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A pump on its thread.
pub(super) struct PumpThread {
    handle: Arc<PumpHandle>,
    ended: Arc<Event>,
    runs: Runs,
}

enum Runs {
    /// On this thread.
    Here(JoinHandle<Result<(), SourceError>>),
    /// Owned by the holder of the [`SignalEnd`].
    Elsewhere,
    /// It has ended, and was waited for.
    Joined,
}

/// Signals the end of a pump when dropped, also by a panic, so that the control thread always sees
/// it.
pub struct SignalEnd(Arc<Event>);

impl Drop for SignalEnd {
    fn drop(&mut self) {
        self.0.signal();
    }
}

impl PumpThread {
    /// Starts the pump. `confine` runs on the new thread before the pump; its result, class and
    /// confinement of the thread, is returned.
    pub(super) fn start(
        thread_name: String,
        pump: Pump,
        handle: Arc<PumpHandle>,
        cpu: Option<usize>,
        confine: impl FnOnce() -> (Class, Confined) + Send + 'static,
    ) -> anyhow::Result<(Self, Class, Confined)> {
        let ended = Arc::new(Event::new()?);
        let signal_end = SignalEnd(ended.clone());
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(thread_name)
            .spawn(move || {
                let _signal_end = signal_end;
                let prepared = sched::prepare_pump_thread(cpu).map(|()| confine());
                let is_prepared = prepared.is_ok();
                // Cannot fail: the starting thread waits for it.
                let _received = send.send(prepared);
                if is_prepared { pump.run() } else { Ok(()) }
            })
            .context("cannot start the pump thread")?;
        let (class, confined) = receive.recv().context("the pump thread died at its start")??;
        Ok((Self { handle, ended, runs: Runs::Here(thread) }, class, confined))
    }

    /// A pump that the caller runs. It has ended once the second part is dropped.
    pub(super) fn elsewhere(handle: Arc<PumpHandle>) -> anyhow::Result<(Self, SignalEnd)> {
        let ended = Arc::new(Event::new()?);
        let signal_end = SignalEnd(ended.clone());
        Ok((Self { handle, ended, runs: Runs::Elsewhere }, signal_end))
    }

    pub(super) fn handle(&self) -> &PumpHandle {
        &self.handle
    }

    /// Readable once the pump has ended.
    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.fd()
    }

    /// Waits for the pump, which has ended or was stopped. Returns why its source failed, if it
    /// did.
    pub(super) fn join(&mut self) -> Option<String> {
        let Runs::Here(thread) = std::mem::replace(&mut self.runs, Runs::Joined) else {
            return None;
        };
        match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(_panic) => {
                Some("the pump thread panicked: this is a bug, in its source or in ringweir".into())
            }
        }
    }

    /// Whether the pump has been waited for.
    pub(super) fn is_joined(&self) -> bool {
        matches!(self.runs, Runs::Joined)
    }
}

impl Drop for PumpThread {
    fn drop(&mut self) {
        self.handle.stop();
        let _failure = self.join();
    }
}
