//! `ringd --check FILE`: what is wrong in a configuration file, without serving it.
//!
//! Contract: nothing is made, and nothing is opened except the file and `gen:`. All streams are
//! checked, not only up to the first fault. What only the start can tell is not claimed: whether a
//! source can be opened, whether there is memory, whether a name is taken.

use crate::control::reload::Reload;
use crate::process::sandbox::Sandbox;
use crate::setup::config::StreamConfig;
use crate::setup::config_file::FileConfig;
use crate::setup::plan::Plan;
use crate::source::contract::OpenFor;
use crate::source::kinds;
use crate::stream::builder::Host;
use anyhow::Context;
use ringweir_cli::quantity::{Bytes, Rate};
use std::path::Path;

/// What was found in a file.
pub struct Checked {
    /// A line about each stream, and one about all.
    pub text: String,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// Checks `file`.
///
/// # Errors
/// If it cannot be read as a configuration file at all.
pub fn check(file: &Path) -> anyhow::Result<Checked> {
    let config = FileConfig::read(file)?;
    let (mut text, mut faults, mut bytes) = (String::new(), Vec::new(), 0);
    for stream in &config.streams {
        match check_stream(stream) {
            Ok((line, ring)) => {
                text += &format!("{}: {}: {line}\n", stream.name, stream.source);
                bytes += ring;
            }
            Err(e) => faults.push(format!("stream {:?}: {e:#}", stream.name)),
        }
    }
    let host = Host::new(config.run_dir.clone().unwrap_or_default(), Sandbox::Off);
    if let Err(e) = Reload::new(file.into(), host).needs(&[], &config.later) {
        faults.push(format!("{e:#}"));
    }
    if faults.is_empty() {
        text += &format!(
            "{}: nothing wrong found; {} streams with rings of {}; sources are opened only at the \
            start\n",
            file.display(),
            config.streams.len(),
            Bytes(bytes),
        );
    }
    Ok(Checked { text, faults })
}

/// A line about its ring, and the bytes of it.
fn check_stream(config: &StreamConfig) -> anyhow::Result<(String, u64)> {
    config.check()?;
    config.gid()?;
    let (kind, _) = config.source.split_once(':').unwrap_or((&config.source, ""));
    let known = kinds::SOURCES.iter().any(|k| k.name == kind);
    anyhow::ensure!(known, "no source {kind:?}: see ringd sources");
    // As for the start: the largest datagram does not depend on the rate.
    let sized = Plan::new(config, Some(Rate::Bytes(1.0)))?;
    let rate = if kinds::opens_nothing(kind) {
        let max_datagram = sized.geometry.max_datagram() as usize;
        kinds::open(&config.source, &OpenFor { max_datagram })?.rate()
    } else {
        None
    };
    match Plan::new(config, rate) {
        Ok(plan) => Ok((plan.to_string(), plan.geometry.footprint())),
        // The source of a device may know its rate.
        Err(e) if kinds::may_know_rate(kind) => Ok((format!("at the start: {e:#}"), 0)),
        Err(e) => Err(e).context("ring"),
    }
}
