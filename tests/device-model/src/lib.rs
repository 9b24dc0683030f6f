//! The FPGA model: a program that is the device behind `kmod-shim/REGISTERS.md`, over shared memory
//! and eventfds.
//!
//! Contract: `model` is the device's logic and knows no clock, socket or thread; `schedule` says
//! when the next datagram is made; `faults` is what it does wrong when asked to; `port` is how a
//! consumer gets at it (ivshmem, which a broker's `fifo:` source and QEMU both speak, or a plain
//! file); `device` runs them in one thread. Its `device_account` close whatever happens: `produced
//! = stored + lost + spoiled`, and what was stored is `drained`, `left` or `reset`.

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
