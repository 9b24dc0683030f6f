//! The programs from outside: arguments good and bad, messages on stderr, exit statuses, pipes that
//! close, brokers that died, users without rights, and peers that send nonsense. (`ringstat` and
//! `ringctl` have their own files.)

use ringweir_harness::{Daemon, Environment, wait_for};
use ringweir_helpers::mailbox::{Live, Mailbox};
use ringweir_needs::needs_root;
use ringweir_proto::control::{AttachRequest, MESSAGE_MAX, Mode, Reply, Request};
use ringweir_proto::os::socket;
use rustix::process::Signal;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: &str = "65534";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A short stream that stays: `count` datagrams, all in the ring.
fn kept(env: &Environment, name: &str, count: u64, more: &[&str]) -> Daemon {
    let args =
        [&["--linger", "forever", "--wait-readers", "0", "--max-datagram", "2KiB"], more].concat();
    let broker = env.broker(name, &format!("gen:rate=max,size=24..1500,count={count}"), &args);
    let done = format!("{count} datagrams published");
    let full =
        wait_for(Duration::from_secs(10), || broker.process.stderr().contains(&done).then_some(()));
    assert!(full.is_some(), "{}", broker.process.stderr());
    broker
}

/// Each bad argument: its exit status, and that stderr names the value and what to do. Control: the
/// same programs with good arguments end with 0.
#[test]
fn bad_arguments_are_refused_by_name_and_with_a_remedy() {
    let env = Environment::new(LIMIT);
    let run = env.run_dir().to_str().unwrap().to_string();
    let ringd = |args: &str| format!("ringd --run-dir {run} {args}");
    let table: Vec<(String, i32, &[&str])> = vec![
        (ringd("run --name a"), 2, &["--source"]),
        (ringd("run --name a --source gen: --color red"), 2, &["--color"]),
        (ringd("run --name a --source gen: --depth 3parsecs"), 2, &["3parsecs", "64MiB"]),
        (ringd("run --name a --source gen: --rate 350MB"), 2, &["350MB", "350MB/s"]),
        (ringd("run --name a/b --source gen:"), 1, &["a/b", "use 1 to 64 of"]),
        (ringd("run --name a --source nosuch:x"), 1, &["nosuch", "there are", "gen"]),
        (ringd("run --name a --source gen:speed=3"), 1, &["speed=3", "rate, size"]),
        (ringd("run --name a --source gen:size=8"), 1, &["size=8", "at least 24"]),
        (ringd("run --name a --source gen: --readers-max 0"), 1, &["--readers-max 0", "1 to 4096"]),
        (
            ringd("run --name a --source gen: --readers-max 2 --wait-readers 3"),
            1,
            &["--wait-readers 3", "--readers-max 2"],
        ),
        (ringd("run --name a --source gen: --socket-mode 0999"), 1, &["0999", "such as 0660"]),
        (ringd("run --name a --source gen: --group nosuchgroup"), 1, &["nosuchgroup", "groupadd"]),
        (ringd("run --name a --source gen: --meta x"), 1, &["\"x\"", "KEY=VALUE"]),
        (ringd("run --name a --source gen: --max-datagram 17MiB"), 1, &["17 MiB", "16 MiB"]),
        (ringd("--config /nonexistent.toml"), 1, &["/nonexistent.toml"]),
        (
            "ringd --run-dir /proc/nowhere/x run --name a --source gen:".into(),
            1,
            &["/proc/nowhere/x", "--run-dir"],
        ),
        ("ringcat".into(), 2, &["NAME"]),
        ("ringcat nosuch".into(), 1, &["no stream \"nosuch\"", "running: none"]),
        ("ringcat no/such.sock".into(), 1, &["no/such.sock", "start ringd"]),
        ("ringcat a --from yesterday".into(), 2, &["yesterday", "oldest, latest"]),
        ("ringcat a --format xml".into(), 2, &["xml", "len32le", "pcap"]),
        ("ringcat a --link-type USER16".into(), 2, &["USER16", "EN10MB"]),
        ("ringcat a --len-prefix --format raw".into(), 2, &["--len-prefix", "--format"]),
        ("ringcat a --timeout soon".into(), 2, &["soon", "1.5s"]),
        ("ringgen --size 8".into(), 2, &["size=8", "at least 24"]),
        ("ringgen --rate 0/s".into(), 2, &["rate=0/s", "zero"]),
        ("ringgen --size 64..128 --framing fixed".into(), 2, &["64..128", "one size"]),
    ];
    for (line, status, says) in &table {
        let mut words = line.split_whitespace();
        let output = env.run(words.next().unwrap(), &words.collect::<Vec<_>>());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(*status), "{line}: {text}");
        assert!(says.iter().all(|s| text.contains(s)), "{line}: {text}");
        assert!(output.stdout.is_empty(), "{line}: something on stdout");
        assert!(!text.contains("panicked"), "{line}: {text}");
    }
    for line in [
        "ringd --help",
        "ringd sources",
        "ringcat --help",
        "ringgen --help",
        "ringd --version",
        "ringgen --count 3",
    ] {
        let mut words = line.split_whitespace();
        let output = env.run(words.next().unwrap(), &words.collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{line}: {}", said(&output));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line}: {}", said(&output));
    }
    assert!(
        String::from_utf8(env.run("ringcat", &["--help"]).stdout).unwrap().contains("Examples:")
    );
}

