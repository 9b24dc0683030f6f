//! Tests that need neither our module nor a model of an FPGA: programs, the kernel's own accounts,
//! UIO, a bus on which devices come and go.

use crate::{LIMIT, SOON, guests};
use anyhow::Result;
use ringweir_harness::Environment;
use ringweir_vm::{Flavour, Guest, Prepared};
use std::time::Duration;

/// One boot of each kernel for everything in this file.
fn bare(vm: &'static Prepared, flavour: Flavour) -> Result<()> {
    let env = Environment::new(LIMIT);
    let guest = Guest::new(&env, vm, flavour)
        .processors(2)
        .device("edu", "edu")
        .arguments(&["-device", "e1000"]);
    let mut guest = guest.boot()?;
    eprintln!("{}: booted in {:.1} s", flavour.name(), guest.booted.as_secs_f64());
    guest.run("programs", "", Duration::from_secs(60))?;
    guest.run("modules", "", SOON)?;
    guest.run("hoard", "500", SOON)?;
    guest.run("uio", "200", SOON)?;
    let mut monitor = guest.monitor()?;
    let mut bus = |what: &str| {
        match what {
            "unplug edu" => monitor.unplug("edu")?,
            "plug edu" => monitor.plug("edu", "edu")?,
            other => anyhow::bail!("{other}"),
        }
        Ok(String::new())
    };
    guest.run_with("replug", "20", Duration::from_secs(60), &mut bus)?;
    guest.end()
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_bare() {
    guests(|vm| bare(vm, Flavour::Amd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_bare() {
    guests(|vm| bare(vm, Flavour::RtAmd64));
}
