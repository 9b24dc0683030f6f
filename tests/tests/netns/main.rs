//! Real interfaces, real traffic, public programs: each test has its own network namespaces, which
//! end with it.
//!
//! Contract: `tcpdump`, the interface's own counters and the senders are the oracles, never
//! ringweir itself. Tests need root; without it, or without one of the programs, a test is skipped.

mod captures;
mod lines;

use captures::{Captures, Packet, capture, wrong_captures_are_found};
use lines::{Lines, Seen};
use ringweir::view::Viewer;
use ringweir::view::stats::{PumpCounter, Snapshot, StreamFact};
use ringweir::{Item, Options, Start};
use ringweir_harness::netns::{Counters, Namespace, Wire, pin};
use ringweir_harness::proc::cpu_ns;
use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_needs::{needs, needs_network_namespaces};
use ringweir_proto::os::{clock, paths};
use rustix::process::Signal;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a step may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A wire; `None` if the test is skipped because the rights or a program are missing.
fn wire(programs: &[&str]) -> Option<Wire> {
    let can = needs_network_namespaces() && programs.iter().all(|program| needs(program));
    can.then(|| Wire::new().expect("two network namespaces"))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    wait_for(PATIENCE, || done().then_some(()))
        .unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"));
}

/// `ringd` with one stream, in a namespace.
fn broker(
    env: &Environment,
    namespace: &Namespace,
    name: &str,
    source: &str,
    more: &[&str],
) -> (Daemon, Viewer) {
    let mut command = env.command("ringd");
    command
        .arg("--run-dir")
        .arg(env.run_dir())
        .args(["run", "--name", name, "--source", source])
        .args(more);
    namespace.enter(&mut command);
    let daemon = env.broker_of(name, command);
    let watch = Viewer::attach(daemon.path()).unwrap();
    (daemon, watch)
}

/// A public program, in a namespace, on the one processor that all traffic comes from.
fn program(env: &Environment, namespace: &Namespace, line: &[&str]) -> Command {
    let mut command = env.command_at(Path::new(line[0]));
    command.args(&line[1..]).stdout(Stdio::piped());
    pin(namespace.enter(&mut command));
    command
}

/// Waits for a process that must end with success; returns its stdout.
fn well(process: Process) -> String {
    let done = process.output();
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The same for a `ringcat` that must not have been lapped.
fn well_and_whole(process: Process) -> String {
    let done = process.output();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("lapped"), "{}: {said}", done.status);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn shown(watch: &Viewer) -> Snapshot {
    wait_for(PATIENCE, || watch.snapshot()).expect("a snapshot")
}

fn kernel_account(watch: &Viewer) -> (u64, u64) {
    let snapshot = shown(watch);
    (snapshot.pump(PumpCounter::Published), snapshot.pump(PumpCounter::KernelLost))
}

/// Waits until the stream has accounted for `count` packets, and never for more; returns published
/// and lost in the kernel.
fn account_closes(watch: &Viewer, count: u64, said: impl Fn() -> String) -> (u64, u64) {
    let closed = wait_for(PATIENCE, || {
        let (published, lost) = kernel_account(watch);
        assert!(
            published + lost <= count,
            "{published} published + {lost} lost > {count} there were: {}",
            said()
        );
        (published + lost == count).then_some((published, lost))
    });
    closed.unwrap_or_else(|| {
        panic!("published, lost: {:?} of {count}: {}", kernel_account(watch), said())
    })
}

fn readers_are(watch: &Viewer, count: u64) {
    wait_until("readers attach", || shown(watch).get(StreamFact::Readers) == count);
}

/// Waits until no more packets go over the wire.
fn rest(wire: &Wire) -> Counters {
    let (mut last, mut same) = (wire.near.counters("vb"), 0);
    wait_until("the wire comes to rest", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = wire.near.counters("vb");
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same >= 10
    });
    last
}

/// Stops and continues a broker again and again while `flood` runs. Each time it finds its buffers
/// full, and more packets come while it empties them.
fn stop_and_go(wire: &Wire, broker: &Daemon, mut flood: Process) -> u32 {
    let mut rounds = 0;
    let mut passed = |count: u64| {
        let from = wire.near.counters("vb").received;
        wait_until("packets pass", || {
            flood.ended().is_some() || wire.near.counters("vb").received - from >= count
        });
        flood.ended().is_none()
    };
    while passed(500) {
        broker.process.stop();
        rounds += u32::from(passed(2000));
        broker.process.signal(Signal::CONT);
    }
    well(flood);
    rounds
}

