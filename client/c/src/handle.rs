//! What an opaque pointer to a reader or a watch points to: lent to one call at a time.
//!
//! Contract: a second call while the first one runs is refused, and so is each call after a panic,
//! except the one that gives the handle back. A handle serves one thread at a time, by its type: it
//! is not `Sync`.

#![allow(unsafe_code)]

use crate::args::Back;
use crate::border::panicked;
use crate::{Fault, border, rw_code};
use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

const IDLE: u64 = 0;
const IN_USE: u64 = 1;
const BROKEN: u64 = 2;

/// A `T`, lent to one call at a time.
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
    #[inline]
    pub fn enter(
        handle: Option<&Self>,
        act: impl FnOnce(&mut T) -> Result<rw_code, Fault>,
    ) -> c_int {
        let Some(handle) = handle else {
            return border(|| {
                Err(Fault::invalid("the reader, watch or publisher is NULL or misaligned"))
            });
        };
        let state = handle.state.load(Ordering::Relaxed);
        if state != IDLE {
            return border(|| Err(Self::unfit(state)));
        }
        handle.state.store(IN_USE, Ordering::Relaxed);
        // SAFETY: this is the only reference to the content. The handle is not `Sync`, as it has an
        // UnsafeCell, so no other thread has a reference to it; in this thread the state excludes a
        // call within a call; and nothing else in this file makes one.
        let inner = unsafe { &mut *handle.inner.get() };
        let result = catch_unwind(AssertUnwindSafe(|| act(inner)));
        handle.state.store(if result.is_err() { BROKEN } else { IDLE }, Ordering::Relaxed);
        match result {
            Ok(Ok(code)) => code as c_int,
            Ok(Err(fault)) => fault.report(),
            Err(panic) => panicked(&*panic).report(),
        }
    }

    /// Takes the owner of a handle back and drops it, unless a call is using the handle.
    pub fn discard<W>(owner: Back<W>, handle: impl FnOnce(&W) -> &Self) -> c_int {
        border(|| {
            let idle = |owner: &W| match handle(owner).state.load(Ordering::Relaxed) {
                IN_USE => Err(Self::unfit(IN_USE)),
                _ => Ok(()),
            };
            drop(owner.take(idle)?);
            Ok(rw_code::RW_OK)
        })
    }

    #[cold]
    fn unfit(state: u64) -> Fault {
        if state == IN_USE {
            Fault {
                code: rw_code::RW_BUSY,
                text: "another call is using this reader, watch or publisher".into(),
            }
        } else {
            Fault {
                code: rw_code::RW_PANIC,
                text: "an earlier call failed by a defect of libringweir: detach".into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A panic breaks the handle for all calls except the one that gives it back. Control: before
    /// the panic a call works.
    #[test]
    fn a_panic_breaks_the_handle() {
        let owner = Box::into_raw(Box::new(Handle::new(1u32)));
        // SAFETY: the pointer came from Box::into_raw, and is taken back only at the end.
        let handle = unsafe { owner.as_ref() };
        let enter = |act: fn(&mut u32) -> Result<rw_code, Fault>| Handle::enter(handle, act);
        assert_eq!(enter(|n| (*n == 1).then_some(rw_code::RW_OK).ok_or(Fault::invalid("?"))), 0);
        assert_eq!(enter(|_| panic!("planted")), rw_code::RW_PANIC as c_int);
        assert_eq!(enter(|_| Ok(rw_code::RW_OK)), rw_code::RW_PANIC as c_int);
        // SAFETY: the pointer came from Box::into_raw above and is not used again.
        assert_eq!(Handle::discard(unsafe { Back::new(owner) }, |h| h), 0);
    }

    /// A call within a call on the same handle is refused, discarding it too. Control: afterwards
    /// both work.
    #[test]
    fn a_handle_serves_one_call_at_a_time() {
        let owner = Box::into_raw(Box::new(Handle::new(())));
        let busy = rw_code::RW_BUSY as c_int;
        // SAFETY: the pointer came from Box::into_raw, and is taken back only at the end.
        let handle = unsafe { owner.as_ref() };
        let within = || {
            let inner = Handle::enter(handle, |()| Ok(rw_code::RW_OK));
            // SAFETY: the pointer came from Box::into_raw. The call is refused, so it stays valid.
            let discarded = Handle::discard(unsafe { Back::new(owner) }, |h| h);
            assert_eq!((inner, discarded), (busy, busy));
            Ok(rw_code::RW_OK)
        };
        assert_eq!(Handle::enter(handle, |()| within()), 0);
        assert_eq!(Handle::enter(handle, |()| Ok(rw_code::RW_OK)), 0);
        // SAFETY: the pointer came from Box::into_raw above and is not used again.
        assert_eq!(Handle::discard(unsafe { Back::new(owner) }, |h| h), 0);
    }
}
