//! NETLINK_USERSOCK multicast: the kernel's own publish and subscribe. It loses silently, too.

use super::sockets::{self, Receiver, send_all};
use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::tally::{Losses, Tally};
use anyhow::Context;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::os::fd::OwnedFd;

pub const CONTENDER: Contender = Contender {
    name: "netlink",
    about: "NETLINK_USERSOCK multicast, flat out: one datagram a call (it ends each with an \
        error), \
        recvmmsg, receive buffers of 4 MiB; what is lost is counted",
    publisher: Publisher::Process(publish),
    read,
    most: Some((
        256 << 10,
        "the kernel copies a multicast message into one piece of contiguous memory",
    )),
    floor: false,
    unavailable,
    polls: false,
};

const GROUP: u32 = 31;

fn open() -> anyhow::Result<OwnedFd> {
    let protocol = rustix::net::netlink::USERSOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    sockets::grow(&socket, 4 << 20);
    Ok(socket)
}

/// The group's address.
const ADDRESS: SocketAddrNetlink = SocketAddrNetlink::new(0, 1 << (GROUP - 1));

/// Joining a group of NETLINK_USERSOCK is a privilege.
fn unavailable() -> Option<String> {
    let joined = open().and_then(|socket| bind(&socket, &ADDRESS).context("bind"));
    joined.err().map(|e| format!("joining a netlink group needs root (CAP_NET_ADMIN): {e:#}"))
}

fn publish(job: &Job) -> anyhow::Result<Report> {
    let socket = open()?;
    let to = [ADDRESS.into()];
    publish_batches(job, |batch| {
        let refused = send_all(&socket, batch.datagrams(), &to)?;
        anyhow::ensure!(refused == 0, "{refused} datagrams were refused");
        Ok(())
    })
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let socket = open()?;
    bind(&socket, &ADDRESS).context("bind")?;
    sockets::give_up_soon(&socket)?;
    let mut tally = Tally::new(job, ready()?, Losses::Silent)?;
    let mut receiver = Receiver::new(job.size, job.batch());
    loop {
        let came = receiver.receive(&socket, |datagram| tally.datagram(datagram))?;
        if !came && tally.over_by(100_000_000) {
            break;
        }
    }
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    tally.kernel_lost = Some(sockets::drops(&socket, "/proc/net/netlink", 8)?);
    tally.close()
}
