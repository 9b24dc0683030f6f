//! UDP over loopback and in a network namespace. Every test checks the account: sent = published +
//! lost.

use super::super::test_bench::{Bench, Got, bytes_of};
use super::*;
use ringweir_proto::stats::PumpCounter;
use std::net::UdpSocket;

mod interface;

/// A source, and a socket connected to it.
fn pair(spec: &str, max_datagram: usize) -> (Udp, UdpSocket) {
    let source = Udp::open(&spec.parse().unwrap(), &OpenFor { max_datagram }).unwrap();
    let bound: SocketAddr = rustix::net::getsockname(&source.socket).unwrap().try_into().unwrap();
    let sender = UdpSocket::bind(if bound.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    sender.connect(bound).unwrap();
    (source, sender)
}

/// `len` bytes that are different for each `number`.
fn make(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (number as usize * 31 + i * 7) as u8).collect();
    for (to, from) in bytes.iter_mut().zip(number.to_le_bytes()) {
        *to = from;
    }
    bytes
}

fn number(got: &Got) -> u32 {
    u32::from_le_bytes(*got.bytes.first_chunk().unwrap())
}

/// Sends the datagrams, and returns what came.
fn pass(
    bench: &mut Bench,
    source: &mut Udp,
    sender: &UdpSocket,
    datagrams: &[Vec<u8>],
) -> Vec<Got> {
    for datagram in datagrams {
        assert_eq!(sender.send(datagram).unwrap(), datagram.len());
    }
    let (got, fill) = bench.run(source);
    assert_eq!(fill, Fill::Idle);
    got
}

#[test]
fn specs_parse_and_refuse_by_name() {
    let spec: Spec = "239.1.2.3:5000@eth0,rcvbuf=64KiB".parse().unwrap();
    let expected = Spec {
        address: "239.1.2.3:5000".parse().unwrap(),
        interface: Some("eth0".into()),
        rcvbuf: 65536,
    };
    assert_eq!(spec, expected);
    assert_eq!("[::1]:7".parse::<Spec>().unwrap().rcvbuf, RCVBUF);
    let refused = |text: &str| text.parse::<Spec>().unwrap_err().to_string();
    assert!(refused("localhost:5000").contains("\"localhost:5000\" is not a numeric ADDRESS:PORT"));
    assert!(refused("1.2.3.4:5@").contains("no interface"));
    assert!(refused("1.2.3.4:5,ttl=3").contains("\"ttl=3\"; there is rcvbuf=SIZE"));
    assert!(refused("1.2.3.4:5,rcvbuf=big").contains("size \"big\""));
    let refused = |text: &str| {
        Udp::open(&text.parse().unwrap(), &OpenFor { max_datagram: 64 }).err().unwrap().to_string()
    };
    assert_eq!(refused("198.51.100.7:5000"), "198.51.100.7 is no address of this machine");
    assert!(refused("239.1.2.3:5000@nosuch0").starts_with("no interface \"nosuch0\"; there are: "));
    // The kernel has no word for what is wrong with these.
    for group in ["ff02::7", "ff32::8000:1", "ff01::7"] {
        let expected = format!("joining {group}: no route for multicast; name one with @INTERFACE");
        assert_eq!(refused(&format!("[{group}]:5000")), expected);
    }
    assert!(refused("[fe80::7]:5000").contains("fe80::7 is an address of one interface"));
    assert!(!refused("[2001:db8::7]:5000").contains("@INTERFACE"), "the control");
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = refused(&other.local_addr().unwrap().to_string());
    assert!(taken.contains("in use by another process"), "{taken}");
}

#[test]
fn a_stream_of_one_size_is_never_moved() {
    for len in [1, 8, 188, 1472, 2048, 2049, 9000] {
        let mut bench = Bench::new(4 << 20, 9000);
        let (mut source, sender) = pair("127.0.0.1:0", 9000);
        for round in 0..8 {
            // Until the first window is full, the length of a place is a guess.
            let moved = bench.count(PumpCounter::Moved);
            let sent: Vec<_> = (0..64).map(|i| make(round * 64 + i, len)).collect();
            assert_eq!(bytes_of(&pass(&mut bench, &mut source, &sender, &sent)), sent);
            assert!(
                round == 0 || bench.count(PumpCounter::Moved) == moved,
                "{len} in round {round}"
            );
        }
        assert_eq!(source.batch.stride(), len.next_multiple_of(8));
    }
}

