//! Capture in separate network namespaces: over a veth pair, and over loopback, where the kernel
//! shows each frame twice. Every test checks the account: sent = published + lost. Without root
//! these tests are reported as skipped.

use super::super::test_bench::{Bench, Got, bytes_of, in_namespace, shell, wait};
use super::super::test_links::{Elsewhere, FrameSender, INDEX, changes, make};
use super::*;
use ringweir_proto::stats::PumpCounter;

/// Two connected interfaces on which only the test sends. A frame that is sent before the kernel
/// has noticed the carrier, a moment after both interfaces are up, is lost.
const WIRE: &str = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; ip link add va type veth \
    peer name vb; \
    ip link set va up; ip link set vb up; \
    for i in va vb; do until ip link show $i | grep -q 'state UP'; do sleep 0.02; done; done";

fn capture(argument: &str, max_datagram: usize) -> PacketSource {
    PacketSource::open(argument.parse().unwrap(), &OpenFor { max_datagram }).unwrap()
}

/// A broadcast frame of `len` bytes that is different for each `number`.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame =
        [&[0xFF; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xB5], &number.to_le_bytes()].concat();
    frame.extend((frame.len()..len).map(|i| (number as usize * 31 + i * 7) as u8));
    frame.truncate(len);
    frame
}

/// Everything that arrives until nothing has come for 60 ms.
fn collect(bench: &mut Bench, source: &mut PacketSource) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let (got, fill) = bench.run(source);
        all.extend(got);
        assert_eq!(fill, Fill::Idle);
        if !wait(source, 60) {
            return all;
        }
    }
}

/// A child of this process, such as a program's spawner, does not hold the socket by its mapping.
/// Control: this process has mapped it.
#[test]
fn children_do_not_map_the_socket() {
    in_namespace("ip link set lo up", || {
        let source = capture("lo", 2048);
        let name = format!("socket:[{}]", rustix::fs::fstat(&source.socket).unwrap().st_ino);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, mapping) = smaps.split_once(&name).expect("control");
        let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "dc"), "{flags}");
    });
}

#[test]
fn specs_parse_and_refuse_by_name() {
    let spec: Spec =
        "eth0,snaplen=96,block=1MiB,blocks=4,timeout=2ms,promisc,hwtstamp".parse().unwrap();
    let expected = Spec {
        interface: "eth0".into(),
        snaplen: 96,
        block: 1 << 20,
        blocks: 4,
        timeout_ms: 2,
        promisc: true,
        hwtstamp: true,
    };
    assert_eq!(spec, expected);
    assert_eq!("lo,timeout=50".parse::<Spec>().unwrap().timeout_ms, 50);
    let refused = |text: &str| text.parse::<Spec>().unwrap_err().to_string();
    assert!(refused("").contains("name of a network interface"));
    assert!(refused("lo,fanout").starts_with("\"fanout\": there are snaplen="));
    assert!(refused("lo,promisc=yes").starts_with("\"promisc=yes\": there are"));
    assert!(refused("lo,snaplen=0").contains("at least one byte"));
    assert!(refused("lo,block=5000").contains("\"block=5000\": a block is a multiple of 4KiB"));
    assert!(refused("lo,blocks=1").contains("2 to 65536 blocks"));
    assert!(refused("lo,timeout=0").contains("from 1ms to 1s"));
    assert!(refused("lo,timeout=soon").contains("duration \"soon\""));
    let text = super::refused("socket", std::io::Error::from_raw_os_error(libc::EPERM)).to_string();
    assert_eq!(text, "needs CAP_NET_RAW: run with sudo, or setcap cap_net_raw+ep ringd");
}

#[test]
fn every_frame_of_a_wire_arrives_whole_and_in_order() {
    in_namespace(WIRE, || {
        let mut bench = Bench::new(8 << 20, 2048);
        let mut source = capture("vb,block=64KiB,blocks=64,timeout=2", 2048);
        assert_eq!(
            source.describe(),
            "vb, frames wait up to 2 ms in 64 blocks of 64 KiB, kernel timestamps, frames longer \
            than --max-datagram (2 KiB) are cut"
        );
        let sender = FrameSender::on("va");
        let clock = || {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
                as u64
        };
        let before = clock();
        let sent: Vec<_> = (0..2000).map(|i| frame(i, 18 + (i as usize * 37) % 1497)).collect();
        for frame in &sent {
            sender.send(frame);
        }
        let got = collect(&mut bench, &mut source);
        assert!(bytes_of(&got) == sent, "{} of {}", got.len(), sent.len());
        assert!(got.iter().all(
            |g| (before..=clock()).contains(&g.source_time) && g.original_len == g.bytes.len()
        ));
        assert!(got.is_sorted_by_key(|g| g.source_time));
        assert_eq!(
            (bench.count(PumpCounter::Published), bench.count(PumpCounter::KernelLost)),
            (2000, 0)
        );
        assert_eq!(bench.notices(), [""; 0]);
    });
}

