//! Whether a descriptor can be read, and whether its other side is gone.
//!
//! Contract: never waits.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Whether a read would return at once, with data, the end or an error.
pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&AT_ONCE)) != Ok(0)
}

/// Whether a device was hung up: a terminal whose other side has closed, a serial adapter that was
/// unplugged. Reads of it then return no bytes, as at the end of a file.
pub(super) fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&AT_ONCE)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}
