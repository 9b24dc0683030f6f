//! `unix:` — datagrams from processes on this machine, over a unix socket.

mod dgram;
mod open;
mod prepare;
mod seqpacket;
mod spec;
#[cfg(test)]
mod tests;

pub use open::KIND;
