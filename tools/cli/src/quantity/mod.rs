//! Quantities as people type and read them: sizes, rates, durations, and how much a ring holds.
//!
//! Contract: every type here parses what it prints (to the three digits that are printed). Every
//! parse error names the value, what is wrong with it and what would be accepted. Nothing wraps: a
//! quantity that does not fit is an error. Units are case-sensitive, because `m` and `M`, `b` and
//! `B` mean different things; the only exception is `K`, which is read as `k`. Plain prefixes are
//! decimal (`k` = 1000), those with an `i` are binary (`Ki` = 1024). A blank between number and
//! unit is allowed.

mod parse;
mod print;

pub use parse::{Bytes, Extent, Problem, QuantityError, Rate, Span};
pub use print::Count;
