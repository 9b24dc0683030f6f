//! What a check reports: how bad it is, what was seen, and the command that fixes it.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) text: String,
    /// The command that fixes it.
    pub(super) fix: Option<String>,
}

/// A finding to which the name of its check has yet to be added.
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
