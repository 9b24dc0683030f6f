//! An interface that goes and comes back, under every kind of address. What is sent arrives over a
//! wire, as whole frames: nothing is received that was not joined or bound.

use super::super::super::test_bench::{Bench, bytes_of, in_namespace, shell};
use super::super::super::test_links::{Elsewhere, FrameSender, INDEX, changes, make};
use super::super::interface::bind_to;
use super::super::{OpenFor, Udp};
use crate::source::contract::{Fill, Source};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

const SECOND: u64 = 1_000_000_000;

/// The argument of a source, and where to send to reach it.
const KINDS: [(&str, &str); 8] = [
    ("0.0.0.0:5000@mca", "10.9.0.1:5000"),
    ("[::]:5001@mca", "[fe80::1]:5001"),
    ("[fe80::1]:5002@mca", "[fe80::1]:5002"),
    ("[fe80::1%700]:5003", "[fe80::1]:5003"),
    ("239.9.9.9:5004@mca", "239.9.9.9:5004"),
    ("239.9.9.8:5005", "239.9.9.8:5005"),
    ("[ff02::4242]:5006@mca", "[ff02::4242]:5006"),
    ("[ff05::4242]:5007", "[ff05::4242]:5007"),
];

/// Sends a datagram to the interface, over its wire.
fn send(to: SocketAddr, payload: &[u8]) {
    let udp_len = (8 + payload.len()) as u16;
    let mut udp =
        [&9_u16.to_be_bytes()[..], &to.port().to_be_bytes(), &udp_len.to_be_bytes()].concat();
    udp.extend([0, 0]);
    udp.extend(payload);
    let (kind, packet) = match to.ip() {
        IpAddr::V4(to) => {
            let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 9, 17, 0, 0, 10, 9, 0, 2];
            ip.extend(to.octets());
            ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            (0x0800_u16, [ip, udp].concat())
        }
        IpAddr::V6(to) => {
            let from: std::net::Ipv6Addr = "fe80::2".parse().unwrap();
            let addresses = [from.octets(), to.octets()].concat();
            let mut pseudo = [&addresses[..], &u32::from(udp_len).to_be_bytes()].concat();
            pseudo.extend([0, 0, 0, 17]);
            let sum = checksum(&[&pseudo[..], &udp].concat());
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend(udp_len.to_be_bytes());
            ip.extend([17, 9]);
            (0x86DD, [ip, addresses, udp].concat())
        }
    };
    let frame = [&[0xFF; 6][..], &[2, 0, 0, 0, 0, 1], &kind.to_be_bytes(), &packet].concat();
    FrameSender::on("mcb").send(&frame);
}

/// The checksum of the Internet protocols.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Every source receives over its interface again, whatever happened to it, whether the source
/// looked while it was away or not. Control: a socket that was bound to the first interface, and
/// is not watched, is deaf after the first change of the index.
#[test]
fn an_interface_that_comes_back_is_received_from_again() {
    in_namespace(&format!("ip link set lo up; {}", make(INDEX)), || {
        let elsewhere = Elsewhere::new();
        let open = |(argument, to): (&'static str, &str)| {
            let (max, mut bench) = (2000, Bench::new(1 << 20, 2000));
            bench.now = SECOND;
            let source = Udp::open(&argument.parse().unwrap(), &OpenFor { max_datagram: max });
            let source = source.unwrap_or_else(|e| panic!("{argument}: {e}"));
            assert!(source.describe().contains(" on mca"), "{}", source.describe());
            (argument, to.parse::<SocketAddr>().unwrap(), source, bench)
        };
        let mut sources = KINDS.map(open);
        let unwatched = UdpSocket::bind("0.0.0.0:5008").unwrap();
        unwatched.set_nonblocking(true).unwrap();
        bind_to(unwatched.as_fd(), INDEX).unwrap();
        let hears = || {
            send("10.9.0.1:5008".parse().unwrap(), b"?");
            unwatched.recv(&mut [0; 9]).is_ok()
        };
        assert!(hears(), "control");

        let mut other_index = false;
        for change in changes(&elsewhere) {
            for looks in [true, false] {
                let when = format!("{}, looks meanwhile: {looks}", change.what);
                if change.back == make(INDEX + 1) && !looks {
                    continue;
                }
                shell(&change.away);
                for (_, _, source, bench) in &mut sources {
                    bench.now += SECOND;
                    if looks {
                        assert_eq!(bench.run(source).1, Fill::Idle);
                    }
                }
                shell(&change.back);
                for (argument, to, source, bench) in &mut sources {
                    bench.now += SECOND;
                    bench.run(source);
                    let reported = bench.notices();
                    assert_eq!(source.wait_for().until, None, "{argument}: {when}: {reported:?}");
                    send(*to, when.as_bytes());
                    let got = bench.run(source).0;
                    assert_eq!(
                        bytes_of(&got),
                        [when.as_bytes()],
                        "{argument}: {when}: {reported:?}"
                    );
                    let same = change.same && !(looks && change.what.contains("renamed"));
                    assert_eq!(reported.is_empty(), same, "{argument}: {when}: {reported:?}");
                }
                other_index |= !change.same;
                assert_eq!(hears(), !other_index, "control: {when}");
            }
        }
    });
}
