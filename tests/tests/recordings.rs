//! Recordings that are played into a stream, and captures of it: what they are, whether they can be
//! read to their end, and inputs that come back.

#![allow(unsafe_code)]

use ringweir_harness::netns::Namespace;
use ringweir_harness::{Environment, wait_for};
use ringweir_needs::{needs, needs_network_namespaces};
use rustix::fs::Mode;
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Output;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A capture of this link type with records of these times (s).
fn pcap(link_type: u32, times: &[u32]) -> Vec<u8> {
    let mut file = words(&[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, link_type]);
    for time in times {
        file.extend(words(&[*time, 0, 4, 4]));
        file.extend(b"abcd");
    }
    file
}

/// A capture of interfaces with these link types, and a record of each of these interfaces.
fn pcapng(link_types: &[u32], records: &[u32]) -> Vec<u8> {
    let mut file = words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
    for link_type in link_types {
        file.extend(words(&[1, 20, *link_type, 65_535, 20]));
    }
    for interface in records {
        file.extend(words(&[6, 36, *interface, 0, 1, 4, 4]));
        file.extend(b"abcd");
        file.extend(words(&[36]));
    }
    file
}

/// Exit status and log of a broker that plays `file`.
fn play(env: &Environment, name: &str, framing: &str, file: &[u8]) -> (Option<i32>, String) {
    let path = env.path(name);
    std::fs::write(&path, file).unwrap();
    let source = format!("file:{framing}:{}", path.display());
    let output = env.run("ringd", &["run", "--name", name, "--source", &source]);
    (output.status.code(), said(&output))
}

/// Whatever cannot be read to its end makes the broker fail, and all before it is published.
/// Control: whole files, also of nothing.
#[test]
fn a_recording_that_cannot_be_read_to_its_end_is_a_failure() {
    let env = Environment::new(LIMIT);
    let good = pcap(1, &[1, 2]);
    let with_magic = |magic: &[u8]| [magic, &good[4..]].concat();
    let mut broken = good.clone();
    broken[24 + 20 + 8..][..4].fill(0xff);
    for (name, framing, file, status, published, words) in [
        ("good", "pcap", good.clone(), 0, 2, ""),
        ("nothing", "pcap", good[..24].to_vec(), 0, 0, ""),
        ("lines", "lines", Vec::new(), 0, 0, ""),
        ("empty", "pcap", Vec::new(), 1, 0, "input ends at offset 0"),
        ("header", "pcap", good[..10].to_vec(), 1, 0, "input ends at offset 10"),
        ("gzip", "pcap", with_magic(b"\x1f\x8b\x08\0"), 1, 0, "compressed one (gzip)"),
        ("text", "pcap", b"no capture\n".repeat(9), 1, 0, "not a pcap file"),
        ("ng", "pcap", pcapng(&[1], &[0]), 1, 0, "framing pcapng"),
        ("not-ng", "pcapng", good.clone(), 1, 0, "not a pcapng file"),
        ("cut", "pcap", good[..good.len() - 1].to_vec(), 1, 1, "1 bytes before the end"),
        ("broken", "pcap", broken, 1, 1, "cannot be read on"),
        ("prefix", "len32le", b"\x01\0\0\0x\x09\0\0\0cut".to_vec(), 1, 1, "6 bytes before"),
    ] {
        let (got, log) = play(&env, name, framing, &file);
        assert_eq!(got, Some(status), "{name}: {log}");
        assert!(log.contains(&format!("ended: {published} datagrams published")), "{name}: {log}");
        assert_eq!(log.contains("failed: "), status == 1, "{name}: {log}");
        assert!(log.contains(words), "{name}: {log}");
    }
}

/// A capture of a stream has the link type of the recording. One type after another, or several, is
/// refused with what to do. Controls: a source without a type, and a type that is given.
#[test]
fn the_link_type_of_a_recording_comes_through() {
    let env = Environment::new(LIMIT);
    for (name, framing, file, given, expected) in [
        ("ip", "pcap", pcap(101, &[1, 2]), None, Some(101)),
        ("can", "pcapng", pcapng(&[227], &[0, 0]), None, Some(227)),
        ("unused", "pcapng", pcapng(&[1, 101], &[1, 1]), None, Some(101)),
        ("given", "pcap", pcap(101, &[1, 2]), Some("USER0"), Some(147)),
        ("plain", "fixed:4", b"abcdabcd".to_vec(), None, Some(1)),
        ("mixed", "pcapng", pcapng(&[1, 101], &[0, 1]), None, None),
        ("mixed-given", "pcapng", pcapng(&[1, 101], &[0, 1]), Some("USER1"), Some(148)),
    ] {
        let path = env.path(name);
        std::fs::write(&path, file).unwrap();
        let source = format!("file:{framing}:{}", path.display());
        let broker = env.broker(name, &source, &["--linger", "forever"]);
        let done = wait_for(Duration::from_secs(20), || {
            broker.process.stderr().contains("2 datagrams published").then_some(())
        });
        assert!(done.is_some(), "{}", broker.process.stderr());
        let to = env.path("out.pcap");
        let mut args = vec![name, "--from", "oldest", "-n", "2", "-w", to.to_str().unwrap()];
        if let Some(given) = given {
            args.extend(["--link-type", given]);
        }
        let output = env.run("ringcat", &args);
        assert_eq!(output.status.success(), expected.is_some(), "{name}: {}", said(&output));
        match expected {
            Some(expected) => {
                let file = std::fs::read(&to).unwrap();
                let found = u32::from_le_bytes(file[20..24].try_into().unwrap());
                assert_eq!((found, file.len()), (expected, 24 + 2 * 20), "{name}");
            }
            None => {
                assert!(said(&output).contains("--link-type TYPE"), "{name}: {}", said(&output));
                assert!(broker.process.stderr().contains("link type 101 after some of 1"));
            }
        }
        broker.end();
    }
}

