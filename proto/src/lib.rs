//! The constitution of ringweir: what processes share, and the algorithm on it.
//!
//! `layout` says what the bytes mean, `ring` what may be done with them, `sync` which atomics both
//! run on; beside them `control` (messages), `stats` (what is counted) and `os` (shared memory, fd
//! passing, eventfd). `ring` and `control` never import `os`: no system call, clock, allocation or
//! log on the way of a datagram. `fifo` is the same for a device in front of the ring: its register
//! map, and both ends of its FIFO. `crc`, `sum`, `generate` and `pace` are the test datagrams that
//! broker and tools both make, `quantity` the sizes and rates people type. The paper is
//! `DESIGN.md`.

pub mod control;
pub mod latency;
pub mod layout;
// Loom has no mappings: its atomics cannot be cast from bytes.
#[cfg(not(ringweir_loom))]
pub mod os;
pub mod ring;
pub mod seq;
pub mod stats;
pub mod sync;
