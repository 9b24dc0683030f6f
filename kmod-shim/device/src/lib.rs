//! The FIFO of a device: its register map, and the algorithm of both ends on it.
//!
//! Contract: `kmod-shim/REGISTERS.md` is the page that an FPGA engineer implements; what is here
//! says the same in Rust. [`Drain`] is the consumer's end of one channel, [`Feed`] the device's,
//! [`arm`] and [`may_interrupt`] the two halves of the wake handshake. Both ends distrust each
//! other: what is loaded from the other's registers is loaded once, checked, and then used. No
//! system call, clock, allocation or log there.
//!
//! [`shim`] and [`ivshmem`] are two ways to a device: the calls of `ringshim.ko`, and the protocol
//! of QEMU's server.

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
