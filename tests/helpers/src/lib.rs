//! The helper programs of the tests (`ringtest-*`), and the formats in which they report to the
//! tests that start them.

pub mod listener;
pub mod mailbox;
pub mod pry;
