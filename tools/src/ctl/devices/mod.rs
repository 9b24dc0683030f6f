//! `ringctl devices`: which devices `ringd` can drain, and why the others cannot be used.
//!
//! Contract: it reads sysfs, /proc and what brokers report, and touches no device. With `--probe`
//! it opens the devices that no process is seen to have open ([`probe`]). The socket of a `fifo:`
//! source is a path that the user chose: it cannot be found.

mod holders;
mod node;
mod pci;
mod probe;
mod row;
mod shim;
mod uio;

use crate::json_line::json_line;
use crate::machine::Machine;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Open the devices that no process uses, and read their registers; a broker that starts at
    /// this moment is refused
    #[arg(long)]
    probe: bool,
    /// Print one JSON object per device, each on a line
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
  sudo ringctl devices                 as root: also shows what processes of other users drain
  sudo ringctl devices --probe         which UIO devices have the register map, and how large
                                       their FIFOs are
  ringctl devices --json | jq -r 'select(.state==\"ready\")|.source'

SOURCE is the value for ringd run --source. The list has the devices of ringshim.ko and of UIO
drivers, and the PCI devices that ringshim could drive (1af4:1110, 1234:11e8), with the command that
binds them to it. No device is touched, except by --probe, which maps the first page of each
read-only. ringshim does not start a device for that; but another kind of device behind UIO may
react to being read, and uio_pci_generic disables its DMA afterwards.
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
    ringweir_cli::stdout::put(&if options.json {
        rows.iter().map(json_line).collect()
    } else {
        row::table(&rows)
    })?;
    Ok(())
}

/// The error if there is no device: where it was searched for, and what to do.
fn nothing(m: &Machine) -> anyhow::Error {
    if !m.exists("/sys/class") {
        return anyhow::anyhow!(
            "no device is visible: /sys is empty; {}mount -t sysfs sysfs /sys",
            m.sudo()
        );
    }
    anyhow::anyhow!(
        "no device that ringd can drain: nothing in /sys/class/ringshim and /sys/class/uio, and no \
        PCI device 1af4:1110 (ivshmem) or 1234:11e8 (edu). Connect one; or let ringshim drive \
        another one (echo VENDOR DEVICE | {}tee /sys/bus/pci/drivers/ringshim/new_id); or try it \
        without a device: ringctl demo",
        m.sudo()
    )
}
