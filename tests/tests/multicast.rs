//! A stream over Ethernet: `ringsend` to UDP multicast, IPv4 and IPv6, in one network namespace,
//! and in another one a receiver of twenty lines that knows nothing of ringweir but the header that
//! `ringsend --help` describes.
//!
//! Contract: these tests need root and `python3` and are skipped without them.

use ringweir::view::Viewer;
use ringweir::view::stats::PumpCounter;
use ringweir_harness::netns::{Namespace, Wire};
use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_needs::{needs, needs_network_namespaces, skip};
use rustix::process::Signal;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(40);

/// Prints "ready", and for each datagram [kind, detail, seq, count or length of the payload], until
/// a datagram says END.
const RECEIVER: &str = r#"
import json, socket, struct, sys
group, port, index = sys.argv[1], 26400, socket.if_nametoindex("vb")
v6 = ":" in group
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
s.settimeout(60)
s.bind((group, port, 0, index) if v6 else (group, port))
if v6:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                 socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index))
else:
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                 struct.pack("@4s4si", socket.inet_aton(group), b"\0" * 4, index))
print("ready", file=sys.stderr, flush=True)
seen = []
while (d := s.recv(1 << 16)) != b"END":
    magic, kind, detail, generation, channel, seq = struct.unpack_from("<2sBBHHQ", d)
    assert magic == b"RS" and generation == 1, d[:16]
    count = len(d) - 16 if kind == 1 else struct.unpack_from("<Q", d, 16)[0]
    seen.append([kind, detail, seq, count])
print(json.dumps(seen))
"#;

