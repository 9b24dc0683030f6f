//! Children of a hostile reader, which inherit its attachment.
//!
//! Contract: a child continues with the attachment for a moment and ends by itself. The process has
//! one thread, so a child may do everything that its parent may.

#![allow(unsafe_code)]

use crate::attachment::Attachment;
use ringweir_proto::os::event;
use ringweir_proto::sync::Ordering;
use std::time::Duration;

/// Forks. The child continues as the reader of this attachment, and so keeps it when the parent
/// drops it. Returns whether there is a child.
pub fn fork(attachment: &Attachment, moments: u64) -> bool {
    // SAFETY: this process has one thread, so no lock is held in the child.
    match unsafe { libc::fork() } {
        0 => {
            for moment in 0..moments {
                let block = attachment.page.block();
                block.read_seq.store(attachment.written(), Ordering::Relaxed);
                block.delivered.store(moment, Ordering::Relaxed);
                let _full = event::ring(&attachment.sleep_request);
                let _rung = event::take(&attachment.wake);
                std::thread::sleep(Duration::from_millis(1));
            }
            // SAFETY: ends the process; nothing of its parent's is written or run.
            unsafe { libc::_exit(0) }
        }
        child => child > 0,
    }
}

/// Reaps the children that have ended. Returns how many.
pub fn reap() -> usize {
    wait(libc::WNOHANG)
}

/// Waits until all children have ended, because they hold every connection that this process has.
pub fn all_ended() {
    wait(0);
}

fn wait(flags: i32) -> usize {
    let mut ended = 0;
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), flags) } > 0 {
        ended += 1;
    }
    ended
}
