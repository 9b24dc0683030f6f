//! `udp:` — datagrams of a UDP port, unicast or multicast, received in batches straight into ring memory.
//!
//! Contract: the kernel's copy is the copy. A batch is one claim of equal places; a place is as long as the longest of
//! the recent datagrams, so a stream of one size wastes nothing and is never touched again. Where sizes differ, a
//! datagram shorter than the hole in front of it is moved down into it, so that the ring holds at least half payload;
//! one longer than its place is put together from a private buffer. Both are counted as moved.
//!
//! Empty datagrams are datagrams. One longer than the stream's largest is published cut, with its original length. What
//! the kernel dropped for want of receive buffer (or for a wrong checksum) is a loss in the layer `kernel`, exact: told
//! before the datagram that came next, or when the socket runs empty. The source time is the kernel's, CLOCK_REALTIME.
//! Errors that ICMP or a full memory report are faults and do not end the stream. UDP is not told when its interface
//! goes away; of a multicast group joined by `@IFACE` we look once a second, tell, and join again when it is back.

use super::socket::{CONTROL_WORDS, get_words, interface, parse_control, receive_buffer, set_option};
use super::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use crate::intake::{Arrival, Intake};
use ringweir_proto::layout::align8;
use ringweir_proto::quantity::Bytes;
use ringweir_proto::ring::Layer;
use ringweir_proto::stats::PumpCounter;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "udp",
    usage: "udp:ADDRESS:PORT[@INTERFACE][,rcvbuf=SIZE]",
    about: "a UDP port, unicast or multicast (IPv4, IPv6), with kernel timestamps and exact drop counts",
    open,
};

/// Datagrams a batch receives at most.
const BATCH: usize = 64;
/// Datagrams after which the length of a place is settled anew.
const WINDOW: usize = 64;
/// Longest datagram UDP can bring.
const UDP_MOST: usize = 65_535;
/// Receive buffer asked for by default: at 1 Gbit/s of full datagrams some 30 ms.
const RCVBUF: u64 = 8 << 20;
/// How often the interface of a multicast group is looked at.
const WATCH_NS: u64 = 1_000_000_000;

/// What stands behind `udp:`.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    address: SocketAddr,
    interface: Option<String>,
    rcvbuf: u64,
}

impl std::str::FromStr for Spec {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (address, interface) = match place.split_once('@') {
            Some((address, name)) if !name.is_empty() => (address, Some(name.to_owned())),
            Some(_) => return Err(SourceError(format!("{place:?} has no interface behind the @"))),
            None => (place, None),
        };
        let address = address.parse().map_err(|_| {
            SourceError(format!(
                "{address:?} is not a numeric ADDRESS:PORT such as 0.0.0.0:5000, [::]:5000 or 239.1.2.3:5000"
            ))
        })?;
        let mut spec = Spec { address, interface, rcvbuf: RCVBUF };
        for option in parts {
            match option.split_once('=') {
                Some(("rcvbuf", size)) => spec.rcvbuf = size.parse::<Bytes>().map_err(SourceError::new)?.0,
                _ => return Err(SourceError(format!("unknown option {option:?}; there is rcvbuf=SIZE"))),
            }
        }
        Ok(spec)
    }
}

/// A multicast group on an interface that may come and go.
struct Watch {
    name: String,
    /// Index under which the group was joined; 0 while the interface is gone.
    index: u32,
    /// When to look next, CLOCK_MONOTONIC ns.
    next: u64,
}

struct Udp {
    socket: OwnedFd,
    group: Option<IpAddr>,
    watch: Option<Watch>,
    description: String,
    /// Longest datagram that is taken whole.
    max: usize,
    /// Length of a place in the claim, a multiple of 8. Invariant: at most `align8(max)`.
    stride: usize,
    /// Longest of this window and of the one before, and what is left of this one.
    longest: [usize; 2],
    window_left: usize,
    /// `BATCH` private rooms of `align8(max)` bytes: what exceeds a place, behind where its beginning would be.
    spill: Box<[u8]>,
    control: Box<[[u64; CONTROL_WORDS]; BATCH]>,
    /// Drops the kernel has told of, modulo 2^32.
    drops: u32,
    /// Something came since the kernel was last asked for drops: it drops only what finds datagrams waiting.
    fresh: bool,
}

