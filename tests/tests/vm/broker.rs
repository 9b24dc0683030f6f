//! Brokers in the guest, with models of an FPGA that run on the host: the seed case, three devices,
//! unplugging, DMA, tools.

use crate::{LIMIT, SOON, guests};
use anyhow::{Context, Result, bail};
use ringweir_harness::{Environment, Process, wait_for};
use ringweir_vm::{Flavour, Guest, Prepared};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Seconds of the seed case, if `RINGWEIR_SEED_SECONDS` is not set in the environment. The case
/// itself has 600.
const SEED: u64 = 20;
/// DMA transfers through the broker on both kernels together: each takes 100 ms by design of the
/// card.
const TRANSFERS: u64 = 200;

/// A model of an FPGA on the host, and the path at which QEMU finds it.
pub fn model(env: &Environment, name: &str, options: &[&str]) -> (Process, PathBuf) {
    let socket = env.path(&format!("{name}.sock"));
    let mut command = env.command("ringfpga");
    command.arg("--socket").arg(&socket).args(options).stdout(Stdio::piped());
    let model = env.start(command);
    wait_for(SOON, || socket.exists().then_some(())).expect("the model listens");
    (model, socket)
}

/// From a prepared machine to a datagram; `tests/vm/first-datagram` adds what comes before.
#[test]
#[ignore = "boots a virtual machine"]
fn first_datagram() {
    guests(to_the_first_datagram);
}

fn to_the_first_datagram(vm: &'static Prepared) -> Result<()> {
    let began = Instant::now();
    let env = Environment::new(LIMIT);
    let (_model, socket) = model(&env, "fpga", &["--rate", "500/s"]);
    let mut guest = Guest::new(&env, vm, Flavour::Amd64).ivshmem("fpga", &socket).boot()?;
    guest.run("first datagram", "", SOON)?;
    let (booted, all) = (guest.booted.as_secs_f64(), began.elapsed().as_secs_f64());
    eprintln!(
        "the first datagram through ringshim.ko and ringd in {all:.1} s, of which {booted:.1} s to \
        boot"
    );
    guest.end()
}

fn brokers(vm: &'static Prepared, flavour: Flavour) -> Result<()> {
    let seconds =
        std::env::var("RINGWEIR_SEED_SECONDS").map_or(SEED, |s| s.parse().expect("seconds"));
    let env = Environment::new(LIMIT + Duration::from_secs(2 * seconds));
    let length = format!("{seconds}s");
    let mut models: HashMap<&str, Process> = HashMap::new();
    let mut guest = Guest::new(&env, vm, flavour).processors(2).memory(768);
    for (name, options) in [
        ("slow", &["--rate", "1Mbit/s", "--for", &length, "--drain-limit", "30s"][..]),
        ("fast", &["--rate", "2Mbit/s", "--for", &length, "--drain-limit", "30s"]),
        ("third", &["--rate", "1Mbit/s", "--size", "24..200", "--seed", "3"]),
        ("late", &["--rate", "2Mbit/s", "--for", "4s", "--drain-limit", "30s"]),
    ] {
        let (model, socket) = model(&env, name, options);
        models.insert(name, model);
        guest = guest.ivshmem(name, &socket);
    }
    let mut guest = guest.device("edu", "edu").boot()?;
    let mut device_account = |what: &str| {
        let Some(name) = what.strip_prefix("account ") else { bail!("{what}?") };
        let ended = models.remove(name).with_context(|| format!("no model {name}"))?.output();
        anyhow::ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?.trim().to_string())
    };
    let limit = Duration::from_secs(120 + seconds);
    guest.run_with("three devices", &seconds.to_string(), limit, &mut device_account)?;
    guest.run_with("overflow", "", limit, &mut device_account)?;
    guest.run("replugged under a broker", "20", Duration::from_secs(120))?;
    guest.run("tools", "", Duration::from_secs(60))?;
    guest.run("uio under a broker", "", Duration::from_secs(60))?;
    let transfers = (TRANSFERS / 2).to_string();
    guest.run("edu under a broker", &transfers, Duration::from_secs(120))?;
    guest.end()
}

#[test]
#[ignore = "boots a virtual machine"]
fn amd64_brokers() {
    guests(|vm| brokers(vm, Flavour::Amd64));
}

#[test]
#[ignore = "boots a virtual machine"]
fn rt_amd64_brokers() {
    guests(|vm| brokers(vm, Flavour::RtAmd64));
}

/// The seed case without the host's jitter: time is what the guest's processor has done, which is
/// about 8 times slower. `RINGWEIR_ICOUNT_SECONDS=20` sets the length of each run, with 1, 2, 8 and
/// 32 readers.
#[test]
#[ignore = "boots a virtual machine"]
fn seed_case_by_instruction_count() {
    guests(by_instruction_count);
}

fn by_instruction_count(vm: &'static Prepared) -> Result<()> {
    let (seconds, readers) = match std::env::var("RINGWEIR_ICOUNT_SECONDS") {
        Ok(seconds) => (seconds.parse().expect("RINGWEIR_ICOUNT_SECONDS"), &[1, 2, 8, 32][..]),
        Err(_) => (2, &[1, 8][..]),
    };
    let limit = Duration::from_secs(60 + 100 * seconds);
    let env = Environment::new(LIMIT + limit * readers.len() as u32);
    let mut guest = Guest::new(&env, vm, Flavour::RtAmd64).memory(512).icount(2).boot()?;
    for readers in readers {
        guest.run("fifo in the guest", &format!("{seconds} {readers}"), limit)?;
    }
    guest.end()
}
