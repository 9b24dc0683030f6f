//! Lines on standard error that never make the program wait, and never end it.
//!
//! Contract: a line goes into a bounded queue, which a separate thread writes out. If standard
//! error is a full pipe that nobody reads, the queue fills up; further lines are left out and
//! counted, and the next line that fits is preceded by their number. If standard error is
//! closed, a full disk or otherwise unusable, lines are lost without consequences. [`flush`] waits
//! for the lines so far, up to a limit.
//!
//! This is the only file of broker and tools that writes to standard error.

use ringweir_proto::printable::printable_lines;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written.
const LINES: usize = 1024;

struct Job {
    /// Lines that were left out just before this.
    left_out: u64,
    what: What,
}

enum What {
    Line(Vec<u8>),
    /// Everything before it has been written: answer.
    Flush(SyncSender<()>),
}

struct Queue {
    program: &'static str,
    sender: SyncSender<Job>,
    /// Lines that found the queue full, since the last job that did not.
    left_out: AtomicU64,
}

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Starts the thread that writes, after it has called `prepare`. Only the first call of a process
/// has an effect.
pub fn start(program: &'static str, prepare: impl FnOnce() + Send + 'static) {
    let (sender, jobs) = sync_channel(LINES);
    if QUEUE.set(Queue { program, sender, left_out: AtomicU64::new(0) }).is_ok() {
        let writes = move || {
            prepare();
            write_all(program, &jobs, io::stderr());
        };
        // Without a thread the queue has no receiver, and `put` writes directly.
        let _none = std::thread::Builder::new().name("stderr".into()).spawn(writes);
    }
}

/// Writes a line: `PROGRAM: text`. Whatever is in `text`, it cannot take over a terminal.
pub fn line(text: impl fmt::Display) {
    let program = QUEUE.get().map_or("ringweir", |queue| queue.program);
    let text = printable_lines(&text.to_string());
    put(format!("{program}: {text}\n").into_bytes());
}

/// Writes whole lines as they are.
pub fn raw(text: &str) {
    put(text.as_bytes().to_vec());
}

/// Waits until all lines so far are written, but no longer than `limit`.
pub fn flush(limit: Duration) {
    let Some(queue) = QUEUE.get() else { return };
    let (sender, done) = sync_channel(1);
    // A full queue is one that nobody reads: nothing to wait for.
    if queue.put(What::Flush(sender)).is_ok() {
        let _late = done.recv_timeout(limit);
    }
}

/// One line as tracing formats it.
pub(crate) struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(line: Vec<u8>) {
    let Some(queue) = QUEUE.get() else { return write(io::stderr(), &line) };
    // Without the thread there is no queue.
    if let Err(Some(What::Line(line))) = queue.put(What::Line(line)) {
        write(io::stderr(), &line);
    }
}

impl Queue {
    /// Puts a job into the queue. `Err`: it is full, or (with the job) there is no thread.
    fn put(&self, what: What) -> Result<(), Option<What>> {
        let is_line = matches!(what, What::Line(_));
        // Relaxed: a count that no other memory depends on.
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        match self.sender.try_send(Job { left_out, what }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.left_out.fetch_add(left_out + u64::from(is_line), Ordering::Relaxed);
                Err(None)
            }
            Err(TrySendError::Disconnected(job)) => Err(Some(job.what)),
        }
    }
}

/// Writes the jobs of a queue until its senders are gone.
fn write_all(program: &str, jobs: &Receiver<Job>, to: impl AsFd) {
    for Job { left_out, what } in jobs {
        if left_out > 0 {
            let note =
                format!("{program}: {left_out} lines are missing here: stderr was not read\n");
            write(&to, note.as_bytes());
        }
        match what {
            What::Line(line) => write(&to, &line),
            What::Flush(done) => {
                let _waits_no_longer = done.try_send(());
            }
        }
    }
}

/// Writes all of it, or as much as can be written.
fn write(to: impl AsFd, mut line: &[u8]) {
    while !line.is_empty() {
        match rustix::io::write(&to, line) {
            Ok(written) => line = &line[written.min(line.len())..],
            Err(Errno::INTR) => {}
            // Another process made it non-blocking: wait, in this thread only.
            Err(Errno::AGAIN) => {
                let _woken = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Every line is written, or counted where it is missing. Control: with room for all, none is
    /// missing.
    #[test]
    fn lines_are_written_or_counted() {
        for lines in [LINES, LINES + 500] {
            let (sender, jobs) = sync_channel(LINES);
            let queue = Queue { program: "test", sender, left_out: AtomicU64::new(0) };
            // Nobody writes yet, as when a pipe is full.
            for n in 0..lines {
                let fits = queue.put(What::Line(format!("{n}\n").into_bytes())).is_ok();
                assert_eq!(fits, n < LINES);
            }
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let thread = std::thread::spawn(move || write_all("test", &jobs, writer));
            // There is room again at some time.
            while queue.put(What::Line(b"last\n".to_vec())).is_err() {
                queue.left_out.fetch_sub(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
            drop(queue);
            thread.join().unwrap();
            let mut text = String::new();
            std::fs::File::from(reader).read_to_string(&mut text).unwrap();
            let (before, after) = text.split_at(text.find(&format!("{}\n", LINES - 1)).unwrap());
            assert_eq!(before.lines().count(), LINES - 1);
            let missing = "test: 500 lines are missing here: stderr was not read\n";
            let note = if lines > LINES { missing } else { "" };
            assert_eq!(after, format!("{}\n{note}last\n", LINES - 1));
        }
    }
}