/// One received datagram: its length on the wire, and what the kernel says of it.
#[derive(Clone, Copy, Default)]
struct Received {
    len: usize,
    control_len: usize,
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Udp::open(&argument.parse()?, stream)?))
}

/// Names the step of opening that failed.
fn at<E: std::fmt::Display>(step: &str) -> impl FnOnce(E) -> SourceError + '_ {
    move |e| SourceError(format!("{step}: {e}"))
}

impl Udp {
    fn open(spec: &Spec, stream: &OpenFor) -> Result<Self, SourceError> {
        let family = if spec.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None).map_err(at("socket"))?;
        let fd = socket.as_fd();
        let index = spec.interface.as_deref().map(|name| interface(fd, name)).transpose()?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &1_i32).map_err(at("SO_RXQ_OVFL"))?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32).map_err(at("SO_TIMESTAMPNS"))?;
        let buffer = receive_buffer(fd, spec.rcvbuf)?;

        let group = Some(spec.address.ip()).filter(IpAddr::is_multicast);
        let mut address = spec.address;
        if let (SocketAddr::V6(v6), Some(index)) = (&mut address, index) {
            // Link-local addresses, unicast and multicast, mean nothing without their interface.
            v6.set_scope_id(index);
        }
        match (group, index) {
            (Some(_), _) => {
                sockopt::set_socket_reuseaddr(fd, true).map_err(at("SO_REUSEADDR"))?;
                // Only what this socket joined, not what any process of the machine did. Old kernels lack it for IPv6.
                let (level, name) = match address {
                    SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
                    SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
                };
                let _unsupported = set_option(fd, level, name, &0_i32);
            }
            (None, Some(index)) => set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &index)
                .map_err(at("binding to the interface"))?,
            (None, None) => {}
        }
        rustix::net::bind(fd, &address).map_err(|e| match e {
            Errno::ADDRINUSE => SourceError(format!("{address} is in use by another process (see `ss -ulnp`)")),
            Errno::ADDRNOTAVAIL => SourceError(format!("{} is no address of this machine", address.ip())),
            Errno::ACCESS => SourceError(format!("port {} needs CAP_NET_BIND_SERVICE", address.port())),
            e => SourceError(format!("binding {address}: {e}")),
        })?;
        if let Some(group) = group {
            join(fd, group, index.unwrap_or(0)).map_err(|e| match e {
                Errno::NODEV => {
                    SourceError(format!("joining {group}: no route for multicast; name one with @INTERFACE"))
                }
                e => SourceError(format!("joining {group}: {e}")),
            })?;
        }

        let bound: SocketAddr =
            rustix::net::getsockname(fd).map_err(at("getsockname"))?.try_into().map_err(at("getsockname"))?;
        let cast = if group.is_some() { "multicast " } else { "" };
        let on = spec.interface.as_deref().map(|name| format!(" on {name}")).unwrap_or_default();
        let max = stream.max_datagram.min(UDP_MOST);
        let place = align8(max as u64) as usize;
        Ok(Udp {
            group,
            watch: group.and(spec.interface.clone()).zip(index).map(|(name, index)| Watch { name, index, next: 0 }),
            description: format!("{cast}{bound}{on}, {buffer}, kernel timestamps"),
            max,
            stride: place.min(2048),
            longest: [0; 2],
            window_left: WINDOW,
            // Written, not merely reserved: no page fault later.
            spill: vec![0xFF; BATCH * place].into(),
            control: Box::new([[0; CONTROL_WORDS]; BATCH]),
            drops: 0,
            fresh: false,
            socket,
        })
    }

    /// Receives one batch and publishes it; how many came, of how many that could have.
    fn batch(&mut self, intake: &mut Intake) -> Result<(usize, usize), BatchError> {
        let (stride, place) = (self.stride, align8(self.max as u64) as usize);
        // A quarter of the longest claim: history that a thin stream gives up for a batch that does not come.
        let most = (intake.max_span() / 4 / stride.max(1)).clamp(1, BATCH);
        let mut claim = intake.claim(most * stride).map_err(|e| BatchError::Source(SourceError::new(e)))?;
        let room = claim.bytes();
        let mut received = [Received::default(); BATCH];
        let got = receive(
            self.socket.as_fd(),
            room,
            stride,
            self.max,
            &mut self.spill,
            &mut self.control,
            &mut received[..most],
        )
        .map_err(BatchError::Receive)?;

        // All moves within the claim come first: a commit must not give away memory that still holds another datagram.
        let (mut places, mut used, mut moved, mut settled) = ([0; BATCH], 0, 0, got);
        for (i, datagram) in received[..got].iter().enumerate() {
            let (at, len) = (i * stride, datagram.len.min(self.max));
            if len <= stride && at - used < len {
                places[i] = at;
            } else if used + len <= at + stride {
                let (head, from) = (len.min(stride), i * place);
                room.copy_within(at..at + head, used);
                room[used + head..used + len].copy_from_slice(&self.spill[from + head..from + len]);
                places[i] = used;
                moved += u64::from(len > 0);
            } else {
                settled = i;
                break;
            }
            used = places[i] + align8(len as u64) as usize;
        }
        // From the first that fits nowhere, all go by way of the spill: claiming for one overwrites those behind it.
        for (i, datagram) in received[..got].iter().enumerate().skip(settled) {
            let head = datagram.len.min(self.max).min(stride);
            self.spill[i * place..][..head].copy_from_slice(&room[i * stride..][..head]);
            moved += u64::from(head > 0);
        }
        if moved > 0 {
            intake.count(PumpCounter::Moved, moved);
        }

        for (i, datagram) in received[..got].iter().enumerate() {
            let control = parse_control(&self.control[i], datagram.control_len);
            if let Some(drops) = control.drops {
                self.count_drops(intake, drops);
            }
            let len = datagram.len.min(self.max);
            let arrival = Arrival {
                original_len: if datagram.len > len { datagram.len as u32 } else { 0 },
                channel: 0,
                source_time: control.time_ns,
            };
            if i < settled {
                intake.commit(places[i], len, arrival);
            } else {
                let mut claim = intake.claim(len).map_err(|e| BatchError::Source(SourceError::new(e)))?;
                claim.write(0, &self.spill[i * place..][..len]);
                intake.commit(0, len, arrival);
            }
            self.longest[0] = self.longest[0].max(len);
        }
        self.fresh |= got > 0;
        self.window_left = self.window_left.saturating_sub(got);
        if self.window_left == 0 {
            self.stride = align8(self.longest[0].max(self.longest[1]).max(1).min(place) as u64) as usize;
            self.longest = [0, self.longest[0]];
            self.window_left = WINDOW;
        }
        Ok((got, most))
    }

    /// Accounts for the kernel's count of drops. It may be read ahead of datagrams that were queued before it: only
    /// forward steps count.
    fn count_drops(&mut self, intake: &mut Intake, drops: u32) {
        let new = drops.wrapping_sub(self.drops);
        if (1..1 << 31).contains(&new) {
            self.drops = drops;
            intake.lost(Layer::Kernel, u64::from(new), true);
        }
    }

    /// The socket is empty: asks for drops that no later datagram has told of, and looks after the interface.
    fn idle(&mut self, intake: &mut Intake) {
        if std::mem::take(&mut self.fresh)
            && let Ok([.., drops]) = get_words::<9>(self.socket.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO)
        {
            self.count_drops(intake, drops);
        }
        let now = intake.now();
        if let (Some(watch), Some(group)) = (&mut self.watch, self.group)
            && now >= watch.next
        {
            watch.next = now + WATCH_NS;
            let index = rustix::net::netdevice::name_to_index(&self.socket, &watch.name).unwrap_or(0);
            if index == watch.index {
                return;
            }
            watch.index = index;
            if index == 0 {
                intake.fault(format_args!(
                    "udp: interface {} is gone; {group} is joined again when it is back",
                    watch.name
                ));
                return;
            }
            if group.is_ipv6() {
                // A link-local group ties the socket to the interface it was bound with. Where we may not change that,
                // joining fails as well, and says so.
                let _refused = set_option(self.socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &index);
            }
            match join(self.socket.as_fd(), group, index) {
                Ok(()) => intake.fault(format_args!("udp: interface {} is back, {group} joined again", watch.name)),
                Err(e) => {
                    watch.index = 0;
                    intake.fault(format_args!("udp: joining {group} on {}: {e}", watch.name));
                }
            }
        }
    }
}

