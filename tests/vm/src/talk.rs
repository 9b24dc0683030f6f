//! What host and guest say to each other over the second serial port: one JSON object a line.

use serde::{Deserialize, Serialize};

/// Guest to host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Init is there and waits for an [`Order`].
    Ready {
        /// `uname -r`.
        kernel: String,
    },
    /// A figure worth printing.
    Words(String),
    /// A scenario asks the host for something and waits for one line, a JSON string.
    Ask(String),
    /// A job has ended.
    Result {
        /// Nothing if it passed, else why not.
        fault: Option<String>,
    },
    /// The last word.
    Verdict {
        /// Jobs that passed.
        passed: u32,
        /// Jobs that did not.
        failed: u32,
    },
}

/// Host to guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run a scenario.
    Run {
        /// Which, see [`super::guest::scenario`].
        scenario: String,
        /// What is to be handed to it.
        argument: String,
        /// Seconds until it is killed and has failed.
        limit: u64,
    },
    /// Say the verdict and leave.
    Leave,
}

/// As it goes over the wire.
///
/// # Panics
/// Never: these types have no maps with keys that are not strings.
pub fn line(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("plain data") + "\n"
}
