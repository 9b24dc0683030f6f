//! Test datagrams that can be verified, and the generator that makes them at a given rate.
//!
//! Contract: [`crc`] and [`sum`] each define a kind of datagram, and [`datagram`] what they share.
//! [`verify`] checks either kind and keeps the account of a stream. [`generate`] makes datagrams to
//! a specification, for `gen:` and `ringgen`; [`rate_limiter`] decides when the next one is due.
//! Nothing here knows the ring.

pub mod crc;
pub mod datagram;
pub mod generate;
pub mod rate_limiter;
pub mod sum;
pub mod verify;
