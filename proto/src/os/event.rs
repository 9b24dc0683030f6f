//! Eventfds, and timers to poll. The broker creates the eventfds; a client keeps a received one as
//! an `OwnedFd`.

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Signals the event: adds 1. A full counter is fine, since the event is then signalled already.
pub fn ring(fd: impl AsFd) -> Result<(), Errno> {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Drains the events of an edge-triggered epoll fd. Returns whether there were any.
pub fn take(watch: impl AsFd) -> Result<bool, Errno> {
    let mut events = [MaybeUninit::<epoll::Event>::uninit()];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(!epoll::wait(watch, &mut events, Some(&now))?.0.is_empty())
}

/// Which of the two fds are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The first is readable or hung up.
    pub first: bool,
    /// The second is readable or hung up.
    pub second: bool,
}

/// Sleeps until one of two fds is readable or hung up, or until the timeout (`None`: for ever). A
/// signal ends the wait early with nothing ready, so that the caller can react to the signal.
pub fn wait(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> Result<Ready, Errno> {
    let mut fds = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
    let limit = timeout.map(timespec);
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => {
            Ok(Ready { first: !fds[0].revents().is_empty(), second: !fds[1].revents().is_empty() })
        }
        Err(Errno::INTR) => Ok(Ready { first: false, second: false }),
        Err(e) => Err(e),
    }
}

/// Converts a duration for the kernel.
pub fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    }
}

/// A timer that can be polled. It never fires before [`fire_in`] sets it.
pub fn timer() -> Result<OwnedFd, Errno> {
    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
}

/// Makes `timer` readable once, after `pause`. This discards its previous setting, fired or not.
pub fn fire_in(timer: impl AsFd, pause: Duration) -> Result<(), Errno> {
    let it_value = timespec(pause.max(Duration::from_nanos(1)));
    let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).map(|_before| ())
}
