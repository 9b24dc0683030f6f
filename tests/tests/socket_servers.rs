//! Where streams can be sent: a seqpacket socket for standard tools, UDP, and pipes into programs
//! that know nothing of ringweir. Every test closes its accounts: published = delivered + lost,
//! delivered = sent + reported as not sent.

use ringweir_harness::{Daemon, Environment, Process, wait_for};
use ringweir_needs::needs;
use ringweir_pattern::crc;
use ringweir_proto::os::socket;
use rustix::net::RecvFlags;
use rustix::process::Signal;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// `count` datagrams that stay in the ring.
fn kept(env: &Environment, name: &str, source: &str, count: u64) -> Daemon {
    let args = [
        "--linger",
        "forever",
        "--max-datagram",
        "2KiB",
        "--capacity",
        "32MiB",
        "--depth",
        "32768",
    ];
    let broker = env.broker(name, source, &args);
    let done = format!("{count} datagrams published");
    let full =
        wait_for(Duration::from_secs(30), || broker.process.stderr().contains(&done).then_some(()));
    assert!(full.is_some(), "{}", broker.process.stderr());
    broker
}

fn socket_server(env: &Environment, args: &[&str], path: &str) -> Process {
    let mut command = env.command("ringcat");
    command.args(args).args(["--unix", &format!("seqpacket:{path}")]);
    let cat = env.start(command);
    let listens = wait_for(Duration::from_secs(20), || {
        cat.stderr().contains("clients may connect").then_some(())
    });
    assert!(listens.is_some(), "{}", cat.stderr());
    cat
}

/// Receives the next packet of a client; `None` at the end.
fn packet(client: &OwnedFd, room: &mut [u8]) -> Option<usize> {
    let (len, _) = rustix::net::recv(client, &mut *room, RecvFlags::empty())
        .expect("within the socket's patience");
    (len > 0).then_some(len)
}

