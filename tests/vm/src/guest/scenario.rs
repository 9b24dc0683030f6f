//! What a scenario is, and its line to the host.
//!
//! Contract: a scenario is a function with a name, in the list of its file. It fails by an error or
//! a panic.

use crate::protocol::{FromGuest, line};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

/// The serial port on which guest and host talk.
pub const PORT: &str = "/dev/ttyS1";

/// Something that runs in a guest.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The name that the host asks for.
    pub name: &'static str,
    /// Runs it, with the host's argument.
    pub run: fn(&str) -> Result<()>,
}

/// Opens the line to the host.
pub fn port() -> Result<File> {
    File::options().read(true).write(true).open(PORT).context(PORT)
}

/// Makes the host print `text`.
pub fn print(text: impl Into<String>) -> Result<()> {
    Ok(port()?.write_all(line(&FromGuest::Print(text.into())).as_bytes())?)
}

/// Makes the host do what only the host can do; returns its answer.
pub fn ask(what: impl Into<String>) -> Result<String> {
    let mut port = port()?;
    port.write_all(line(&FromGuest::Ask(what.into())).as_bytes())?;
    let mut answer = String::new();
    BufReader::new(port).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