/// The output of `sha256sum` for these bytes.
fn sha256(env: &Environment, name: &str, bytes: impl Iterator<Item = Vec<u8>>) -> String {
    let path = env.path(name);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    bytes.for_each(|bytes| file.write_all(&bytes).unwrap());
    file.flush().unwrap();
    drop(file);
    let mut command = env.command_at(Path::new("sha256sum"));
    command.arg(&path).stdout(Stdio::piped());
    well(env.start(command)).split(' ').next().unwrap().to_owned()
}

/// Whether the last bytes of a file contain `marker`.
fn ends_with(path: &Path, marker: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(file) = std::fs::File::open(path) else { return false };
    let mut tail = vec![0; 4096];
    let from = file.metadata().unwrap().len().saturating_sub(tail.len() as u64);
    let got = file.read_at(&mut tail, from).unwrap();
    tail[..got].windows(marker.len()).any(|window| window == marker)
}

/// Parses length-prefixed datagrams; prints count, bytes, and the hash of the payloads.
const COUNT_IN_PYTHON: &str = "
import hashlib, struct, sys
count, total, hashed = 0, 0, hashlib.sha256()
while head := sys.stdin.buffer.read(4):
    length, = struct.unpack('<I', head)
    payload = sys.stdin.buffer.read(length)
    assert len(payload) == length, 'cut off'
    count, total = count + 1, total + length
    hashed.update(payload)
print(count, total, hashed.hexdigest())
";

/// Sends datagrams of every size up to the MTU, and longer ones, which go as fragments.
const MIXED_UDP_IN_PYTHON: &str = "
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in [*range(1473), *range(1473, 9000, 250)]:
    s.sendto(os.urandom(size), (sys.argv[1], 7777))
";

