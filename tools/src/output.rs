//! Where `ringcat` and `ringgen` write datagrams: standard output, a file, a named pipe or a
//! device.
//!
//! Contract: a write waits for an output that takes nothing, but not for ever: a signal and the end
//! of the time end the wait, [`GRACE`] later if the output takes nothing in that time. The caller
//! learns how many bytes were taken. It does not matter who made the descriptor blocking or
//! non-blocking, and its flags are not changed, because other processes may share it.

use crate::stop::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an output that takes nothing is waited for after a signal or the end of the time.
pub const GRACE: Duration = Duration::from_secs(1);
/// How often to look for a reader of a named pipe.
const LOOK: Duration = Duration::from_millis(50);
/// What a pipe with any room takes at once.
const PIECE: usize = rustix::pipe::PIPE_BUF;

/// How a write ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Everything was taken.
    All,
    /// A signal came or the time is over, and the output takes nothing.
    Stuck,
    /// The reader of the output has gone.
    Gone,
}

/// How a descriptor is written without waiting in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A regular file or a block device takes everything at once.
    Whole,
    /// Each write is marked as one that must not wait.
    NoWait,
    /// The kernel does not know such writes for this file: only as much is written as a pipe takes
    /// when it has room.
    Pieces,
}

/// An open output.
pub struct Output {
    file: File,
    way: Way,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> io::Result<Self> {
        // The handle of std would flush after every newline.
        Self::of(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// Opens a file, which is emptied, or a named pipe, for whose reader this waits. `None`: a
    /// signal came, or `until` has passed, and nobody reads the pipe.
    pub fn open(path: &Path, stop: &Stop, until: Option<Instant>) -> anyhow::Result<Option<Self>> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NONBLOCK;
        loop {
            match rustix::fs::open(path, flags | OFlags::NOCTTY, Mode::from_raw_mode(0o666)) {
                Ok(fd) => return Ok(Some(Self::of(fd.into())?)),
                Err(Errno::NXIO) if is_pipe(path) => {
                    let now = Instant::now();
                    if stop.came() || until.is_some_and(|until| now >= until) {
                        return Ok(None);
                    }
                    stop.pause(until.map_or(LOOK, |until| LOOK.min(until - now)))?;
                }
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }

    fn of(file: File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&file)?;
        let way = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::BlockDevice => Way::Whole,
            _ => Way::NoWait,
        };
        Ok(Self { file, way })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes `bytes` and adds to `taken` what the output has taken of them, also in front of an
    /// error.
    ///
    /// # Errors
    /// Those of the output, such as a full disk.
    pub fn write(
        &mut self,
        bytes: &[u8],
        taken: &mut usize,
        stop: &Stop,
        until: Option<Instant>,
    ) -> io::Result<Written> {
        let mut rest = bytes;
        let mut patience: Option<Instant> = None;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    *taken += n;
                    rest = &rest[n..];
                    patience = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return Ok(Written::Gone),
                Err(Errno::AGAIN) => {
                    let now = Instant::now();
                    let over = stop.came() || until.is_some_and(|until| now >= until);
                    let end = match over {
                        true => *patience.get_or_insert(now + GRACE),
                        false => until.unwrap_or(now + Duration::from_secs(3600)),
                    };
                    if over && now >= end {
                        return Ok(Written::Stuck);
                    }
                    self.wait(stop, over, end - now)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Written::All)
    }

    /// Waits until the output takes something, for `limit` at most, and unless it is `over` until a
    /// signal comes.
    fn wait(&self, stop: &Stop, over: bool, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).ok();
        let mut fds = vec![PollFd::new(&self.file, PollFlags::OUT)];
        if !over {
            fds.push(PollFd::from_borrowed_fd(stop.event(), PollFlags::IN));
        }
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes what the output takes at once.
    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if self.way == Way::NoWait {
            // This offset means the position of the file.
            let offset = u64::MAX;
            let flags = ReadWriteFlags::NOWAIT;
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], offset, flags) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                    self.way = Way::Pieces;
                }
                written => return written,
            }
        }
        if self.way == Way::Whole {
            return rustix::io::write(&self.file, bytes);
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&now))? == 0 {
            return Err(Errno::AGAIN);
        }
        rustix::io::write(&self.file, &bytes[..bytes.len().min(PIECE)])
    }

    /// Takes the last `excess` bytes back, if this is a file and nobody has written behind them.
    /// Returns whether they are gone.
    pub fn take_back(&mut self, excess: usize) -> bool {
        let taken_back = || -> io::Result<bool> {
            let at = (&self.file).stream_position()?;
            if self.file.metadata()?.len() != at {
                return Ok(false);
            }
            let kept = at.saturating_sub(excess as u64);
            self.file.set_len(kept)?;
            (&self.file).seek(SeekFrom::Start(kept))?;
            Ok(true)
        };
        excess == 0 || self.way == Way::Whole && taken_back().unwrap_or(false)
    }
}

