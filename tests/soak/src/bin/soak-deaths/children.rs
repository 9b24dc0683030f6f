//! Children of a reader, which have inherited it and may not use it.

#![allow(unsafe_code)]

use crate::account::Line;
use anyhow::ensure;
use std::time::Duration;

/// The children that have not ended yet.
#[derive(Default)]
pub struct Children(usize);

impl Children {
    /// Forks. The child finds out whether `is_right`, and stays for a moment. Reports those that
    /// have ended.
    pub fn fork(&mut self, is_right: impl FnOnce() -> bool) -> anyhow::Result<()> {
        // SAFETY: this process has one thread, so no lock is held in the child.
        let child = unsafe { libc::fork() };
        ensure!(child >= 0, "fork: {}", std::io::Error::last_os_error());
        if child == 0 {
            let status = if is_right() { 0 } else { 3 };
            std::thread::sleep(Duration::from_millis(200));
            // SAFETY: ends the process; nothing of its parent's is written or run.
            unsafe { libc::_exit(status) }
        }
        self.0 += 1;
        self.reap(libc::WNOHANG)
    }

    /// Waits until all have ended.
    pub fn all_ended(&mut self) -> anyhow::Result<()> {
        self.reap(0)
    }

    fn reap(&mut self, flags: i32) -> anyhow::Result<()> {
        let mut status = 0;
        // SAFETY: writes one number.
        while self.0 > 0 && unsafe { libc::waitpid(-1, &raw mut status, flags) } > 0 {
            self.0 -= 1;
            ensure!(status == 0, "a child of this reader could read (status {status:#x})");
            Line::Forked.print();
        }
        Ok(())
    }
}
