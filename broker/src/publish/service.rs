//! The control thread of a program's streams.

use crate::control::thread::Control;
use crate::process::sched;
use crate::process::service_manager::ServiceManager;
use crate::process::signals::Signals;
use crate::stream::running::Started;
use anyhow::Context;
use ringweir_proto::os::fork;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// The control thread. Dropping this stops all streams and waits until what they made is removed.
/// In a child of the process that started it there is no thread, and nothing is stopped.
#[derive(Debug)]
pub(super) struct Service {
    /// `fork::count()` in the process that started it.
    forks: u32,
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
        Ok(Self { forks: fork::count(), stop: Some(stop), thread: Some(thread) })
    }

    /// Whether all streams have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Whether this is a child of the process that started it.
    #[inline]
    pub(super) fn is_in_child(&self) -> bool {
        fork::count() != self.forks
    }

    /// Waits until all streams have ended. Returns whether no source has failed.
    pub(super) fn wait(&mut self) -> anyhow::Result<bool> {
        if self.is_in_child() {
            std::mem::forget(self.thread.take());
            return Ok(true);
        }
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(true),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => anyhow::bail!("the control thread panicked"),
        }
    }

    /// Stops all streams.
    pub(super) fn stop(&mut self) {
        // A child may have a copy of the socket, so closing it would not be enough.
        if !self.is_in_child()
            && let Some(stop) = self.stop.take()
        {
            let _ended_already = stop.shutdown(Shutdown::Both);
        }
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