/// For each of the first datagrams, tells the sender that the path carries only 600 bytes, as a
/// router would, and counts them.
const ROUTER: &str = r#"
import json, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.bind(("10.77.0.2", 26401))
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
print("ready", file=sys.stderr, flush=True)
seen = []
while len(seen) < int(sys.argv[1]):
    d, (host, port) = s.recvfrom(2000)
    kind, seq = d[2], struct.unpack_from("<Q", d, 8)[0]
    seen.append([kind, d[3], seq, len(d) - 16 if kind == 1 else struct.unpack_from("<Q", d, 16)[0]])
    if len(seen) <= 5:
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(d), 1, 0x4000, 64, 17, 0,
                         socket.inet_aton(host), socket.inet_aton("10.77.0.2"))
        udp = struct.pack(">HHHH", port, 26401, 8 + len(d), 0)
        body = struct.pack(">BBHHH", 3, 4, 0, 0, 600) + ip + udp
        words = sum(struct.unpack(">%dH" % (len(body) // 2), body))
        words = (words & 0xffff) + (words >> 16)
        words = (words & 0xffff) + (words >> 16)
        icmp.sendto(body[:2] + struct.pack(">H", ~words & 0xffff) + body[4:], (host, 0))
print(json.dumps(seen))
"#;

fn wire() -> Option<Wire> {
    if !needs("python3") || !needs_network_namespaces() {
        return None;
    }
    Some(Wire::new().expect("two network namespaces"))
}

fn python(env: &Environment, namespace: &Namespace, text: &str, argument: &str) -> Process {
    let mut command = env.command_at(Path::new("python3"));
    command.args(["-c", text, argument]).stdout(Stdio::piped());
    namespace.enter(&mut command);
    let process = env.start(command);
    let ready = wait_for(PATIENCE, || process.stderr().contains("ready").then_some(()));
    assert!(ready.is_some(), "{}", process.stderr());
    process
}

fn ringsend(env: &Environment, namespace: &Namespace, args: &[&str]) -> Process {
    let mut command = env.command("ringsend");
    command.args(args).args(["--header", "seq", "--from", "0", "--json"]).stdout(Stdio::piped());
    namespace.enter(&mut command);
    env.start(command)
}

fn broker(
    env: &Environment,
    namespace: &Namespace,
    name: &str,
    source: &str,
    more: &[&str],
) -> Daemon {
    let mut command = env.command("ringd");
    command
        .arg("--run-dir")
        .arg(env.run_dir())
        .args(["run", "--name", name, "--source", source])
        .args(more);
    namespace.enter(&mut command);
    env.broker_of(name, command)
}

fn json(process: Process) -> Value {
    let done = process.output();
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// [kind, detail, seq, count or length] as the receiver got them.
fn seen(receiver: Process) -> Vec<[u64; 4]> {
    serde_json::from_value(json(receiver)).unwrap()
}

/// The account of a receiver that expects every seq from 0: the seq after the last, datagrams, seqs
/// that were reported missing, and losses before the ring. It fails at a seq that is missing
/// without a report.
fn account(events: &[[u64; 4]]) -> Result<[u64; 4], u64> {
    let [mut next, mut came, mut never, mut upstream] = [0; 4];
    for &[kind, _, seq, number] in events {
        if seq != next {
            return Err(next);
        }
        match kind {
            1 => (came, next) = (came + 1, next + 1),
            2 => (never, next) = (never + number, next + number),
            3 => upstream += number,
            _ => return Err(next),
        }
    }
    Ok([next, came, never, upstream])
}

/// Every seq arrives or is reported missing, in a stream with kernel losses before the ring and a
/// datagram that is too long for IPv4 with its header. Controls: with any one datagram or report
/// taken out, the same check fails.
fn every_seq(env: &Environment, wire: &Wire, name: &str, group: &str, to: &str, too_long: u64) {
    let receiver = python(env, &wire.near, RECEIVER, group);
    let ring = ["--max-datagram", "65507", "--capacity", "16MiB"];
    let broker = broker(env, &wire.far, name, "udp:127.0.0.1:5001,rcvbuf=256KiB", &ring);
    let watch = Viewer::attach(broker.path()).unwrap();
    let counters = || {
        let shown = watch.snapshot()?;
        Some([PumpCounter::Published, PumpCounter::KernelLost].map(|c| shown.pump(c)))
    };
    let sender = wire.far.within(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    sender.connect("127.0.0.1:5001").unwrap();
    let send = |count: u64, len: usize| {
        (0..count).for_each(|_| assert_eq!(sender.send(&vec![1; len]).unwrap(), len))
    };
    let published = |n: u64| {
        wait_for(PATIENCE, || counters().filter(|c| c[0] >= n))
            .unwrap_or_else(|| panic!("{n} published"))
    };
    send(100, 100);
    published(100);
    broker.process.stop();
    send(1000, 1400);
    broker.process.signal(Signal::CONT);
    // What the kernel dropped is reported with the next datagram for which there is room.
    wait_for(PATIENCE, || counters().filter(|c| c[0] > 100)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    send(1, 65_500);
    send(50, 0);
    let [all, kernel] = wait_for(PATIENCE, || counters().filter(|[all, lost]| all + lost == 1151))
        .unwrap_or_else(|| panic!("{:?}", counters()));
    assert!(kernel > 100, "the kernel had room for nearly all");

    let sent = json(ringsend(env, &wire.far, &[name, "--to", to, "--until-idle", "1s"]));
    // END must come after everything that is still on its way.
    std::thread::sleep(Duration::from_millis(500));
    let end = |from: &str, at: SocketAddr| {
        wire.near.within(|| UdpSocket::bind(from)?.send_to(b"END", at)).unwrap()
    };
    match group.parse().unwrap() {
        // The source address decides the outgoing interface; for IPv6 the destination names it.
        IpAddr::V4(_) => end("10.77.0.2:0", (group.parse::<IpAddr>().unwrap(), 26400).into()),
        IpAddr::V6(group) => {
            let index = wire.near.shell("ip -o link show vb | cut -d: -f1").trim().parse().unwrap();
            end("[::]:0", SocketAddrV6::new(group, 26400, 0, index).into())
        }
    };
    let events = seen(receiver);
    assert_eq!(account(&events), Ok([all, all - too_long, too_long, kernel]), "{sent}");
    for (key, value) in
        [("sent", all - too_long), ("too_long", too_long), ("upstream_lost", kernel), ("failed", 0)]
    {
        assert_eq!(sent[key].as_u64(), Some(value), "{key}: {sent}");
    }
    let records: Vec<_> = events.iter().filter(|e| e[0] != 1).map(|e| [e[0], e[1]]).collect();
    assert!(records.contains(&[3, 2]), "exact, of the kernel: {records:?}");
    assert_eq!(records.iter().filter(|r| **r == [2, 1]).count() as u64, too_long, "{records:?}");
    for (i, event) in events.iter().enumerate().filter(|(i, e)| e[0] != 3 && i + 1 < events.len()) {
        let without = [&events[..i], &events[i + 1..]].concat();
        assert_eq!(account(&without), Err(event[2]), "the control: {event:?} did not come");
    }
    broker.end();
}

#[test]
fn a_multicast_receiver_sees_every_seq() {
    let Some(wire) = wire() else { return };
    let env = Environment::new(LIMIT);
    every_seq(&env, &wire, "mc-four", "239.77.0.1", "udp:239.77.0.1:26400@va,ttl=1", 1);
}

#[test]
fn a_multicast_receiver_sees_every_seq_by_ipv6() {
    let Some(wire) = wire() else { return };
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return skip("needs a kernel with IPv6");
    }
    let env = Environment::new(LIMIT);
    for (namespace, interface) in [(&wire.far, "va"), (&wire.near, "vb")] {
        let conf = format!("/proc/sys/net/ipv6/conf/{interface}");
        // Addresses are usable at once.
        namespace.shell(&format!("echo 0 > {conf}/accept_dad; echo 0 > {conf}/disable_ipv6"));
        // Except for the first moment, in which there is no address yet.
        let has = || {
            let shown = namespace.shell(&format!("ip -6 -o addr show dev {interface} scope link"));
            (shown.contains("fe80") && !shown.contains("tentative")).then_some(())
        };
        wait_for(PATIENCE, has).expect("an address of its own");
    }
    every_seq(&env, &wire, "mc-six", "ff02::77", "udp:[ff02::77]:26400@va", 0);
}

/// A router's message about one datagram comes as an error of a later one, which it does not
/// concern: that datagram is still sent. Control: the message did reach this socket, whose route
/// has the reported MTU.
#[test]
fn a_routers_too_long_message_costs_no_datagram() {
    let Some(wire) = wire() else { return };
    let env = Environment::new(LIMIT);
    let router = python(&env, &wire.near, ROUTER, "40");
    let broker = broker(
        &env,
        &wire.far,
        "mc-icmp",
        "gen:rate=20/s,size=100,count=40",
        &["--wait-readers", "1"],
    );
    let sent = json(ringsend(&env, &wire.far, &["mc-icmp", "--to", "udp:10.77.0.2:26401"]));
    assert_eq!(account(&seen(router)), Ok([40, 40, 0, 0]), "{sent}");
    assert!(sent["too_long"] == 0 && sent["sent"] == 40 && sent["records"] == 0, "{sent}");
    let route = wire.far.shell("ip route get 10.77.0.2");
    assert!(route.contains("mtu 600"), "the control: {route}");
    drop(broker);
}
