//! Sources: where datagrams come from. A new one is one file here and one line in `kinds.rs`.
//!
//! A program implements [`Source`] and hands it to [`crate::Broker`].

mod batch;
mod bytes;
mod chardev;
pub(crate) mod contract;
mod device;
mod exec;
mod file;
pub mod framing;
mod r#gen;
pub(crate) mod kinds;
mod netlink;
mod options;
mod packet;
mod ready;
mod ring;
mod socket;
mod stdin;
#[cfg(test)]
mod test_bench;
#[cfg(test)]
mod test_links;
mod udp;
mod unix;

pub use crate::intake::for_sources::{Arrival, Intake};
pub use contract::{Fill, Source, SourceError, WaitFor};
pub use ringweir_cli::quantity::Rate;
pub use ringweir_proto::ring::{Claim, ClaimBytes, Layer, SpanTooLong};
