//! Tries `ringshim.ko` from user space: every error of its table, its mappings, unplugging, hostile
//! arguments, sleeping and waking. Runs as root in a virtual machine, where another process feeds
//! the device. It prints a line for each check; the first that fails ends it, with exit code 1.

mod check;
mod device;
mod dma;
mod errors;
mod fuzz;
mod life;
mod mapping;
mod wakes;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tries ringshim.ko from user space.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Every error of read, poll, ioctl and open, and what is left behind by each
    Errors { node: PathBuf },
    /// One read(2) is one datagram
    Boundaries {
        node: PathBuf,
        /// Read through stdio, which merges: the check must fail
        #[arg(long)]
        expect_merge: bool,
    },
    /// What may be mapped, and what may not
    Mmap { node: PathBuf },
    /// Takes the device away while it is mapped, polled and read, and brings it back
    Revoke {
        node: PathBuf,
        /// Unplug and rescan the bus; otherwise unbind and bind
        #[arg(long)]
        unplug: bool,
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Load, open, read, unbind while open, bind, kill -9 of a blocked process, unload: over and
    /// over
    Cycle { module: PathBuf, times: u32 },
    /// Takes datagrams of the DMA device out of the mapped buffer, and compares each with the
    /// pattern
    Dma {
        node: PathBuf,
        datagrams: u32,
        /// Compare with a pattern that is off by one: the check must fail
        #[arg(long)]
        expect_other: bool,
    },
    /// Sleeps in poll while a device that chases its consumer (ringfpga --chase) stores the next
    /// datagram
    Wakes {
        node: PathBuf,
        datagrams: u64,
        /// Sleep in an edge-triggered epoll, which does not ask the module again: the check must
        /// fail
        #[arg(long)]
        edge: bool,
    },
    /// Random arguments, from several threads
    Fuzz {
        node: PathBuf,
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Opens the node, says so, and reads for ever
    #[command(hide = true)]
    Block { node: PathBuf },
    /// Touches a mapping behind the end of its file
    #[command(hide = true)]
    Sigbus,
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Errors { node } => errors::run(&node),
        What::Boundaries { node, expect_merge } => errors::boundaries(&node, expect_merge),
        What::Mmap { node } => mapping::run(&node),
        What::Revoke { node, unplug, times } => life::revoke(&node, unplug, times),
        What::Cycle { module, times } => life::cycle(&module, times),
        What::Dma { node, datagrams, expect_other } => dma::run(&node, datagrams, expect_other),
        What::Wakes { node, datagrams, edge } => wakes::run(&node, datagrams, edge),
        What::Fuzz { node, seconds, seed } => fuzz::run(&node, seconds, seed),
        What::Block { node } => life::block(&node),
        What::Sigbus => mapping::sigbus(),
    }
}
