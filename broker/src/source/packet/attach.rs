//! A packet socket and its interface: binding it, what kind of interface it is, promiscuous mode
//! and hardware timestamps.
//!
//! Contract: binding again to the same interface changes nothing, unless the kernel has dissolved
//! the binding meanwhile, because the interface was removed.

#![allow(unsafe_code)]

use super::super::contract::SourceError;
use super::super::socket::set_option;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Link type of SocketCAN.
pub(super) const CAN: u16 = 227;

/// The kind of interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) ethernet: bool,
    pub(super) loopback: bool,
    /// Link type in a capture.
    pub(super) link_type: u16,
}

impl Link {
    /// From the kernel's type of the interface (`ARPHRD_…`).
    fn of(hardware: u16) -> Self {
        const RAW_IP: u16 = 519;
        const IEEE80211: u16 = 801;
        const RADIOTAP: u16 = 803;
        const VSOCKMON: u16 = 826;
        let loopback = hardware == libc::ARPHRD_LOOPBACK;
        let ethernet = loopback || hardware == libc::ARPHRD_ETHER;
        let link_type = match hardware {
            _ if ethernet => 1,
            // Nothing before the IP header.
            libc::ARPHRD_NONE | RAW_IP | libc::ARPHRD_SIT => 101,
            libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 => 101,
            libc::ARPHRD_CAN => CAN,
            IEEE80211 => 105,
            RADIOTAP => 127,
            VSOCKMON => 271,
            // For own use: it claims nothing.
            _ => 147,
        };
        Self { ethernet, loopback, link_type }
    }
}

/// The error of step `step`, with what to do about it.
pub(super) fn refused(step: &str, e: impl Into<io::Error>) -> SourceError {
    let e = e.into();
    match (step, e.raw_os_error()) {
        ("socket", Some(libc::EPERM | libc::EACCES)) => {
            SourceError::new("needs CAP_NET_RAW: run with sudo, or setcap cap_net_raw+ep ringd")
        }
        ("ring", Some(libc::ENOMEM)) => SourceError::new(
            "no memory for the ring of blocks: give fewer or smaller ones with blocks= and block=",
        ),
        ("hwtstamp", Some(libc::EOPNOTSUPP | libc::ENOTTY)) => SourceError::new(
            "hwtstamp: this interface has no hardware receive timestamps (see `ethtool -T`)",
        ),
        ("hwtstamp", Some(libc::EPERM)) => {
            SourceError::new("hwtstamp: setting up the network card needs CAP_NET_ADMIN")
        }
        _ => SourceError(format!("{step}: {e}")),
    }
}

/// Binds the socket to an interface and a protocol; 0: to none.
pub(super) fn bind(
    fd: BorrowedFd<'_>,
    index: u32,
    protocol: u16,
) -> Result<libc::sockaddr_ll, SourceError> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a live local of `len` bytes, which the kernel only reads.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
        return Err(refused("bind", io::Error::last_os_error()));
    }
    Ok(address)
}

/// Binds the socket to an interface, and looks what it is.
pub(super) fn attach(fd: BorrowedFd<'_>, index: u32, promisc: bool) -> Result<Link, SourceError> {
    let mut address = bind(fd, index, libc::ETH_P_ALL as u16)?;
    let mut len = size_of_val(&address) as libc::socklen_t;
    if promisc {
        set_promiscuous(fd, index, libc::PACKET_ADD_MEMBERSHIP)
            .map_err(|e| refused("promisc", e))?;
    }
    // SAFETY: `address` and `len` are live locals, and `len` is the size of `address`. The kernel
    // writes at most that many bytes into `address`, and the length into `len`. Any bits are a
    // valid address.
    if unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) } != 0 {
        return Err(refused("getsockname", io::Error::last_os_error()));
    }
    Ok(Link::of(address.sll_hatype))
}

/// Adds or drops promiscuous mode of an interface, which lasts as long as the socket.
pub(super) fn set_promiscuous(fd: BorrowedFd<'_>, index: u32, how: i32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, libc::SOL_PACKET, how, &request)
}

/// Makes the network card put its own time on every frame that it receives.
pub(super) fn stamp_in_hardware(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut config =
        libc::hwtstamp_config { flags: 0, tx_type: 0, rx_filter: libc::HWTSTAMP_FILTER_ALL as i32 };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut config).cast() },
    };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: `request` is the `ifreq` that the call expects: its name ends with a zero byte,
    // because one byte less than its length is copied, and its pointer leads to the
    // `hwtstamp_config` that this request takes. Both are live locals, and the kernel accesses them
    // only during the call.
    let outcome = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSHWTSTAMP, &raw mut request) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
