//! What the processes of ringweir share, and the algorithm that works on it.
//!
//! `layout` defines the bytes, `ring` the operations on them, and `sync` the atomics that both use.
//! Beside them are `control` (messages), `stats` (counters), `printable` (text from elsewhere) and
//! `os` (shared memory, fd passing, eventfd). `ring` and `control` never import `os`: a datagram's
//! path has no system call, clock, allocation or log. The design is in `DESIGN.md`.

// A library prints nothing.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod control;
pub mod latency;
pub mod layout;
// Loom has no mappings: its atomics cannot be cast from bytes.
#[cfg(not(ringweir_loom))]
pub mod os;
pub mod printable;
pub mod ring;
pub mod seq;
pub mod stats;
pub mod sync;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("ringweir needs a 64-bit machine: cursors and positions are 64-bit atomics");
#[cfg(not(target_endian = "little"))]
compile_error!("ringweir needs a little-endian machine: the ring's words are little-endian");
#[cfg(not(target_os = "linux"))]
compile_error!("ringweir needs Linux: memfd, eventfd, SCM_RIGHTS and /dev/shm");
