//! The standard error of a broker as a FIFO whose other end is not always there.
//!
//! Contract: a thread has the reading end, and copies what it reads into a file. It can be made to
//! read nothing more while the FIFO is full, or to close its end. What the broker writes meanwhile
//! may be lost; what it writes while the end is read is not.

use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How much the FIFO holds.
const SIZE: usize = 4096;
/// What fills the FIFO; not copied.
const FILLING: u8 = 0;

/// What happens at the reading end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// It reads.
    Reads,
    /// It reads nothing, and the FIFO is full.
    Stuck,
    /// The same, and the broker's end is non-blocking.
    StuckNonBlocking,
    /// It is closed.
    Gone,
}

impl LogReader {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Reads, Self::Stuck, Self::StuckNonBlocking, Self::Gone];
}

/// Such a FIFO.
pub struct LogPipe {
    /// The open file that is the broker's standard error, so its flags can be set here.
    writer: OwnedFd,
    copy: PathBuf,
    turns: Sender<LogReader>,
}

impl LogPipe {
    /// A FIFO at `path`, which is read until [`Self::turn`], and copied to `copy`.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn new(path: &Path, copy: &Path) -> Self {
        rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("mkfifo");
        let reader = open(path, OFlags::RDONLY | OFlags::NONBLOCK);
        let writer = open(path, OFlags::WRONLY);
        let filler = open(path, OFlags::WRONLY | OFlags::NONBLOCK);
        rustix::pipe::fcntl_setpipe_size(&writer, SIZE).expect("a small FIFO");
        let (turns, receiver) = channel();
        let end = ReadingEnd {
            path: path.into(),
            reader: Some(reader),
            filler,
            copy: File::create(copy).expect("a file for the copy"),
            now: LogReader::Reads,
        };
        std::thread::spawn(move || end.run(&receiver));
        Self { writer, copy: copy.into(), turns }
    }

    /// From now on the reading end does this.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn turn(&self, to: LogReader) {
        let flags = match to {
            LogReader::StuckNonBlocking => OFlags::NONBLOCK,
            _ => OFlags::empty(),
        };
        rustix::fs::fcntl_setfl(&self.writer, flags).expect("flags of a pipe");
        self.turns.send(to).expect("the reading end");
    }

    /// The writing end, for a process.
    pub(crate) fn stderr(&self) -> Stdio {
        self.writer.try_clone().expect("dup").into()
    }

    /// Where the copy is.
    pub(crate) fn copy(&self) -> PathBuf {
        self.copy.clone()
    }
}

fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("open a FIFO")
}

struct ReadingEnd {
    path: PathBuf,
    reader: Option<OwnedFd>,
    filler: OwnedFd,
    copy: File,
    now: LogReader,
}

impl ReadingEnd {
    fn run(mut self, turns: &Receiver<LogReader>) {
        loop {
            match turns.recv_timeout(Duration::from_millis(2)) {
                Ok(to) => self.turn(to),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.now {
                LogReader::Reads => self.read(),
                LogReader::Gone => {}
                LogReader::Stuck | LogReader::StuckNonBlocking => {
                    while rustix::io::write(&self.filler, &[FILLING; SIZE]).is_ok() {}
                }
            }
        }
    }

    fn turn(&mut self, to: LogReader) {
        self.now = to;
        match to {
            LogReader::Gone => self.reader = None,
            _ if self.reader.is_none() => {
                self.reader = Some(open(&self.path, OFlags::RDONLY | OFlags::NONBLOCK));
            }
            _ => {}
        }
    }

    fn read(&mut self) {
        let Some(reader) = &self.reader else { return };
        let mut bytes = [0; SIZE];
        while let Ok(count @ 1..) = rustix::io::read(reader, &mut bytes) {
            let text: Vec<u8> =
                bytes[..count].iter().copied().filter(|byte| *byte != FILLING).collect();
            self.copy.write_all(&text).expect("write the copy");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written while the end is stuck comes later, and what is written while it is gone is
    /// refused. Control: what is written while it reads comes at once.
    #[test]
    fn the_reading_end_obeys() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("fifo"), dir.path().join("copy"));
        let log = LogPipe::new(&path, &copy);
        let text = || std::fs::read_to_string(&copy).unwrap();
        let comes = |line: &str| {
            crate::wait_for(Duration::from_secs(30), || text().ends_with(line).then_some(()))
        };
        assert_eq!(rustix::io::write(&log.writer, b"one\n"), Ok(4));
        assert!(comes("one\n").is_some(), "{}", text());
        log.turn(LogReader::StuckNonBlocking);
        let full = || rustix::io::write(&log.writer, b"two\n").is_err().then_some(());
        assert!(crate::wait_for(Duration::from_secs(30), full).is_some());
        assert_eq!(rustix::io::write(&log.writer, b"x"), Err(rustix::io::Errno::AGAIN));
        log.turn(LogReader::Gone);
        let gone = || rustix::io::write(&log.writer, b"x") == Err(rustix::io::Errno::PIPE);
        assert!(crate::wait_for(Duration::from_secs(30), || gone().then_some(())).is_some());
        log.turn(LogReader::Reads);
        let last = || rustix::io::write(&log.writer, b"three\n").is_ok().then_some(());
        assert!(crate::wait_for(Duration::from_secs(30), last).is_some());
        assert!(comes("three\n").is_some(), "{}", text());
        assert!(!text().contains('\0'));
    }
}
