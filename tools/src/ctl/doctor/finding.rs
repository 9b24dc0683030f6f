//! What a check reports: how bad it is, what was seen, and the line that repairs it.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) text: String,
    /// The line that mends it.
    pub(super) fix: Option<String>,
}

/// A finding before its check's name is put to it.
pub(super) type Found = (State, String, Option<String>);

pub(super) fn ok(text: impl Into<String>) -> Found {
    (State::Ok, text.into(), None)
}

pub(super) fn warn(text: impl Into<String>, fix: impl Into<String>) -> Found {
    (State::Warn, text.into(), Some(fix.into()))
}

pub(super) fn fail(text: impl Into<String>, fix: impl Into<String>) -> Found {
    (State::Fail, text.into(), Some(fix.into()))
}
