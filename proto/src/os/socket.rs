//! The control socket: SEQPACKET, one packet per message, with fds; and the identity of the peer.
//!
//! Contract: sockets are close-on-exec. A packet or fds that do not fit are an error and never cut
//! silently. Received fds are owned at once, so no path leaks one.

#![allow(unsafe_code)]

use super::OsError;
use super::made_file::MadeFile;
use crate::control::MESSAGE_MAX;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Most fds that one message may carry.
pub const FDS_MAX: usize = 4;

/// The process at the other end, as the kernel recorded it when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process, for display only, since pids are reused. 0 if it has no pid in the broker's pid
    /// namespace.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A received packet.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes; empty if the peer hung up.
    pub bytes: Vec<u8>,
    /// The fds that came with it.
    pub fds: Vec<OwnedFd>,
}

fn socket() -> Result<OwnedFd, OsError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(OsError::at("socket(AF_UNIX, SOCK_SEQPACKET)"))
}

/// Listens at `path`, which must not exist, with `mode` and, if given, group `gid`. Returns the
/// socket and its file.
///
/// The owner of the directory can replace the file at any moment, so after `bind` nothing goes by
/// path: see [`MadeFile`].
pub fn listen(path: &Path, mode: u32, gid: Option<u32>) -> Result<(OwnedFd, MadeFile), OsError> {
    let shown = path.display();
    let address = SocketAddrUnix::new(path)
        .map_err(OsError::at(format_args!("socket path {shown} (at most 107 bytes)")))?;
    let fd = socket()?;
    refuse_descriptors(&fd);
    // No client can connect before listen, so setting group and mode after bind is safe.
    let file = MadeFile::bind(&fd, path, &address, mode)
        .map_err(OsError::at(format_args!("bind {shown}")))?;
    let prepared = || -> Result<(), OsError> {
        file.set(mode, gid).map_err(OsError::at(format_args!(
            "mode {mode:04o} and the stream's group for {shown}"
        )))?;
        // A connection that goes away between the event and the accept must not block the accept.
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(OsError::at(format_args!("FIONBIO {shown}")))?;
        rustix::net::listen(&fd, 128).map_err(OsError::at(format_args!("listen {shown}")))
    };
    match prepared() {
        Ok(()) => Ok((fd, file)),
        Err(e) => {
            // Bound but not usable: leave nothing behind.
            file.remove();
            Err(e)
        }
    }
}

/// Linux 6.16: whether senders may attach descriptors.
const SO_PASSRIGHTS: i32 = 83;

/// Makes the kernel refuse descriptors to those who send them to this socket, and to every
/// connection that it accepts. Returns whether it does: kernels before Linux 6.16 do not. There,
/// what is not received is closed by the thread that receives the packet or closes the socket, and
/// a close can take as long as the sender likes (a TCP socket with SO_LINGER).
pub fn refuse_descriptors(fd: impl AsFd) -> bool {
    let (off, bytes) = (0_i32, size_of::<i32>() as libc::socklen_t);
    let (raw, value) = (fd.as_fd().as_raw_fd(), (&raw const off).cast());
    // SAFETY: the value has `bytes` bytes and outlives the call; the kernel only reads it.
    unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, SO_PASSRIGHTS, value, bytes) == 0 }
}

/// Accepts one connection, non-blocking from then on.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// How long a broker may take to accept and to answer: a starting broker may be busy creating its
/// next ring.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Connects to `path`. Connecting, and receiving later, fails with `AGAIN` if the broker does not
/// answer within [`ANSWER`].
pub fn connect(path: &Path) -> Result<OwnedFd, OsError> {
    let shown = path.display();
    let address = SocketAddrUnix::new(path)
        .map_err(OsError::at(format_args!("socket path {shown} (at most 107 bytes)")))?;
    let fd = socket()?;
    answer_within(&fd, ANSWER)?;
    rustix::net::connect(&fd, &address).map_err(OsError::at(format_args!("connect {shown}")))?;
    Ok(fd)
}

/// From now on, receiving and sending fail with `AGAIN` after `limit` without progress.
pub fn answer_within(fd: impl AsFd, limit: Duration) -> Result<(), OsError> {
    for way in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&fd, way, Some(limit))
            .map_err(OsError::at("set socket timeout"))?;
    }
    Ok(())
}

/// Sends one packet with fds.
pub fn send(fd: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet. Fails with `MSGSIZE` if it is longer than [`MESSAGE_MAX`] or carries more
/// than [`FDS_MAX`] fds.
pub fn receive(fd: impl AsFd) -> Result<Packet, Errno> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    bytes.truncate(got.bytes);
    Ok(Packet { bytes, fds })
}

/// Receives one packet of an untrusted peer, without fds: closing a received fd can take as long as
/// the peer likes (FUSE). Empty if the peer hung up; `MSGSIZE` if the packet is too long or carries
/// fds.
pub fn receive_bytes(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut none = RecvAncillaryBuffer::default();
    let got = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut none,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    bytes.truncate(got.bytes);
    Ok(bytes)
}

/// Whether the peer has not read yet, or closed unread, all that was sent. What it has not read
/// stays in memory of the sender's after a close too.
pub fn has_unread(fd: impl AsFd) -> bool {
    // SK_MEMINFO_WMEM_ALLOC is the third word.
    let mut info = [0_u32; 16];
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    let (raw, to) = (fd.as_fd().as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the buffer has `bytes` bytes and outlives the call; the kernel writes at most that
    // many.
    unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut bytes) };
    info[2] > 0
}

/// The process that connected. Its pid is 0 if it is in a pid namespace that we cannot see. This is
/// why rustix, whose `Pid` is never 0, is not used here.
pub fn peer(fd: impl AsFd) -> Result<Peer, Errno> {
    let mut who = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let (raw, to) = (fd.as_fd().as_raw_fd(), (&raw mut who).cast());
    // SAFETY: the buffer has `bytes` bytes and outlives the call; the kernel writes at most that
    // many.
    let rc =
        unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut bytes) };
    if rc != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(Peer { pid: who.pid.unsigned_abs(), uid: who.uid, gid: who.gid, groups: groups(fd.as_fd()) })
}

/// Supplementary groups of the peer (SO_PEERGROUPS, which rustix does not support); empty if the
/// kernel does not report them.
fn groups(fd: BorrowedFd<'_>) -> Vec<u32> {
    const MOST: usize = 65536; // NGROUPS_MAX
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = (groups.len() * 4) as libc::socklen_t;
        // SAFETY: the buffer has `bytes` bytes and outlives the call; the kernel writes at most
        // that many.
        let rc = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if rc == 0 {
            groups.truncate(bytes as usize / 4);
            return groups;
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::ERANGE)
            || groups.len() >= MOST
        {
            return Vec::new();
        }
        groups.resize((bytes as usize / 4).clamp(groups.len() + 1, MOST), 0);
    }
}
