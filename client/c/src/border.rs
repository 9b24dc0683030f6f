//! The border between C and Rust: it stops panics, bad pointers and concurrent calls.

#![allow(unsafe_code)]

use crate::rw_code;
use ringweir::{Error, Reason};
use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest message kept, in bytes, with its NUL.
const MESSAGE_MAX: usize = 1024;

thread_local! {
    // No destructor and no allocation: usable in any thread at any time, even while the thread
    // ends.
    static MESSAGE: UnsafeCell<[u8; MESSAGE_MAX]> = const { UnsafeCell::new([0; MESSAGE_MAX]) };
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
    fn told(self) -> c_int {
        let text = self.text.replace('\0', " ");
        let cut = text.floor_char_boundary(text.len().min(MESSAGE_MAX - 1));
        MESSAGE.with(|message| {
            // SAFETY: the buffer is this thread's, and this is the only reference to it: no code
            // called here makes another one, and rw_error_message() hands out a raw pointer.
            let message = unsafe { &mut *message.get() };
            message[..cut].copy_from_slice(&text.as_bytes()[..cut]);
            message[cut] = 0;
        });
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

fn panicked(panic: &(dyn Any + Send)) -> Fault {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Fault {
        code: rw_code::RW_PANIC,
        text: format!("a defect of libringweir: {}", said.unwrap_or("panic")),
    }
}

/// Runs one entry: an error becomes its code and message, and a panic becomes RW_PANIC.
pub(crate) fn border(act: impl FnOnce() -> Result<rw_code, Fault>) -> c_int {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(code)) => code as c_int,
        Ok(Err(fault)) => fault.told(),
        Err(panic) => panicked(&*panic).told(),
    }
}

/// The same for entries that have no code to return: after a panic they return `otherwise`.
pub(crate) fn quietly<T>(otherwise: T, act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(otherwise)
}

const IDLE: u64 = 0;
const IN_USE: u64 = 1;
const BROKEN: u64 = 2;

/// What an opaque pointer points to: a `T`, lent to one call at a time.
///
/// The guard is a plain load and store, not a locked instruction. It detects every call that is
/// made while another one sleeps, waits or is interrupted by a signal handler, and most calls that
/// merely race. It helps to find mistakes but is not a lock: the header requires one thread at a
/// time.
pub(crate) struct Handle<T> {
    state: AtomicU64,
    inner: UnsafeCell<T>,
}

impl<T: Send> Handle<T> {
    pub fn new(inner: T) -> Self {
        Self { state: AtomicU64::new(IDLE), inner: UnsafeCell::new(inner) }
    }

    /// Runs one entry on what the handle holds (`None`: the pointer was NULL or misaligned). A
    /// panic leaves the handle broken, because its content may be half changed.
    ///
    /// # Safety
    /// One thread uses the handle at a time.
    #[inline]
    pub unsafe fn enter(
        handle: Option<&Self>,
        act: impl FnOnce(&mut T) -> Result<rw_code, Fault>,
    ) -> c_int {
        let Some(handle) = handle else {
            return border(|| Err(Fault::invalid("the reader or watch is NULL or misaligned")));
        };
        let state = handle.state.load(Ordering::Relaxed);
        if state != IDLE {
            return border(|| Err(Self::unfit(state)));
        }
        handle.state.store(IN_USE, Ordering::Relaxed);
        // SAFETY: this is the only reference to the content: the caller promises one thread at a
        // time, and the state excludes a call within a call.
        let inner = unsafe { &mut *handle.inner.get() };
        let result = catch_unwind(AssertUnwindSafe(|| act(inner)));
        handle.state.store(if result.is_err() { BROKEN } else { IDLE }, Ordering::Relaxed);
        match result {
            Ok(Ok(code)) => code as c_int,
            Ok(Err(fault)) => fault.told(),
            Err(panic) => panicked(&*panic).told(),
        }
    }

    /// Takes the owner of a handle back and drops it, unless a call is using it.
    ///
    /// # Safety
    /// `owner` is NULL, or came from [`Box::into_raw`] and is not used after this has returned
    /// RW_OK.
    pub unsafe fn discard<W>(owner: *mut W, handle: impl FnOnce(&W) -> &Self) -> c_int {
        border(|| {
            if owner.is_null() {
                return Ok(rw_code::RW_OK);
            }
            // SAFETY: `owner` is not NULL (checked above), so by the caller's promise it came from
            // Box::into_raw and has not been dropped.
            let Some(seen) = (unsafe { live(owner) }) else {
                return Err(Fault::invalid("the reader or watch is misaligned"));
            };
            if handle(seen).state.load(Ordering::Relaxed) == IN_USE {
                return Err(Self::unfit(IN_USE));
            }
            // SAFETY: by the caller's promise `owner` came from Box::into_raw and is not used after
            // this; no call is inside, as the state shows.
            drop(unsafe { Box::from_raw(owner) });
            Ok(rw_code::RW_OK)
        })
    }

    #[cold]
    fn unfit(state: u64) -> Fault {
        if state == IN_USE {
            Fault {
                code: rw_code::RW_BUSY,
                text: "another call is using this reader or watch".into(),
            }
        } else {
            Fault {
                code: rw_code::RW_PANIC,
                text: "an earlier call failed by a defect of libringweir: detach".into(),
            }
        }
    }
}

