//! The operating system: shared memory, sockets that pass fds, eventfds, clocks, paths.
//!
//! Contract: the broker creates every file, with mode 0600. A client only receives fds, and checks
//! them before it maps them. Failures are [`OsError`]s that name the attempt and its object.

pub mod backing;
pub mod clock;
pub mod event;
mod fd_store;
pub mod fork;
pub mod links;
pub mod lock;
pub mod made_file;
pub mod object;
pub mod page;
pub mod paths;
pub mod sealed;
pub mod socket;
pub mod socket_file;
pub mod users;

use rustix::io::Errno;

/// A system call failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {errno}")]
pub struct OsError {
    /// What was attempted, with the value.
    pub what: String,
    /// The kernel's error.
    pub errno: Errno,
}

impl OsError {
    /// For `map_err`: adds what was attempted.
    pub fn at<E: Into<Errno>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> OsError {
        move |e| OsError { what: what.to_string(), errno: e.into() }
    }

    /// Like [`OsError::at`], for an error of the standard library.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> OsError {
        move |e| OsError {
            what: what.to_string(),
            errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
        }
    }
}
