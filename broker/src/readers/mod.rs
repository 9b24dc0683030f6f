//! The readers of a stream: the registry, the waker thread that wakes sleeping readers, and the
//! pump's own list.

pub mod commands;
pub mod entry;
mod kit;
pub mod plausibility;
pub mod pump_list;
pub mod registry;
mod wake_costs;
pub mod waker;
