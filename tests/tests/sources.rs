//! Sources fed by the programs that people use: unix sockets, terminals, netlink. Published = sent,
//! or what is missing is reported.

#![allow(unsafe_code)]

use ringweir::{Cause, Item, Options, Start};
use ringweir_harness::{Daemon, Environment, proc, wait_for};
use ringweir_needs::{needs, needs_root};
use ringweir_proto::os::socket;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn shell(env: &Environment, line: &str) -> String {
    let mut command = env.command_at("sh".as_ref());
    command.args(["-c", line]).stdout(Stdio::piped());
    let output = env.start(command).output();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads until `enough` datagrams have come; returns channel and bytes.
fn read(broker: &Daemon, enough: usize) -> Vec<(u16, Vec<u8>)> {
    let mut reader = Options::new("test").start(Start::Oldest).attach(broker.path()).unwrap();
    let mut got = Vec::new();
    while got.len() < enough {
        match reader.next().unwrap() {
            Item::Datagram(mut datagram) => {
                got.push((datagram.channel(), datagram.to_vec().unwrap()))
            }
            Item::Empty => {
                reader.wait(Some(Duration::from_secs(20))).unwrap();
            }
            other => panic!("{other:?} after {}", got.len()),
        }
    }
    got
}

/// socat sends to both kinds of socket; the socket is removed with the stream. Control: a bad
/// argument is refused with its name.
#[test]
fn socat_sends_to_unix_sockets() {
    if !needs("socat") {
        return;
    }
    let env = Environment::new(LIMIT);
    let path = env.path("in.s");
    let shown = path.to_str().unwrap();
    let broker = env.broker("src-dgram", &format!("unix:{shown}"), &[]);
    shell(
        &env,
        &format!(
            "printf hello | socat - UNIX-SENDTO:{shown}; printf world | socat - UNIX-SENDTO:{shown}"
        ),
    );
    assert_eq!(read(&broker, 2), [(0, b"hello".to_vec()), (0, b"world".to_vec())]);
    broker.end();
    assert!(!path.exists());

    let broker = env.broker("src-seqpacket", &format!("unix:seqpacket:{shown}"), &[]);
    for word in ["one", "two"] {
        shell(&env, &format!("printf {word} | socat -u - UNIX-CONNECT:{shown},type=5"));
    }
    assert_eq!(read(&broker, 2), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    broker.end();
    assert!(!path.exists());
    let run = env.run_dir();
    let refused = env.run(
        "ringd",
        &["--run-dir", run.to_str().unwrap(), "run", "--name", "x", "--source", "unix:stream:/x"],
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there are dgram, seqpacket"));
}

/// Misbehaving senders: thousands of connections, file descriptors sent along, packets without
/// bytes and packets with too many. Nothing leaks, and well-behaved senders are served. Control:
/// the file descriptors were really sent, or really refused by the kernel.
#[test]
fn hostile_senders_do_no_harm() {
    let env = Environment::new(LIMIT);
    let path = env.path("in.s");
    let broker = env.broker(
        "src-hostile",
        &format!("unix:seqpacket:{}", path.display()),
        &["--max-datagram", "1KiB"],
    );
    let pid = broker.process.pid();
    let before = proc::settled_fds(pid);
    for _ in 0..10_000 {
        drop(socket::connect(&path).unwrap());
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    let (mut refused, mut sent) = (0, 1);
    let hostile = socket::connect(&path).unwrap();
    for _ in 0..200 {
        match socket::send(&hostile, b"with fds", &[null.as_fd(); 4]) {
            Ok(()) => sent += 1,
            Err(e) => {
                assert_eq!(e, rustix::io::Errno::PERM, "from Linux 6.16 on the kernel refuses");
                refused += 1;
            }
        }
    }
    assert_eq!(refused + sent, 201);
    // If the broker accepted descriptors, it had warned about that at its start.
    assert_eq!(
        broker.process.stderr().contains("only trusted senders"),
        refused == 0,
        "{}",
        broker.process.stderr()
    );
    socket::send(&hostile, b"", &[]).unwrap();
    socket::send(&hostile, &[7; 5000], &[]).unwrap();
    sent += 1;
    drop(hostile);
    let good = socket::connect(&path).unwrap();
    socket::send(&good, b"good", &[]).unwrap();
    let got = read(&broker, sent + 1);
    assert_eq!(got.last().unwrap().1, b"good");
    assert_eq!(
        got.iter().filter(|(_, bytes)| bytes.len() == 1024).count(),
        1,
        "cut to the longest"
    );
    drop(good);
    let tidy = wait_for(Duration::from_secs(10), || (proc::open_fds(pid) <= before).then_some(()));
    assert!(tidy.is_some(), "{} fds, {before} before", proc::open_fds(pid));
    broker.end();
}

/// A terminal made by socat; the stream ends when socat ends. Control: a path that is no device is
/// refused, with the source to use instead.
#[test]
fn a_terminal_is_a_source_until_it_is_hung_up() {
    if !needs("socat") {
        return;
    }
    let env = Environment::new(LIMIT);
    let link = env.path("tty");
    let mut command = env.command_at("socat".as_ref());
    command
        .args(["-u", "-", &format!("PTY,link={},raw,echo=0", link.display())])
        .stdin(Stdio::piped());
    let mut socat = env.start(command);
    wait_for(Duration::from_secs(10), || link.exists().then_some(())).expect("a terminal");
    let mut broker =
        env.broker("src-tty", &format!("chardev:raw:{}", link.display()), &["--linger", "forever"]);
    let mut input = socat.stdin().unwrap();
    for word in ["first", "second"] {
        std::io::Write::write_all(&mut input, word.as_bytes()).unwrap();
        std::io::Write::flush(&mut input).unwrap();
        let want = if word == "first" { 1 } else { 2 };
        assert_eq!(read(&broker, want).last().unwrap().1, word.as_bytes());
    }
    drop(input);
    socat.wait();
    let ended = wait_for(Duration::from_secs(10), || {
        let said = broker.process.stderr();
        (said.contains("2 datagrams published") || said.contains("is gone")).then_some(())
    });
    assert!(ended.is_some(), "{}", broker.process.stderr());
    broker.process.signal(rustix::process::Signal::TERM);
    broker.process.wait();
    let run = env.run_dir();
    let refused = env.run(
        "ringd",
        &[
            "--run-dir",
            run.to_str().unwrap(),
            "run",
            "--name",
            "x",
            "--source",
            "chardev:/etc/passwd",
        ],
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("use file:FRAMING:"), "{refused:?}");
}

fn netlink() -> OwnedFd {
    let protocol = std::num::NonZeroU32::new(2).map(Protocol::from_raw);
    rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )
    .unwrap()
}

/// A socket without its own address does not receive what is sent to pid 0.
fn bind(fd: &OwnedFd) {
    // An address of the kernel's choice.
    rustix::net::bind(fd, &SocketAddrNetlink::new(0, 0)).unwrap();
}

fn send_to_group(fd: &OwnedFd, bytes: &[u8], group: u32) {
    // Sending to pid 0 is refused after the group got the message.
    let to = SocketAddrNetlink::new(0, 1 << (group - 1));
    let _refused = rustix::net::sendto(fd, bytes, SendFlags::empty(), &to);
}

/// A9, side by side: a netlink listener that does not read gets ENOBUFS and no number; a reader of
/// the ring that does not read gets the exact number. Control: a reader that reads has lost
/// nothing.
#[test]
fn a_slow_netlink_listener_gets_an_error_and_a_slow_reader_the_count() {
    const COUNT: u64 = 20_000;
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let args = [
        "--linger",
        "forever",
        "--max-datagram",
        "1KiB",
        "--depth",
        "1024",
        "--capacity",
        "256KiB",
    ];
    let broker = env.broker("src-netlink", "netlink:usersock:21,rcvbuf=64MiB", &args);
    let listener = netlink();
    bind(&listener);
    let group = 21_u32;
    let (raw, len) = (listener.as_raw_fd(), size_of::<u32>() as libc::socklen_t);
    // SAFETY: a valid pointer to `len` bytes, which the kernel only reads.
    let rc = unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            len,
        )
    };
    assert_eq!(rc, 0);
    let mut slow = Options::new("slow").attach(broker.path()).unwrap();
    let mut quick = Options::new("quick").attach(broker.path()).unwrap();
    let sender = netlink();
    let mut next = 0;
    for number in 0..COUNT {
        send_to_group(&sender, &number.to_le_bytes(), 21);
        // The sender does not run ahead of the quick reader, so that this one is never lapped.
        while next + 256 <= number {
            match quick.next().unwrap() {
                Item::Datagram(mut d) => {
                    assert_eq!(
                        (d.channel(), d.to_vec().unwrap()),
                        (21, next.to_le_bytes().to_vec())
                    );
                    next += 1;
                }
                Item::Empty => {
                    quick.wait(Some(Duration::from_secs(20))).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let mut room = [0; 64];
    let answer = rustix::net::recv(&listener, &mut room[..], RecvFlags::DONTWAIT).map(|_| ());
    assert_eq!(answer, Err(rustix::io::Errno::NOBUFS), "an error and no number");
    while next < COUNT {
        match quick.next().unwrap() {
            Item::Datagram(_) => next += 1,
            Item::Empty => {
                quick.wait(Some(Duration::from_secs(20))).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    let (mut delivered, mut lost) = (0, 0);
    while delivered + lost < COUNT {
        match slow.next().unwrap() {
            Item::Datagram(_) => delivered += 1,
            Item::Gap(gap) => {
                assert_eq!(gap.cause, Cause::Lapped);
                lost += gap.count;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0 && delivered > 0 && delivered + lost == COUNT, "{delivered} + {lost}");
    broker.end();
}