/// Sends numbered datagrams as fast as it can. Arguments: to, port, from the interface, first
/// number, count, size.
const BURST_IN_PYTHON: &str = "
import socket, struct, sys
to, port, of = sys.argv[1:4]
first, count, size = map(int, sys.argv[4:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(of))
s.connect((to, int(port)))
rest = bytes(size - 8)
for number in range(first, first + count):
    while True:
        try:
            s.send(struct.pack('<Q', number) + rest)
            break
        except ConnectionRefusedError:
            pass
";

#[test]
fn four_programs_and_tcpdump_see_the_same_packets() {
    let needed = ["tcpdump", "ping", "curl", "python3", "sha256sum"];
    let Some(wire) = wire(&needed) else {
        return;
    };
    let env = Environment::new(2 * PATIENCE);
    let (far, near) = (&wire.far, &wire.near);

    // Both rings, the kernel's and ours, have room for all packets, so every loss is a fault.
    // Offloads are on: frames have up to 64 KiB and their headers.
    let source = "packet:vb,blocks=128,timeout=50";
    let sizes = ["--max-datagram", "128KiB", "--capacity", "48MiB", "--depth", "60000"];
    let (whole, watch) = broker(&env, near, "whole", source, &sizes);
    let source = "packet:vb,snaplen=64,block=128KiB,blocks=128,timeout=50";
    let (cut, cut_watch) =
        broker(&env, near, "cut", source, &["--capacity", "4MiB", "--depth", "60000"]);

    let mut command = env.command_at(Path::new("tcpdump"));
    let line = "-i vb -n -B 65536 -U -s 262144 --time-stamp-precision=nano -Z root -w";
    command.args(line.split(' ')).arg(env.path("ref.pcap"));
    near.enter(&mut command);
    let tcpdump = env.start(command);
    wait_until("tcpdump listens", || tcpdump.stderr().contains("listening on vb"));

    // Four programs on one interface, which the kernel keeps as well.
    let ringcat = |args: &[&str]| {
        let mut command = env.command("ringcat");
        command.arg("whole").args(args).stdout(Stdio::piped());
        env.start(command)
    };
    let into = |from: &mut Process, line: &[&str]| {
        let mut command = env.command_at(Path::new(line[0]));
        command.args(&line[1..]).stdin(from.stdout().unwrap()).stdout(Stdio::piped());
        env.start(command)
    };
    let ours_path = env.path("out.pcap");
    let first = ringcat(&["--format", "pcap", "-w", ours_path.to_str().unwrap()]);
    let mut second = ringcat(&["--format", "len32le"]);
    let python = into(&mut second, &["python3", "-c", COUNT_IN_PYTHON]);
    let mut command = env.command("ringtest-lines");
    command.arg("whole").stdout(std::fs::File::create(env.path("lines")).unwrap());
    let third = env.start(command);
    let mut fourth = ringcat(&["--format", "raw"]);
    let summed = into(&mut fourth, &["sha256sum"]);
    readers_are(&watch, 4);

    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let file: Vec<u8> = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()
    })
    .take(20 << 17)
    .flatten()
    .collect();
    std::fs::create_dir(env.path("www")).unwrap();
    std::fs::write(env.path("www/file"), &file).unwrap();
    let www = env.path("www");
    let line = [
        "python3",
        "-m",
        "http.server",
        "8000",
        "--bind",
        Wire::FAR,
        "--directory",
        www.to_str().unwrap(),
    ];
    let mut command = program(&env, far, &line);
    // It prints a line for each request to stdout or stderr, and the test does not read the pipe.
    command.stdout(Stdio::null());
    let mut server = env.start(command);
    let tcp = format!("/proc/{}/net/tcp", server.pid());
    wait_until("the web server listens", || {
        let table = std::fs::read_to_string(&tcp).unwrap_or_default();
        table.lines().any(|line| line.contains(":1F40 ") && line.contains(" 0A "))
    });

    let (started, before) = (clock::realtime_ns(), near.counters("vb"));
    let ping = |count, size| {
        program(&env, far, &["ping", "-f", "-q", "-c", count, "-s", size, Wire::NEAR])
    };
    let (address, got) = (format!("http://{}:8000/file", Wire::FAR), env.path("got"));
    let traffic = [
        program(
            &env,
            near,
            &["curl", "-sS", "--noproxy", "*", "-o", got.to_str().unwrap(), &address],
        ),
        ping("3000", "56"),
        ping("1000", "1472"),
        ping("300", "4000"),
        program(&env, far, &["python3", "-c", MIXED_UDP_IN_PYTHON, Wire::NEAR]),
    ]
    .map(|command| env.start(command));
    let said = traffic.map(well);
    assert!(std::fs::read(&got).unwrap() == file, "the file came over another than it went");
    for (said, count) in said[1..4].iter().zip([3000, 1000, 300]) {
        // A flooding ping may end before it has received the last replies.
        let received =
            said.split(" received").next().and_then(|s| s.rsplit(' ').next()?.parse::<u32>().ok());
        assert!(received.is_some_and(|n| n > count * 9 / 10), "{said}");
    }
    server.kill();

    // The last packet is a marker to a socket that accepts it, so that it gets no answer.
    rest(&wire);
    let marker = b"ringweir: this is the last packet of the test";
    let taker = near.within(|| UdpSocket::bind((Wire::NEAR, 7778)).unwrap());
    far.within(|| {
        UdpSocket::bind((Wire::FAR, 0)).unwrap().send_to(marker, (Wire::NEAR, 7778)).unwrap()
    });
    taker.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(taker.recv(&mut [0; 100]).unwrap(), marker.len());
    let seen = rest(&wire).seen_since(&before);
    wait_until("tcpdump has written the last packet", || ends_with(&env.path("ref.pcap"), marker));
    wait_until("ringcat has written the last packet", || ends_with(&ours_path, marker));
    let (published, kernel_lost) = account_closes(&watch, seen, || whole.process.stderr());
    let (cut_published, cut_lost) = account_closes(&cut_watch, seen, || cut.process.stderr());
    let ended = clock::realtime_ns();

    tcpdump.signal(Signal::INT);
    let dumped = tcpdump.output();
    let said = String::from_utf8_lossy(&dumped.stderr).into_owned();
    let figure = said.lines().find_map(|line| line.strip_suffix(" packets dropped by kernel"));
    let tcpdump_lost: u64 =
        figure.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{said}"));

    // What the second stream still has, through the library.
    let mut reader = Options::new("from the test").start(Start::Oldest).attach(cut.path()).unwrap();
    let mut headers = Vec::new();
    while (headers.len() as u64) < cut_published {
        match reader.next().unwrap() {
            Item::Datagram(mut datagram) => {
                assert_eq!(datagram.is_truncated(), datagram.original_len() > 64);
                let (time, original) =
                    (datagram.source_time().unwrap(), datagram.original_len() as u32);
                headers.push(Packet { time, original, bytes: datagram.to_vec().unwrap() });
            }
            Item::Gap(gap) => assert!(cut_lost > 0, "{gap:?}"),
            other => panic!("{other:?} after {} of {cut_published}", headers.len()),
        }
    }
    let longer = headers.iter().filter(|p| p.original > 64).count() as u64;
    assert_eq!(shown(&cut_watch).pump(PumpCounter::Truncated), longer);
    cut.end();
    whole.end();

    // All four ended with the stream, and have the same packets.
    well_and_whole(first);
    well_and_whole(second);
    well_and_whole(fourth);
    well(third);
    let lines = Lines::parse(&std::fs::read_to_string(env.path("lines")).unwrap());
    let ours_file = std::fs::read(&ours_path).unwrap();
    let ours = capture(&ours_file);
    assert_eq!(ours.len() as u64, published);
    assert_eq!(lines.datagrams.len() as u64, published);
    for (line, packet) in lines.datagrams.iter().zip(&ours) {
        let crc = crc32fast::hash(&packet.bytes);
        assert_eq!((line.len, line.crc), (packet.bytes.len(), crc), "seq {}", line.seq);
        assert_eq!(
            (line.original_len, line.cut, line.time),
            (packet.original, false, packet.time),
            "seq {}",
            line.seq
        );
    }
    assert_eq!(lines.reported(), kernel_lost);
    let hash = sha256(&env, "payloads", ours.iter().map(|p| p.bytes.clone()));
    let total: usize = ours.iter().map(|p| p.bytes.len()).sum();
    assert_eq!(well(python).trim(), format!("{published} {total} {hash}"));
    assert_eq!(well(summed).split(' ').next(), Some(&hash[..]));
    assert!(ours.iter().all(|p| (started..=ended).contains(&p.time)));

    // tcpdump has the same, too.
    let reference = capture(&std::fs::read(env.path("ref.pcap")).unwrap());
    let captures = Captures {
        reference: &reference,
        reference_lost: tcpdump_lost,
        ours: &ours,
        ours_lost: kernel_lost,
        wire: seen,
    };
    let ordered = captures.compare().unwrap_or_else(|e| panic!("{e}"));
    assert!(
        ordered * 10 > ours.len() * 9,
        "only {ordered} of {} packets tell the order",
        ours.len()
    );
    let short = |p: &Packet| Packet { bytes: p.bytes[..p.bytes.len().min(64)].to_vec(), ..*p };
    let cut_reference: Vec<_> = reference.iter().map(short).collect();
    let cut_captures =
        Captures { reference: &cut_reference, ours: &headers, ours_lost: cut_lost, ..captures };
    cut_captures.compare().unwrap_or_else(|e| panic!("snaplen: {e}"));
    wrong_captures_are_found(&captures, &ours_file);

    let longest = ours.iter().map(|p| p.bytes.len()).max().unwrap();
    let same_order = reference.iter().map(Packet::what).eq(ours.iter().map(Packet::what));
    println!(
        "{seen} packets on the wire, {total} bytes, longest {longest}; lost by tcpdump \
        {tcpdump_lost}, ringweir {kernel_lost}, \
         with snaplen {cut_lost}; {ordered} compared in order, the same order over all flows: \
         {same_order}"
    );
}

