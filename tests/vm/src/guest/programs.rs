//! The project's programs, static and in a machine that has nothing else: the ring works there as
//! it does on the host.

use super::scenario::Scenario;
use anyhow::{Result, ensure};
use ringweir_harness::Environment;
use std::time::Duration;

/// The list.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "programs", run: |_| programs() }];

/// Numbered datagrams through a broker at real-time priority, whose socket belongs to a group, to a
/// verifying reader.
fn programs() -> Result<()> {
    const COUNT: &str = "2000";
    let env = Environment::new(Duration::from_secs(60));
    let mut command = env.command_at("chrt".as_ref());
    command.args(["-f", "60", "ringd", "--run-dir"]).arg(env.run_dir());
    command.args([
        "run",
        "--name",
        "guest",
        "--source",
        &format!("gen:rate=5000/s,size=256,count={COUNT}"),
    ]);
    // A static C library looks up the group, without the modules that it would load otherwise.
    command.args(["--capacity", "1MiB", "--wait-readers", "1", "--group", "ringweir"]);
    let broker = env.broker_of("guest", command);
    let said = broker.process.stderr();
    ensure!(said.contains("sched FIFO/60 ok"), "{said}");
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&broker.socket)?);
    ensure!(group == 990, "the socket is of group {group}");
    let read = env.run("ringcat", &["guest", "--from", "0", "--verify"]);
    ensure!(read.status.success(), "{}: {}", read.status, String::from_utf8_lossy(&read.stderr));
    let published = broker.published();
    ensure!(published.to_string() == COUNT, "{published} published");
    Ok(())
}
