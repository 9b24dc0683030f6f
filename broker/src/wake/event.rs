//! An eventfd of the broker.
//!
//! Contract: non-blocking and close-on-exec. It is never cloned: `EventFD::clone` loses
//! close-on-exec.

#![allow(unsafe_code)]

use eventfd::{EfdFlags, EventFD};
use ringweir_proto::os::OsError;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An eventfd.
pub struct Event(EventFD);

impl Event {
    /// A new one, not signalled.
    pub fn new() -> Result<Self, OsError> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let made = EventFD::new(0, flags)
            .map_err(OsError::io("eventfd (raise the limit of open files: ulimit -n)"))?;
        Ok(Self(made))
    }

    /// Signals it. The one possible error is a full counter, which is as good as a signal.
    pub fn signal(&self) {
        let _full = self.0.write(1);
    }

    /// Clears all signals so far.
    pub fn clear(&self) {
        let _none = self.0.read();
    }

    /// For poll, and for handing over.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `EventFD` closes its descriptor when it is dropped and at no other time; it is a
        // field of `self`, which the returned lifetime borrows.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
