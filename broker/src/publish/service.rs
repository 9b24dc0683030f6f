//! The control thread of a program's streams.

use crate::control::thread::Control;
use crate::process::sched;
use crate::process::service_manager::ServiceManager;
use crate::process::signals::Signals;
use crate::stream::running::Started;
use anyhow::Context;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// The control thread. Dropping this stops all streams and waits until what they made is removed.
#[derive(Debug)]
pub(super) struct Service {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<anyhow::Result<bool>>>,
}

impl Service {
    /// Serves these streams, once nothing can fail any more.
    pub(super) fn start(streams: impl Into<Started>) -> anyhow::Result<Self> {
        let streams = streams.into();
        let (signals, stop) = Signals::none().context("cannot make a socket pair")?;
        let (sender, receiver) = sync_channel::<Control>(1);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                // The program may have a real-time class.
                sched::become_ordinary();
                // An error: the start has failed.
                receiver.recv().map_or(Ok(true), Control::run)
            })
            .context("cannot start the control thread")?;
        let control = Control::new(streams, signals, ServiceManager::default(), None)?;
        let _received = sender.send(control);
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Whether all streams have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until all streams have ended. Returns whether no source has failed.
    pub(super) fn wait(&mut self) -> anyhow::Result<bool> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(true),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => anyhow::bail!("the control thread panicked"),
        }
    }

    /// Stops all streams.
    pub(super) fn stop(&mut self) {
        self.stop = None;
    }

    /// In a child of the process that started it: there is no thread, and nothing to stop.
    pub(super) fn forget(&mut self) {
        std::mem::forget(self.thread.take());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
        if let Err(e) = self.wait() {
            tracing::error!("{e:#}");
        }
    }
}
