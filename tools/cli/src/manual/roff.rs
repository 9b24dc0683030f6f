//! The text of a page: what roff reads.
//!
//! Contract: nothing of the text is taken for a request or an escape.

use std::io::{self, Write};

/// A block of lines whose breaks are kept.
pub(super) fn examples(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, ".PP")?;
    verbatim(lines, out)
}

/// Lines as they are.
///
/// # Errors
/// Those of `out`.
pub fn verbatim(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, ".nf")?;
    lines.iter().try_for_each(|line| writeln!(out, "{}", escape(line)))?;
    writeln!(out, ".fi")
}

/// Prose. Indented lines keep their breaks.
pub(super) fn paragraphs(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    for paragraph in lines.split(String::is_empty).filter(|p| !p.is_empty()) {
        writeln!(out, ".PP")?;
        for line in paragraph {
            if line.starts_with(' ') {
                writeln!(out, ".br")?;
            }
            writeln!(out, "{}", escape(line.trim()))?;
        }
    }
    Ok(())
}

/// Only ASCII, which every roff can read, and a visible gap between paragraphs.
pub(super) fn tidy(page: &str) -> String {
    let page = page.replace(".br\n\n.br\n", ".sp\n");
    let ascii =
        |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(ascii).collect()
}

/// `text` with everything escaped that roff would take for a request.
pub fn escape(text: &str) -> String {
    let plain =
        text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    // An empty line would be one of the source, not of the text.
    if plain.is_empty() || plain.starts_with('.') { format!("\\&{plain}") } else { plain }
}
