//! What the socket contenders share: one-call sending and receiving of several datagrams, and
//! buffer sizes.
//!
//! Contract: `sendmmsg` and `recvmmsg` by libc, since rustix has no `recvmmsg`; errors are the
//! kernel's, with the call's name.

#![allow(unsafe_code)]

use anyhow::Context;
use rustix::net::SocketAddrAny;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;

/// Most datagrams per call.
const MOST: usize = 64;

const NO_PIECE: libc::iovec = libc::iovec { iov_base: null_mut(), iov_len: 0 };
const NO_HEADER: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: null_mut(),
        msg_namelen: 0,
        msg_iov: null_mut(),
        msg_iovlen: 0,
        msg_control: null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

/// Sets an integer option.
pub fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: an int of the stated length.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Buffers as large as the kernel allows, beyond its limit if the process has the right to that.
pub fn grow(socket: &OwnedFd, bytes: i32) {
    for (force, ask) in
        [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)]
    {
        if set(socket, libc::SOL_SOCKET, force, bytes).is_err() {
            // Smaller ones are no error: what does not fit is refused when it is sent.
            let _less = set(socket, libc::SOL_SOCKET, ask, bytes);
        }
    }
}

/// Makes receiving give up after a tenth of a second, so that the end of a run is noticed.
pub fn give_up_soon(socket: &OwnedFd) -> anyhow::Result<()> {
    rustix::net::sockopt::set_socket_timeout(
        socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_millis(100)),
    )
    .context("SO_RCVTIMEO")
}

/// Sends each datagram to each address, in as few calls as possible; blocks while there is no room.
/// Returns how many the kernel refused for want of buffers.
pub fn send_all<'d>(
    socket: &OwnedFd,
    datagrams: impl Iterator<Item = &'d [u8]> + Clone,
    to: &[SocketAddrAny],
) -> anyhow::Result<u64> {
    let mut pairs = datagrams.flat_map(|d| to.iter().map(move |address| (d, address)));
    let mut refused = 0;
    loop {
        let (mut pieces, mut headers) = ([NO_PIECE; MOST], [NO_HEADER; MOST]);
        let mut count = 0;
        for ((piece, header), (datagram, address)) in
            pieces.iter_mut().zip(&mut headers).zip(pairs.by_ref().take(MOST))
        {
            *piece = libc::iovec {
                iov_base: datagram.as_ptr().cast_mut().cast(),
                iov_len: datagram.len(),
            };
            header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = address.addr_len();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        if count == 0 {
            return Ok(refused);
        }
        let mut sent = 0;
        while sent < count {
            let rest = (count - sent) as u32;
            // SAFETY: as many headers as stated, each with one piece of a living datagram and a
            // living address.
            let rc = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), headers[sent..].as_mut_ptr(), rest, 0)
            };
            match usize::try_from(rc) {
                Ok(n) => sent += n,
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    // Netlink multicasts first, and then finds that the kernel, which every
                    // multicast is also addressed to, does not listen. A unix socket that is gone
                    // refuses too; then the account of its reader does not close.
                    e if e.kind() == io::ErrorKind::ConnectionRefused => sent += 1,
                    e if e.raw_os_error() == Some(libc::ENOBUFS) => {
                        refused += 1;
                        sent += 1;
                    }
                    e => return Err(e).context("sendmmsg"),
                },
            }
        }
    }
}

/// Receives several datagrams per call.
pub struct Receiver {
    rooms: Vec<Vec<u8>>,
}

impl Receiver {
    /// A receiver for datagrams of `size`, `batch` of them at once.
    pub fn new(size: usize, batch: usize) -> Self {
        // One byte more than there may be, so that a longer datagram is noticed.
        Self { rooms: vec![vec![0; size + 1]; batch.min(MOST)] }
    }

    /// Receives what is there, at least one, and passes each on; `false` if nothing came for a
    /// tenth of a second.
    pub fn receive(
        &mut self,
        socket: &OwnedFd,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let (mut pieces, mut headers) = ([NO_PIECE; MOST], [NO_HEADER; MOST]);
        for ((piece, header), room) in pieces.iter_mut().zip(&mut headers).zip(&mut self.rooms) {
            *piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = self.rooms.len() as u32;
        let (fd, none) = (socket.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: as many headers as stated, each with one piece of room that lives until the call
        // returns.
        let rc =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_WAITFORONE, none) };
        let Ok(got) = usize::try_from(rc) else {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                // Netlink reports once that it has dropped datagrams; the counter has how many.
                Some(libc::EINTR | libc::ENOBUFS) => Ok(true),
                _ => Err(e).context("recvmmsg"),
            };
        };
        for (header, room) in headers.iter().zip(&self.rooms).take(got) {
            take(&room[..header.msg_len as usize])?;
        }
        Ok(true)
    }
}

/// How many datagrams the kernel has dropped at this socket: column `drops_at` of its line in a
/// table of /proc/net (the inode is column 9 in the tables used here).
pub fn drops(socket: &OwnedFd, table: &str, drops_at: usize) -> anyhow::Result<u64> {
    let inode = rustix::fs::fstat(socket)?.st_ino.to_string();
    let text = std::fs::read_to_string(table)?;
    let own = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = own.into_iter().find(|fields| fields.get(9) == Some(&inode.as_str()));
    let own = own.with_context(|| format!("no socket {inode} in {table}"))?;
    own.get(drops_at).and_then(|n| n.parse().ok()).with_context(|| format!("no drops in {table}"))
}
