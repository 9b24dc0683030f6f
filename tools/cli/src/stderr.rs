//! Lines on standard error that never make the program wait, and never end it.
//!
//! Contract: a line goes into a bounded queue, which a separate thread writes out. If standard
//! error is a full pipe that nobody reads, the queue fills up; further lines are left out and
//! counted, and the next line that is written is preceded by their number. If standard error is
//! closed, a full disk or otherwise unusable, lines are lost without consequences. [`flush`] waits
//! for the lines so far, up to a limit.
//!
//! This is the only file of broker and tools that writes to standard error.

use ringweir_proto::printable::printable_lines;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written.
const LINES: usize = 1024;

enum Job {
    Line(Vec<u8>),
    /// Everything before it has been written: answer.
    Flush(SyncSender<()>),
}

struct Queue {
    program: &'static str,
    sender: SyncSender<Job>,
    /// Lines that found the queue full, since the last that did not.
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
            write_all(&jobs);
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
    if queue.sender.try_send(Job::Flush(sender)).is_ok() {
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
    use std::sync::mpsc::TrySendError::{Disconnected, Full};
    let Some(queue) = QUEUE.get() else { return write(&line) };
    match queue.sender.try_send(Job::Line(line)) {
        Ok(()) => {}
        Err(Full(_)) => {
            queue.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Err(Disconnected(Job::Line(line))) => write(&line),
        Err(Disconnected(Job::Flush(_))) => {}
    }
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Line(line) => write(&line),
            Job::Flush(done) => {
                let _waits_no_longer = done.try_send(());
            }
        }
        if let Some(queue) = QUEUE.get() {
            let left_out = queue.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                let program = queue.program;
                write(
                    format!("{program}: {left_out} lines are missing here: stderr was not read\n")
                        .as_bytes(),
                );
            }
        }
    }
}

/// Writes all of it, or as much as can be written.
fn write(mut line: &[u8]) {
    let stderr = io::stderr();
    while !line.is_empty() {
        match rustix::io::write(&stderr, line) {
            Ok(written) => line = &line[written.min(line.len())..],
            Err(Errno::INTR) => {}
            // Somebody made it non-blocking: wait, in this thread only.
            Err(Errno::AGAIN) => {
                let _woken = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}
