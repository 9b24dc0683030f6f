//! `ringshim.ko` on a model of an FPGA and on QEMU's teaching device, which does DMA: the first
//! datagram, every check of `ringtest-shim`, and rounds of loading, binding and killing, after
//! which the kernel must use no more than before.

use crate::broker::model;
use crate::{LIMIT, guests};
use anyhow::Result;
use ringweir_harness::Environment;
use ringweir_vm::{Flavour, Guest, Machine, Prepared};
use std::time::Duration;

/// Rounds of load, open, unbind, bind, kill -9, unload, on both kernels together.
const ROUNDS: u32 = 500;
/// Seconds of random arguments, on both kernels together.
const FUZZ: u32 = 60;
/// DMA transfers, each of which takes 100 ms by design of the device.
const TRANSFERS: u32 = 200;

/// Datagrams that arrive while their consumer goes to sleep, on both kernels together; A16 asks for
/// 1 000 000.
const WAKES: u32 = 20_000;

/// One of the numbers above, for one of two kernels; or `RINGWEIR_VM_…` from the environment, for
/// each kernel.
fn number(name: &str, of_both: u32) -> u32 {
    let name = format!("RINGWEIR_VM_{name}");
    std::env::var(&name)
        .map_or(of_both / 2, |n| n.parse().unwrap_or_else(|e| panic!("{name}={n}: {e}")))
}

/// Runs `ringtest-shim`, which must succeed within `limit` seconds.
fn check(guest: &mut Machine, arguments: &str, limit: u32) -> Result<()> {
    guest.run("shim", arguments, Duration::from_secs(limit.into()))
}

fn every_check(vm: &'static Prepared, flavour: Flavour) -> Result<()> {
    let env = Environment::new(LIMIT);
    let (_model, socket) = model(&env, "fpga", &["--rate", "500/s", "--size", "24..1000"]);
    // Slab debugging: every object is counted as soon as it is freed, and a wrong write is found.
    let guest = Guest::new(&env, vm, flavour)
        .processors(2)
        .device("edu", "edu")
        .ivshmem("fpga", &socket)
        .append("slub_debug=FZP slab_nomerge");
    let mut guest = guest.boot()?;
    let (rounds, fuzz) = (number("ROUNDS", ROUNDS), number("FUZZ", FUZZ));
    let transfers = number("TRANSFERS", TRANSFERS);
    for what in ["errors fpga", "boundaries fpga", "! boundaries --expect-merge fpga"] {
        check(&mut guest, what, 60)?;
    }
    check(&mut guest, &format!("dma edu {transfers}"), 60 + transfers)?;
    check(&mut guest, "! dma --expect-other edu 5", 60)?;
    for device in ["fpga", "edu"] {
        for what in ["mmap", "revoke", "revoke --unplug"] {
            check(&mut guest, &format!("{what} {device}"), 60)?;
        }
        check(&mut guest, &format!("fuzz {device} {}", fuzz.div_ceil(2)), 60 + fuzz)?;
    }
    guest.run("shim cycle", "10", Duration::from_secs(90))?;
    // Its transfers take longer than all other work of a round.
    guest.monitor()?.unplug("edu")?;
    guest.run(
        "shim cycle",
        &rounds.to_string(),
        Duration::from_secs(60 + 2 * u64::from(rounds)),
    )?;
    guest.end()
}

fn shared_line(vm: &'static Prepared, flavour: Flavour) -> Result<()> {
    let env = Environment::new(LIMIT);
    let guest = Guest::new(&env, vm, flavour).processors(2).device("edu", "edu");
    // Four slots further on the same bus, the bridge gives it the same line.
    let mut guest = guest.arguments(&["-device", "edu,bus=pcie.0,addr=5"]).boot()?;
    guest.run("shim line", "20", Duration::from_secs(60))?;
    guest.end()
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_shared_line() {
    guests(|vm| shared_line(vm, Flavour::Amd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_shared_line() {
    guests(|vm| shared_line(vm, Flavour::RtAmd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_shim() {
    guests(|vm| every_check(vm, Flavour::Amd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_shim() {
    guests(|vm| every_check(vm, Flavour::RtAmd64));
}

/// A16: a process that sleeps in the module's `poll` is woken, whenever the next datagram comes.
fn wakes(vm: &'static Prepared, flavour: Flavour) -> Result<()> {
    let count = number("WAKES", WAKES);
    // The longest time, on a host where everything competes for the processors.
    let limit = 300 + count / 100;
    let env = Environment::new(LIMIT + Duration::from_secs(limit.into()));
    // Going to sleep takes the guest some ten microseconds.
    let (_model, socket) = model(&env, "fpga", &["--chase", "50us", "--size", "24"]);
    let mut guest = Guest::new(&env, vm, flavour).processors(2).ivshmem("fpga", &socket).boot()?;
    check(&mut guest, &format!("wakes fpga {count}"), limit)?;
    check(&mut guest, "! wakes --edge fpga 1000", 120)?;
    guest.end()
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_wakes() {
    guests(|vm| wakes(vm, Flavour::Amd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_wakes() {
    guests(|vm| wakes(vm, Flavour::RtAmd64));
}
