//! Sources: where datagrams come from. A new one is one file here and one line in `kinds.rs`.

mod batch;
mod bytes;
mod chardev;
pub mod contract;
mod device;
mod exec;
mod file;
pub mod framing;
mod r#gen;
pub mod kinds;
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
