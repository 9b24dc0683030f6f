//! What the pump thread of `ringd` has published, and the processor time it took for that.

use crate::machine;
use anyhow::Context;
use ringweir::view::Viewer;
use ringweir::view::stats::StreamFact;
use ringweir_proto::os::clock;
use std::time::Duration;

/// Write cursor and the pump thread's processor time, of one moment as nearly as the sampler
/// allows.
pub fn look(watch: &Viewer, pid: u32) -> anyhow::Result<(u64, u64)> {
    let asked = clock::monotonic_ns();
    let fresh = || watch.snapshot().filter(|s| s.get(StreamFact::SampledAt) >= asked);
    let seen =
        ringweir_harness::wait_for(Duration::from_secs(20), fresh).context("ringd's figures")?;
    let threads = machine::threads(pid);
    let pump =
        threads.iter().find(|(name, _)| name.starts_with("pump:")).context("a pump thread")?;
    Ok((seen.get(StreamFact::WriteCursor), pump.1))
}
