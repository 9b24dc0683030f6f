//! UDP multicast on loopback. It loses silently; the socket's own drop counter must account for
//! every missing datagram.

use super::sockets::{self, Receiver, send_all};
use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::tally::{Losses, Tally};
use anyhow::Context;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

pub const CONTENDER: Contender = Contender {
    name: "udp multicast",
    about: "UDP multicast on loopback, flat out: sendmmsg and recvmmsg, receive buffers of 4 MiB; \
        what is lost is counted",
    publisher: Publisher::Process(publish),
    read,
    most: Some((65_507, "UDP")),
    floor: false,
    unavailable: || None,
    polls: false,
};

/// Group and port, derived from the run's directory, so that runs do not receive each other's
/// datagrams.
fn group(job: &Job) -> SocketAddrV4 {
    let tag = crc32fast::hash(job.dir.as_os_str().as_encoded_bytes()).to_le_bytes();
    let port = 20_000 + u16::from_le_bytes([tag[2], tag[3]]) % 20_000;
    SocketAddrV4::new(Ipv4Addr::new(239, 77, tag[0], tag[1]), port)
}

fn open() -> anyhow::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockets::grow(&socket, 4 << 20);
    Ok(socket)
}

fn publish(job: &Job) -> anyhow::Result<Report> {
    let socket = open()?;
    let here = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    sockets::set(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, here as i32)
        .context("IP_MULTICAST_IF")?;
    let to = [group(job).into()];
    // A datagram for which the kernel has no buffer is an error: it was not published, and its
    // number would be missing.
    publish_batches(job, |batch| {
        let refused = send_all(&socket, batch.datagrams(), &to)?;
        anyhow::ensure!(refused == 0, "{refused} datagrams were refused");
        Ok(())
    })
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let socket = open()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let group = group(job);
    bind(&socket, &group).context("bind")?;
    sockopt::set_ip_add_membership(&socket, group.ip(), &Ipv4Addr::LOCALHOST)
        .context("join the group")?;
    sockets::give_up_soon(&socket)?;
    let mut tally = Tally::new(job, ready()?, Losses::Silent)?;
    let mut receiver = Receiver::new(job.size, job.batch());
    loop {
        let came = receiver.receive(&socket, |datagram| tally.datagram(datagram))?;
        if !came && tally.over_by(100_000_000) {
            break;
        }
    }
    tally.kernel_lost = Some(sockets::drops(&socket, "/proc/net/udp", 12)?);
    tally.close()
}
