//! `ringctl devices`: what `ringd` can drain on this machine, and why the rest cannot be used.
//!
//! Contract: it reads sysfs, /proc and what brokers tell, and touches no device; with `--probe` it
//! opens those that nobody is seen to have ([`probe`]). A `fifo:` socket is a path that somebody
//! chose: it cannot be found.

mod holders;
mod node;
mod pci;
mod probe;
mod row;
mod shim;
mod uio;

use crate::machine::Machine;
use crate::output;
use crate::output::json_line;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Open the devices that nobody has, and read what their registers say; a broker starting at
    /// this moment is refused
    #[arg(long)]
    probe: bool,
    /// One JSON object per device, each on a line
    #[arg(long)]
    json: bool,
    /// Read /sys, /proc, /etc, /lib and /dev below this directory: another system's tree, or a
    /// planted one
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl devices
  sudo ringctl devices                 as root, who drains what of other users is seen as well
  sudo ringctl devices --probe         whether UIO devices have the register map, and how large \
  their FIFOs are
  ringctl devices --json | jq -r 'select(.state==\"ready\")|.source'

SOURCE is what ringd run --source takes. Devices of ringshim.ko and of UIO drivers are listed, and \
PCI devices that
ringshim would take (1af4:1110, 1234:11e8) with the line that gives them to it. No device is \
touched, except by
--probe: it maps the first page of each read-only. ringshim does not start a device for that; but \
a \
device of
another kind behind UIO may mind being read, and uio_pci_generic takes DMA away from it afterwards.
Exit status: 0 listed, ready or not; 1 there is none, or an error; 2 wrong usage.";

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let m = Machine::new(&options.root, Some(0), 0, false);
    let open = holders::Open::scan(&m);
    let some =
        ["ringshim", "uio"].iter().any(|class| !m.names(&format!("/sys/class/{class}")).is_empty());
    let claims = if some { holders::claims() } else { Vec::new() };
    let mut rows = shim::rows(&m, &open, &claims, options.probe);
    rows.extend(uio::rows(&m, &open, &claims, options.probe));
    rows.extend(pci::rows(&m));
    if rows.is_empty() {
        return Err(nothing(&m));
    }
    output::put(&if options.json {
        rows.iter().map(json_line).collect()
    } else {
        row::table(&rows)
    })?;
    Ok(())
}

/// That there is none, where it was looked for, and what to do.
fn nothing(m: &Machine) -> anyhow::Error {
    if !m.exists("/sys/class") {
        return anyhow::anyhow!(
            "no device can be seen: /sys is empty; {}mount -t sysfs sysfs /sys",
            m.sudo()
        );
    }
    anyhow::anyhow!(
        "no device that ringd can drain: nothing in /sys/class/ringshim and /sys/class/uio, and no \
        PCI device 1af4:1110 \
         (ivshmem) or 1234:11e8 (edu); plug one in, tell ringshim of another (echo VENDOR DEVICE | \
         {}tee \
         /sys/bus/pci/drivers/ringshim/new_id), or try it without: ringctl demo",
        m.sudo()
    )
}
