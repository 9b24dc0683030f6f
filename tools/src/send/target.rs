//! Where `ringsend` sends to: `udp:ADDRESS:PORT[@INTERFACE][,OPTION…]`.
//!
//! Contract: the socket is connected, so that the kernel looks up the route once and reports ICMP
//! errors. A multicast datagram leaves through the given interface, or else by the route. Options
//! that are not given keep the kernel's default. An interface that comes back is another one, and
//! a connected socket keeps the interface and the source address that it began with: [`Connection`]
//! then opens another socket.

#![allow(unsafe_code)]

use anyhow::{Context, anyhow};
use ringweir_cli::quantity::Bytes;
use ringweir_proto::os::links::{LinkNews, LinkWatch};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The value of `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    address: SocketAddr,
    interface: Option<String>,
    ttl: Option<u8>,
    /// Whether multicast datagrams are received on this machine as well.
    local: Option<bool>,
    whole: bool,
    sndbuf: Option<u64>,
    /// As typed.
    text: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest =
            text.strip_prefix("udp:").ok_or_else(|| format!("{text:?} is not udp:ADDRESS:PORT"))?;
        let mut parts = rest.split(',');
        let place = parts.next().unwrap_or_default();
        let (address, interface) = match place.split_once('@') {
            Some((_, "")) => return Err(format!("{place:?} has no interface after the @")),
            Some((address, name)) => (address, Some(name.to_owned())),
            None => (place, None),
        };
        let address: SocketAddr = address.parse().map_err(|_| {
            format!(
                "{address:?} is not a numeric ADDRESS:PORT such as 10.0.0.7:5000, \
                [ff02::7]:5000 or 239.1.2.3:5000"
            )
        })?;
        if address.port() == 0 {
            return Err("port 0 cannot receive: give the receiver's port".into());
        }
        let mut target = Self {
            address,
            interface,
            ttl: None,
            local: None,
            whole: false,
            sndbuf: None,
            text: text.into(),
        };
        for option in parts {
            match option.split_once('=').unwrap_or((option, "")) {
                ("ttl", value) => {
                    let ttl = value.parse().ok().filter(|ttl| *ttl > 0);
                    target.ttl =
                        Some(ttl.ok_or_else(|| {
                            format!("{option}: give a number of hops from 1 to 255")
                        })?);
                }
                ("loop", "on") => target.local = Some(true),
                ("loop", "off") => target.local = Some(false),
                ("df", "") => target.whole = true,
                ("sndbuf", size) => {
                    target.sndbuf = Some(size.parse::<Bytes>().map_err(|e| e.to_string())?.0)
                }
                _ => {
                    return Err(format!(
                        "unknown option {option:?}; there are ttl=, loop=on|off, df and sndbuf="
                    ));
                }
            }
        }
        if target.local.is_some() && !address.ip().is_multicast() {
            return Err(format!("loop= is for multicast; {} is not", address.ip()));
        }
        Ok(target)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Shortest time between two looks at the interface, or two attempts to open a socket again.
const LOOK: Duration = Duration::from_millis(100);

/// A socket that sends to a target, and is opened again when the interface behind it is another
/// one.
pub(super) struct Connection {
    target: Target,
    socket: OwnedFd,
    watch: Option<LinkWatch>,
    looked: Instant,
    opened: Instant,
}

impl Connection {
    pub(super) fn open(target: &Target) -> anyhow::Result<Self> {
        let mut target = target.clone();
        if target.interface.is_none()
            && let SocketAddr::V6(v6) = &target.address
            && v6.scope_id() != 0
        {
            // `[fe80::1%2]:5000`: the index of an interface, which is followed by its name.
            let any = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
            target.interface = rustix::net::netdevice::index_to_name(&any, v6.scope_id()).ok();
        }
        let watch = target.interface.as_deref().map(LinkWatch::new).transpose()?;
        let socket = target.open()?;
        let now = Instant::now();
        Ok(Self { target, socket, watch, looked: now, opened: now })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Looks at the interface, if that is due. Returns whether the socket is another one now.
    pub(super) fn look(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        matches!(watch.look(), LinkNews::Another(_) | LinkNews::Unsure(_)) && self.reopen()
    }

    /// A datagram was refused, perhaps because the interface or the source address has changed.
    /// Opens another socket, if that is due and possible.
    pub(super) fn refused(&mut self) -> bool {
        self.opened.elapsed() >= LOOK && self.reopen()
    }

    fn reopen(&mut self) -> bool {
        self.opened = Instant::now();
        match self.target.open() {
            Ok(socket) => {
                self.socket = socket;
                true
            }
            // What is sent is refused, which is counted and reported.
            Err(_) => false,
        }
    }
}

impl Target {
    /// A socket that sends there.
    fn open(&self) -> anyhow::Result<OwnedFd> {
        let (v4, multicast) = (self.address.is_ipv4(), self.address.ip().is_multicast());
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(
            family,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .context("socket")?;
        let mut address = self.address;
        if let Some(name) = &self.interface {
            let index = rustix::net::netdevice::name_to_index(&fd, name)
                .map_err(|e| anyhow!("no interface {name:?} (see `ip link`): {e}"))?;
            if let SocketAddr::V6(v6) = &mut address {
                // Link-local addresses, unicast and multicast, mean nothing without their
                // interface.
                v6.set_scope_id(index);
            }
            match (multicast, v4) {
                (true, true) => {
                    let any = std::net::Ipv4Addr::UNSPECIFIED;
                    sockopt::set_ip_multicast_if_with_ifindex(&fd, &any, &any, index)
                }
                (true, false) => sockopt::set_ipv6_multicast_if(&fd, index),
                (false, _) => bind_to(&fd, index),
            }
            .with_context(|| format!("sending through {name}"))?;
        }
        if let Some(ttl) = self.ttl {
            match (multicast, v4) {
                (true, true) => sockopt::set_ip_multicast_ttl(&fd, ttl.into()),
                (true, false) => sockopt::set_ipv6_multicast_hops(&fd, ttl.into()),
                (false, true) => sockopt::set_ip_ttl(&fd, ttl.into()),
                (false, false) => sockopt::set_ipv6_unicast_hops(&fd, Some(ttl)),
            }
            .context("ttl")?;
        }
        if let Some(local) = self.local {
            match v4 {
                true => sockopt::set_ip_multicast_loop(&fd, local),
                false => sockopt::set_ipv6_multicast_loop(&fd, local),
            }
            .context("loop")?;
        }
        if self.whole {
            match v4 {
                true => sockopt::set_ip_mtu_discover(&fd, Ipv4PathMtuDiscovery::DO),
                false => sockopt::set_ipv6_mtu_discover(&fd, Ipv6PathMtuDiscovery::DO),
            }
            .context("df")?;
        }
        if let Some(asked) = self.sndbuf {
            let bytes = asked.min(i32::MAX as u64 / 2) as usize;
            sockopt::set_socket_send_buffer_size_force(&fd, bytes)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&fd, bytes))
                .context("sndbuf")?;
        }
        rustix::net::connect(&fd, &address).map_err(|e| match e {
            rustix::io::Errno::NETUNREACH => {
                anyhow!("no route to {}: name an interface with @INTERFACE", self.address.ip())
            }
            rustix::io::Errno::ACCESS => {
                anyhow!(
                    "{} is a broadcast address; ringsend sends to unicast and multicast addresses \
                    only",
                    self.address.ip()
                )
            }
            e => anyhow!("{}: {e}", self.address),
        })?;
        Ok(fd)
    }
}

/// Sets SO_BINDTOIFINDEX, which rustix does not support.
fn bind_to(fd: &OwnedFd, index: u32) -> Result<(), rustix::io::Errno> {
    let len = size_of_val(&index) as libc::socklen_t;
    let (raw, value) = (fd.as_fd().as_raw_fd(), (&raw const index).cast());
    // SAFETY: `value` points to `index`, a live local of `len` bytes, which the kernel only reads.
    let rc = unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, value, len) };
    if rc == 0 {
        return Ok(());
    }
    Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
        .unwrap_or(rustix::io::Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed_and_bad_ones_refused_by_name() {
        let target: Target =
            "udp:239.1.2.3:5000@eth0,ttl=4,loop=off,df,sndbuf=1MiB".parse().unwrap();
        assert_eq!(
            (target.address, target.interface.as_deref()),
            ("239.1.2.3:5000".parse().unwrap(), Some("eth0"))
        );
        assert_eq!(
            (target.ttl, target.local, target.whole, target.sndbuf),
            (Some(4), Some(false), true, Some(1 << 20))
        );
        assert!("udp:[ff02::7]:5000@eth0".parse::<Target>().is_ok());
        for (text, says) in [
            ("tcp:1.2.3.4:5", "is not udp:ADDRESS:PORT"),
            ("udp:localhost:5", "\"localhost:5\" is not a numeric"),
            ("udp:1.2.3.4:0", "port 0"),
            ("udp:1.2.3.4:5@", "no interface after the @"),
            ("udp:1.2.3.4:5,ttl=0", "ttl=0: give a number of hops"),
            ("udp:1.2.3.4:5,loop=on", "loop= is for multicast"),
            ("udp:1.2.3.4:5,rcvbuf=1", "\"rcvbuf=1\"; there are ttl="),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error =
            "udp:127.0.0.1:5@nosuch0".parse::<Target>().unwrap().open().unwrap_err().to_string();
        assert!(error.contains("no interface \"nosuch0\""), "{error}");
        assert!("udp:127.0.0.1:5@lo,ttl=3,df".parse::<Target>().unwrap().open().is_ok());
        assert!("udp:239.1.2.3:5@lo,ttl=3,loop=on".parse::<Target>().unwrap().open().is_ok());
    }
}
