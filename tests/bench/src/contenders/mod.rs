//! The contenders: each is one file here and one line in [`CONTENDERS`].

mod event;
mod floors;
mod netlink;
mod pipe;
pub mod ring;
mod signal;
pub mod sockets;
mod udp;
mod unix;

use crate::contender::Contender;
use anyhow::Context;

/// The list.
pub static CONTENDERS: &[Contender] = &[
    ring::CONTENDER,
    unix::FANOUT,
    unix::DIRECT,
    pipe::CONTENDER,
    event::CONTENDER,
    signal::CONTENDER,
    udp::CONTENDER,
    netlink::CONTENDER,
    floors::EVENTFD,
    floors::FUTEX,
];

/// The contender of that name.
pub fn by_name(name: &str) -> anyhow::Result<&'static Contender> {
    let known = || CONTENDERS.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    CONTENDERS
        .iter()
        .find(|c| c.name == name)
        .with_context(|| format!("no contender {name:?}; there are {}", known()))
}
