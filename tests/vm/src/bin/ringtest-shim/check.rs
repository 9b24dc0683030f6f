//! One check, reported as one line.

use anyhow::{Result, ensure};

/// Prints `ok WHAT` if `so`, and fails with `FAILED WHAT` otherwise.
pub fn check(what: &str, so: bool, got: impl std::fmt::Debug) -> Result<()> {
    ensure!(so, "FAILED {what}: {got:?}");
    println!("ok {what}: {got:?}");
    Ok(())
}
