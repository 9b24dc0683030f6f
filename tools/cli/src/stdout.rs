//! Standard output, written at once.
//!
//! Contract: if the reader of the output goes away, the caller learns it and ends quietly. Also
//! where somebody else made the descriptor non-blocking, all is written. This is the only file of
//! broker and tools that writes to standard output, apart from datagrams.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

/// Writes `text`. False: the reader of the output has gone.
///
/// # Errors
/// If it cannot be written for another reason, such as a full disk.
pub fn put(text: &str) -> io::Result<bool> {
    match write_all(io::stdout(), text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write standard output: {e}"))),
    }
}

/// Writes all `bytes` to a descriptor, and waits where it is non-blocking and full.
///
/// # Errors
/// Those of the descriptor.
pub fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&to, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            },
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