/// Two clients read and one never does. The readers get every datagram whole and in order, one per
/// read. The third slows no other client, though the ring has lapped it long ago. SIGTERM closes
/// all accounts (the third's as far as it had read) and removes the socket. Control: the same check
/// notices a client that skips one datagram.
#[test]
fn clients_get_one_datagram_per_read_and_do_not_slow_each_other() {
    const COUNT: u64 = 40_000;
    let env = Environment::new(LIMIT);
    let path = env.path("o.s").to_str().unwrap().to_string();
    // The ring holds a fraction of the stream: a client that does not read is lapped.
    let broker = env.broker(
        "server-many",
        &format!("gen:rate=8k/s,size=64..1000,count={COUNT}"),
        &["--max-datagram", "1000", "--capacity", "4MiB", "--depth", "8192", "--wait-readers", "3"],
    );
    let mut cat = socket_server(&env, &["server-many", "--from", "0", "--verify"], &path);
    let clients: Vec<_> = (0..3).map(|_| socket::connect(path.as_ref()).unwrap()).collect();
    let numbers = |client: &OwnedFd| {
        let (mut room, mut numbers) = (vec![0; 2000], Vec::new());
        while let Some(len) = packet(client, &mut room) {
            numbers.push(crc::check(&room[..len]).expect("a whole datagram").number);
        }
        numbers
    };
    let whole = |numbers: &[u64]| numbers.iter().copied().eq(0..COUNT);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            clients[..2].iter().map(|client| scope.spawn(|| numbers(client))).collect();
        for reader in readers {
            let mut got = reader.join().unwrap();
            assert!(whole(&got), "{} of {COUNT}", got.len());
            got.remove(COUNT as usize / 2);
            assert!(!whole(&got), "the control");
        }
    });
    assert!(cat.ended().is_none(), "the third has not taken what is its own");
    cat.signal(Signal::TERM);
    assert_eq!(cat.wait().code(), Some(0), "{}", cat.stderr());
    assert!(!std::path::Path::new(&path).exists(), "its socket is left");
    let said = cat.stderr();
    let ends: Vec<_> = said.lines().filter(|line| line.contains(" published = ")).collect();
    assert_eq!(ends.len(), 3, "{said}");
    let number_before = |line: &str, word: &str| -> u64 {
        line.split(word)
            .next()
            .unwrap()
            .rsplit(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    for (i, line) in ends.iter().enumerate() {
        let [published, delivered, lost, sent] =
            [" published = ", " delivered (", " lost in ", " sent"]
                .map(|word| number_before(line, word));
        assert_eq!(published, delivered + lost, "{line}");
        assert!(delivered - sent <= 1 && line.contains("; verified: "), "{line}");
        assert!(if i < 2 { lost == 0 && sent == COUNT } else { sent < COUNT }, "{line}");
    }
    assert_eq!(broker.published(), COUNT);
}

/// One client hangs up, and one comes late; `--once` ends with the last. Controls: a path that is
/// in use and a stream that does not exist are refused, and nothing is left.
#[test]
fn clients_come_and_go() {
    let env = Environment::new(LIMIT);
    let path = env.path("o.s").to_str().unwrap().to_string();
    let place = format!("seqpacket:{path}");
    let refused = env.run("ringcat", &["nosuch", "--unix", &place]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(env.run("ringcat", &["x", "--unix", "stream:/x"]).status.code(), Some(2));
    // The rate is so low that the second client comes before the first has all its datagrams;
    // otherwise --once would end here.
    let broker = env.broker("server-few", "gen:rate=10/s,size=100", &["--depth", "64"]);
    std::fs::write(&path, "precious").unwrap();
    let refused = env.run("ringcat", &["server-few", "--unix", &place]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is in the way"), "{refused:?}");
    std::fs::remove_file(&path).unwrap();

    let mut cat = socket_server(
        &env,
        &["server-few", "--from", "oldest", "-n", "20", "--once", "--stats"],
        &path,
    );
    let (early, mut room) = (socket::connect(path.as_ref()).unwrap(), vec![0; 200]);
    assert_eq!(packet(&early, &mut room), Some(100));
    let late = socket::connect(path.as_ref()).unwrap();
    drop(early);
    let got = std::iter::from_fn(|| packet(&late, &mut room)).count();
    assert_eq!(got, 20, "-n is for each client");
    drop(late);
    assert_eq!(cat.wait().code(), Some(0), "{}", cat.stderr());
    assert!(!std::path::Path::new(&path).exists());
    broker.end();
}

/// `xxd`, `dd`, `tcpdump -r` and `socat`, each used for what it is good at.
#[test]
fn standard_tools_read_the_stream() {
    if !["xxd", "tcpdump", "socat"].into_iter().all(needs) {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "server-tools", "gen:rate=max,size=96,count=40", 40);
    let bin = ringweir_harness::programs::path("ringcat");
    let shell = |line: &str| {
        let mut command = env.command_at("sh".as_ref());
        command.args(["-c", line]).env("RINGCAT", &bin).stdout(Stdio::piped());
        let output = env.start(command).output();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let hex = text(shell("$RINGCAT server-tools --from oldest -n 2 | xxd"));
    assert!(hex.starts_with("00000000: 5257 6731 ") && hex.lines().count() == 12, "{hex}");
    // A pipe keeps no boundaries. Datagrams of one size are blocks of it, if dd collects whole
    // ones.
    let third = shell(
        "$RINGCAT server-tools --from oldest | dd iflag=fullblock bs=96 skip=3 count=1 status=none",
    );
    assert_eq!(crc::check(&third).unwrap().number, 3);
    let packets = text(shell(
        "$RINGCAT server-tools --from oldest --format pcap --link-type USER0 | tcpdump -nr - \
        2>/dev/null",
    ));
    assert_eq!(
        packets.lines().filter(|line| !line.starts_with([' ', '\t'])).count(),
        40,
        "{packets}"
    );

    let path = env.path("o.s").to_str().unwrap().to_string();
    let mut cat = socket_server(&env, &["server-tools", "--from", "oldest", "--once"], &path);
    // -v prints the length of every transfer: one datagram each.
    let said = text(shell(&format!("socat -v -u UNIX-CONNECT:{path},type=5 /dev/null 2>&1")));
    assert_eq!(said.matches("length=96 ").count(), 40, "{said}");
    assert_eq!(cat.wait().code(), Some(0));
    broker.end();
}

/// Ring → UDP → ring: the second ring publishes the datagrams of the first, byte by byte. Control:
/// datagrams too long for UDP are missing, counted and reported.
#[test]
fn a_ring_is_copied_over_udp() {
    const COUNT: u64 = 20_000;
    let env = Environment::new(LIMIT);
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to = format!("udp:127.0.0.1:{port}");
    let copy = env.broker(
        "server-copy",
        &to,
        &["--max-datagram", "1500", "--capacity", "32MiB", "--depth", "32768"],
    );
    let origin =
        kept(&env, "server-origin", &format!("gen:rate=max,size=64..1400,count={COUNT}"), COUNT);
    let mut command = env.command("ringcat");
    command.args(["server-copy", "--from", "0", "-n", "20000", "--verify", "--timeout", "60s"]);
    let cat = env.start(command);
    let sent = env.run(
        "ringsend",
        &["server-origin", "--from", "0", "--to", &to, "--rate", "20k/s", "--json"],
    );
    assert!(sent.status.success(), "{sent:?}");
    let account: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    for (key, value) in [
        ("published", COUNT),
        ("taken", COUNT),
        ("sent", COUNT),
        ("too_long", 0),
        ("failed", 0),
        ("lost", 0),
    ] {
        assert_eq!(account[key].as_u64(), Some(value), "{key}: {account}");
    }
    let output = cat.output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("verified: 20000 right, 0 wrong"), "{said}");
    copy.end();
    origin.end();

    let args = ["--linger", "forever", "--max-datagram", "80000", "--capacity", "4MiB"];
    let long = env.broker("server-long", "gen:rate=max,size=60000..80000,count=20", &args);
    let sent = env.run(
        "ringsend",
        &["server-long", "--from", "0", "--to", "udp:127.0.0.1:9", "--until-idle", "1s", "--json"],
    );
    let account: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    let [taken, sent, too_long] =
        ["taken", "sent", "too_long"].map(|key| account[key].as_u64().unwrap());
    assert!(too_long > 0 && sent > 0 && taken == sent + too_long && taken == 20, "{account}");
    long.end();
}

/// With the header, a receiver gets every seq, and reports for those that cannot come. Control: the
/// same check notices one datagram dropped in the receiver.
#[test]
fn a_udp_receiver_sees_every_seq() {
    let env = Environment::new(LIMIT);
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let to = format!("udp:127.0.0.1:{}", receiver.local_addr().unwrap().port());
    // Most of it is lapped before the first read: the first record reports that.
    let args =
        ["--linger", "forever", "--max-datagram", "1KiB", "--depth", "256", "--capacity", "64KiB"];
    let broker = env.broker("server-seq", "gen:rate=max,size=100..500,count=5000", &args);
    wait_for(Duration::from_secs(20), || {
        broker.process.stderr().contains("5000 datagrams published").then_some(())
    })
    .unwrap();
    let mut command = env.command("ringsend");
    command.args([
        "server-seq",
        "--from",
        "0",
        "--to",
        &to,
        "--header",
        "seq",
        "--rate",
        "2k/s",
        "--json",
    ]);
    command.stdout(Stdio::piped()).args(["--until-idle", "1s"]);
    let sending = env.start(command);
    let mut events = Vec::new();
    let (mut room, mut next) = ([0; 2000], 0);
    while next < 5000 {
        let len = receiver.recv(&mut room).expect("the rest of the stream");
        let word = |at: usize| u64::from_le_bytes(room[at..at + 8].try_into().unwrap());
        assert_eq!(&room[..2], b"RS");
        let (seq, count) = match room[2] {
            1 => {
                assert_eq!(
                    crc::check(&room[16..len]).unwrap().number,
                    word(8),
                    "the seq is the datagram's own"
                );
                (word(8), 1)
            }
            2 => (word(8), word(16)),
            kind => panic!("kind {kind}"),
        };
        next = seq + count;
        events.push((seq, count));
    }
    let sent = sending.output();
    assert!(sent.status.success(), "{sent:?}");
    let account: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    let complete = |events: &[(u64, u64)]| {
        events.iter().try_fold(0, |next, (seq, count)| (*seq == next).then_some(seq + count))
    };
    assert_eq!(complete(&events), Some(5000));
    let lost = account["lost"].as_u64().unwrap();
    assert!(
        lost > 4000 && account["records"] == 1 && events[0] == (0, lost),
        "{account} {:?}",
        events[0]
    );
    events.remove(events.len() / 2);
    assert_eq!(complete(&events), None, "the control");
    broker.end();
}
