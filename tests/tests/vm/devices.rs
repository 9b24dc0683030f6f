//! What needs neither our module nor a model of an FPGA: programs, the kernel's books, UIO, a bus on which devices come and
//! go.

use crate::{LIMIT, SOON};
use ringweir_tests::Scene;
use ringweir_tests::vm::{Flavour, Guest, Prepared};
use std::time::Duration;

/// One boot of each kernel for everything in this file.
fn bare(test: &str, flavour: Flavour) {
    let Some(vm) = Prepared::get(test) else { return };
    let scene = Scene::new(LIMIT);
    let guest = Guest::new(&scene, vm, flavour).processors(2).device("edu", "edu").arguments(&["-device", "e1000"]);
    let mut guest = guest.boot().unwrap();
    eprintln!("{}: booted in {:.1} s", flavour.name(), guest.booted.as_secs_f64());
    guest.run("programs", "", Duration::from_secs(60)).unwrap();
    guest.run("modules", "", SOON).unwrap();
    guest.run("hoard", "500", SOON).unwrap();
    guest.run("uio", "200", SOON).unwrap();
    let mut monitor = guest.monitor().unwrap();
    let mut bus = |what: &str| {
        match what {
            "unplug edu" => monitor.unplug("edu")?,
            "plug edu" => monitor.plug("edu", "edu")?,
            other => anyhow::bail!("{other}"),
        }
        Ok(String::new())
    };
    guest.run_with("replug", "20", Duration::from_secs(60), &mut bus).unwrap();
    guest.end().unwrap();
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_bare() {
    bare("amd64_bare", Flavour::Amd64);
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_bare() {
    bare("rt_amd64_bare", Flavour::RtAmd64);
}
