//! Standard output of a tool.
//!
//! Contract: if the reader of the output goes away, the tool ends quietly. Text from other
//! processes is printed without control characters.

use serde::Serialize;
use std::io::{self, ErrorKind, Write};

/// Writes `text` at once. False: the reader of the output has gone.
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

/// `text` from another process without control characters, which could move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `object` as a line of JSON.
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
