//! The way of a datagram from its source into the ring, and the notices about what went wrong.
//!
//! A source gets [`for_sources::Intake`], which can claim, commit and report losses. The pump owns
//! [`for_pump::PumpIntake`], which holds the publisher.

pub mod for_pump;
pub mod for_sources;
pub mod notice;
pub mod rate_limit;
