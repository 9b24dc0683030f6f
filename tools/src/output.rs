//! Standard output of a tool: a reader that goes away ends it quietly; foreign text and JSON
//! objects as lines of it.

use serde::Serialize;
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

/// Text of somebody else without what could move a cursor or break a line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Any of our objects on a line of its own.
pub fn json_line(object: &impl Serialize) -> String {
    let mut text = serde_json::to_string(object).expect("keys are strings and numbers are finite");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(super::printable("a\x1b[2J\nb"), "a?[2J?b");
    }
}
