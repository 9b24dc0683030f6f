//! Acting as another user, on a thread of the test. Needs root.

#![allow(unsafe_code)]

/// Runs `act` on a thread that is user `uid` and group `gid`, with no other groups.
///
/// # Panics
/// If the process may not become that user.
pub fn becoming_of<R: Send>(uid: u32, gid: u32, act: impl FnOnce() -> R + Send) -> R {
    let in_it = || {
        // SAFETY: the bare call, which changes only this thread; the thread ends with `act`.
        let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, 0) };
        // SAFETY: as above.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
        // SAFETY: as above.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!((groups, group, user), (0, 0, 0), "{}", std::io::Error::last_os_error());
        act()
    };
    std::thread::scope(|scope| scope.spawn(in_it).join())
        .unwrap_or_else(|e| std::panic::resume_unwind(e))
}

/// The same with the group of the user's number.
pub fn becoming<R: Send>(uid: u32, act: impl FnOnce() -> R + Send) -> R {
    becoming_of(uid, uid, act)
}
