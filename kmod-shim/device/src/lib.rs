//! The FIFO of a device: its register map, and the algorithm of both ends.
//!
//! Contract: this is `kmod-shim/REGISTERS.md`, which an FPGA engineer implements, in Rust.
//! [`Drain`] is the consumer's end of one channel and [`Feed`] the device's. [`arm`] and
//! [`may_interrupt`] are the two halves of the wake handshake. The ends do not trust each other:
//! each loads the other's registers once and checks the values before it uses them. The algorithm
//! makes no system call, reads no clock, and neither allocates nor logs.
//!
//! [`shim`] and [`ivshmem`] are two ways to access a device: the calls of `ringshim.ko`, and the
//! protocol of QEMU's ivshmem server.

// A library prints nothing.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod drain;
mod feed;
mod handshake;
#[cfg(not(ringweir_loom))]
pub mod ivshmem;
mod map;
#[cfg(not(ringweir_loom))]
mod memory;
#[cfg(not(ringweir_loom))]
pub mod shim;
pub mod site;

pub use drain::{Drain, Entry, Garbage, Tail};
pub use feed::{Counters, Feed};
pub use handshake::{arm, disarm, may_interrupt};
pub use map::*;
#[cfg(not(ringweir_loom))]
pub use memory::DeviceMemory;
