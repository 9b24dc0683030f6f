//! Ends a tool on a signal, and waits without missing one.
//!
//! Contract: every thread that waits here notices the first SIGINT or SIGTERM, and so does every
//! loop between two datagrams. A later second signal ends the process, whatever it waits for.

use anyhow::Context;
use ringweir::Reader;
use ringweir_cli::signals::end_at_once_if_repeated;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Whether the tool has to end.
pub struct Stop {
    came: Arc<AtomicBool>,
    /// The last one, 0 before the first.
    which: Arc<AtomicUsize>,
    /// Becomes readable when a signal comes; it is never read.
    event: UnixStream,
}

impl Stop {
    /// From now on SIGINT and SIGTERM are caught.
    pub fn on_signals() -> io::Result<Self> {
        let (event, signalled) = UnixStream::pair()?;
        let (came, which) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&came))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&which), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
        }
        end_at_once_if_repeated(&[SIGINT, SIGTERM])?;
        Ok(Self { came, which, event })
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// The signal that came.
    pub fn signal(&self) -> Option<i32> {
        match self.which.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Readable once a signal has come.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Sleeps until there is something to read, a signal came, `other` was closed or the time is
    /// over. It may return early.
    pub fn wait(
        &self,
        reader: &mut Reader,
        limit: Option<Duration>,
        spin: bool,
        other: Option<BorrowedFd<'_>>,
    ) -> anyhow::Result<()> {
        if spin {
            // The caller checks for signals in between.
            let look = Duration::from_millis(100);
            reader.wait(Some(limit.unwrap_or(look).min(look)))?;
            return Ok(());
        }
        if !reader.arm()? {
            // Data has arrived; or the broker is gone, and this sleeps until the next attempt.
            reader.wait(Some(limit.unwrap_or(Duration::MAX)))?;
            return Ok(());
        }
        self.sleep(
            limit,
            &[
                (reader.as_fd(), PollFlags::IN),
                (other.unwrap_or(self.event.as_fd()), PollFlags::empty()),
            ],
        )
    }

    /// Sleeps until a signal comes, one of the two is ready or closed, or the time is over.
    pub fn sleep(
        &self,
        limit: Option<Duration>,
        fds: &[(BorrowedFd<'_>, PollFlags); 2],
    ) -> anyhow::Result<()> {
        let limit = limit.and_then(|t| Timespec::try_from(t).ok());
        let [one, two] = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        match poll(&mut [PollFd::new(&self.event, PollFlags::IN), one, two], limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(io::Error::from(e)).context("poll"),
        }
    }

    /// Sleeps until a signal comes, `fd` can be written or the time is over.
    pub fn wait_to_write(&self, fd: BorrowedFd<'_>, limit: Option<Duration>) -> anyhow::Result<()> {
        self.sleep(limit, &[(fd, PollFlags::OUT), (self.event.as_fd(), PollFlags::empty())])
    }

    /// Sleeps for a time, or until a signal comes.
    pub fn pause(&self, time: Duration) -> anyhow::Result<()> {
        self.sleep(
            Some(time),
            &[(self.event.as_fd(), PollFlags::empty()), (self.event.as_fd(), PollFlags::empty())],
        )
    }
}
