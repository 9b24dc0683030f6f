//! What the command lines of `ringd` and of the tools share.
//!
//! Contract: [`quantity`] parses and prints sizes, rates and times; [`manual`] makes man pages and
//! completions from a command line; [`log`] writes log lines to stderr. Nothing here knows the
//! ring.

pub mod log;
pub mod manual;
pub mod quantity;
