//! `udp:` — datagrams from a UDP port, unicast or multicast, received in batches straight into ring
//! memory.
//!
//! Contract: the kernel's copy is the only one, see [`super::batch`].
//!
//! An empty datagram is a datagram too. A datagram longer than the stream's largest is published
//! cut, with its original length. What the kernel drops for lack of receive buffer (or because of a
//! wrong checksum) is counted exactly as a loss in the layer `kernel`. It is reported before the
//! datagram that came next, or when the socket is empty. The source time is the kernel's,
//! CLOCK_REALTIME. Errors that come from ICMP or from lack of memory are faults and do not end the
//! stream. UDP does not notice that an interface disappears. So the interface that the socket is
//! bound to, or on which its group is joined, is followed: see [`interface`].

use super::batch::{Batch, BatchError, Count};
use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use super::socket::{CONTROL_WORDS, get_words, receive_buffer, set_option};
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use interface::{Interface, bind_to, join};
use ringweir_cli::quantity::Bytes;
use ringweir_proto::ring::Layer;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

mod interface;
#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "udp",
    usage: "udp:ADDRESS:PORT[@INTERFACE][,rcvbuf=SIZE]",
    about: "a UDP port, unicast or multicast (IPv4, IPv6), with kernel timestamps and exact drop \
        counts",
    open,
};

/// Longest datagram that UDP carries.
const UDP_MOST: usize = 65_535;
/// Default size of the receive buffer: about 30 ms at 1 Gbit/s of full datagrams.
const RCVBUF: u64 = 8 << 20;

/// The part after `udp:`.
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
        let target = parts.next().unwrap_or_default();
        let (address, interface) = match target.split_once('@') {
            Some((address, name)) if !name.is_empty() => (address, Some(name.to_owned())),
            Some(_) => return Err(SourceError(format!("{target:?} has no interface after the @"))),
            None => (target, None),
        };
        let address = address.parse().map_err(|_| {
            SourceError(format!(
                "{address:?} is not a numeric ADDRESS:PORT such as 0.0.0.0:5000, [::]:5000 or \
                239.1.2.3:5000"
            ))
        })?;
        let mut spec = Spec { address, interface, rcvbuf: RCVBUF };
        for option in parts {
            match option.split_once('=') {
                Some(("rcvbuf", size)) => {
                    spec.rcvbuf = size.parse::<Bytes>().map_err(SourceError::new)?.0
                }
                _ => {
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there is rcvbuf=SIZE"
                    )));
                }
            }
        }
        Ok(spec)
    }
}