fn is_pipe(path: &Path) -> bool {
    let kind = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode);
    rustix::fs::stat(path).is_ok_and(|stat| kind(stat) == FileType::Fifo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn piped() -> (File, Output) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), Output::of(writer.into()).unwrap())
    }

    fn put(output: &mut Output, len: usize, until: Option<Instant>) -> (usize, Written) {
        let mut taken = 0;
        let stop = Stop::on_signals().unwrap();
        let written = output.write(&vec![7; len], &mut taken, &stop, until).unwrap();
        (taken, written)
    }

    /// For both ways, and whether the descriptor blocks or not. Control: with a reader, and without
    /// a time, everything is taken.
    #[test]
    fn an_output_that_takes_nothing_is_not_waited_for_after_the_time() {
        for way in [Way::NoWait, Way::Pieces] {
            for flags in [OFlags::empty(), OFlags::NONBLOCK] {
                let (mut reader, mut output) = piped();
                output.way = way;
                rustix::fs::fcntl_setfl(&output.file, flags).unwrap();
                let (taken, written) = put(&mut output, 1 << 20, Some(Instant::now()));
                assert_eq!(written, Written::Stuck, "{way:?} {flags:?}");
                assert!(taken > 0 && taken < 1 << 20, "{taken}");
                drop(output);
                let mut got = Vec::new();
                reader.read_to_end(&mut got).unwrap();
                assert_eq!(got.len(), taken);

                let (mut reader, mut output) = piped();
                output.way = way;
                rustix::fs::fcntl_setfl(&output.file, flags).unwrap();
                let thread = std::thread::spawn(move || {
                    let mut got = Vec::new();
                    reader.read_to_end(&mut got).map(|_| got.len())
                });
                assert_eq!(put(&mut output, 1 << 20, None), (1 << 20, Written::All));
                drop(output);
                assert_eq!(thread.join().unwrap().unwrap(), 1 << 20);
            }
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_not_an_error() {
        let (reader, mut output) = piped();
        drop(reader);
        assert_eq!(put(&mut output, 10, None), (0, Written::Gone));
    }

    #[test]
    fn a_pipe_without_a_reader_is_waited_for_until_the_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let stop = Stop::on_signals().unwrap();
        assert!(Output::open(&path, &stop, Some(Instant::now())).unwrap().is_none());
        // Control: with a reader it opens.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let _reader = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        assert!(Output::open(&path, &stop, None).unwrap().is_some());
    }

    #[test]
    fn only_what_nobody_wrote_behind_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let stop = Stop::on_signals().unwrap();
        let mut output = Output::open(&path, &stop, None).unwrap().unwrap();
        assert_eq!(put(&mut output, 10, None), (10, Written::All));
        assert!(output.take_back(4));
        assert_eq!(put(&mut output, 1, None), (1, Written::All));
        assert_eq!(std::fs::read(&path).unwrap().len(), 7);
        let mut other = File::options().append(true).open(&path).unwrap();
        io::Write::write_all(&mut other, b"other").unwrap();
        assert!(!output.take_back(1));
        assert_eq!(std::fs::read(&path).unwrap().len(), 12);
        // A pipe gives nothing back.
        assert!(!piped().1.take_back(1));
    }
}