/// Every format carries the same datagrams, whole. Control: each is read back by a program that did
/// not write it.
#[test]
fn every_format_can_be_read_back() {
    use pcap_parser::traits::PcapReaderIterator;
    use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError};
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "formats", 500, &[]);
    let cat = |args: &[&str]| {
        let output = env.run("ringcat", &[&["formats", "--from", "oldest"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        output.stdout
    };
    let mut datagrams = Vec::new();
    let prefixed = cat(&["--len-prefix"]);
    let mut rest = &prefixed[..];
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let (datagram, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        ringweir_pattern::verify::check(datagram).unwrap();
        datagrams.push(datagram.to_vec());
        rest = behind;
    }
    assert_eq!(datagrams.len(), 500);
    assert_eq!(cat(&["--format", "raw"]), datagrams.concat());
    assert_eq!(cat(&["-f", "raw", "-n", "3"]), datagrams[..3].concat());
    let hex = String::from_utf8(cat(&["--format", "hex", "-n", "2"])).unwrap();
    assert!(
        hex.starts_with("seq 0  ") && hex.contains("52 57 67 31") && hex.contains("|RWg1"),
        "{hex}"
    );

    let file = env.path("x.pcap");
    let began =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(
        cat(&["--format", "pcap", "--link-type", "USER0", "-w", file.to_str().unwrap()]).is_empty()
    );
    let mut reader = LegacyPcapReader::new(1 << 20, std::fs::File::open(&file).unwrap()).unwrap();
    let mut packets = 0;
    loop {
        match reader.next() {
            Ok((used, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        assert_eq!(
                            (header.network.0, header.is_nanosecond_precision()),
                            (147, true)
                        );
                    }
                    PcapBlockOwned::Legacy(packet) => {
                        let whole: &[u8] = &datagrams[packets];
                        assert_eq!(packet.data, whole);
                        assert_eq!(
                            (packet.caplen as usize, packet.origlen as usize),
                            (whole.len(), whole.len())
                        );
                        assert!(
                            (began - 60..=began + 1).contains(&u64::from(packet.ts_sec))
                                && packet.ts_usec < 1_000_000_000
                        );
                        packets += 1;
                    }
                    PcapBlockOwned::NG(_) => panic!("pcapng"),
                }
                reader.consume(used);
            }
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(PcapError::Eof) => break,
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(packets, 500);
    broker.end();
}

/// `--verify` proves a numbered stream and its losses. Control: a stream with a missing number or a
/// wrong byte fails.
#[test]
fn verify_passes_only_correct_streams() {
    let env = Environment::new(LIMIT);
    // The ring holds a part: from seq 0, the rest is reported as lost.
    let broker = kept(&env, "proof", 20_000, &["--depth", "1024", "--capacity", "256KiB"]);
    let output = env.run("ringcat", &["proof", "--from", "0", "--verify"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(output.stdout.is_empty());
    for part in [
        "ringcat: proof: lost ",
        "[seq 0..",
        "reader was lapped",
        "since seq 0: 20000 published = ",
        "in 1 gaps",
        "; verified: ",
        " 0 wrong",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let quiet = env.run("ringcat", &["proof", "--from", "0", "--verify", "--quiet"]);
    assert_eq!((quiet.status.code(), said(&quiet).as_str()), (Some(0), ""));
    broker.end();

    let good = env.run("ringgen", &["--count", "9", "--size", "40", "--rate", "max"]).stdout;
    let mut lacking = good.clone();
    lacking.drain(44 * 4..44 * 5);
    let mut damaged = good.clone();
    damaged[44 * 4 + 30] ^= 1;
    let cases =
        [(good, 0, "verified: 9 right"), (lacking, 1, "1 unexplained"), (damaged, 1, "1 wrong")];
    for (i, (bytes, status, says)) in cases.into_iter().enumerate() {
        let name = format!("fed{i}");
        let mut command = env.command("ringd");
        command.arg("--run-dir").arg(env.run_dir()).stdin(Stdio::piped());
        command.args(["run", "--name", &name, "--source", "stdin:len32le", "--linger", "forever"]);
        let mut broker = env.broker_of(&name, command);
        std::io::Write::write_all(&mut broker.process.stdin().unwrap(), &bytes).unwrap();
        wait_for(Duration::from_secs(5), || {
            broker.process.stderr().contains(" ended: ").then_some(())
        })
        .unwrap();
        let output = env.run("ringcat", &[&name, "--from", "oldest", "--verify"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(text.contains(says), "{text}");
        broker.end();
    }
}

/// The ways to end: count, idleness, time, a signal, a closed pipe. Control: without any of them it
/// does not end.
#[test]
fn ringcat_ends_on_every_condition_with_the_right_status() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("ends", "gen:rate=200/s,size=100", &[]);
    let output = env.run("ringcat", &["ends", "-n", "20", "--stats", "--format", "raw"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 2000));
    assert!(
        said(&output).contains("20 published = 20 delivered (1.95 KiB) + 0 lost in 0 gaps"),
        "{}",
        said(&output)
    );
    // No summary if it was not requested and nothing was lost.
    assert_eq!(said(&env.run("ringcat", &["ends", "-n", "2"])), "");

    let output = env.run("ringcat", &["ends", "-n", "100000", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("of 100000 datagrams arrived"), "{}", said(&output));
    assert_eq!(env.run("ringcat", &["ends", "--timeout", "0.3"]).status.code(), Some(0));

    for (signal, spin) in [(Signal::INT, false), (Signal::TERM, false), (Signal::INT, true)] {
        let mut command = env.command("ringcat");
        command.args(["ends", "--verify"]).args(spin.then_some("--spin"));
        let mut cat = env.start(command);
        std::thread::sleep(Duration::from_millis(400));
        assert!(cat.ended().is_none(), "the control: it ended by itself: {}", cat.stderr());
        cat.signal(signal);
        let status = cat.wait();
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", cat.stderr());
        assert!(cat.stderr().contains("verified: "), "{signal:?}: {}", cat.stderr());
    }

    let mut command = env.command("ringcat");
    command.args(["ends", "--format", "raw"]).stdout(Stdio::piped());
    let mut cat = env.start(command);
    let mut ten = [0; 10];
    std::io::Read::read_exact(&mut cat.stdout().unwrap(), &mut ten).unwrap();
    assert_eq!((cat.wait().code(), cat.stderr().as_str()), (Some(0), ""), "its pipe was closed");
    assert_eq!(&ten[..4], b"RWg1");

    let output = env.run("ringcat", &["ends", "-n", "3", "-w", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/dev/full"), "{}", said(&output));
    broker.end();

    let broker = env.broker("silent", "gen:rate=0.1/s", &[]);
    let began = Instant::now();
    assert_eq!(
        env.run("ringcat", &["silent", "--from", "oldest", "--until-idle", "300ms"]).status.code(),
        Some(0)
    );
    assert!((0.3..5.0).contains(&began.elapsed().as_secs_f64()));
    broker.end();
}

/// Two brokers with one name: the second is refused and the first continues. After SIGKILL a third
/// takes everything over. Control: in another run directory the same name is free.
#[test]
fn a_name_has_one_broker_and_is_taken_over_after_its_death() {
    let env = Environment::new(LIMIT);
    let mut first = env.broker("once", "gen:", &[]);
    let run = env.run_dir();
    let second = env.run(
        "ringd",
        &["--run-dir", run.to_str().unwrap(), "run", "--name", "once", "--source", "gen:"],
    );
    let text = said(&second);
    assert_eq!(second.status.code(), Some(1), "{text}");
    let pid = format!("pid {}", first.process.pid());
    assert!(
        [pid.as_str(), "already served", "--name or --run-dir"].iter().all(|s| text.contains(s)),
        "{text}"
    );
    let other = Environment::new(LIMIT);
    other.broker("once", "gen:", &[]).end();
    // The refused one has not removed the first one's socket.
    assert!(env.run("ringcat", &["once", "-n", "1"]).status.success());

    first.process.kill();
    assert_eq!((env.left().len(), env.objects().len()), (2, 1), "socket, lock, object");
    let output = env.run("ringcat", &["once", "-n", "1"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no broker answers") && text.contains("start ringd again"), "{text}");
    drop(first);
    let third = env.broker("once", "gen:", &[]);
    assert!(third.process.stderr().contains("once gen 2"), "{}", third.process.stderr());
    assert!(env.run("ringcat", &["once", "-n", "1"]).status.success());
    third.end();
}

/// Something that is not a socket is not removed. Control: a dead broker's socket is (the test
/// above).
#[test]
fn a_file_in_place_of_the_socket_is_named_and_kept() {
    let mut env = Environment::new(LIMIT);
    env.untidy = true;
    let path = env.run_dir().join("way.sock");
    std::fs::write(&path, "precious").unwrap();
    let run = env.run_dir();
    let output = env.run(
        "ringd",
        &["--run-dir", run.to_str().unwrap(), "run", "--name", "way", "--source", "gen:"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("way.sock is in the way"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert!(env.objects().is_empty(), "a ring was left by a start that failed");
}

fn as_nobody(env: &Environment, program: &str, args: &[&str]) -> Output {
    let mut command = env.command_as_nobody(program);
    command.args(args).stdout(Stdio::piped());
    env.start(command).output()
}

/// Another user can attach only if the stream allows it; the refusal says what to ask for.
/// Controls: root can attach to all of them, and that user to the one that lists it.
#[test]
fn another_user_attaches_only_with_permission() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let closed = kept(&env, "closed", 10, &[]);
    let handshaking = kept(&env, "open", 10, &["--socket-mode", "0666"]);
    let listed = kept(&env, "listed", 10, &["--allow-uid", NOBODY]);
    let cat = ["--from", "oldest", "-n", "10", "--verify"];
    for (name, status, says) in [
        ("closed", 1, "not allowed to connect"),
        ("open", 1, "uid 65534 may not attach"),
        ("listed", 0, "verified: 10 right"),
    ] {
        let output = as_nobody(&env, "ringcat", &[&[name], &cat[..]].concat());
        assert_eq!(output.status.code(), Some(status), "{name}: {}", said(&output));
        assert!(said(&output).contains(says), "{name}: {}", said(&output));
        if status == 1 {
            assert!(
                said(&output).contains("--allow-uid") || said(&output).contains("--group"),
                "{}",
                said(&output)
            );
        }
        assert!(env.run("ringcat", &[&[name], &cat[..]].concat()).status.success(), "{name}: root");
    }
    for broker in [closed, handshaking, listed] {
        broker.end();
    }
}

/// G6: what the broker hands to a reader of another user cannot be made writable in any known way.
/// Controls: the reader's own page can be mapped writable; and the broker's own user *can* open the
/// ring again for writing, as documented: the boundary is between users.
#[test]
fn another_user_cannot_write_what_a_reader_is_handed() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let broker = kept(&env, "sealed", 10, &["--allow-uid", NOBODY]);
    let object = env.objects().remove(0);
    let args = [broker.path(), "--object", object.to_str().unwrap()];
    let pry = |output: Output| {
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let other = pry(as_nobody(&env, "ringtest-pry", &args));
    for (way, answer) in [
        ("ring: map writable", "EACCES"),
        ("ring: mprotect a read-only mapping", "EACCES"),
        ("ring: write", "EBADF"),
        ("ring: truncate", "EINVAL"),
        ("ring: reopen through /proc/self/fd", "EACCES"),
        ("ring: open by name", "EACCES"),
        ("ring: chmod", "EPERM"),
        ("statistics: map writable", "EPERM"),
        ("statistics: reopen through /proc/self/fd", "EACCES"),
        ("page: map writable", "ok"),
        ("page: truncate", "EPERM"),
    ] {
        assert!(
            other.contains(&format!("{way} = {answer}\n")),
            "{way} should be {answer}:\n{other}"
        );
    }
    let same = pry(env.run("ringtest-pry", &args));
    assert!(same.contains("ring: reopen through /proc/self/fd = ok\n"), "{same}");
    assert!(same.contains("ring: map writable = EACCES\n"), "{same}");
    // Nothing was changed.
    assert!(
        env.run("ringcat", &["sealed", "--from", "oldest", "-n", "10", "--verify"])
            .status
            .success()
    );
    broker.end();
}

fn attach_request() -> Vec<u8> {
    Request::Attach(AttachRequest { label: "x".into(), mode: Mode::Lossy, parks: true }).encode()
}

/// The broker's reply to a packet; `None` if it hangs up.
fn answer(to: &OwnedFd) -> Option<Reply> {
    let bytes = socket::receive(to).ok()?.bytes;
    (!bytes.is_empty()).then(|| Reply::decode(&bytes).unwrap())
}

/// Nonsense of every kind, and 300 silent connections: the running reader loses nothing, and later
/// clients are served. Control: the valid message at the end of the list gets a reader index.
#[test]
fn hostile_peers_do_not_disturb_readers() {
    let env = Environment::new(LIMIT);
    let mailbox = Mailbox::create(1);
    let broker = env.broker(
        "siege",
        "gen:rate=3000/s,size=64..512,count=24000",
        &[
            "--wait-readers",
            "1",
            "--max-datagram",
            "512",
            "--depth",
            "32768",
            "--capacity",
            "16MiB",
        ],
    );
    let mut command = env.command("ringtest-reader");
    command.args(["siege", "--mailbox", mailbox.id()]);
    let mut reader = env.start(command);
    wait_for(Duration::from_secs(10), || (mailbox.slot(0).live(Live::Delivered) > 0).then_some(()))
        .expect("it reads");

    let connect = || socket::connect(&broker.socket).unwrap();
    let good = attach_request();
    let mut wrong_version = good.clone();
    wrong_version[2..4].copy_from_slice(&999u16.to_le_bytes());
    let mut lengthy = good.clone();
    // The label's length: exabytes.
    lengthy[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let trailing = [&good[..], b"more"].concat();
    let cases: [(&str, &[u8], &str); 8] = [
        ("garbage", &[0xAA; 64], "Malformed"),
        ("one byte", b"R", "Malformed"),
        ("header alone", &good[..4], "Malformed"),
        ("cut", &good[..good.len() - 1], "Malformed"),
        ("trailing bytes", &trailing, "Malformed"),
        ("a length of exabytes", &lengthy, "Malformed"),
        ("another version", &wrong_version, "Version"),
        ("as long as can be", &[0x55; MESSAGE_MAX], "Malformed"),
    ];
    for (what, bytes, reason) in cases {
        let fd = connect();
        socket::send(&fd, bytes, &[]).unwrap();
        match answer(&fd) {
            Some(Reply::Refused(r)) => {
                assert_eq!(format!("{:?}", r.reason), reason, "{what}: {}", r.text)
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(answer(&fd).is_none(), "{what}: not hung up on");
    }
    // Longer than a message can be.
    let fd = connect();
    socket::send(&fd, &[0x55; MESSAGE_MAX + 1], &[]).unwrap();
    match answer(&fd) {
        Some(Reply::Refused(r)) => assert!(r.text.contains("one short message"), "{}", r.text),
        other => panic!("{other:?}"),
    }
    assert!(answer(&fd).is_none(), "too long: not hung up on");
    // File descriptors that were not requested.
    let null = std::fs::File::open("/dev/null").unwrap();
    let before = ringweir_harness::proc::settled_fds(broker.process.pid());
    for _ in 0..50 {
        let fd = connect();
        match socket::send(&fd, &good, &[null.as_fd(); 4]) {
            Ok(()) => {}
            // From Linux 6.16 on the kernel refuses them.
            Err(rustix::io::Errno::PERM) => continue,
            Err(e) => panic!("{e}"),
        }
        match answer(&fd) {
            Some(Reply::Refused(r)) => {
                assert!(r.text.contains("without file descriptors"), "{}", r.text)
            }
            other => panic!("{other:?}"),
        }
    }
    let after = wait_for(Duration::from_secs(3), || {
        (ringweir_harness::proc::open_fds(broker.process.pid()) <= before).then_some(())
    });
    assert!(after.is_some(), "fds that were sent are still open in the broker");
    // Sends more after it was attached.
    let fd = connect();
    socket::send(&fd, &good, &[]).unwrap();
    assert!(matches!(answer(&fd), Some(Reply::Attached(_))), "the control");
    socket::send(&fd, &good, &[]).unwrap();
    assert!(answer(&fd).is_none());

    // Silent connections: over the limit they are refused, and after some seconds all are closed.
    let half_open: Vec<_> = (0..300).map(|_| connect()).collect();
    let began = Instant::now();
    let served = wait_for(Duration::from_secs(9), || {
        let output = env.run("ringcat", &["siege", "-n", "1", "--timeout", "5s"]);
        output.status.success().then_some(())
    });
    assert!(served.is_some(), "nobody is served any more");
    eprintln!("served {:?} after 300 half-open connections", began.elapsed());
    drop(half_open);

    let published = broker.published();
    let status = reader.wait();
    assert!(status.success(), "{}", reader.stderr());
    let report = mailbox.slot(0).take();
    report.check(published).unwrap();
    assert_eq!((report.lost, report.delivered), (0, 24_000));
}