/// What an opaque pointer points to; `None` if it is NULL or misaligned: this library hands out no
/// such pointer.
///
/// # Safety
/// Unless it is NULL or misaligned, this library handed it out and does not take it back before the
/// end of `'a`.
#[inline(always)]
pub(crate) unsafe fn live<'a, T>(opaque: *const T) -> Option<&'a T> {
    if !opaque.is_aligned() {
        return None;
    }
    // SAFETY: aligned (checked above), and NULL or, by the caller's promise, handed out by this
    // library and not taken back during 'a.
    unsafe { opaque.as_ref() }
}

/// Reads the C string given as the argument called `what`.
///
/// # Safety
/// `string` is NULL or ends with a NUL, and stays as it is during `'a`.
pub(crate) unsafe fn text<'a>(string: *const c_char, what: &str) -> Result<&'a str, Fault> {
    if string.is_null() {
        return Err(Fault::invalid(format!("{what} is NULL")));
    }
    // SAFETY: not NULL (checked above), and by the caller's promise it ends with a NUL and does not
    // change during 'a.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_str().map_err(|_| Fault::invalid(format!("{what} {string:?} is not UTF-8")))
}

/// Writes a result to `out`, the caller's argument called `what`.
///
/// # Safety
/// `out` is NULL, or room for a `T` that the caller may write.
#[inline]
pub(crate) unsafe fn write<T>(out: *mut T, what: &str, value: T) -> Result<(), Fault> {
    if out.is_null() || !out.is_aligned() {
        return Err(misplaced(what));
    }
    // SAFETY: not NULL and aligned (checked above), and room for a `T` by the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

#[cold]
fn misplaced(what: &str) -> Fault {
    Fault::invalid(format!("{what} is NULL or misaligned"))
}

/// Describes the last error of this thread: what was wrong, with which value, and what to do. For
/// example: no stream "daq9"; running: daq0. Empty if there was none. Valid until the next call of
/// this thread that returns an error; a successful call does not change it.
#[unsafe(no_mangle)]
pub extern "C" fn rw_error_message() -> *const c_char {
    MESSAGE.with(|message| message.get().cast_const().cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> String {
        // SAFETY: the pointer is to this thread's buffer, which `told` ends with a NUL.
        unsafe { CStr::from_ptr(rw_error_message()) }.to_string_lossy().into_owned()
    }

    /// A panic stops at the border, is reported, and breaks the handle for all calls except
    /// detaching. Control: without the border the same panic goes through.
    #[test]
    fn a_panic_stops_at_the_border() {
        let act = || -> Result<rw_code, Fault> { panic!("planted {}", 7) };
        assert!(catch_unwind(AssertUnwindSafe(act)).is_err());
        assert_eq!(border(act), rw_code::RW_PANIC as c_int);
        assert!(message().contains("planted 7"), "{}", message());

        let handle = Box::into_raw(Box::new(Handle::new(1u32)));
        let enter = |act: fn(&mut u32) -> Result<rw_code, Fault>| {
            // SAFETY: the pointer came from Box::into_raw and is discarded only below.
            let live = unsafe { handle.as_ref() };
            // SAFETY: only this thread uses the handle.
            unsafe { Handle::enter(live, act) }
        };
        assert_eq!(enter(|n| (*n == 1).then_some(rw_code::RW_OK).ok_or(Fault::invalid("?"))), 0);
        assert_eq!(enter(|_| panic!("planted")), rw_code::RW_PANIC as c_int);
        assert_eq!(enter(|_| Ok(rw_code::RW_OK)), rw_code::RW_PANIC as c_int);
        // SAFETY: the pointer came from Box::into_raw above and is not used again.
        assert_eq!(unsafe { Handle::discard(handle, |h| h) }, 0);
        assert_eq!(quietly(5, || panic!("planted")), 5);
    }

    /// A call within a call on the same handle is refused, discarding it too. Control: afterwards
    /// both work.
    #[test]
    fn a_handle_serves_one_call_at_a_time() {
        let owner = Box::into_raw(Box::new(Handle::new(())));
        let busy = rw_code::RW_BUSY as c_int;
        let enter = |act: &mut dyn FnMut() -> Result<rw_code, Fault>| {
            // SAFETY: the pointer came from Box::into_raw and is discarded only below.
            let live = unsafe { owner.as_ref() };
            // SAFETY: only this thread uses the handle; the test checks that a call within a call
            // is refused.
            unsafe { Handle::enter(live, |()| act()) }
        };
        let mut within = || {
            let inner = enter(&mut || Ok(rw_code::RW_OK));
            // SAFETY: `owner` came from Box::into_raw; the call is refused, so `owner` stays valid.
            let discarded = unsafe { Handle::discard(owner, |h| h) };
            assert_eq!((inner, discarded), (busy, busy));
            Ok(rw_code::RW_OK)
        };
        assert_eq!(enter(&mut within), 0);
        assert_eq!(enter(&mut || Ok(rw_code::RW_OK)), 0);
        // SAFETY: the pointer came from Box::into_raw above and is not used again.
        assert_eq!(unsafe { Handle::discard(owner, |h| h) }, 0);
    }

    /// A long message is cut between characters, and a NUL inside does not end it.
    #[test]
    fn messages_are_cut_and_terminated() {
        let long = format!("a\0b{}", "ü".repeat(MESSAGE_MAX));
        assert_eq!(border(|| Err(Fault::invalid(long))), rw_code::RW_INVALID as c_int);
        let said = message();
        assert!(said.starts_with("a bü") && said.len() == MESSAGE_MAX - 1, "{}", said.len());
    }
}
