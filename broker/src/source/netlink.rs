//! `netlink:` — messages of the kernel, or with NETLINK_USERSOCK of processes, to a netlink
//! multicast group.
//!
//! Contract: messages are received in batches straight into ring memory, see [`super::batch`]. A
//! datagram is what one `send` has sent, with its netlink headers; its channel is the number of the
//! group. With some protocols any process may send a message to this socket alone: such a message
//! is left out and reported as a fault. Netlink messages have no time, so the source time is
//! unknown.
//!
//! If a netlink socket overflows, it returns ENOBUFS without a number and drops everything until it
//! has been read empty. It returns the error before the messages that were queued ahead of the
//! loss. So the loss is reported as *at least* as many as the socket's drop counter has advanced,
//! or 1. It is reported before the batch that may contain the first message after it: no reader
//! sees a message after a loss that was not reported.

use super::batch::{Batch, BatchError};
use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use super::socket::{get_words, receive_buffer, set_option};
use crate::intake::for_sources::{Arrival, Intake};
use ringweir_cli::quantity::Bytes;
use ringweir_proto::ring::Layer;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "netlink",
    usage: "netlink:PROTOCOL:GROUP[+GROUP…][,rcvbuf=SIZE]",
    about: "netlink multicast groups, by name (route:link+ipv4-route, kobject_uevent:kernel) or \
        number (usersock:5); a loss is reported as a lower bound",
    open,
};

/// Default size of the receive buffer.
const RCVBUF: u64 = 2 << 20;
/// Room for the control messages of a datagram: its group.
const CONTROL_LEN: usize = 24;

/// Groups of a protocol by name.
type Groups = &'static [(&'static str, u32)];

/// Protocols that have a name, and their groups that have one.
const NAMES: &[(&str, u32, Groups)] = &[
    (
        "route",
        0,
        &[
            ("link", 1),
            ("neigh", 3),
            ("tc", 4),
            ("ipv4-ifaddr", 5),
            ("ipv4-mroute", 6),
            ("ipv4-route", 7),
            ("ipv4-rule", 8),
            ("ipv6-ifaddr", 9),
            ("ipv6-mroute", 10),
            ("ipv6-route", 11),
            ("ipv6-ifinfo", 12),
            ("ipv6-prefix", 18),
            ("ipv6-rule", 19),
        ],
    ),
    ("usersock", 2, &[]),
    (
        "sock_diag",
        4,
        &[
            ("inet-tcp-destroy", 1),
            ("inet-udp-destroy", 2),
            ("inet6-tcp-destroy", 3),
            ("inet6-udp-destroy", 4),
        ],
    ),
    ("xfrm", 6, &[("acquire", 1), ("expire", 2), ("sa", 3), ("policy", 4)]),
    ("audit", 9, &[("readlog", 1)]),
    ("connector", 11, &[]),
    (
        "netfilter",
        12,
        &[("conntrack-new", 1), ("conntrack-update", 2), ("conntrack-destroy", 3), ("nftables", 7)],
    ),
    ("kobject_uevent", 15, &[("kernel", 1), ("udev", 2)]),
    ("generic", 16, &[]),
];

/// The part after `netlink:`.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    protocol: u32,
    groups: Vec<u32>,
    rcvbuf: u64,
}

impl std::str::FromStr for Spec {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let mut parts = text.split(',');
        let target = parts.next().unwrap_or_default();
        let (protocol, groups) = target.split_once(':').ok_or_else(|| {
            SourceError(format!(
                "{target:?} is not PROTOCOL:GROUP, such as route:link or usersock:5"
            ))
        })?;
        let known = NAMES
            .iter()
            .find(|(name, number, _)| *name == protocol || Ok(*number) == protocol.parse());
        let number =
            known.map(|(_, number, _)| *number).or(protocol.parse().ok().filter(|n| *n < 32));
        let number = number.ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, ..)| *name).collect();
            SourceError(format!(
                "no protocol {protocol:?}; say a number up to 31, or {}",
                names.join(", ")
            ))
        })?;
        let groups = groups.split('+').map(|group| {
            let named =
                known.and_then(|(.., groups)| groups.iter().find(|(name, _)| *name == group));
            let found =
                named.map(|(_, n)| *n).or(group.parse().ok().filter(|n| (1..=65_535).contains(n)));
            found.ok_or_else(|| {
                let names: Vec<_> =
                    known.iter().flat_map(|(.., groups)| *groups).map(|(name, _)| *name).collect();
                let names = if names.is_empty() {
                    String::new()
                } else {
                    format!(" or {}", names.join(", "))
                };
                SourceError(format!(
                    "no group {group:?} of {protocol}; say a number from 1 to 65535{names}"
                ))
            })
        });
        let mut spec =
            Spec { protocol: number, groups: groups.collect::<Result<_, _>>()?, rcvbuf: RCVBUF };
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