#[test]
fn frames_without_room_are_counted_and_reported_in_order() {
    in_namespace(WIRE, || {
        let mut bench = Bench::new(8 << 20, 2048);
        let mut source = capture("vb,block=16KiB,blocks=4,timeout=2", 2048);
        let sender = FrameSender::on("va");
        let (mut sent, mut next, mut lost) = (0_u32, 0, 0);
        for round in 0..20 {
            for _ in 0..1 + round * 40 {
                sender.send(&frame(sent, 500));
                sent += 1;
            }
            for datagram in collect(&mut bench, &mut source) {
                let reported: u64 = datagram.lost_before.iter().map(|l| l.1).sum();
                assert!(
                    datagram
                        .lost_before
                        .iter()
                        .all(|&(layer, _, exact)| layer == Layer::Kernel && exact)
                );
                let number =
                    u64::from(u32::from_le_bytes(*datagram.bytes[14..].first_chunk().unwrap()));
                assert_eq!(number, next + reported, "round {round}");
                next = number + 1;
                lost += reported;
            }
            let account =
                bench.count(PumpCounter::Published) + bench.count(PumpCounter::KernelLost);
            assert_eq!(account, u64::from(sent), "round {round}");
        }
        assert!(lost > 1000, "{lost}");
    });
}

/// The pump falls behind for long: the kernel drops, gets a block or two back, fills them and drops
/// again. Each loss is reported where it was, between the blocks.
#[test]
fn losses_between_blocks_are_reported_between_them() {
    in_namespace(WIRE, || {
        let mut bench = Bench::new(8 << 20, 2048);
        let mut source = capture("vb,block=16KiB,blocks=4,timeout=2", 2048);
        let sender = FrameSender::on("va");
        let (mut sent, mut next, mut losses) = (0_u32, 0, 0);
        let mut check = |got: Vec<Got>| {
            for datagram in got {
                let reported: u64 = datagram.lost_before.iter().map(|l| l.1).sum();
                let number =
                    u64::from(u32::from_le_bytes(*datagram.bytes[14..].first_chunk().unwrap()));
                assert_eq!(number, next + reported, "{:?}", datagram.lost_before);
                (next, losses) = (number + 1, losses + u32::from(reported > 0));
            }
            next
        };
        for _ in 0..30 {
            for _ in 0..300 {
                sender.send(&frame(sent, 500));
                sent += 1;
            }
            // The kernel hands over the block that is not full after 2 ms.
            std::thread::sleep(std::time::Duration::from_millis(6));
            // One round takes at most 64 frames, of more than two blocks.
            bench.round(&mut source);
            check(bench.read());
        }
        let next = check(collect(&mut bench, &mut source));
        let account = bench.count(PumpCounter::Published) + bench.count(PumpCounter::KernelLost);
        assert_eq!(account, u64::from(sent));
        assert!(next <= account && losses > 20, "{losses}");
    });
}

#[test]
fn long_frames_are_cut_with_their_length() {
    in_namespace(WIRE, || {
        for (argument, max, kept) in
            [("vb,snaplen=100", 2048, 100), ("vb", 96, 96), ("vb,snaplen=64", 99, 64)]
        {
            let mut bench = Bench::new(1 << 20, max as u64);
            let mut source = capture(argument, max);
            let sender = FrameSender::on("va");
            let sent: Vec<_> = [60, kept, kept + 1, 1500].map(|len| frame(7, len)).into();
            sent.iter().for_each(|frame| sender.send(frame));
            let got = collect(&mut bench, &mut source);
            let seen: Vec<_> = got.iter().map(|g| (&g.bytes[..], g.original_len)).collect();
            let expected: Vec<_> =
                sent.iter().map(|s| (&s[..s.len().min(kept)], s.len())).collect();
            assert_eq!(seen, expected);
            assert_eq!(bench.count(PumpCounter::Truncated), 2);
        }
    });
}

#[test]
fn vlan_tags_are_restored() {
    in_namespace(WIRE, || {
        for tpid in [0x8100_u16, 0x88A8] {
            for max in [2048, 15] {
                let mut bench = Bench::new(1 << 20, max as u64);
                let mut source = capture("vb", max);
                let sender = FrameSender::on("va");
                let plain = frame(3, 80);
                let tagged =
                    [&plain[..12], &tpid.to_be_bytes(), &[0x20, 0x2A], &plain[12..]].concat();
                sender.send(&tagged);
                sender.send(&plain);
                let got = collect(&mut bench, &mut source);
                assert_eq!(
                    bytes_of(&got),
                    [&tagged[..84.min(max)], &plain[..80.min(max)]],
                    "{tpid:x}"
                );
                assert_eq!((got[0].original_len, got[1].original_len), (84, 80));
            }
        }
    });
}

