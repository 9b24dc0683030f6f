//! The messages between host and guest over the second serial port: one JSON object per line.

use serde::{Deserialize, Serialize};

/// Guest to host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// Init runs and waits for a message ([`ToGuest`]).
    Ready {
        /// `uname -r`.
        kernel: String,
    },
    /// Text that the host prints.
    Print(String),
    /// A scenario asks the host for something. It waits for one line, a JSON string.
    Ask(String),
    /// A job has ended.
    Result {
        /// Why it failed; `None` if it passed.
        fault: Option<String>,
    },
    /// The last message.
    Verdict {
        /// Jobs that passed.
        passed: u32,
        /// Jobs that did not.
        failed: u32,
    },
}

/// Host to guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Run a scenario.
    Run {
        /// Its name.
        scenario: String,
        /// Its argument.
        argument: String,
        /// Seconds until it is killed and has failed.
        limit: u64,
    },
    /// Send the verdict and end the machine.
    Leave,
}

/// A message as a line.
///
/// # Panics
/// Never: these types have no maps with keys that are not strings.
pub fn line(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("plain data") + "\n"
}
