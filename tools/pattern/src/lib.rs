//! Test datagrams that prove themselves, and what makes them at a rate.
//!
//! Contract: [`crc`] and [`sum`] say what a datagram of each kind holds and check it; [`generate`]
//! makes them to a specification, for `gen:` and `ringgen`; [`rate_limiter`] says when the next one
//! is due. Nothing here knows the ring.

pub mod crc;
pub mod generate;
pub mod rate_limiter;
pub mod sum;
