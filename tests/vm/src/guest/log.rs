//! The kernel's log, and which of its messages mean a fault.

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

const KMSG: &str = "/dev/kmsg";

/// Messages of a kernel that has found a fault in itself or in a module.
const FAULTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG",
    "Oops",
    "Call Trace",
    "cut here",
    "sleeping function",
    "scheduling while atomic",
    "general protection",
    "unable to handle",
    "refcount_t:",
    "corruption",
    "list_add",
    "list_del",
    "Bad page",
    "Bad rss",
    "nobody cared",
    "already-free IRQ",
    "lockup",
    "self-detected stall",
    "detected stalls",
    "blocked for more than",
    "duplicate filename",
    "Objects remaining",
    "leaked",
];

/// The log, from the moment it was opened.
pub struct KernelLog(OwnedFd);

impl KernelLog {
    /// Opens the log after its last message.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(KMSG, flags, Mode::empty())?;
        rustix::fs::seek(&fd, SeekFrom::End(0))?;
        Ok(Self(fd))
    }

    /// Messages since the last call that mean a fault.
    pub fn faults(&self) -> io::Result<Vec<String>> {
        // The kernel shows a message without a line end only when the next one comes.
        std::fs::write(KMSG, "<6>init: looking for faults\n")?;
        let mut found = Vec::new();
        let mut record = [0; 8192];
        loop {
            match rustix::io::read(&self.0, &mut record) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]);
                    let words = text.split_once(';').map_or(&*text, |(_, words)| words).trim_end();
                    if FAULTS.iter().any(|f| words.contains(f)) {
                        found.push(words.to_string());
                    }
                }
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::PIPE) => {
                    found.push("messages were overwritten before they were looked at".into())
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