/// Ringcat has begun its capture when the second type comes: it ends with whole records of the
/// first.
#[test]
fn a_second_link_type_ends_a_capture() {
    let env = Environment::new(LIMIT);
    let input = env.path("in");
    rustix::fs::mkfifoat(rustix::fs::CWD, &input, Mode::RUSR | Mode::WUSR).unwrap();
    let broker = env.broker("second", &format!("file:pcapng:{}", input.display()), &[]);
    let mut writer = File::options().write(true).open(&input).unwrap();
    let file = pcapng(&[1, 101], &[0, 1]);
    writer.write_all(&file[..file.len() - 36]).unwrap();
    let to = env.path("out.pcap");
    let mut command = env.command("ringcat");
    command.args(["second", "--from", "oldest", "-w", to.to_str().unwrap()]);
    let process = env.start(command);
    let written = wait_for(Duration::from_secs(20), || {
        std::fs::metadata(&to).is_ok_and(|to| to.len() == 44).then_some(())
    });
    assert!(written.is_some(), "{}", process.stderr());
    writer.write_all(&file[file.len() - 36..]).unwrap();
    let output = process.output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("several link types") || text.contains("101 after 1"), "{text}");
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 44);
    drop(writer);
    drop(broker);
}

/// The log and `ringstat --why` say that a replay pauses, and a limit ends it. Control: with a
/// short limit everything has come.
#[test]
fn a_jump_of_the_clock_does_not_stop_a_replay_for_years() {
    let env = Environment::new(LIMIT);
    let path = env.path("jump");
    std::fs::write(&path, pcap(1, &[60, 60, 1_700_000_000, 1_700_000_000])).unwrap();
    let play = |name: &str, options: &str| {
        let source = format!("file:pcap,pace=original{options}:{}", path.display());
        env.broker(name, &source, &["--linger", "forever"])
    };
    let (long, short) = (play("long", ""), play("short", ",max-pause=100ms"));
    let done = wait_for(Duration::from_secs(20), || {
        short.process.stderr().contains("4 datagrams published").then_some(())
    });
    assert!(done.is_some(), "{}", short.process.stderr());
    let log = long.process.stderr();
    assert!(log.contains("jump forward by") && log.contains("max-pause="), "{log}");
    let why = |name: &str| {
        String::from_utf8_lossy(&env.run("ringstat", &[name, "--why"]).stdout).into_owned()
    };
    let text = why("long");
    assert!(text.contains("the recording pauses: its next datagram is due in"), "{text}");
    assert!(!why("short").contains("pauses"), "{}", why("short"));
    long.end();
    short.end();
}

/// A pseudoterminal: the side that writes, and the path of the side that the source opens.
fn terminal() -> (File, String) {
    let (mut ours, mut theirs) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: the first two pointers lead to live ints, which the call fills. The others are null:
    // no name, no settings, no size.
    let rc = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, none, std::ptr::null(), std::ptr::null())
    };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: `openpty` has just made this descriptor, and nothing else owns it.
    let ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: `openpty` has just made this descriptor too, and nothing else owns it.
    let theirs = unsafe { File::from_raw_fd(theirs) };
    // A program that inherits this side would keep the terminal alive.
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::CLOEXEC).unwrap();
    let path = std::fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd())).unwrap();
    (ours, path.to_str().unwrap().into())
}

/// Also through `file:`. Control: a named pipe whose writer goes ends well.
#[test]
fn a_device_that_is_hung_up_is_a_failure() {
    let env = Environment::new(LIMIT);
    for (name, source) in [("raw", "chardev:raw"), ("usual", "chardev:"), ("file", "file:lines")] {
        let (mut writer, path) = terminal();
        let colon = if source.ends_with(':') { "" } else { ":" };
        let mut broker = env.broker(name, &format!("{source}{colon}{path}"), &[]);
        writer.write_all(b"hello\n").unwrap();
        drop(writer);
        let log = || broker.process.stderr();
        let ended = wait_for(Duration::from_secs(20), || log().contains("ended: ").then_some(()));
        assert!(ended.is_some() && log().contains(" gone"), "{name}: {}", log());
        assert_eq!(broker.process.wait().code(), Some(1), "{name}: {}", broker.process.stderr());
    }
    let pipe = env.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let mut broker = env.broker("pipe", &format!("file:lines:{}", pipe.display()), &[]);
    std::fs::write(&pipe, "hello\n").unwrap();
    assert_eq!(broker.process.wait().code(), Some(0), "{}", broker.process.stderr());
}

