//! Reads [ringweir](https://github.com/ringweir/ringweir) streams: datagrams in shared memory, in
//! place, from any process, with exact loss.
//!
//! A broker (`ringd`) brings datagrams from a device, a socket or a file into a ring in shared
//! memory. Any number of processes attach to it and read. A [`Reader`] makes no copy it is not
//! asked for, takes no lock, and makes no system call while datagrams come.
//!
//! ```
//! # let stream = ringweir_testing::Stream::start("daq0");
//! use ringweir::{Item, Options, Start};
//!
//! let mut reader = Options::new("monitor").start(Start::Oldest).attach("daq0")?;
//! # for n in 0..300u32 { stream.publish(&n.to_le_bytes()); }
//! # stream.end();
//! let (mut delivered, mut lost) = (0, 0);
//! loop {
//!     match reader.next()? {
//!         Item::Datagram(mut datagram) => match datagram.to_vec() {
//!             Ok(bytes) => delivered += u64::from(!bytes.is_empty()),
//!             Err(_torn) => {} // overwritten while it was copied: a Gap follows
//!         },
//!         Item::Gap(gap) => lost += gap.count,
//!         Item::Restarted(restart) => println!("generation {}", restart.generation),
//!         Item::Demoted(_) => {} // only for a lossless reader
//!         Item::Empty => {
//!             reader.wait(None)?; // sleeps
//!         }
//!         Item::Ended(_) => break,
//!     }
//! }
//! assert_eq!(delivered + lost, 300);
//! assert!(lost > 0, "the ring of this example holds 256 datagrams");
//! # Ok::<(), ringweir::Error>(())
//! ```
//!
//! # Loss is data
//!
//! The stream never waits for a reader, unless the reader asked for it ([`Options::lossless`]). A
//! reader that is too slow is lapped: the next [`Item`] is a [`Gap`] that says which datagrams it
//! will never see. Losses before the ring (in the device, in the kernel) are gaps too, with their
//! [`Cause`]. For each reader and generation the [`Account`] closes: `start + delivered + lost =
//! read cursor`.
//!
//! # Reading in place
//!
//! The publisher may overwrite a datagram while it is being read. So bytes are valid only after a
//! check that they were not overwritten: [`Datagram::view`] and [`Datagram::copy_to`] check before
//! they return anything, and return [`Torn`] if the datagram was overwritten.
//!
//! ```
//! # let stream = ringweir_testing::Stream::start("daq0");
//! # use ringweir::{Item, Options, Start};
//! let mut reader = Options::new("sums").start(Start::Oldest).attach("daq0")?;
//! # stream.publish(&[1, 2, 3]);
//! if let Item::Datagram(mut datagram) = reader.next()? {
//!     let add = |sum: u64, piece: &[u8]| piece.iter().fold(sum, |sum, b| sum + u64::from(*b));
//!     match datagram.view(|payload| payload.fold(0, add)) {
//!         Ok(sum) => assert_eq!(sum, 6),
//!         Err(torn) => eprintln!("{torn}"), // what `fold` made is void
//!     }
//! }
//! # Ok::<(), ringweir::Error>(())
//! ```
//!
//! # Waiting
//!
//! [`Reader::next`] never blocks. [`Reader::wait`] sleeps until one reader has something to read.
//! To wait for several readers, or for other events as well, use the reader as a file descriptor
//! ([`AsFd`](std::os::fd::AsFd)): call [`Reader::arm`], and if it returns `true`, poll. See the
//! examples `epoll` and `tokio`.
//!
//! # When a broker dies
//!
//! The reader keeps its mapping: it reads what is left, then attaches to the restarted broker by
//! itself, without blocking, and returns [`Item::Restarted`]. See [`Options::reattach`].
//!
//! # Threads and processes
//!
//! A [`Reader`] is [`Send`] and used by one thread at a time. Any number of readers, of any
//! streams, may live in one process. After `fork()` a reader stays with the parent: in the child it
//! returns [`Error::Forked`].
//!
//! # Looking without reading
//!
//! [`view`] lists the streams and gives their statistics and the latencies of their readers.
//! [`admin`] is for administrators: it detaches readers and makes a broker reload its
//! configuration.

// A library prints nothing.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
mod connect;
mod datagram;
mod error;
mod reader;
pub mod view;

pub use datagram::{CopyError, Datagram, Payload};
pub use error::{Error, Reason};
pub use reader::{End, Item, Options, Reader, Restart, Waited};
pub use ringweir_proto::layout::{DetachedBy, Geometry};
pub use ringweir_proto::ring::{
    Account, Cause, Corrupt, Demoted, Gap, Layer, LinkType, Resume, Start, Torn,
};

/// Each of these types can be sent to another thread; those without interior state can be shared
/// too.
const _: () = {
    const fn send<T: Send>() {}
    const fn send_and_sync<T: Send + Sync>() {}
    send::<Reader>();
    send::<Item<'static>>();
    send_and_sync::<Options>();
    send_and_sync::<Error>();
    send_and_sync::<view::Viewer>();
    send_and_sync::<view::Latency>();
    send_and_sync::<view::stats::Snapshot>();
};
