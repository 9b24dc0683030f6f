//! Devices that have a FIFO with the register map of `kmod-shim/REGISTERS.md`: one drain loop
//! (`drain`, used by `hotplug`), and three ways to reach a device.
//!
//! Contract: the payload goes from device memory straight into the ring. Readers see what the
//! device has lost, what was discarded as garbage, and that the device disconnected. A device that
//! is gone is looked for until it is back; the stream continues meanwhile. `fifo:` (`fifo`) is
//! memory shared with a program that acts as the device, `shim:` (`shim`) a device of
//! `ringshim.ko`, `uio:` (`uio`) a device of Linux's UIO.

mod drain;
mod fifo;
mod hotplug;
mod location;
mod mapping;
mod shim;
#[cfg(test)]
mod tests;
mod transport;
mod uio;

pub use fifo::KIND as FIFO;
pub use shim::KIND as SHIM;
pub use uio::KIND as UIO;