#[test]
fn any_mix_of_sizes_arrives_whole_and_in_order() {
    for v in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(1 << 20, 20_000);
        let (mut source, sender) = pair(v, 20_000);
        let (mut random, mut sent_in_all) = (1_u64, 0);
        for round in 0..200_u32 {
            let sent: Vec<_> = (0..1 + round % 70)
                .map(|i| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let roll = (random >> 33) as usize;
                    let len = match roll % 16 {
                        0 => 0,
                        1 => 20_000,
                        2..4 => roll % 20_001,
                        4..8 => 1472,
                        _ => roll % 600,
                    };
                    make(round * 100 + i, len)
                })
                .collect();
            let got = pass(&mut bench, &mut source, &sender, &sent);
            assert!(bytes_of(&got) == sent, "{v} round {round}");
            sent_in_all += sent.len() as u64;
        }
        assert_eq!(bench.count(PumpCounter::Published), sent_in_all);
        assert_eq!(bench.count(PumpCounter::KernelLost), 0);
        assert!(bench.count(PumpCounter::Moved) > 0);
        assert_eq!(bench.notices(), [""; 0]);
    }
}

#[test]
fn mixed_sizes_leave_at_least_half_of_the_ring_to_payload() {
    let mut bench = Bench::new(8 << 20, 60_000);
    let (mut source, sender) = pair("127.0.0.1:0", 60_000);
    let mut payload = 0;
    for round in 0..40_u32 {
        let sent: Vec<_> =
            (0..50).map(|i| make(i, if (round + i) % 50 == 0 { 60_000 } else { 64 })).collect();
        payload += sent.iter().map(|d| d.len() as u64).sum::<u64>();
        assert_eq!(bytes_of(&pass(&mut bench, &mut source, &sender, &sent)), sent);
    }
    // Ring positions used so far, including the end of the payload area if it was too short for a
    // claim (at most one such end per lap).
    let claimed = bench.intake.publisher().memory().claimed_now().pos;
    let claims_ahead = (8 << 20) / 16 * 2;
    assert!(claimed < 2 * payload + claims_ahead, "{claimed} positions for {payload} bytes");
}

#[test]
fn too_long_datagrams_are_cut_with_their_length() {
    let mut bench = Bench::new(1 << 20, 1000);
    let (mut source, sender) = pair("127.0.0.1:0", 1000);
    let sent: Vec<_> = [1001, 1000, 65_507, 3].map(|len| make(9, len)).into();
    let got = pass(&mut bench, &mut source, &sender, &sent);
    for (sent, got) in sent.iter().zip(&got) {
        assert_eq!(got.bytes, sent[..sent.len().min(1000)]);
        assert_eq!(got.original_len, sent.len());
    }
    assert_eq!((got.len(), bench.count(PumpCounter::Truncated)), (4, 2));
}

#[test]
fn times_are_the_kernels() {
    let mut bench = Bench::new(1 << 20, 1000);
    let (mut source, sender) = pair("127.0.0.1:0", 1000);
    let clock = || {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
            as u64
    };
    let before = clock();
    sender.send(b"x").unwrap();
    let after = clock();
    let (got, _) = bench.run(&mut source);
    assert!(
        (before..=after).contains(&got[0].source_time),
        "{before} {} {after}",
        got[0].source_time
    );
}

#[test]
fn overflow_is_counted_and_reported_in_order() {
    let mut bench = Bench::new(1 << 20, 2000);
    let (mut source, sender) = pair("127.0.0.1:0,rcvbuf=8kB", 2000);
    assert!(
        source.describe().contains("receive buffer 7.81 KiB, kernel timestamps"),
        "{}",
        source.describe()
    );
    let (mut sent, mut next, mut lost) = (0_u32, 0, 0);
    for round in 0..50_usize {
        let burst: Vec<_> =
            (0..1 + round * 4).map(|i| make(sent + i as u32, 100 + 10 * (i % 70))).collect();
        sent += burst.len() as u32;
        for datagram in pass(&mut bench, &mut source, &sender, &burst) {
            let reported: u64 = datagram.lost_before.iter().map(|l| l.1).sum();
            assert!(
                datagram
                    .lost_before
                    .iter()
                    .all(|&(layer, _, exact)| layer == Layer::Kernel && exact)
            );
            assert_eq!(u64::from(number(&datagram)), next + reported);
            next = u64::from(number(&datagram)) + 1;
            lost += reported;
        }
        // No datagram has come after the last drop, but the drop is known.
        let account = bench.count(PumpCounter::Published) + bench.count(PumpCounter::KernelLost);
        assert_eq!(u64::from(sent), account, "round {round}");
    }
    assert!(lost > 1000, "{lost}");
    // Readers see the last drops with the next datagram.
    let got = pass(&mut bench, &mut source, &sender, &[make(sent, 4)]);
    assert_eq!(got[0].lost_before.iter().map(|l| l.1).sum::<u64>(), u64::from(sent) - next);
}

