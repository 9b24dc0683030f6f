//! Reading a ringweir stream, in place, from any process.
//!
//! ```no_run
//! use ringweir::{Options, Read};
//! let mut reader = Options::new("monitor").attach("daq0")?;
//! loop {
//!     match reader.next()? {
//!         Read::Datagram(mut datagram) => match datagram.to_vec() {
//!             Ok(bytes) => println!("{} has {} bytes", datagram.seq(), bytes.len()),
//!             Err(_torn) => {} // lapped while copying: the next read is a Gap that begins with it
//!         },
//!         Read::Gap(gap) => println!("lost {} from {}", gap.count, gap.first),
//!         Read::Restarted(restart) => println!("generation {}", restart.generation),
//!         Read::Demoted(_) => {} // only if attached with Options::lossless
//!         Read::Empty => { reader.wait(None)?; }
//!         Read::Ended(_) => break,
//!     }
//! }
//! # Ok::<(), ringweir::Error>(())
//! ```
//!
//! A reader is lossy, unless it asks to be lossless: the stream never waits for it. It never takes
//! a lock another process holds, needs no rights but those of the control socket, has no write
//! access to the stream, and costs nothing while it sleeps. What it misses it is told, exactly, in
//! order, as [`Gap`]. Several readers of several streams may live in one process; each is used by
//! one thread at a time.

mod connect;
mod datagram;
mod error;
#[cfg(feature = "ffi")]
mod ffi;
mod reader;
mod watch;

pub use connect::{RELOAD, describe, detach, reload, streams};
pub use datagram::{CopyError, Datagram, Payload};
pub use error::Error;
pub use reader::{End, Options, Read, Reader, Restart, Waited};
pub use ringweir_proto::control::Description;
pub use ringweir_proto::latency::Histogram;
pub use ringweir_proto::layout::DetachedBy;
pub use ringweir_proto::ring::{Account, Cause, Corrupt, Demoted, Gap, Layer, Resume, Start, Torn};
pub use ringweir_proto::stats;
pub use watch::{Latency, Watch, drain_gaps, latencies};
