//! Events that threads wait on, and readers whose wake takes too long.

pub mod event;
pub mod slow_wake;
