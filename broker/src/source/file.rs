//! `file:` — datagrams from a file, a named pipe or a character device: a recording is played into
//! the stream.
//!
//! Contract: the framing comes before the path, so a path may contain colons and commas.
//! `pace=original` plays a capture with the pauses between its own timestamps. A delay is made up
//! for, because every time is counted from the first datagram. The end of the file ends the stream.
//! If a named pipe has no writer yet, the source waits for one; when the last writer closes it, the
//! stream ends. For bad datagrams see [`super::bytes`].

use super::bytes::{ByteStream, Pace};
use super::contract::{OpenFor, Source, SourceError, SourceKind};
use super::framing::Framing;
use rustix::fs::{Mode, OFlags};

pub const KIND: SourceKind = SourceKind {
    name: "file",
    usage: "file:len32le|len16be|fixed:N|lines|pcap|pcapng[,pace=original|max]:PATH",
    about: "datagrams from a file, named pipe or character device, cut by the given framing",
    open,
};

/// Splits `FRAMING[,OPTION...]:PATH`.
fn parse(argument: &str) -> Result<(Framing, Pace, &str), SourceError> {
    // The only framing that contains a colon.
    let own = if argument.starts_with("fixed:") { "fixed:".len() } else { 0 };
    let end = argument[own..].find(':').map(|at| own + at);
    let (head, path) = end.map_or((argument, ""), |end| (&argument[..end], &argument[end + 1..]));
    let mut parts = head.split(',');
    let framing = parts.next().unwrap_or_default().parse().map_err(SourceError::new)?;
    let mut pace = Pace::default();
    for option in parts {
        pace = match option {
            "pace=original" => Pace::Original,
            "pace=max" => Pace::Max,
            _ => {
                return Err(SourceError(format!(
                    "unknown option {option:?}; there are pace=original and pace=max"
                )));
            }
        };
    }
    if path.is_empty() {
        return Err(SourceError(format!("no path behind {head:?}")));
    }
    Ok((framing, pace, path))
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let (framing, pace, path) = parse(argument)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| SourceError(format!("{path}: {e}")))?;
    Ok(Box::new(ByteStream::new(path, fd, framing, pace, stream.max_datagram)?))
}

#[cfg(test)]
mod tests {
    use super::super::contract::Fill;
    use super::super::test_bench::{Bench, bytes_of};
    use super::*;
    use std::io::Write;

    fn refused(argument: &str) -> String {
        open(argument, &OpenFor { max_datagram: 64 }).err().unwrap().to_string()
    }

    #[test]
    fn arguments_come_apart() {
        assert_eq!(parse("pcap:/a:b,c").unwrap(), (Framing::Pcap, Pace::Max, "/a:b,c"));
        assert_eq!(parse("fixed:188:x").unwrap(), (Framing::Fixed(188), Pace::Max, "x"));
        assert_eq!(
            parse("pcapng,pace=original:x").unwrap(),
            (Framing::Pcapng, Pace::Original, "x")
        );
        assert!(refused("lines").contains("no path behind \"lines\""));
        assert!(refused("fixed:8").contains("no path"));
        assert!(refused("/a.pcap:pcap").contains("unknown framing \"/a.pcap\""));
        assert!(refused("pcap,speed=2:/a").contains("\"speed=2\"; there are pace=original"));
        assert!(
            refused("lines,pace=original:/dev/null").contains("pace=original needs timestamps")
        );
        assert_eq!(refused("lines:/no/such"), "/no/such: No such file or directory (os error 2)");
        assert_eq!(refused("lines:/"), "/ is a directory");
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
}
