//! Both kinds from within one process; every test checks the account: sent = published.

use super::open::open;
use super::spec::Spec;
use crate::source::contract::{Fill, OpenFor, Source};
use crate::source::test_bench::{Bench, Got, bytes_of, wait};
use rustix::net::SocketType;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

const STREAM: OpenFor = OpenFor { max_datagram: 512 };

fn socket_path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    (dir, path)
}

fn source(options: &str, path: &std::path::Path) -> Box<dyn Source> {
    open(&format!("{options}{}", path.display()), &STREAM).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(argument: &str) -> String {
    open(argument, &STREAM).err().unwrap_or_else(|| panic!("{argument} is accepted")).to_string()
}

fn connect(path: &std::path::Path) -> OwnedFd {
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::connect(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    fd
}

fn send(fd: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL), Ok(bytes.len()));
}

fn tagged(got: &[Got]) -> Vec<(u16, &[u8])> {
    got.iter().map(|g| (g.channel, g.bytes.as_slice())).collect()
}

#[test]
fn arguments_are_parsed_and_wrong_ones_named() {
    let spec = Spec::parse("/tmp/a:b,c").unwrap();
    assert_eq!(spec, Spec { seqpacket: false, mode: 0o600, senders: 256, path: "/tmp/a:b,c" });
    let spec = Spec::parse("seqpacket,mode=0666,senders=9:x").unwrap();
    assert_eq!(spec, Spec { seqpacket: true, mode: 0o666, senders: 9, path: "x" });
    for (argument, says) in [
        ("", "no path"),
        ("sock", "begins with / or ."),
        ("dgram:", "no path"),
        ("stream:/x", "\"stream\"; there are dgram, seqpacket"),
        ("dgram,mode=0999:/x", "mode=0999: not an octal mode"),
        ("seqpacket,senders=0:/x", "senders=0: not a number"),
        ("dgram,senders=4:/x", "is for seqpacket"),
        ("dgram,seqpacket:/x", "either dgram or seqpacket"),
        ("/no/such/dir/x", "its directory does not exist"),
    ] {
        let text = refused(argument);
        assert!(text.contains(says), "{argument}: {text}");
    }
    assert!(refused(&format!("/tmp/{}", "x".repeat(120))).contains("1 to 107 bytes"));
}