#[test]
fn udp_multicast_from_socat() {
    let Some(wire) = wire(&["socat", "python3"]) else { return };
    let env = Environment::new(2 * PATIENCE);
    let (far, near) = (&wire.far, &wire.near);
    let ringcat = |stream: &str, to: &str| {
        let mut command = env.command("ringcat");
        command.args([stream, "--format", "len32le", "--stats", "-w"]).arg(env.path(to));
        env.start(command)
    };
    let reading = |stream: &str, to: &str| {
        let mut command = env.command("ringtest-lines");
        command
            .args([stream, "--number-at", "0"])
            .stdout(std::fs::File::create(env.path(to)).unwrap());
        env.start(command)
    };
    let read = |name: &str| std::fs::read(env.path(name)).unwrap();
    let lines = |name: &str| Lines::parse(&String::from_utf8(read(name)).unwrap());

    // Every datagram, byte for byte. All of them together fit into the receive buffer.
    let (feed, watch) =
        broker(&env, near, "feed", "udp:239.77.0.1:26400@vb", &["--capacity", "16MiB"]);
    let (cat, reader) = (ringcat("feed", "feed.bin"), reading("feed", "feed.txt"));
    readers_are(&watch, 2);
    let path = env.path("socat.sock");
    let to =
        format!("UDP4-DATAGRAM:239.77.0.1:26400,ip-multicast-if={},ip-multicast-ttl=2", Wire::FAR);
    let from = format!("UNIX-RECV:{}", path.display());
    let socat = env.start(program(&env, far, &["socat", "-u", "-b", "65536", &from, &to]));
    wait_until("socat listens", || path.exists());
    let sizes = (1..=1472).chain((1473..60_000).step_by(2500));
    let sent: Vec<Vec<u8>> = sizes
        .map(|size: usize| (0..size).map(|i| (size * 31 + i * 7 + (i >> 8)) as u8).collect())
        .collect();
    let to_socat = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let started = clock::realtime_ns();
    for datagram in &sent {
        assert_eq!(to_socat.send_to(datagram, &path).unwrap(), datagram.len());
    }
    let account =
        account_closes(&watch, sent.len() as u64, || feed.process.stderr() + &socat.stderr());
    assert_eq!(account, (sent.len() as u64, 0));
    let ended = clock::realtime_ns();
    feed.end();
    well_and_whole(cat);
    well(reader);
    let expected: Vec<u8> =
        sent.iter().flat_map(|d| [&(d.len() as u32).to_le_bytes()[..], d].concat()).collect();
    assert!(read("feed.bin") == expected, "not byte for byte what was sent");
    let seen = lines("feed.txt");
    assert_eq!((seen.datagrams.len(), seen.reported()), (sent.len(), 0));
    for (line, datagram) in seen.datagrams.iter().zip(&sent) {
        assert_eq!(
            (line.len, line.crc, line.cut),
            (datagram.len(), crc32fast::hash(datagram), false)
        );
        assert!(
            (started..=ended).contains(&line.time),
            "{} is not from {started} to {ended}",
            line.time
        );
    }
    assert!(seen.datagrams.is_sorted_by_key(|d| d.time));
    drop(socat);

    // Far more than the receive buffer holds; the wire's counter says how many there were.
    let source = "udp:239.77.0.1:26401@vb,rcvbuf=64KiB";
    let (tiny, watch) =
        broker(&env, near, "tiny", source, &["--capacity", "32MiB", "--depth", "100000"]);
    let (cat, reader) = (ringcat("tiny", "tiny.bin"), reading("tiny", "tiny.txt"));
    readers_are(&watch, 2);
    let (before, far_before) = (rest(&wire), far.counters("va"));
    let burst = |first: u64, count: u64| {
        let (first, count) = (first.to_string(), count.to_string());
        let line = [
            "python3",
            "-c",
            BURST_IN_PYTHON,
            "239.77.0.1",
            "26401",
            Wire::FAR,
            &first,
            &count,
            "200",
        ];
        env.start(program(&env, far, &line))
    };
    let rounds = stop_and_go(&wire, &tiny, burst(0, 60_000));
    well(burst(60_000, 500));
    // Losses at the end, which no later datagram can report.
    tiny.process.stop();
    well(burst(60_500, 3_000));
    tiny.process.signal(Signal::CONT);
    let sent = 63_500;
    let dropped_on_the_wire = far.counters("va").unsent - far_before.unsent;
    assert_eq!(near.counters("vb").received - before.received + dropped_on_the_wire, sent);
    let (published, lost) =
        account_closes(&watch, sent - dropped_on_the_wire, || tiny.process.stderr());
    assert!(lost > 2_000 && published > 0, "{published} published, {lost} lost");
    tiny.end();
    let cat = cat.output();
    let said = String::from_utf8_lossy(&cat.stderr);
    assert!(
        cat.status.success() && said.contains(&format!("; {lost} lost before the ring")),
        "{said}"
    );
    well(reader);
    let seen = lines("tiny.txt");
    assert_eq!(seen.datagrams.len() as u64, published);
    assert_eq!(read("tiny.bin").len() as u64, published * (4 + 200));
    // No layer reports what the wire lost; then only sums can be compared.
    seen.check_reported_in_time(lost, |_| dropped_on_the_wire == 0);
    println!(
        "{sent} sent = {dropped_on_the_wire} on the wire + {published} published + {lost} lost; \
        stopped {rounds} times; \
         reported {} times",
        seen.upstream.len()
    );
}

