//! The FPGA model: a program that is the device behind `kmod-shim/REGISTERS.md`, over shared memory and eventfds.
//!
//! Contract: `board` is the device's logic and knows no clock, socket or thread; `tempo` says when the next datagram is
//! made; `mischief` is what it does wrong when asked to; `port` is how a consumer gets at it (ivshmem, which a broker's
//! `fifo:` source and QEMU both speak, or a plain file); `device` runs them in one thread. Its `books` close whatever
//! happens: `produced = stored + lost + spoiled`, and what was stored is `drained`, `left` or `reset`.

pub mod board;
pub mod books;
pub mod device;
pub mod digest;
pub mod mischief;
pub mod port;
pub mod spec;
pub mod tempo;

pub use board::Board;
pub use books::Books;
pub use device::run;
pub use digest::Digest;
pub use mischief::{Misdeed, Order};
pub use spec::Spec;
