//! Standard output of a tool: a reader that goes away ends it quietly.

use std::io::{self, ErrorKind, Write};

/// Writes `text` at once. False: nobody reads it any more.
///
/// # Errors
/// If it cannot be written for another reason, such as a full disk.
pub fn put(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write standard output: {e}"))),
    }
}