#[test]
fn packet_drops_are_counted() {
    let Some(wire) = wire(&["ping", "python3"]) else { return };
    let env = Environment::new(2 * PATIENCE);
    let (far, near) = (&wire.far, &wire.near);
    let source = "packet:vb,block=16KiB,blocks=32,timeout=5";
    let (tap, watch) =
        broker(&env, near, "tap", source, &["--capacity", "48MiB", "--depth", "100000"]);
    let mut command = env.command("ringtest-lines");
    // After the headers of Ethernet, IPv4 and UDP.
    command
        .args(["tap", "--number-at", "42"])
        .stdout(std::fs::File::create(env.path("lines")).unwrap());
    let reader = env.start(command);
    readers_are(&watch, 1);

    let before = near.counters("vb");
    let burst = |first: u64, count: u64| {
        let (first, count) = (first.to_string(), count.to_string());
        let line = [
            "python3",
            "-c",
            BURST_IN_PYTHON,
            Wire::NEAR,
            "7777",
            Wire::FAR,
            &first,
            &count,
            "500",
        ];
        env.start(program(&env, far, &line))
    };
    let rounds = stop_and_go(&wire, &tap, burst(0, 50_000));
    well(burst(50_000, 500));
    // 512 KiB of blocks, 2 MB of packets while the broker is stopped, and no later packet that
    // reports the losses.
    let ping = env.start(program(&env, far, &["ping", "-f", "-q", "-c", "2000", Wire::NEAR]));
    tap.process.stop();
    well(burst(50_500, 4_000));
    well(ping);
    rest(&wire);
    tap.process.signal(Signal::CONT);
    let seen = rest(&wire).seen_since(&before);
    let (published, lost) = account_closes(&watch, seen, || tap.process.stderr());
    assert!(lost > 2_500 && published > 500, "{published} published, {lost} lost");
    tap.end();
    well(reader);
    let lines = Lines::parse(&std::fs::read_to_string(env.path("lines")).unwrap());
    assert_eq!(lines.datagrams.len() as u64, published);
    let numbered = |d: &Seen| d.len == 42 + 500;
    assert!(lines.datagrams.iter().filter(|d| numbered(d)).count() > 50);
    lines.check_reported_in_time(lost, numbered);
    let times = lines.upstream.len();
    println!(
        "{seen} on the wire = {published} published + {lost} lost; stopped {rounds} times; \
         reported {times} times"
    );
}

