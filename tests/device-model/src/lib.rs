//! The FPGA model: a program that is the device behind `kmod-shim/REGISTERS.md`, over shared memory
//! and eventfds.
//!
//! Contract: `model` is the device's logic and uses no clock, socket or thread; `schedule` decides
//! when the next datagram is made; `faults` lists what it does wrong on request; `port` is how a
//! consumer reaches it (ivshmem, which a broker's `fifo:` source and QEMU both speak, or a plain
//! file); `device` runs them in one thread. Its account always closes: `produced = stored + lost +
//! spoiled`, and what was stored is `drained`, `left` or `reset`.

pub mod account;
pub mod device;
pub mod digest;
pub mod faults;
pub mod model;
pub mod port;
pub mod schedule;
pub mod spec;

pub use account::DeviceAccount;
pub use device::run;
pub use digest::Digest;
pub use faults::{Fault, Order};
pub use model::DeviceModel;
pub use spec::Spec;
