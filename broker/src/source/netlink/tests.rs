//! NETLINK_USERSOCK between sockets of one process, and messages of the kernel itself. Needs root.

use super::super::test_bench::{Bench, bytes_of, in_namespace, shell};
use super::*;
use ringweir_proto::stats::PumpCounter;
use rustix::net::SendFlags;

const STREAM: OpenFor = OpenFor { max_datagram: 1024 };

#[test]
fn protocols_and_groups_have_names_and_numbers() {
    let spec = |text: &str| text.parse::<Spec>().unwrap();
    assert_eq!(spec("route:link"), Spec { protocol: 0, groups: vec![1], rcvbuf: RCVBUF });
    assert_eq!(spec("0:1,rcvbuf=64KiB"), Spec { rcvbuf: 65536, ..spec("route:link") });
    assert_eq!(spec("route:link+ipv4-route+33").groups, [1, 7, 33]);
    assert_eq!(spec("kobject_uevent:kernel"), spec("15:1"));
    assert_eq!(spec("21:5").protocol, 21);
    for (text, says) in [
        ("route", "not PROTOCOL:GROUP"),
        ("rout:1", "no protocol \"rout\"; say a number up to 31, or route, usersock"),
        ("route:links", "no group \"links\" of route; say a number from 1 to 65535 or link"),
        ("usersock:0", "no group \"0\" of usersock; say a number from 1 to 65535"),
        ("usersock:1,ttl=2", "\"ttl=2\"; there is rcvbuf=SIZE"),
    ] {
        let error = text.parse::<Spec>().unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let error = Netlink::open(&spec("31:1"), &STREAM).err().unwrap().to_string();
    assert!(error.contains("no netlink protocol 31"), "{error}");
}

/// A socket that sends to a group of NETLINK_USERSOCK, or to one other socket.
struct Sender(OwnedFd);

impl Sender {
    fn new() -> Self {
        let kind = (AddressFamily::NETLINK, SocketType::RAW);
        let fd = rustix::net::socket_with(
            kind.0,
            kind.1,
            SocketFlags::CLOEXEC,
            NonZeroU32::new(2).map(Protocol::from_raw),
        );
        let fd = fd.unwrap();
        bind(fd.as_fd()).unwrap();
        Self(fd)
    }

    fn send(&self, bytes: &[u8], group: u32, pid: u32) -> io::Result<usize> {
        let groups = if group == 0 { 0 } else { 1 << (group - 1) };
        let to = SocketAddrNetlink::new(pid, groups);
        match rustix::net::sendto(&self.0, bytes, SendFlags::empty(), &to) {
            // After the group the message goes to pid 0, the kernel, which does not use this
            // protocol.
            Err(Errno::CONNREFUSED) if group > 0 => Ok(bytes.len()),
            sent => Ok(sent?),
        }
    }
}

fn pid_of(socket: &OwnedFd) -> u32 {
    let address = rustix::net::getsockname(socket).unwrap();
    SocketAddrNetlink::try_from(address).unwrap().pid()
}

/// Messages to the group arrive as they were sent, with the group as channel. Control: messages to
/// another group, or to the socket alone, do not arrive.
#[test]
fn messages_of_the_group_arrive_and_no_others() {
    in_namespace("true", || {
        let mut source = Netlink::open(&"usersock:5+9".parse().unwrap(), &STREAM).unwrap();
        let (mut bench, sender) = (Bench::new(1 << 20, 1024), Sender::new());
        let sent: Vec<Vec<u8>> = (0..200_usize).map(|i| vec![i as u8; 16 + i * 5]).collect();
        for (i, message) in sent.iter().enumerate() {
            sender.send(message, if i % 2 == 0 { 5 } else { 9 }, 0).unwrap();
        }
        sender.send(b"other group", 6, 0).unwrap();
        sender.send(b"to it alone", 0, pid_of(&source.socket)).unwrap();
        let (got, fill) = bench.run(&mut source);
        assert_eq!(
            (bytes_of(&got), fill),
            (sent.iter().map(|m| &m[..m.len().min(1024)]).collect(), Fill::Idle)
        );
        assert!(got.iter().enumerate().all(|(i, g)| g.channel == if i % 2 == 0 { 5 } else { 9 }));
        assert!(got.iter().zip(&sent).all(|(g, m)| g.original_len == m.len()));
        let reported = bench.notices();
        assert!(
            reported.len() == 1 && reported[0].contains("to this socket alone"),
            "{reported:?}"
        );
        assert_eq!(bench.count(PumpCounter::KernelLost), 0);
    });
}

/// After an overflow the loss is reported as a lower bound in the layer `kernel`, before any
/// message that came after it. Here only this sender sends, so the bound is the exact number.
/// Control: without an overflow (above) no loss is reported.
#[test]
fn an_overflow_is_a_loss_of_unknown_size() {
    in_namespace("true", || {
        let mut source =
            Netlink::open(&"usersock:5,rcvbuf=4KiB".parse().unwrap(), &STREAM).unwrap();
        let (mut bench, sender) = (Bench::new(1 << 20, 1024), Sender::new());
        let (mut number, mut taken, mut reported) = (0_u32, 0_u64, 0);
        for _ in 0..20 {
            let before = number;
            for _ in 0..100 {
                let _overflowed = sender.send(&number.to_le_bytes(), 5, 0);
                number += 1;
            }
            let got = bench.run(&mut source).0;
            let lost: u64 = got
                .iter()
                .flat_map(|g| &g.lost_before)
                .map(|(layer, n, exact)| {
                    assert_eq!((*layer, *exact), (Layer::Kernel, false));
                    *n
                })
                .sum();
            assert!(
                !got.is_empty() && !got[0].lost_before.is_empty(),
                "reported ahead of what came with it"
            );
            assert_eq!(got[0].bytes, before.to_le_bytes());
            (taken, reported) = (taken + got.len() as u64, reported + lost);
        }
        assert!(taken > 20);
        assert_eq!(
            (taken + reported, bench.count(PumpCounter::KernelLost)),
            (number.into(), reported)
        );
    });
}

/// The kernel itself reports a new interface.
#[test]
fn new_interface_is_reported() {
    in_namespace("true", || {
        let mut source = Netlink::open(&"route:link".parse().unwrap(), &STREAM).unwrap();
        shell("ip link add dummy7 type veth peer name dummy8");
        let mut bench = Bench::new(1 << 20, 1024);
        // The ring's largest datagram may be shorter than the message, but the name comes early in
        // it.
        let got = bench.run(&mut source).0;
        assert!(
            got.iter().any(|g| g.channel == 1 && g.bytes.windows(7).any(|w| w == b"dummy7\0")),
            "{got:?}"
        );
    });
}
