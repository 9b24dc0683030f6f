//! What the operating system grants this process, and what the process gives up: scheduling class,
//! capabilities, sandbox, signals, and the service manager that started it.
//!
//! Contract: knows nothing of streams, sources or readers.

pub mod fd_store;
pub mod memory_limit;
pub mod passed_sockets;
pub mod privilege;
pub mod sandbox;
pub mod sched;
pub mod service_manager;
pub mod signal_mask;
pub mod signals;
