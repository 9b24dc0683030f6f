//! Reading a ringweir stream, in place, from any process.
//!
//! ```no_run
//! use ringweir::{Item, Options};
//! let mut reader = Options::new("monitor").attach("daq0")?;
//! loop {
//!     match reader.next()? {
//!         Item::Datagram(mut datagram) => match datagram.to_vec() {
//!             Ok(bytes) => println!("{} has {} bytes", datagram.seq(), bytes.len()),
//!             Err(_torn) => {} // lapped while copying: the next read is a Gap that begins with it
//!         },
//!         Item::Gap(gap) => println!("lost {} from {}", gap.count, gap.first),
//!         Item::Restarted(restart) => println!("generation {}", restart.generation),
//!         Item::Demoted(_) => {} // only if attached with Options::lossless
//!         Item::Empty => { reader.wait(None)?; }
//!         Item::Ended(_) => break,
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

pub mod admin;
mod connect;
mod datagram;
mod error;
mod reader;
pub mod view;

pub use datagram::{CopyError, Datagram, Payload};
pub use error::{Error, Reason};
pub use reader::{End, Item, Options, Reader, Restart, Waited};
pub use ringweir_proto::layout::DetachedBy;
pub use ringweir_proto::ring::{Account, Cause, Corrupt, Demoted, Gap, Layer, Resume, Start, Torn};
