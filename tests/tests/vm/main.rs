//! The kernel's side, in virtual machines: Debian's stock and PREEMPT_RT kernels under emulation.
//!
//! Contract: these tests take minutes and the whole machine, so `cargo test --workspace` leaves
//! them out. Run them with `cargo test -p ringweir-tests --test vm -- --ignored --test-threads=1`
//! (`.ci/run` does). They prepare what they need themselves; without QEMU, and without a way to
//! install it, they print `SKIPPED name: reason`. What runs in a guest is in `tests/vm/src/guest`.

mod broker;
mod devices;
mod harness;
mod shim;

use ringweir_vm::{Prepared, in_guests};
use std::time::Duration;

/// Limit of a whole test; each scenario has its own.
const LIMIT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(30);

/// Runs a test, which makes its own guests; skips it if there is no QEMU.
fn guests(run: impl Fn(&'static Prepared) -> anyhow::Result<()>) {
    if let Some(vm) = Prepared::get() {
        in_guests(|| run(vm));
    }
}
