//! The border between C and Rust: it stops panics, and keeps the message of an error.

#![allow(unsafe_code, reason = "an exported symbol")]

use crate::rw_code;
use ringweir::{Error, Reason};
use std::any::Any;
use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest message kept, in bytes, with its NUL.
const MESSAGE_MAX: usize = 1024;

thread_local! {
    // No destructor and no allocation: usable in any thread at any time, even while the thread
    // ends.
    static MESSAGE: Cell<[u8; MESSAGE_MAX]> = const { Cell::new([0; MESSAGE_MAX]) };
}

/// An error to be returned to C: its code, and the text for rw_error_message().
pub(crate) struct Fault {
    pub code: rw_code,
    pub text: String,
}

impl Fault {
    /// An invalid argument.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self { code: rw_code::RW_INVALID, text: text.into() }
    }

    /// Stores the text for this thread, and gives the code for the call to return.
    pub fn report(self) -> c_int {
        let text = self.text.replace('\0', " ");
        let cut = text.floor_char_boundary(text.len().min(MESSAGE_MAX - 1));
        let mut message = [0; MESSAGE_MAX];
        message[..cut].copy_from_slice(&text.as_bytes()[..cut]);
        MESSAGE.set(message);
        self.code as c_int
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::StreamNotFound { .. } => rw_code::RW_NOT_FOUND,
            Error::NotRunning { .. } => rw_code::RW_NOT_RUNNING,
            Error::NoAccess { .. } => rw_code::RW_NO_ACCESS,
            Error::Refused { reason, .. } => refused(*reason),
            Error::NoAnswer { .. } => rw_code::RW_NO_ANSWER,
            Error::HungUp { .. } => rw_code::RW_HUNG_UP,
            Error::Unexpected { .. } => rw_code::RW_PROTOCOL,
            Error::OtherRelease { .. } => rw_code::RW_VERSION,
            Error::BadName { .. } => rw_code::RW_BAD_NAME,
            Error::Forked { .. } => rw_code::RW_FORKED,
            Error::System { source, .. } => match source.kind() {
                ErrorKind::OutOfMemory | ErrorKind::StorageFull | ErrorKind::WouldBlock => {
                    rw_code::RW_RESOURCES
                }
                _ if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    rw_code::RW_RESOURCES
                }
                _ => rw_code::RW_SYSTEM,
            },
            Error::Corrupt(_) => rw_code::RW_CORRUPT,
            // A kind of error that this release of the C library does not know: the message says
            // what it is.
            _ => rw_code::RW_SYSTEM,
        };
        Self { code, text: error.to_string() }
    }
}

/// The code of a refusal.
fn refused(reason: Reason) -> rw_code {
    match reason {
        Reason::NotAllowed => rw_code::RW_NO_ACCESS,
        Reason::Full => rw_code::RW_FULL,
        Reason::Version => rw_code::RW_VERSION,
        Reason::Resources => rw_code::RW_RESOURCES,
        Reason::NoSuchReader => rw_code::RW_NOT_FOUND,
        _ => rw_code::RW_PROTOCOL,
    }
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Fault {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Fault {
        code: rw_code::RW_PANIC,
        text: format!("a defect of libringweir: {}", message.unwrap_or("panic")),
    }
}

/// Runs one entry: an error becomes its code and message, and a panic becomes RW_PANIC.
pub(crate) fn border(act: impl FnOnce() -> Result<rw_code, Fault>) -> c_int {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(code)) => code as c_int,
        Ok(Err(fault)) => fault.report(),
        Err(panic) => panicked(&*panic).report(),
    }
}

/// The same for entries that have no code to return: after a panic they return `otherwise`.
pub(crate) fn quietly<T>(otherwise: T, act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(otherwise)
}

/// Describes the last error of this thread: what was wrong, with which value, and what to do. For
/// example: no stream "daq9"; running: daq0. Empty if there was none. Valid until the next call of
/// this thread that returns an error; a successful call does not change it.
#[unsafe(no_mangle)]
pub extern "C" fn rw_error_message() -> *const c_char {
    MESSAGE.with(|message| message.as_ptr().cast_const().cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn message() -> String {
        let bytes = MESSAGE.get();
        CStr::from_bytes_until_nul(&bytes).expect("a NUL").to_string_lossy().into_owned()
    }

    /// A panic stops at the border and is reported. Control: without the border the same panic goes
    /// through.
    #[test]
    fn a_panic_stops_at_the_border() {
        let act = || -> Result<rw_code, Fault> { panic!("planted {}", 7) };
        assert!(catch_unwind(AssertUnwindSafe(act)).is_err());
        assert_eq!(border(act), rw_code::RW_PANIC as c_int);
        assert!(message().contains("planted 7"), "{}", message());
        assert_eq!(quietly(5, || panic!("planted")), 5);
    }

    /// A long message is cut between characters, and a NUL inside does not end it.
    #[test]
    fn messages_are_cut_and_terminated() {
        let long = format!("a\0b{}", "ü".repeat(MESSAGE_MAX));
        assert_eq!(border(|| Err(Fault::invalid(long))), rw_code::RW_INVALID as c_int);
        let cut = message();
        assert!(cut.starts_with("a bü") && cut.len() == MESSAGE_MAX - 1, "{}", cut.len());
    }
}