/// Why a batch did not come.
enum BatchError {
    Receive(Errno),
    Source(SourceError),
}

fn join(fd: BorrowedFd<'_>, group: IpAddr, index: u32) -> Result<(), Errno> {
    match group {
        IpAddr::V4(group) => {
            sockopt::set_ip_add_membership_with_ifindex(fd, &group, &std::net::Ipv4Addr::UNSPECIFIED, index)
        }
        IpAddr::V6(group) => sockopt::set_ipv6_add_membership(fd, &group, index),
    }
}

/// Receives up to `received.len()` datagrams: the first `stride` bytes of each into its place in `room`, the others, up
/// to `max` in all, into its room in `spill`, at the same distance from the beginning.
fn receive(
    fd: BorrowedFd<'_>,
    room: &mut [u8],
    stride: usize,
    max: usize,
    spill: &mut [u8],
    control: &mut [[u64; CONTROL_WORDS]; BATCH],
    received: &mut [Received],
) -> Result<usize, Errno> {
    const NONE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    const EMPTY: libc::mmsghdr = libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    let place = align8(max as u64) as usize;
    let (mut vectors, mut headers) = ([[NONE; 2]; BATCH], [EMPTY; BATCH]);
    let rooms = room.chunks_exact_mut(stride.max(1)).map(Some).chain(std::iter::repeat_with(|| None));
    let spills = spill.chunks_exact_mut(place.max(1)).map(Some).chain(std::iter::repeat_with(|| None));
    let count = received.len().min(BATCH);
    for ((((header, vector), control), first), second) in
        headers[..count].iter_mut().zip(&mut vectors).zip(control.iter_mut()).zip(rooms).zip(spills)
    {
        let first = first.map(|room| &mut room[..stride.min(max)]).unwrap_or_default();
        let second = second.map(|room| &mut room[stride.min(max)..max]).unwrap_or_default();
        *vector =
            [first, second].map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        header.msg_hdr.msg_iov = vector.as_mut_ptr();
        header.msg_hdr.msg_iovlen = 2;
        header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = size_of_val(control);
    }
    let (flags, at) = (libc::MSG_DONTWAIT | libc::MSG_TRUNC, headers.as_mut_ptr());
    // SAFETY: `count` headers are filled in above; each points to vectors, rooms and control words that are exclusively
    // borrowed until this function returns, with their lengths; there is no timeout.
    let outcome = unsafe { libc::recvmmsg(fd.as_raw_fd(), at, count as u32, flags as _, std::ptr::null_mut()) };
    let Ok(got) = usize::try_from(outcome) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    };
    for (to, header) in received.iter_mut().zip(&headers[..got.min(count)]) {
        *to = Received { len: header.msg_len as usize, control_len: header.msg_hdr.msg_controllen };
    }
    Ok(got.min(count))
}

impl Source for Udp {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            match self.batch(intake) {
                Ok((got, most)) if got == most => {}
                // Fewer than asked for: the socket is empty, and asking again would only say so.
                Ok(_) | Err(BatchError::Receive(Errno::AGAIN)) => {
                    self.idle(intake);
                    return Ok(Fill::Idle);
                }
                Err(BatchError::Receive(Errno::INTR)) => {}
                Err(BatchError::Receive(e @ (Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK))) => {
                    return Err(SourceError(format!("udp: receiving: {e}")));
                }
                Err(BatchError::Receive(e)) => {
                    // What ICMP reported, or no memory: asking cleared it.
                    intake.fault(format_args!("udp: receiving: {e}"));
                    return Ok(Fill::Took);
                }
                Err(BatchError::Source(e)) => return Err(e),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.socket.as_fd()), until: self.watch.as_ref().map(|watch| watch.next) }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