struct Netlink {
    socket: OwnedFd,
    batch: Batch,
    drops: Drops,
    description: String,
}

/// Datagrams that the socket has dropped.
#[derive(Default)]
struct Drops {
    /// The socket's count at the last check, modulo 2^32.
    known: u32,
    /// Drops were reported for which the socket may still return an error.
    announced: bool,
}

impl Drops {
    /// Reports the drops that the socket has counted since the last check. Returns whether there
    /// were any.
    fn settle(&mut self, socket: BorrowedFd<'_>, intake: &mut Intake) -> bool {
        let Ok([.., count]) = get_words::<9>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO) else {
            return false;
        };
        let new = count.wrapping_sub(self.known);
        self.known = count;
        if new > 0 {
            intake.lost(Layer::Kernel, new.into(), false);
        }
        new > 0
    }

    /// The socket has returned the error of an overflow.
    fn overrun(&mut self, socket: BorrowedFd<'_>, intake: &mut Intake) {
        // The kernel may also have failed to create a message, which no counter shows.
        if !self.settle(socket, intake) && !std::mem::take(&mut self.announced) {
            intake.lost(Layer::Kernel, 1, false);
        }
        self.announced = false;
    }
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(Netlink::open(&argument.parse()?, stream)?))
}

impl Netlink {
    fn open(spec: &Spec, stream: &OpenFor) -> Result<Self, SourceError> {
        let Spec { protocol, groups, rcvbuf } = spec;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let number = NonZeroU32::new(*protocol).map(Protocol::from_raw);
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, number)
                .map_err(|e| match e {
                    Errno::PROTONOSUPPORT => {
                        SourceError(format!("this kernel has no netlink protocol {protocol}"))
                    }
                    e => SourceError(format!("socket: {e}")),
                })?;
        let fd = socket.as_fd();
        let buffer = receive_buffer(fd, *rcvbuf)?;
        set_option(fd, libc::SOL_NETLINK, libc::NETLINK_PKTINFO, &1_i32)
            .map_err(|e| SourceError(format!("NETLINK_PKTINFO: {e}")))?;
        bind(fd).map_err(|e| SourceError(format!("bind: {e}")))?;
        for group in groups {
            set_option(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group).map_err(
                |e| match e.raw_os_error() {
                    Some(libc::EPERM) => SourceError(format!(
                        "listening to group {group} of netlink protocol {protocol} needs root or a \
                        capability (CAP_NET_ADMIN; for audit CAP_AUDIT_READ)"
                    )),
                    Some(libc::EINVAL) => SourceError(format!(
                        "netlink protocol {protocol} has no \
                        group {group}"
                    )),
                    _ => SourceError(format!("joining group {group}: {e}")),
                },
            )?;
        }
        let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
        Ok(Self {
            batch: Batch::new(stream.max_datagram, CONTROL_LEN),
            drops: Drops::default(),
            description: format!(
                "netlink protocol {protocol} group {}, {buffer}",
                groups.join("+")
            ),
            socket,
        })
    }
}

/// Gives the socket an address of the kernel's choice.
fn bind(fd: BorrowedFd<'_>) -> io::Result<()> {
    // No pid, no group.
    Ok(rustix::net::bind(fd, &SocketAddrNetlink::new(0, 0))?)
}

impl Source for Netlink {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let fd = self.socket.as_fd();
        while intake.has_room() {
            let mut first = true;
            let drops = &mut self.drops;
            let received = self.batch.receive(fd, intake, |intake, control, _| {
                if std::mem::take(&mut first) {
                    drops.announced |= drops.settle(fd, intake);
                }
                match control.group {
                    Some(group @ 1..) => {
                        Some(Arrival { channel: group as u16, ..Arrival::default() })
                    }
                    _ => {
                        intake.fault(
                            "netlink: a message to this socket alone, not to its group, \
                            was left out",
                        );
                        None
                    }
                }
            });
            match received {
                Ok(count) if count.got == count.most => {}
                Ok(_) | Err(BatchError::Receive(Errno::AGAIN)) => {
                    drops.announced |= drops.settle(fd, intake);
                    return Ok(Fill::Idle);
                }
                Err(BatchError::Receive(Errno::NOBUFS)) => self.drops.overrun(fd, intake),
                Err(e) => return e.outcome("netlink", intake),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.socket.as_fd()), until: None }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
