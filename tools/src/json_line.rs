//! Results as JSON, one object a line.

use serde::Serialize;

/// `object` as a line of JSON.
pub fn json_line(object: &impl Serialize) -> String {
    let mut text = serde_json::to_string(object).expect("keys are strings and numbers are finite");
    text.push('\n');
    text
}