/// With the size that a ring has unless another one is configured, full segments over loopback are
/// whole, and the start message says nothing of cutting. Control: 64 KiB, the size with other
/// sources, cuts them, and the start message says so.
#[test]
fn full_segments_over_loopback_are_whole() {
    in_namespace("ip link set lo up", || {
        for (max, whole) in [(LONGEST as usize, true), (64 << 10, false)] {
            let mut bench = Bench::new(16 << 20, max as u64);
            let mut source = capture("lo", max);
            assert_eq!(source.describe().contains("--max-datagram (64 KiB)"), !whole);
            // With its headers the longest datagram of UDP is as long as a full segment of TCP.
            let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(&vec![0; 65_507], receiver.local_addr().unwrap()).unwrap();
            let got = collect(&mut bench, &mut source);
            let longest = got.iter().map(|got| got.original_len).max().unwrap();
            assert!(longest > 65_536, "control: {longest}");
            let cut = got.iter().filter(|got| got.bytes.len() < got.original_len).count();
            assert_eq!(cut == 0, whole, "{cut} of {} cut, longest {longest}", got.len());
        }
    });
}

#[test]
fn loopback_shows_every_frame_once() {
    in_namespace("ip link set lo up", || {
        let mut bench = Bench::new(1 << 20, 2048);
        let mut source = capture("lo", 2048);
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for payload in [b"first", b"again"] {
            sender.send_to(payload, receiver.local_addr().unwrap()).unwrap();
        }
        let got = collect(&mut bench, &mut source);
        let payloads: Vec<_> = got.iter().map(|g| &g.bytes[g.bytes.len() - 5..]).collect();
        assert_eq!(payloads, [b"first", b"again"]);
    });
}

const SECOND: u64 = 1_000_000_000;

/// Whatever happened to the interface, and whether the source looked while it was away or not,
/// frames are captured again, promiscuously. Control: a socket of which nobody looks after the
/// interface captures nothing any more once it was another one.
#[test]
fn an_interface_that_comes_back_is_captured_again() {
    in_namespace(&make(INDEX), || {
        let elsewhere = Elsewhere::new();
        let mut bench = Bench::new(1 << 20, 2048);
        let mut source = capture("mca,promisc", 2048);
        let mut unwatched = capture("mca", 2048);
        let mut other = false;
        let mut number = 0;
        for change in changes(&elsewhere) {
            for looks in [true, false] {
                let when = format!("{}, looks meanwhile: {looks}", change.what);
                if change.back == make(INDEX + 1) && !looks {
                    continue;
                }
                shell(&change.away);
                if looks {
                    bench.now += SECOND;
                    ours(&mut bench, &mut source);
                }
                shell(&change.back);
                for _ in 0..2 {
                    bench.now += SECOND;
                    ours(&mut bench, &mut source);
                }
                let reported = bench.notices();
                assert_eq!(source.wait_for().until, None, "{when}: {reported:?}");
                number += 1;
                FrameSender::on("mcb").send(&frame(number, 60));
                let got = ours(&mut bench, &mut source);
                assert_eq!(got, [frame(number, 60)], "{when}: {reported:?}");
                let back = reported
                    .iter()
                    .any(|reported| reported.ends_with("is back, capture continues"));
                assert_eq!(back, !change.same, "{when}: {reported:?}");
                let details =
                    std::process::Command::new("ip").args(["-d", "link", "show", "mca"]).output();
                let details = String::from_utf8(details.unwrap().stdout).unwrap();
                assert!(details.contains("promiscuity 1"), "{when}: {details}");

                other |= !change.same;
                let mut control = Bench::new(1 << 20, 2048);
                unwatched.look = u64::MAX;
                let captured = control.run(&mut unwatched).0;
                let captured = captured.iter().filter(|got| got.bytes == frame(number, 60));
                assert_eq!(captured.count(), usize::from(!other), "control: {when}");
            }
        }
    });
}

/// The frames of the test that arrive; the kernel sends frames of its own.
fn ours(bench: &mut Bench, source: &mut PacketSource) -> Vec<Vec<u8>> {
    let all = collect(bench, source).into_iter().map(|got| got.bytes);
    all.filter(|bytes| bytes[12..14] == [0x88, 0xB5]).collect()
}

#[test]
fn unsupported_options_are_refused() {
    in_namespace(WIRE, || {
        let refused = |text: &str| {
            let opened = PacketSource::open(text.parse().unwrap(), &OpenFor { max_datagram: 64 });
            opened.err().unwrap().to_string()
        };
        assert_eq!(refused("nosuch0"), "no interface \"nosuch0\"; there are: lo, va, vb");
        assert!(refused("vb,hwtstamp").starts_with("hwtstamp: this interface has no hardware"));
    });
}
