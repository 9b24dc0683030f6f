//! The control thread: it lets readers attach, notices when they are gone, publishes statistics,
//! logs, and ends the broker.

mod answer;
mod connections;
pub mod limits;
mod message;
pub mod reload;
mod sampler;
mod streams;
pub mod thread;
