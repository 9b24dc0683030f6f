//! Virtual machines: scenarios that need a kernel, a module and a bus of their own, in QEMU without
//! KVM.
//!
//! Contract: the host boots a guest (`machine`) whose init is `ringtest-init` (`guest`) and sends
//! it one job after another over a separate serial port (`protocol`; the kernel's messages go to
//! another port and cannot forge an answer). A guest has passed only if every job was answered
//! "passed", the guest's last message agrees, and QEMU ends with the exit status that the guest
//! wrote into the debug port: a panic makes QEMU end with status 0, which is a failure like any
//! other. A test is repeated, in a fresh guest, only if QEMU itself crashed. Emulated time proves
//! function and order, never latency.

pub mod guest;
pub mod machine;
pub mod monitor;
pub mod prepared;
pub mod protocol;

pub use machine::{Guest, Machine, in_guests};
pub use prepared::{Flavour, Prepared};
