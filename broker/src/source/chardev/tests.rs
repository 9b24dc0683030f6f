//! Pseudoterminals, and devices that every machine has.

#![allow(unsafe_code)]

use super::super::test_bench::{Bench, bytes_of, wait};
use super::*;
use rustix::fs::Mode;
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

const STREAM: OpenFor = OpenFor { max_datagram: 64 };

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
    let path =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs)))
            .unwrap();
    (ours, path.to_str().unwrap().into())
}

fn refused(argument: &str) -> String {
    open(argument, &STREAM).err().unwrap_or_else(|| panic!("{argument} is taken")).to_string()
}

#[test]
fn wrong_devices_are_refused_with_an_alternative() {
    let dir = tempfile::tempdir().unwrap();
    let (file, pipe, socket) = (dir.path().join("f"), dir.path().join("p"), dir.path().join("s"));
    std::fs::write(&file, "x").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, says) in [
        (file.to_str().unwrap(), "use file:FRAMING:"),
        (pipe.to_str().unwrap(), "does not keep boundaries: use file:FRAMING:"),
        (socket.to_str().unwrap(), "is a socket: use unix:"),
        ("/", "is a directory"),
        ("/no/such", "/no/such: No such file"),
        ("raw:/dev/null", "/dev/null is none"),
        ("baud=fast:/dev/null", "baud=fast: say bits"),
        ("speed=9:/dev/null", "\"speed=9\"; there are raw, baud=, size= and reopen"),
        ("size=65:/dev/null", "size=65 is longer than the stream's maximum of 64"),
        ("size=0:/dev/null", "read nothing"),
        ("ttyS0", "begins with / or ."),
    ] {
        let text = refused(path);
        assert!(text.contains(says), "{path}: {text}");
    }
    // Control: a character device is accepted.
    assert!(open("size=64:/dev/null", &STREAM).is_ok());
}

/// Each read is one datagram, raw mode keeps every byte, and the settings are restored. Control:
/// without `raw` a line is a datagram, and a carriage return is changed.
#[test]
fn raw_terminal_is_read_unchanged_and_restored() {
    let (mut writer, path) = terminal();
    let before = tcgetattr(&writer).unwrap();
    let mut source = open(&format!("raw,baud=115200:{path}"), &STREAM).unwrap();
    assert!(source.describe().contains("put back"), "{}", source.describe());
    assert_eq!(tcgetattr(&writer).unwrap().input_speed(), 115_200);
    let mut bench = Bench::new(4096, 64);
    assert_eq!(bench.run(&mut *source).1, Fill::Idle);
    let all: Vec<u8> = (0..=255).collect();
    for chunk in all.chunks(32) {
        writer.write_all(chunk).unwrap();
        assert!(wait(&*source, 1000));
        let (got, fill) = bench.run(&mut *source);
        assert_eq!((bytes_of(&got), fill), (vec![chunk], Fill::Idle));
        assert_eq!((got[0].original_len, got[0].channel), (chunk.len(), 0));
    }
    drop(source);
    let after = tcgetattr(&writer).unwrap();
    assert_eq!((after.input_modes, after.local_modes), (before.input_modes, before.local_modes));

    let mut source = open(&path, &STREAM).unwrap();
    writer.write_all(b"one\rtwo").unwrap();
    assert!(wait(&*source, 1000));
    assert_eq!(
        bytes_of(&bench.run(&mut *source).0),
        [b"one\n"],
        "a line; the rest waits for its end"
    );
}

/// A read longer than the stream's largest datagram is published as cut, also in a ring whose
/// longest claim has no room for the extra byte. Control: a read of exactly the largest length is
/// not cut.
#[test]
fn short_read_is_reported() {
    for (capacity, len, original) in [
        (4096, 63, 63),
        (4096, 64, 64),
        (4096, 65, 65),
        (4096, 200, 65),
        (200, 64, 64),
        (200, 65, 65),
    ] {
        let (mut writer, path) = terminal();
        let mut source = open(&format!("raw:{path}"), &STREAM).unwrap();
        writer.write_all(&vec![7; len]).unwrap();
        assert!(wait(&*source, 1000));
        let got = Bench::new(capacity, 64).run(&mut *source).0;
        let whole = (got[0].bytes.as_slice(), got[0].original_len);
        assert_eq!(whole, (&*vec![7; len.min(64)], original), "{len} in a ring of {capacity}");
    }
}

