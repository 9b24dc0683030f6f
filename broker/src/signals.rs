//! Signals, as something to wait for.
//!
//! Contract: SIGTERM and SIGINT end the broker, the second one at once. SIGHUP has a broker with a
//! file read it again, and ends one without, as when its terminal goes.

use ringweir_proto::os::event;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The signals that end the broker, told from the moment this is made, and the one that has it read
/// its file again.
pub struct Signals {
    end: UnixStream,
    reload: Option<UnixStream>,
}

impl Signals {
    /// From now on a signal kills nothing: it is heard by [`crate::control::Control::run`].
    pub fn catch(reloads: bool) -> anyhow::Result<Self> {
        let (signals, tell) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        let second = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reload = if reloads {
            let (reload, tell) = UnixStream::pair()?;
            reload.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(SIGHUP, tell)?;
            Some(reload)
        } else {
            None
        };
        let ends: &[i32] = if reloads { &[SIGTERM, SIGINT] } else { &[SIGTERM, SIGINT, SIGHUP] };
        for signal in ends.iter().copied() {
            // A second one ends the process at once, should a source not let go.
            signal_hook::flag::register_conditional_default(signal, second.clone())?;
            signal_hook::flag::register(signal, second.clone())?;
            signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
        }
        Ok(Self { end: signals, reload })
    }

    /// Readable when the broker is to end.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Readable when the file is to be read again, if there is one.
    pub fn reload(&self) -> Option<BorrowedFd<'_>> {
        self.reload.as_ref().map(AsFd::as_fd)
    }

    /// Forgets that the file was to be read again, however often.
    pub fn take_reload(&self) {
        if let Some(reload) = &self.reload {
            while rustix::io::read(reload, &mut [0; 64]).is_ok_and(|n| n > 0) {}
        }
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        let now = event::timespec(Duration::ZERO);
        poll(&mut [PollFd::new(&self.end, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
    }
}
