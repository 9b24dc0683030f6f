//! The syntax `[OPTION[,OPTION…]:]PATH` that several sources share.

use super::contract::SourceError;

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