/// A named pipe and a terminal with `reopen`, in the sandbox: readers get what comes before and
/// after, and learn that the device was away.
#[test]
fn an_input_that_comes_back_continues() {
    use ringweir::{Cause, Item, Options};
    let env = Environment::new(LIMIT);
    let (pipe, tty) = (env.path("pipe"), env.path("tty"));
    let plug = || {
        let (writer, path) = terminal();
        std::os::unix::fs::symlink(path, &tty).unwrap();
        writer
    };
    for (name, source) in [
        ("pipe", format!("file:lines,reopen:{}", pipe.display())),
        ("tty", format!("chardev:raw,reopen:{}", tty.display())),
    ] {
        let is_pipe = name == "pipe";
        let plug = || {
            if is_pipe {
                rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
                // Both ends, so that this does not wait for the source.
                File::options().read(true).write(true).open(&pipe).unwrap()
            } else {
                plug()
            }
        };
        let mut writer = plug();
        let broker = env.broker(name, &source, &[]);
        let mut reader = Options::new("test").attach(broker.path()).unwrap();
        let (mut got, mut gone) = (0, 0);
        for round in 0..3 {
            let line: &[u8] = if is_pipe { b"x\n" } else { b"x" };
            writer.write_all(line).unwrap();
            while got <= round {
                match reader.next().unwrap() {
                    Item::Datagram(mut datagram) => {
                        assert_eq!(datagram.to_vec().unwrap(), b"x");
                        got += 1;
                    }
                    Item::Gap(gap) => {
                        assert_eq!(gap.cause, Cause::SourceGone);
                        gone += 1;
                    }
                    Item::Empty => {
                        let _ = reader.wait(Some(Duration::from_secs(1))).unwrap();
                    }
                    other => panic!("{other:?}: {}", broker.process.stderr()),
                }
            }
            drop(writer);
            std::fs::remove_file(if is_pipe { &pipe } else { &tty }).unwrap();
            writer = plug();
        }
        assert!(gone >= 2, "{gone}: {}", broker.process.stderr());
        broker.end();
    }
}

/// Frames that the kernel still holds when the stream is stopped are published: all that a complete
/// capture has. Control: the broker is stopped long before the kernel would hand the block over.
#[test]
fn a_stop_publishes_the_frames_of_the_open_block() {
    if !needs("ip") || !needs_network_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    let namespace = Namespace::new().unwrap();
    let mut command = env.command("ringd");
    command.arg("--run-dir").arg(env.run_dir());
    command.args(["run", "--name", "open", "--source", "packet:lo,timeout=1s"]);
    namespace.enter(&mut command);
    let mut broker = env.broker_of("open", command);
    namespace.within(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // To itself, so that no answer of the kernel is captured.
        let to = socket.local_addr().unwrap();
        for _ in 0..20 {
            socket.send_to(b"frame", to).unwrap();
        }
    });
    broker.process.signal(Signal::TERM);
    assert!(broker.process.wait().success());
    let log = broker.process.stderr();
    assert!(log.contains("open ended: 20 datagrams published"), "{log}");
    assert!(log.contains("kernel 0"), "{log}");
}

/// A capture of an interface without link-layer header says so. Control: one with.
#[test]
fn the_link_type_of_an_interface_comes_through() {
    if !needs("ip") || !needs_network_namespaces() || !std::path::Path::new("/dev/net/tun").exists()
    {
        return;
    }
    let env = Environment::new(LIMIT);
    let namespace = Namespace::new().unwrap();
    namespace.shell("ip tuntap add dev tun0 mode tun; ip tuntap add dev tap0 mode tap");
    for (name, expected) in [("tun0", 101), ("tap0", 1), ("lo", 1)] {
        let mut command = env.command("ringd");
        command.arg("--run-dir").arg(env.run_dir());
        command.args(["run", "--name", name, "--source", &format!("packet:{name}")]);
        namespace.enter(&mut command);
        let broker = env.broker_of(name, command);
        let to = env.path("out.pcap");
        let args = [name, "--until-idle", "100ms", "-w", to.to_str().unwrap()];
        let output = env.run("ringcat", &args);
        assert!(output.status.success(), "{}", said(&output));
        let file = std::fs::read(&to).unwrap();
        assert_eq!(u32::from_le_bytes(file[20..24].try_into().unwrap()), expected, "{name}");
        broker.end();
    }
}
