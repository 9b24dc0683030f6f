//! `file:` — datagrams from a file, a named pipe or a character device: a recording is played into
//! the stream.
//!
//! Contract: the framing comes before the path, so a path may contain colons and commas.
//! `pace=original` plays a capture with the pauses between its own timestamps, none longer than
//! `max-pause`. The end of the file ends the stream. If a named pipe has no writer yet, the source
//! waits for one; when the last writer closes it, the stream ends, or with `reopen` waits for the
//! next. For bad datagrams see [`super::bytes`].

use super::bytes::{ByteStream, LONGEST_PAUSE, Pace, Reopen, open_nonblocking};
use super::contract::{OpenFor, Source, SourceError, SourceKind};
use super::framing::Framing;
use super::options::{framing_and_rest, span};

pub const KIND: SourceKind = SourceKind {
    name: "file",
    usage: "file:len32le|len16be|fixed:N|lines|pcap|pcapng[,pace=original|max]\
        [,max-pause=TIME][,reopen]:PATH",
    about: "datagrams from a file, named pipe or character device, cut by the given framing",
    open,
};

/// The part after `file:`.
#[derive(Debug, PartialEq, Eq)]
struct Spec<'a> {
    framing: Framing,
    pace: Pace,
    reopen: bool,
    path: &'a str,
}

/// Splits `FRAMING[,OPTION...]:PATH`.
fn parse(argument: &str) -> Result<Spec<'_>, SourceError> {
    let (framing, options, path) = framing_and_rest(argument)?;
    let (mut original, mut longest, mut reopen) = (false, None, false);
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("pace", "original") => original = true,
            ("pace", "max") => original = false,
            ("max-pause", time) => longest = Some(span(option, time)?),
            ("reopen", "") => reopen = true,
            _ => {
                return Err(SourceError(format!(
                    "unknown option {option:?}; there are pace=original, pace=max, max-pause= and \
                    reopen"
                )));
            }
        }
    }
    let pace = match (original, longest) {
        (true, longest) => Pace::Original(longest.unwrap_or(LONGEST_PAUSE)),
        (false, None) => Pace::Max,
        (false, Some(_)) => {
            return Err(SourceError::new(
                "max-pause= is for pace=original: without it nothing pauses",
            ));
        }
    };
    Ok(Spec { framing, pace, reopen, path })
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let Spec { framing, pace, reopen, path } = parse(argument)?;
    let fd = open_nonblocking(path).map_err(|e| SourceError(format!("{path}: {e}")))?;
    let source = ByteStream::new(path, fd, framing, pace, stream.max_datagram)?;
    Ok(Box::new(if reopen { source.reopen(Reopen::new(path))? } else { source }))
}

#[cfg(test)]
mod tests {
    use super::super::contract::Fill;
    use super::super::test_bench::{Bench, bytes_of};
    use super::*;
    use rustix::fs::Mode;
    use std::io::Write;

    fn refused(argument: &str) -> String {
        open(argument, &OpenFor { max_datagram: 64 }).err().unwrap().to_string()
    }

    #[test]
    fn arguments_come_apart() {
        let spec = |argument| {
            let Spec { framing, pace, reopen, path } = parse(argument).unwrap();
            (framing, pace, reopen, path)
        };
        assert_eq!(spec("pcap:/a:b,c"), (Framing::Pcap, Pace::Max, false, "/a:b,c"));
        assert_eq!(spec("fixed:188,reopen:x"), (Framing::Fixed(188), Pace::Max, true, "x"));
        let original = Pace::Original(LONGEST_PAUSE);
        assert_eq!(spec("pcapng,pace=original:x"), (Framing::Pcapng, original, false, "x"));
        let brief = Pace::Original(std::time::Duration::from_secs(5));
        assert_eq!(spec("pcap,pace=original,max-pause=5s:x").1, brief);
        assert!(refused("pcap,max-pause=5s:x").contains("max-pause= is for pace=original"));
        assert!(refused("pcap,pace=original,max-pause=long:x").contains("max-pause=long"));
        assert!(refused("lines").contains("nothing behind \"lines\""));
        assert!(refused("fixed:8").contains("nothing behind"));
        assert!(refused("/a.pcap:pcap").contains("unknown framing \"/a.pcap\""));
        assert!(refused("pcap,speed=2:/a").contains("\"speed=2\"; there are pace=original"));
        assert!(
            refused("lines,pace=original:/dev/null").contains("pace=original needs timestamps")
        );
        assert_eq!(refused("lines:/no/such"), "/no/such: No such file or directory (os error 2)");
        assert_eq!(refused("lines:/"), "/ is a directory");
        assert!(refused("lines,reopen:/etc/passwd").contains("reopen is for named pipes"));
    }

    #[test]
    fn a_file_is_read_to_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "one\ntwo\n\nlast").unwrap();
        let argument = format!("lines:{}", file.path().display());
        let mut source = open(&argument, &OpenFor { max_datagram: 64 }).unwrap();
        let (got, fill) = Bench::new(4096, 64).run(&mut *source);
        assert_eq!((bytes_of(&got), fill), (vec![&b"one"[..], b"two", b"", b"last"], Fill::Ended));
        assert!(source.wait_for().readable.is_none());
    }

    #[test]
    fn a_named_pipe_waits_for_its_writer_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let mut bench = Bench::new(4096, 64);
        let mut source =
            open(&format!("lines:{}", path.display()), &OpenFor { max_datagram: 64 }).unwrap();
        assert_eq!(bench.run(&mut *source).1, Fill::Idle);
        let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
        assert_eq!(bench.run(&mut *source).1, Fill::Idle);
        writer.write_all(b"x\n").unwrap();
        let (got, fill) = bench.run(&mut *source);
        assert_eq!((bytes_of(&got), fill), (vec![&b"x"[..]], Fill::Idle));
        drop(writer);
        assert!(bench.run_to_end(&mut *source).is_empty());
    }

    /// A cut datagram of one writer is not joined to the bytes of the next. Control: without
    /// `reopen` the stream ends, above.
    #[test]
    fn a_named_pipe_is_opened_again_for_its_next_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let make = || {
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        };
        make();
        let mut bench = Bench::new(4096, 64);
        let argument = format!("len32le,reopen:{}", path.display());
        let mut source = open(&argument, &OpenFor { max_datagram: 64 }).unwrap();
        for round in 0..3_u64 {
            let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
            writer.write_all(b"\x01\0\0\0x\x05\0\0\0cut").unwrap();
            assert_eq!(bytes_of(&bench.run(&mut *source).0), [b"x"]);
            assert_eq!(bench.gone.len() as u64, round);
            drop(writer);
            assert_eq!(bench.run(&mut *source), (Vec::new(), Fill::Idle));
            bench.now = source.wait_for().until.expect("it is looked for");
            if round == 1 {
                // It may also be removed and made again.
                std::fs::remove_file(&path).unwrap();
                assert_eq!(bench.run(&mut *source).1, Fill::Idle);
                make();
                bench.now = source.wait_for().until.expect("it is looked for");
            }
            assert_eq!(bench.run(&mut *source).1, Fill::Idle);
            assert!(source.wait_for().readable.is_some(), "it is open again");
        }
        assert_eq!(bench.count(ringweir_proto::stats::PumpCounter::BrokerLost), 3);
        let notices = bench.notices();
        assert!(notices[0].contains("input ends at offset 12"), "{notices:?}");
        assert!(notices[1].ends_with("is back"), "{notices:?}");
    }
}