#[test]
fn missing_rights_and_interfaces_are_reported() {
    const NOBODY: u32 = 65534;
    let Some(wire) = wire(&["setpriv"]) else { return };
    let env = Environment::new(2 * PATIENCE);
    let (far, near) = (&wire.far, &wire.near);

    // A run directory and a program for user nobody, wherever this checkout is.
    let (dir, ringd) = (env.path("nobody"), env.path("ringd"));
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::copy(ringweir_harness::programs::path("ringd"), &ringd).unwrap();
    let objects = || {
        let whole = paths::object_name(&dir, "tap");
        let tag = whole.split('.').nth(2).unwrap().to_owned();
        let names = std::fs::read_dir("/dev/shm")
            .unwrap()
            .flatten()
            .map(|e| e.file_name().into_string().unwrap());
        names.filter(|name| name.contains(&tag)).collect::<Vec<_>>()
    };
    let as_nobody = |more: &[&str], source: &str| {
        let mut command = env.command_at(Path::new("setpriv"));
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(more)
            .arg(&ringd);
        command.arg("--run-dir").arg(&dir).args([
            "run",
            "--name",
            "tap",
            "--source",
            source,
            "--capacity",
            "1MiB",
        ]);
        near.enter(&mut command);
        env.start(command)
    };
    let refused = |process: Process, says: &[&str]| {
        let done = process.output();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(says.iter().all(|words| said.contains(words)), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty() && objects().is_empty(), "{left:?} {:?}", objects());
    };
    refused(
        as_nobody(&[], "packet:vb"),
        &["packet:vb", "needs CAP_NET_RAW", "setcap cap_net_raw+ep ringd"],
    );

    // The control: with this one right it works.
    let mut granted =
        as_nobody(&["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"], "packet:vb");
    let socket = paths::socket_path(&dir, "tap");
    let socket = socket.to_str().unwrap();
    wait_until("ringd answers", || {
        assert!(granted.ended().is_none(), "{}", granted.stderr());
        granted.stderr().contains("tap gen ")
    });
    let watch = Viewer::attach(socket).unwrap();
    let ping = || drop(far.shell(&format!("ping -q -c 1 -W 10 {}", Wire::NEAR)));
    let before = near.counters("vb");
    ping();
    assert_eq!(account_closes(&watch, 2, || granted.stderr()), (2, 0));
    assert_eq!(near.counters("vb").seen_since(&before), 2);
    assert_eq!(objects().len(), 1);
    granted.signal(Signal::TERM);
    assert!(granted.wait().success(), "{}", granted.stderr());
    assert!(objects().is_empty() && std::fs::read_dir(&dir).unwrap().next().is_none());

    let all = ["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"];
    refused(as_nobody(&all, "packet:nosuch0"), &["no interface \"nosuch0\"; there are: lo, vb"]);

    // An interface that disappears is a fault, not the end: it is reported once, there is no busy
    // loop, and the capture continues when the interface is back.
    let (tap, watch) = broker(&env, near, "gone", "packet:vb", &["--capacity", "1MiB"]);
    let mut reader = Options::new("from the test").attach(tap.path()).unwrap();
    let mut count = 0;
    let mut come = |expected: u64| {
        wait_until("the reader gets what came", || {
            match reader.next().unwrap() {
                Item::Datagram(_) => count += 1,
                Item::Empty => {}
                other => panic!("{other:?}"),
            }
            count == expected
        });
        assert!(matches!(reader.next().unwrap(), Item::Empty));
    };
    ping();
    come(2);
    near.shell("ip link delete vb");
    let logged = |words: &str| wait_until(words, || tap.process.stderr().contains(words));
    logged("packet: interface vb is down; capture continues when it is up");
    logged("packet: interface vb is gone; capture continues when it is back");
    let sleeps = || shown(&watch).pump(PumpCounter::Sleeps);
    let (cpu, slept, began) = (cpu_ns(tap.process.pid()), sleeps(), Instant::now());
    wait_until("two seconds", || began.elapsed() >= Duration::from_secs(2));
    let seconds = began.elapsed().as_secs_f64();
    let (cpu, slept) = (
        (cpu_ns(tap.process.pid()) - cpu) as f64 / 1e9 / seconds,
        (sleeps() - slept) as f64 / seconds,
    );
    assert!(cpu < 0.1 && slept < 20.0, "busy: {cpu} of a processor, {slept} sleeps a second");
    assert!(!tap.process.stderr().contains("capture continues\n"), "{}", tap.process.stderr());
    come(2);

    wire.plug();
    logged("packet: interface vb is back, capture continues");
    ping();
    come(4);
    // An interface that is found again before it is up is reported as down once more.
    let (faults, said) = (shown(&watch).pump(PumpCounter::SourceFaults), tap.process.stderr());
    let again = said.matches("vb is down").count() as u64 - 1;
    assert!(again <= 1 && faults == 3 + again, "{faults}: {said}");
    assert_eq!(said.lines().count() as u64, 4 + again, "{said}");
    tap.end();
    println!(
        "while the interface was gone: {:.2} % of a processor, {slept:.1} sleeps a second",
        cpu * 100.0
    );
}
