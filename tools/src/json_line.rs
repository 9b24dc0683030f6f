//! Results as JSON, one object a line.
//!
//! Contract: a line may end up on a terminal, so characters that are not shown themselves are
//! escaped. The strings that a program reads from it are exact.

use ringweir_cli::printable::is_hidden;
use serde::Serialize;
use std::fmt::Write as _;

/// `object` as a line of JSON.
pub fn json_line(object: &impl Serialize) -> String {
    let text = serde_json::to_string(object).expect("keys are strings and numbers are finite");
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_hidden(c) {
            // Outside of strings JSON has none of them.
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _infallible = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control: what is shown itself is not escaped.
    #[test]
    fn hidden_characters_are_escaped_and_not_lost() {
        let text = "a\x1b[2J\u{9b}31m\x7f\u{202e}\u{e0041}\n\"\\ Größe 日本 🙂";
        let line = json_line(&text);
        assert!(line.contains(r"a\u001b[2J\u009b31m\u007f\u202e\udb40\udc41\n"), "{line}");
        assert!(line.contains("Größe 日本 🙂"), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