struct Udp {
    socket: OwnedFd,
    interface: Option<Interface>,
    description: String,
    batch: Batch,
    /// Drops the kernel has reported, modulo 2^32.
    drops: u32,
    /// A datagram has come since the kernel was last asked for drops. Without one there are none:
    /// the kernel drops only while datagrams are waiting.
    fresh: bool,
    /// More drops than were reported, as the kernel counted them before the latest receive.
    late: Option<u32>,
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
        let family =
            if spec.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
            .map_err(at("socket"))?;
        let fd = socket.as_fd();
        let mut interface = match (&spec.interface, scope_name(fd, &spec.address)) {
            (Some(name), _) => Some(Interface::named(fd, name)?),
            (None, Some(name)) => Some(Interface::named(fd, &name)?),
            (None, None) => None,
        };
        set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &1_i32).map_err(at("SO_RXQ_OVFL"))?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
            .map_err(at("SO_TIMESTAMPNS"))?;
        let buffer = receive_buffer(fd, spec.rcvbuf)?;

        let group = Some(spec.address.ip()).filter(IpAddr::is_multicast);
        let mut address = spec.address;
        let index = interface.as_ref().map(Interface::index);
        if let (SocketAddr::V6(v6), Some(index)) = (&mut address, index) {
            // Link-local addresses, unicast and multicast, mean nothing without their interface.
            v6.set_scope_id(index);
        }
        if let SocketAddr::V6(v6) = &address
            && v6.scope_id() == 0
            && is_of_one_link(v6.ip())
        {
            return Err(group.map_or_else(
                || {
                    SourceError(format!(
                        "{} is an address of one interface; name it with @INTERFACE",
                        v6.ip()
                    ))
                },
                no_route,
            ));
        }
        match (group, index) {
            (Some(_), _) => {
                sockopt::set_socket_reuseaddr(fd, true).map_err(at("SO_REUSEADDR"))?;
                // Receive only what this socket has joined, not what other processes of the machine
                // have joined. Old kernels lack this option for IPv6.
                let (level, name) = match address {
                    SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
                    SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
                };
                let _unsupported = set_option(fd, level, name, &0_i32);
            }
            (None, Some(index)) => bind_to(fd, index).map_err(at("binding to the interface"))?,
            (None, None) => {}
        }
        rustix::net::bind(fd, &address).map_err(|e| match e {
            Errno::ADDRINUSE => {
                SourceError(format!("{address} is in use by another process (see `ss -ulnp`)"))
            }
            Errno::ADDRNOTAVAIL => {
                SourceError(format!("{} is no address of this machine", address.ip()))
            }
            Errno::ACCESS => {
                SourceError(format!("port {} needs CAP_NET_BIND_SERVICE", address.port()))
            }
            e => SourceError(format!("binding {address}: {e}")),
        })?;
        if let Some(group) = group {
            if interface.is_none() {
                interface = Interface::routed(fd, group)?;
            }
            let index = interface.as_ref().map_or(0, Interface::index);
            join(fd, group, index).map_err(|e| match e {
                Errno::NODEV => no_route(group),
                e => SourceError(format!("joining {group}: {e}")),
            })?;
            interface.iter_mut().for_each(|interface| interface.joined(group));
        }

        let bound: SocketAddr = rustix::net::getsockname(fd)
            .map_err(at("getsockname"))?
            .try_into()
            .map_err(at("getsockname"))?;
        let cast = if group.is_some() { "multicast " } else { "" };
        let on = interface.as_ref().map(|i| format!(" on {}", i.name())).unwrap_or_default();
        Ok(Udp {
            interface,
            description: format!("{cast}{bound}{on}, {buffer}, kernel timestamps"),
            batch: Batch::new(stream.max_datagram.min(UDP_MOST), CONTROL_WORDS * 8),
            drops: 0,
            fresh: false,
            late: None,
            socket,
        })
    }

    /// Receives one batch and publishes it.
    fn batch(&mut self, intake: &mut Intake) -> Result<Count, BatchError> {
        let drops = &mut self.drops;
        let count = self.batch.receive(self.socket.as_fd(), intake, |intake, control, _| {
            if let Some(count) = control.drops {
                count_drops(drops, intake, count);
            }
            Some(Arrival { source_time: control.time_ns, ..Arrival::default() })
        })?;
        self.fresh |= count.got > 0;
        Ok(count)
    }

    /// The last receive got less than it could, and nothing if `empty`. Reports drops that no later
    /// datagram has reported. Returns whether it is known that all of them are.
    ///
    /// The count is read before the receive that finds the socket empty, not after it: if this
    /// thread is held up in between, what is queued and then dropped meanwhile would be reported in
    /// front of what is queued.
    fn settle_drops(&mut self, intake: &mut Intake, empty: bool) -> bool {
        if let Some(drops) = self.late.take().filter(|_| empty) {
            count_drops(&mut self.drops, intake, drops);
            self.fresh = false;
        }
        if !self.fresh {
            return true;
        }
        match get_words::<9>(self.socket.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO) {
            Ok([.., drops]) if is_new(self.drops, drops) => self.late = Some(drops),
            _ => self.fresh = false,
        }
        !self.fresh
    }
}

/// There is no interface on which `group` could be joined.
fn no_route(group: IpAddr) -> SourceError {
    SourceError(format!("joining {group}: no route for multicast; name one with @INTERFACE"))
}

/// Whether an address says nothing without an interface: `fe80::…`, `ff01::…`, `ff02::…`.
fn is_of_one_link(address: &Ipv6Addr) -> bool {
    address.is_unicast_link_local() || matches!(address.segments()[0] & 0xFF0F, 0xFF01 | 0xFF02)
}

/// The name of the interface in an IPv6 address with a scope (`[fe80::1%2]:5000`).
fn scope_name(fd: BorrowedFd<'_>, address: &SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            rustix::net::netdevice::index_to_name(fd, v6.scope_id()).ok()
        }
        _ => None,
    }
}

/// Whether a count of drops is a step forward.
fn is_new(known: u32, drops: u32) -> bool {
    (1..1 << 31).contains(&drops.wrapping_sub(known))
}

/// Accounts for the kernel's count of drops. The count may be newer than the one that comes with a
/// datagram queued earlier, so only forward steps count.
fn count_drops(known: &mut u32, intake: &mut Intake, drops: u32) {
    if is_new(*known, drops) {
        intake.lost(Layer::Kernel, u64::from(drops.wrapping_sub(*known)), true);
        *known = drops;
    }
}

impl Source for Udp {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            match self.batch(intake) {
                Ok(count) if count.got == count.most => {}
                // Fewer than requested: the socket is empty, and another call would only confirm
                // it.
                outcome @ (Ok(_) | Err(BatchError::Receive(Errno::AGAIN))) => {
                    let empty = !outcome.is_ok_and(|count| count.got > 0);
                    if self.settle_drops(intake, empty) {
                        if let Some(interface) = &mut self.interface {
                            interface.look(self.socket.as_fd(), intake);
                        }
                        return Ok(Fill::Idle);
                    }
                }
                Err(BatchError::Receive(Errno::INTR)) => {}
                Err(e) => return e.outcome("udp", intake),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor {
            readable: Some(self.socket.as_fd()),
            until: self.interface.as_ref().and_then(Interface::until),
        }
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.interface.as_ref().map(Interface::as_fd)
    }

    fn needs(&self) -> Needs {
        let fd = self.socket.as_fd();
        self.interface.as_ref().map(|interface| interface.needs(fd)).unwrap_or_default()
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
