//! Text from elsewhere, as it may be shown.
//!
//! Contract: names, labels, metadata, refusals and file names come from other processes. Shown as
//! they are, they could move the cursor, forge a line, hide or reverse what follows. Every such
//! string passes through [`printable`] before it reaches a terminal or a log. It is defined here,
//! below broker and client, so that both and all tools mean the same characters.

/// `text` with a `?` for each character that is not shown itself: control characters (C0, C1),
/// line and paragraph separators, marks that change the direction of text, characters without
/// width, tags.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect()
}

/// The same for text of several lines whose ends are ours.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_hidden(c) { '?' } else { c }).collect()
}

/// Whether `c` is not shown itself.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;

    /// Control: what belongs to words of any language stays.
    #[test]
    fn hidden_characters_are_replaced() {
        for (foreign, shown) in [
            ("a\x1b[2J\nb", "a?[2J?b"),
            ("c1\u{9b}31m", "c1?31m"),
            ("bidi \u{202e}gpj.exe\u{2066}", "bidi ?gpj.exe?"),
            ("zero\u{200b}width\u{feff}", "zero?width?"),
            ("tag\u{e0041}", "tag?"),
            ("line\u{2028}", "line?"),
            ("naïve Größe 日本 שלום ✓ 🙂", "naïve Größe 日本 שלום ✓ 🙂"),
        ] {
            assert_eq!(printable(foreign), shown);
        }
        assert_eq!(printable_lines("a\nb\x07\n"), "a\nb?\n");
    }
}