#[test]
fn the_end_and_a_hang_up_differ_from_nothing() {
    let mut bench = Bench::new(4096, 64);
    let mut source = open("/dev/null", &STREAM).unwrap();
    assert_eq!(bench.run(&mut *source), (vec![], Fill::Ended));

    let (writer, path) = terminal();
    let mut source = open(&format!("raw:{path}"), &STREAM).unwrap();
    assert_eq!(bench.run(&mut *source).1, Fill::Idle);
    drop(writer);
    assert!(wait(&*source, 1000));
    bench.intake.begin(2);
    match source.fill(bench.intake.for_source()) {
        Err(e) => assert!(e.to_string().contains("is gone"), "{e}"),
        other => panic!("{other:?}"),
    }
}

/// One side of a terminal answers EIO if no process has the other side open. Control: with the
/// other side open it is idle.
#[test]
fn unplugged_device_ends_the_source() {
    let (ours, path) = terminal();
    let held = File::open(&path).unwrap();
    let fd = ours.try_clone().unwrap().into();
    let mut source = Chardev {
        fd,
        path: "it".into(),
        terminal: None,
        ask: 65,
        most: 64,
        complained: false,
        look: None,
        reported: false,
        reopen: None,
        away: false,
        beside: Vec::new(),
    };
    let mut bench = Bench::new(4096, 64);
    assert_eq!(bench.run(&mut source).1, Fill::Idle);
    drop(held);
    bench.intake.begin(2);
    let error = source.fill(bench.intake.for_source()).unwrap_err().to_string();
    assert!(error.contains("it is gone: ") && error.contains("unplugged"), "{error}");
}

/// Datagrams of a fixed size from a device without end fill whole rounds.
#[test]
fn an_endless_device_is_taken_in_rounds() {
    let mut bench = Bench::new(1 << 20, 64);
    let mut source = open("size=16:/dev/zero", &STREAM).unwrap();
    for _ in 0..20 {
        assert_eq!(bench.round(&mut *source), Fill::Took);
        let got = bench.read();
        assert!(got.len() == 64 && got.iter().all(|g| g.bytes == [0; 16] && g.original_len == 16));
    }
    // One byte more than the longest datagram is requested, so every read is cut.
    let mut source = open("/dev/zero", &STREAM).unwrap();
    assert_eq!(bench.round(&mut *source), Fill::Took);
    assert!(bench.read().iter().all(|g| g.bytes.len() == 64 && g.original_len == 65));
}

/// With its settings. Control: without `reopen` the source fails, above.
#[test]
fn a_device_that_comes_back_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("tty");
    let plug = || {
        let (writer, path) = terminal();
        std::os::unix::fs::symlink(path, &name).unwrap();
        writer
    };
    let mut writer = plug();
    let mut source = open(&format!("raw,reopen:{}", name.display()), &STREAM).unwrap();
    let mut bench = Bench::new(4096, 64);
    for round in 0..3_u64 {
        writer.write_all(b"\r").unwrap();
        assert!(wait(&*source, 1000));
        assert_eq!(bytes_of(&bench.run(&mut *source).0), [b"\r"]);
        assert_eq!(bench.gone.len() as u64, round);
        drop(std::mem::replace(&mut writer, File::open("/dev/null").unwrap()));
        std::fs::remove_file(&name).unwrap();
        for _ in 0..2 {
            assert_eq!(bench.run(&mut *source), (vec![], Fill::Idle));
            bench.now = source.wait_for().until.expect("it is looked for");
        }
        writer = plug();
        assert_eq!(bench.run(&mut *source).1, Fill::Idle);
    }
    let notices = bench.notices();
    assert_eq!(notices.len(), 6, "{notices:?}");
    assert!(notices[0].contains("is gone") && notices[1].ends_with("is back"), "{notices:?}");
}
