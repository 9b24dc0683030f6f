//! Threads that a library starts in somebody else's program take none of the program's signals.
//!
//! Contract: a thread inherits the mask of the one that starts it. So all signals are blocked in
//! the calling thread while it starts others, and come to it afterwards.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// All signals are blocked in this thread while this exists. It stays in its thread.
pub struct AllBlocked {
    before: libc::sigset_t,
    _not_send: std::marker::PhantomData<*const ()>,
}

impl AllBlocked {
    /// Blocks all signals in the calling thread.
    pub fn here() -> Self {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: it points to room for a set, which the call fills.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let (all, old) = (all.as_ptr(), before.as_mut_ptr());
        // SAFETY: `all` is filled, and `old` has room for a set, which the call fills.
        let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all, old) };
        assert_eq!(failed, 0, "SIG_BLOCK is valid");
        // SAFETY: filled by the call above, which has not failed.
        let before = unsafe { before.assume_init() };
        Self { before, _not_send: std::marker::PhantomData }
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // SAFETY: `before` is a set that the kernel filled in; a null pointer means that the old
        // mask is not wanted.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask of this thread, as the kernel shows it.
    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    /// Control: a thread that is started afterwards has the old mask.
    #[test]
    fn threads_started_meanwhile_have_all_signals_blocked() {
        let before = blocked();
        let term = 1 << (libc::SIGTERM - 1);
        let all = AllBlocked::here();
        assert_ne!(std::thread::spawn(blocked).join().unwrap() & term, 0);
        drop(all);
        assert_eq!((blocked(), std::thread::spawn(blocked).join().unwrap()), (before, before));
    }
}
