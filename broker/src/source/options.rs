//! The syntax that several sources share: `[OPTION[,OPTION…]:]PATH`, and
//! `FRAMING[,OPTION…]:REST`.

use super::contract::SourceError;
use super::framing::Framing;
use ringweir_cli::quantity::Span;
use std::time::Duration;

/// Splits `[OPTION[,OPTION…]:]PATH`. The path may contain colons and commas. If there are no
/// options, it must begin with `/` or `.`. The value of an option may contain colons if the path
/// after it begins with one of these (a PCI address in `memory=`).
pub(super) fn options_and_path(argument: &str) -> Result<(Vec<&str>, &str), SourceError> {
    if argument.starts_with(['/', '.']) {
        return Ok((Vec::new(), argument));
    }
    let colon =
        [":/", ":."].iter().filter_map(|c| argument.find(c)).min().or_else(|| argument.find(':'));
    match colon.map(|at| (&argument[..at], &argument[at + 1..])) {
        Some((options, path)) if !path.is_empty() => Ok((options.split(',').collect(), path)),
        _ => Err(SourceError(format!(
            "no path in {argument:?}: a path begins with / or . or comes after options and a colon"
        ))),
    }
}

/// Splits `FRAMING[,OPTION…]:REST`. The rest may contain colons and commas.
pub(super) fn framing_and_rest(argument: &str) -> Result<(Framing, Vec<&str>, &str), SourceError> {
    // The only framing that contains a colon.
    let own = if argument.starts_with("fixed:") { "fixed:".len() } else { 0 };
    let end = argument[own..].find(':').map(|at| own + at);
    let (head, rest) = end.map_or((argument, ""), |end| (&argument[..end], &argument[end + 1..]));
    let mut parts = head.split(',');
    let framing = parts.next().unwrap_or_default().parse().map_err(SourceError::new)?;
    if rest.is_empty() {
        return Err(SourceError(format!("nothing behind {head:?}")));
    }
    Ok((framing, parts.collect(), rest))
}

/// The time in `option`, which is `KEY=TIME`.
pub(super) fn span(option: &str, time: &str) -> Result<Duration, SourceError> {
    let span = time.parse::<Span>();
    Ok(span.map_err(|e| SourceError(format!("{option:?}: {e}")))?.0)
}
