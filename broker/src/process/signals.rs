//! Signals as descriptors that can be polled.
//!
//! Contract: SIGTERM and SIGINT stop the broker; a second one ends the process at once, unless it
//! comes so soon that it is the same request. SIGHUP reloads the configuration file if there is
//! one; else it stops the broker, as when its terminal closes, unless it was ignored at the start
//! (`nohup`).

use ringweir_cli::signals::{end_at_once_if_repeated, is_ignored};
use ringweir_proto::os::event;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The signals received since this was made.
pub struct Signals {
    stop: UnixStream,
    reload: Option<UnixStream>,
}

impl Signals {
    /// From now on these signals kill the process only as the contract says. `reloads`: there is a
    /// configuration file.
    pub fn catch(reloads: bool) -> anyhow::Result<Self> {
        let (signals, write) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        let reload = if reloads {
            let (reload, write) = UnixStream::pair()?;
            reload.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(SIGHUP, write)?;
            Some(reload)
        } else {
            None
        };
        let mut stops = vec![SIGTERM, SIGINT];
        // Under nohup it is to be ignored.
        if !reloads && !is_ignored(SIGHUP) {
            stops.push(SIGHUP);
        }
        for &signal in &stops {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        // In case stopping hangs.
        end_at_once_if_repeated(&stops)?;
        Ok(Self { stop: signals, reload })
    }

    /// No signals at all: the broker is to stop once the second part is dropped.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn none() -> std::io::Result<(Self, UnixStream)> {
        let (stop, write) = UnixStream::pair()?;
        Ok((Self { stop, reload: None }, write))
    }

    /// Readable once the broker is to stop.
    pub fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Readable when the configuration file is to be read again. `None`: there is no file.
    pub fn reload_fd(&self) -> Option<BorrowedFd<'_>> {
        self.reload.as_ref().map(AsFd::as_fd)
    }

    /// Clears all reload signals so far.
    pub fn clear_reload(&self) {
        if let Some(reload) = &self.reload {
            while rustix::io::read(reload, &mut [0; 64]).is_ok_and(|n| n > 0) {}
        }
    }

    /// Whether a stop signal has come.
    pub fn stop_requested(&self) -> bool {
        let now = event::timespec(Duration::ZERO);
        poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
    }
}
