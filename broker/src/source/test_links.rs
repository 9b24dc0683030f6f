//! Shared by the unit tests of `udp:` and `packet:`: what can happen to a network interface, and
//! frames sent through one.

#![allow(unsafe_code)]

use super::socket::interface;
use super::test_bench::shell;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command};

/// Sends whole frames on one interface. It receives nothing.
pub struct FrameSender(OwnedFd);

impl FrameSender {
    pub fn on(name: &str) -> Self {
        let kind = (AddressFamily::PACKET, SocketType::RAW, SocketFlags::empty());
        let fd = rustix::net::socket_with(kind.0, kind.1, kind.2, None).unwrap();
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: interface(fd.as_fd(), name).unwrap() as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a live local of `len` bytes, which the kernel only reads.
        let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
        Self(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = rustix::net::send(&self.0, frame, SendFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }
}

/// The interface `mca`, with the other end of its wire, `mcb`.
pub const READY: &str = "\
    echo 1 >/proc/sys/net/ipv6/conf/mcb/disable_ipv6; ip link set mcb up; ip link set mca up; \
    ip addr replace 10.9.0.1/24 dev mca; ip -6 addr replace fe80::1/64 dev mca nodad; \
    ip route replace 239.0.0.0/8 dev mca; ip -6 route replace table local ff05::/16 dev mca; \
    until ip link show mca | grep -q 'state UP'; do sleep 0.02; done";

/// Makes it, with this index.
pub fn make(index: u32) -> String {
    format!("ip link add mca index {index} type veth peer name mcb; {READY}")
}

/// The index it has at first.
pub const INDEX: u32 = 700;

/// Something that happens to the interface.
pub struct Change {
    pub what: &'static str,
    /// Shell lines that take it away, and that bring it back.
    pub away: String,
    pub back: String,
    /// It is the same interface as before.
    pub same: bool,
}

/// Everything that happens to it, in order. `elsewhere` is another network namespace.
pub fn changes(elsewhere: &Elsewhere) -> Vec<Change> {
    let pid = elsewhere.0.id();
    let change =
        |what, same, away: &str, back: String| Change { what, away: away.into(), back, same };
    vec![
        change("down and up", true, "ip link set mca down", READY.into()),
        change(
            "renamed and renamed back",
            true,
            "ip link set mca down; ip link set mca name mcx; ip link set mcx up",
            format!("ip link set mcx down; ip link set mcx name mca; {READY}"),
        ),
        change(
            "renamed, and another one has the name",
            false,
            "ip link set mca down; ip link set mca name mcx; ip link set mcb name mcy; \
             ip addr flush dev mcx; ip link set mcx up",
            make(INDEX + 1),
        ),
        change("deleted and made again", false, "ip link del mca", make(INDEX + 2)),
        change("deleted and made again", false, "ip link del mca", make(INDEX + 3)),
        change("made again with the same index", false, "ip link del mca", make(INDEX + 3)),
        change(
            "moved away and back",
            false,
            &format!("ip link set mca netns {pid}"),
            format!("nsenter -t {pid} -n ip link set mca netns $$; {READY}"),
        ),
    ]
}

/// Another network namespace, which lasts as long as a process in it.
pub struct Elsewhere(Child);

impl Elsewhere {
    pub fn new() -> Self {
        let child = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().expect("unshare");
        let pid = child.id();
        let elsewhere = Self(child);
        shell(&format!(
            "until [ \"$(readlink /proc/{pid}/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do \
             sleep 0.02; done"
        ));
        elsewhere
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ended = (self.0.kill(), self.0.wait());
    }
}