/// The pump is held up between the receive that found the socket empty and the question for drops.
/// Meanwhile datagrams are queued, and others dropped: they are reported behind the queued ones.
/// Control: a receive that finds nothing at all reports them at once.
#[test]
fn drops_are_reported_behind_what_was_queued_before_them() {
    let mut bench = Bench::new(1 << 20, 2000);
    let (mut source, sender) = pair("127.0.0.1:0,rcvbuf=8kB", 2000);
    assert_eq!(pass(&mut bench, &mut source, &sender, &[make(0, 700)]).len(), 1);
    sender.send(&make(1, 700)).unwrap();
    bench.intake.begin(1);
    assert_eq!(source.batch(bench.intake.for_source()).ok().unwrap().got, 1);
    for number in 2..500 {
        sender.send(&make(number, 700)).unwrap();
    }
    assert!(!source.settle_drops(bench.intake.for_source(), false), "there may be more");
    assert_eq!(bench.count(PumpCounter::KernelLost), 0);
    bench.intake.flush();
    let got = bench.run(&mut source).0;
    let queued = got.len() as u32 - 1;
    assert!((1..400).contains(&queued), "{queued}");
    for (got, expected) in got.iter().zip(1..) {
        assert_eq!((number(got), got.lost_before.len()), (expected, 0));
    }
    let lost = u64::from(498 - queued);
    assert_eq!(bench.count(PumpCounter::KernelLost), lost);
    let after = pass(&mut bench, &mut source, &sender, &[make(500, 700)]);
    assert_eq!(after[0].lost_before, [(Layer::Kernel, lost, true)]);
}

#[test]
fn the_count_in_the_control_message_is_enough() {
    let mut bench = Bench::new(1 << 20, 2000);
    let (mut source, sender) = pair("127.0.0.1:0,rcvbuf=8kB", 2000);
    for round in 0..4 {
        for i in 0..500 {
            sender.send(&make(round * 501 + i, 700)).unwrap();
        }
        // One batch at a time, never idle: only SO_RXQ_OVFL can show the drops.
        bench.intake.begin(1);
        let first = source.batch(bench.intake.for_source()).ok().unwrap().got;
        sender.send(&make(round * 501 + 500, 700)).unwrap();
        let second = source.batch(bench.intake.for_source()).ok().unwrap().got;
        bench.intake.flush();
        bench.read();
        assert!(first > 0 && second == 1);
        let account = bench.count(PumpCounter::Published) + bench.count(PumpCounter::KernelLost);
        assert_eq!(account, u64::from(round + 1) * 501);
    }
}

#[test]
fn a_count_that_goes_round_or_back_is_understood() {
    let mut bench = Bench::new(1 << 20, 2000);
    let (mut source, _sender) = pair("127.0.0.1:0", 2000);
    source.drops = u32::MAX - 1;
    for (drops, lost) in [(u32::MAX - 1, 0), (u32::MAX, 1), (3, 5), (2, 5), (4, 6)] {
        count_drops(&mut source.drops, bench.intake.for_source(), drops);
        assert_eq!(bench.count(PumpCounter::KernelLost), lost, "{drops}");
    }
}

#[test]
fn an_error_from_icmp_is_a_fault_and_not_the_end() {
    let mut bench = Bench::new(1 << 20, 2000);
    let (mut source, sender) = pair("127.0.0.1:0", 2000);
    // This causes an ICMP error: the same socket connects to a port on which no socket is open, and
    // sends to it.
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    rustix::net::connect(&source.socket, &nobody).unwrap();
    rustix::net::send(&source.socket, b"?", rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(bench.run(&mut source).1, Fill::Idle);
    assert_eq!(bench.count(PumpCounter::SourceFaults), 1);
    assert!(bench.notices()[0].starts_with("udp: receiving: Connection refused"));
    drop(sender);
}
