//! Negative controls of the harness itself: whatever goes wrong in a guest, or with a guest, fails
//! the test.

use crate::{LIMIT, SOON, guests};
use ringweir_harness::Environment;
use ringweir_vm::{Flavour, Guest, Machine, Prepared};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

fn boot(env: &Environment, vm: &'static Prepared) -> Machine {
    Guest::new(env, vm, Flavour::Amd64).boot().unwrap_or_else(|e| panic!("{e:#}"))
}

/// The error of a run that had to fail.
#[track_caller]
fn fault<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("was not noticed"),
        Err(e) => format!("{e:#}"),
    }
}

/// Negative controls of the harness: failures that the guest itself can still report.
#[test]
#[ignore = "boots a virtual machine"]
fn failures_in_a_guest_fail_here() {
    let Some(vm) = Prepared::get() else { return };
    let env = Environment::new(LIMIT);
    let mut guest = boot(&env, vm);
    guest.run("pass", "", SOON).unwrap();
    for (scenario, argument, limit, expected) in [
        ("fail", "the reason", 30, "exit status: 1: the reason"),
        ("assert", "a panic", 30, "a panic"),
        ("hang", "", 1, "did not end within 1s"),
        ("leave behind", "", 30, "left processes behind: [\"busybox\"]"),
        (
            "complain",
            "WARNING: CPU: 0 at a place",
            30,
            "the kernel complained: [\"WARNING: CPU: 0 at a place\"]",
        ),
        (
            "complain",
            "<3>BUG: sleeping function called from invalid context",
            30,
            "the kernel complained",
        ),
        ("no such", "", 30, "no scenario has the name \"no such\""),
    ] {
        let said = fault(guest.run(scenario, argument, Duration::from_secs(limit)));
        assert!(said.contains(expected), "{scenario}: {said}");
    }
    // A failure does not affect the next scenario.
    guest.run("pass", "", SOON).unwrap();
    let said = fault(guest.end());
    assert!(said.contains("Verdict { passed: 2, failed: 7 }"), "{said}");
}

/// Negative controls of the harness: guests that cannot report, or lie.
#[test]
#[ignore = "boots virtual machines"]
fn a_dead_or_lying_guest_fails() {
    let Some(vm) = Prepared::get() else { return };
    let env = Environment::new(LIMIT);
    for (scenario, limit, expected) in [
        ("panic", 30, ["QEMU ended with status 0: the guest panicked", "sysrq triggered crash"]),
        // 1, that is 2 * 0 + 1, as if it had passed; but there was no verdict.
        ("sneak away", 30, ["QEMU ended with status 1", "is gone"]),
        ("freeze", 1, ["the guest hangs", ""]),
    ] {
        let said = fault(boot(&env, vm).run(scenario, "", Duration::from_secs(limit)));
        assert!(expected.iter().all(|e| said.contains(e)), "{scenario}: {said}");
    }
    // All its messages are good; the exit status is not.
    let mut liar = boot(&env, vm);
    liar.run("lie", "", SOON).unwrap();
    let said = fault(liar.end());
    assert!(said.contains("the verdict was good, but QEMU ended with exit status: 3"), "{said}");
}

/// A crash of the emulator does not count as a fault of what runs in it. Controls: crashes are
/// allowed only so often, and other failures are not retried, least of all a guest's panic.
#[test]
#[ignore = "boots virtual machines"]
fn an_emulator_crash_is_retried_and_not_a_failure() {
    let tried = Cell::new(0);
    let run = |crashes: u32, scenario: &str| {
        tried.set(0);
        let test = |vm| {
            tried.set(tried.get() + 1);
            let env = Environment::new(LIMIT);
            let mut guest = boot(&env, vm);
            if tried.get() <= crashes {
                let qemu = rustix::process::Pid::from_raw(guest.pid().cast_signed()).unwrap();
                rustix::process::kill_process(qemu, rustix::process::Signal::SEGV)?;
            }
            guest.run(scenario, "", SOON)?;
            guest.end()
        };
        std::panic::catch_unwind(AssertUnwindSafe(|| guests(test))).is_ok()
    };
    if run(2, "pass") && tried.get() == 0 {
        return;
    }
    assert_eq!(tried.get(), 3, "crashes are not taken for a verdict");
    for (crashes, scenario, tries) in [(3, "pass", 3), (0, "fail", 1), (0, "panic", 1)] {
        assert_eq!(
            (run(crashes, scenario), tried.get()),
            (false, tries),
            "{scenario} after {crashes} crashes"
        );
    }
}