/// The file has its mode, replaces a dead socket and nothing else, and is removed at the end.
#[test]
fn the_file_is_created_replaced_and_removed_only_if_ours() {
    let (_dir, path) = socket_path();
    let name = path.to_str().unwrap();
    for (options, mode) in
        [("", 0o600), ("dgram,mode=0666:", 0o666), ("seqpacket,mode=0620:", 0o620)]
    {
        let made = source(options, &path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        assert!(refused(name).contains("in use by another process"), "{options}");
        assert!(
            refused(&format!("seqpacket:{name}")).contains("in use by another process"),
            "{options}"
        );
        drop(made);
        assert!(!path.exists());
    }
    // A dead socket: bound once and closed.
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(path.exists());
    let made = source("seqpacket:", &path);
    // Another program puts its own socket there, which must not be removed.
    std::fs::remove_file(&path).unwrap();
    let other = UnixDatagram::bind(&path).unwrap();
    drop(made);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(refused(name).contains("in the way and is not a socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn datagrams_of_several_senders_arrive_whole() {
    let (_dir, path) = socket_path();
    let mut source = source("", &path);
    let mut bench = Bench::new(1 << 20, 512);
    let senders = [UnixDatagram::unbound().unwrap(), UnixDatagram::unbound().unwrap()];
    for round in 0..50_usize {
        let sent: Vec<Vec<u8>> =
            (0..8).map(|i| vec![(round * 8 + i) as u8; (round * 37 + i * 61) % 513]).collect();
        for (i, datagram) in sent.iter().enumerate() {
            assert_eq!(senders[i % 2].send_to(datagram, &path).unwrap(), datagram.len());
        }
        let (got, fill) = bench.run(&mut *source);
        assert_eq!((bytes_of(&got), fill), (sent.iter().map(Vec::as_slice).collect(), Fill::Idle));
        assert!(
            got.iter()
                .all(|g| g.source_time > 1_600_000_000_000_000_000 && g.lost_before.is_empty())
        );
    }
    senders[0].send_to(&[5; 700], &path).unwrap();
    let got = bench.run(&mut *source).0;
    assert_eq!((got[0].bytes.len(), got[0].original_len), (512, 700), "cut, and says so");
}

/// Senders wait for the pump and nothing is lost, though more is sent than can be queued. Control:
/// without the pump the sender gets EAGAIN.
#[test]
fn a_fast_sender_waits_and_loses_nothing() {
    let (_dir, path) = socket_path();
    let mut source = source("", &path);
    let eager = UnixDatagram::unbound().unwrap();
    eager.set_nonblocking(true).unwrap();
    eager.connect(&path).unwrap();
    let refused = (0..100_000)
        .find(|_| eager.send(b"x").is_err())
        .expect("the control: the sender gets EAGAIN");
    let mut bench = Bench::new(1 << 20, 512);
    assert_eq!(bench.run(&mut *source).0.len(), refused);
    let to = path.clone();
    let sender = std::thread::spawn(move || {
        let socket = UnixDatagram::unbound().unwrap();
        (0..5000_u32).for_each(|n| assert_eq!(socket.send_to(&n.to_le_bytes(), &to).unwrap(), 4));
    });
    let mut all = Vec::new();
    while all.len() < 5000 {
        assert!(wait(&*source, 10_000), "{} of 5000", all.len());
        all.extend(bench.run(&mut *source).0);
    }
    sender.join().unwrap();
    assert!(all.iter().enumerate().all(|(i, g)| g.bytes == (i as u32).to_le_bytes()));
}

#[test]
fn connections_are_channels_and_an_empty_packet_ends_none() {
    let (_dir, path) = socket_path();
    let mut source = source("seqpacket:", &path);
    let mut bench = Bench::new(1 << 20, 512);
    let (a, b) = (connect(&path), connect(&path));
    send(&a, b"first");
    send(&b, b"");
    send(&a, b"");
    send(&a, &[9; 700]);
    let mut got = bench.run(&mut *source).0;
    got.sort_by_key(|g| g.channel);
    let cut = [9; 512];
    assert_eq!(tagged(&got), [(1, &b"first"[..]), (1, b""), (1, &cut), (2, b"")]);
    assert_eq!(got[2].original_len, 700);
    assert!(got.iter().all(|g| g.source_time > 1_600_000_000_000_000_000));
    // The datagrams of a sender that has disconnected all arrive. The other sender is still served.
    send(&a, b"last");
    drop(a);
    send(&b, b"on");
    let mut got = bench.run(&mut *source).0;
    got.sort_by_key(|g| g.channel);
    assert_eq!(tagged(&got), [(1, &b"last"[..]), (2, b"on")]);
    let c = connect(&path);
    send(&c, b"new");
    assert_eq!(tagged(&bench.run(&mut *source).0), [(3, &b"new"[..])]);
    assert_eq!(bench.notices(), [""; 0]);
}

/// A sender that floods does not delay the others: each is served within a few rounds.
#[test]
fn senders_take_turns() {
    let (_dir, path) = socket_path();
    let mut source = source("seqpacket:", &path);
    let mut bench = Bench::new(1 << 20, 512);
    let senders: Vec<_> = (0..8).map(|_| connect(&path)).collect();
    let mut sent = 0;
    let mut of = [0_u32; 9];
    for _ in 0..64 {
        // The sockets are full before each round, as if the senders never paused.
        for fd in &senders {
            while rustix::net::send(fd, b"flood", SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
            {
                sent += 1;
            }
        }
        bench.round(&mut *source);
        bench.read().iter().for_each(|g| of[usize::from(g.channel)] += 1);
    }
    let (least, most) = (of[1..].iter().min().unwrap(), of[1..].iter().max().unwrap());
    assert!(*least > 0 && *most <= 2 * *least, "{of:?}");
    bench.run(&mut *source).0.iter().for_each(|g| of[usize::from(g.channel)] += 1);
    assert_eq!(of.iter().sum::<u32>(), sent);
}

/// The number of senders is limited; one too many is disconnected and reported.
#[test]
fn a_sender_too_many_is_refused_and_indices_are_reused() {
    let (_dir, path) = socket_path();
    let mut source = source("seqpacket,senders=2:", &path);
    let mut bench = Bench::new(1 << 20, 512);
    let mut three: Vec<_> = (0..3).map(|_| connect(&path)).collect();
    bench.run(&mut *source);
    let notices = bench.notices();
    assert!(notices.len() == 1 && notices[0].contains("2 senders are connected"), "{notices:?}");
    let late = three.pop().unwrap();
    assert!(rustix::net::send(&late, b"x", SendFlags::NOSIGNAL).is_err(), "the sender sees it");
    three.clear();
    for n in 0..1000 {
        let fd = connect(&path);
        send(&fd, b"y");
        drop(fd);
        let got = bench.run(&mut *source).0;
        assert_eq!(tagged(&got), [(3 + n, &b"y"[..])]);
    }
    assert_eq!(bench.notices(), [""; 0]);
}
