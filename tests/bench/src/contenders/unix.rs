//! Unix datagram sockets, one for each reader: behind a character device and a relay (row: "device,
//! one process, fan-out"), and straight from the program that has the data.
//!
//! The device is a memfd: its `read` gives one datagram, costs one system call and one copy, and
//! never waits, so nothing but relay and sockets is measured; a real device could only be slower.

use super::sockets::{self, Receiver, send_all};
use crate::contender::{Contender, Publisher, publish_batches};
use crate::feed::Feed;
use crate::job::{Job, Report, ready};
use crate::tally::{Losses, Tally};
use anyhow::{Context, ensure};
use ringweir_pattern::sum;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with,
};
use std::path::{Path, PathBuf};

const LIMIT: Option<(usize, &str)> = Some((2 << 20, "the socket's send buffer"));

pub const FANOUT: Contender = Contender {
    name: "device+fanout",
    about: "character device (a memfd: one read a datagram), one process, unix datagram sockets to \
        each reader: one sendmmsg for all readers, recvmmsg",
    publisher: Publisher::Process(relay),
    read,
    most: LIMIT,
    floor: false,
    unavailable: || None,
    polls: false,
};

pub const DIRECT: Contender = Contender {
    name: "unix sockets",
    about: "the same without relay: the publisher itself sends to each reader's unix datagram \
        socket, sendmmsg of a batch",
    publisher: Publisher::Process(direct),
    read,
    most: LIMIT,
    floor: false,
    unavailable: || None,
    polls: false,
};

fn path(job: &Job, reader: usize) -> PathBuf {
    job.dir.join(format!("u{reader}"))
}

fn address(path: &Path) -> anyhow::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).with_context(|| format!("as a socket: {}", path.display()))
}

fn sender(job: &Job) -> anyhow::Result<(std::os::fd::OwnedFd, Vec<SocketAddrAny>)> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockets::grow(&socket, 4 << 20);
    let to: Vec<_> = (0..job.readers)
        .map(|n| address(&path(job, n)).map(Into::into))
        .collect::<Result<_, _>>()?;
    Ok((socket, to))
}

/// An empty datagram means the end.
const END: &[u8] = &[];

fn direct(job: &Job) -> anyhow::Result<Report> {
    let (socket, to) = sender(job)?;
    let report = publish_batches(job, |batch| {
        let refused = send_all(&socket, batch.datagrams(), &to)?;
        ensure!(refused == 0, "{refused} datagrams were refused");
        Ok(())
    })?;
    send_all(&socket, [END].into_iter(), &to)?;
    Ok(report)
}

fn relay(job: &Job) -> anyhow::Result<Report> {
    let (socket, to) = sender(job)?;
    let device = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC)?;
    let kept = ((1usize << 20) / job.size).clamp(1, 64) as u64;
    let mut datagram = vec![0; job.size];
    for n in 0..kept {
        sum::fill(&mut datagram, n, 0);
        rustix::io::write(&device, &datagram)?;
    }
    let mut feed = Feed::new(job, ready()?);
    let size = job.size as u64;
    let mut at = 0;
    while let Some(datagram) = feed.next_from(|room| {
        let got = rustix::io::pread(&device, room, at % kept * size)?;
        at += 1;
        ensure!(got as u64 == size, "the device gave {got} bytes");
        Ok(())
    })? {
        let refused = send_all(&socket, [datagram].into_iter(), &to)?;
        ensure!(refused == 0, "{refused} datagrams were refused");
    }
    send_all(&socket, [END].into_iter(), &to)?;
    Ok(Report { published: feed.made, ..Report::default() })
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockets::grow(&socket, 4 << 20);
    bind(&socket, &address(&path(job, job.reader.unwrap_or(0)))?).context("bind")?;
    let mut tally = Tally::new(job, ready()?, Losses::None)?;
    let mut receiver = Receiver::new(job.size, job.batch());
    let mut ended = false;
    while !ended {
        receiver.receive(&socket, |datagram| {
            if datagram.is_empty() {
                ended = true;
                return Ok(());
            }
            tally.datagram(datagram)
        })?;
    }
    tally.close()
}
