//! Broker queries: asks brokers without hanging on one that does not answer, and explains why a
//! broker cannot be reached.
//!
//! Contract: every query runs on a separate thread, so a stopped broker costs the caller at most
//! [`PATIENCE`]; the error then names its process and state. At most [`YOUNG_MOST`] queries that
//! are not older than [`YOUNG`] run at a time: a broker of many streams limits how many connections
//! of one user it serves at once. This module stays with the tools and is not shared with the
//! broker: it needs the client library, on which the broker must not depend.

use crate::process::Process;
use anyhow::anyhow;
use ringweir_proto::os::{paths, socket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a broker may take for an answer. A healthy one takes less than a millisecond.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Queries that may be answered at any moment. Well below what a broker allows each user
/// (`HANDSHAKING_PER_USER`), so that several tools can run at once.
const YOUNG_MOST: usize = 12;

/// A query that takes longer is to a broker that is stopped or busy, and holds up no other.
const YOUNG: Duration = Duration::from_millis(50);

/// When the queries under way began.
static BEGAN: Mutex<Vec<Instant>> = Mutex::new(Vec::new());
static ENDED: Condvar = Condvar::new();

/// One query among those under way.
struct Turn(Instant);

impl Turn {
    /// Waits while too many young queries are under way.
    fn take() -> Self {
        let mut began = BEGAN.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let young = || began.iter().filter(|at| now.duration_since(**at) < YOUNG);
            let Some(oldest) = young().min().filter(|_| young().count() >= YOUNG_MOST) else {
                began.push(now);
                return Self(now);
            };
            let left = YOUNG.saturating_sub(now.duration_since(*oldest));
            let woken = ENDED.wait_timeout(began, left);
            began = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut began = BEGAN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = began.iter().position(|at| *at == self.0) {
            began.swap_remove(at);
        }
        drop(began);
        ENDED.notify_one();
    }
}

/// A query under way.
#[derive(Debug)]
pub struct Pending<T> {
    name: String,
    answer: Receiver<Result<T, ringweir::Error>>,
    asked: Instant,
}

impl<T: Send + 'static> Pending<T> {
    /// Runs `question` for the broker of `name`. Waits its turn first, for [`YOUNG`] at most unless
    /// very many queries are not answered.
    pub fn ask(
        name: &str,
        question: impl FnOnce(&str) -> Result<T, ringweir::Error> + Send + 'static,
    ) -> Self {
        let (answered, answer) = channel();
        let asked = name.to_owned();
        let turn = Turn::take();
        // Without a thread the channel has no sender, and the answer is an error.
        let _none = std::thread::Builder::new().spawn(move || {
            let found = question(&asked);
            drop(turn);
            // Fails if the caller has given up, which does not matter.
            let _given_up = answered.send(found);
        });
        Self { name: name.into(), answer, asked: Instant::now() }
    }

    /// The answer if it has come.
    pub fn poll(&self) -> Option<anyhow::Result<T>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer.map_err(Into::into)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(self.failed())),
        }
    }

    /// The same, after waiting for the answer until `moment`.
    pub fn poll_until(&self, moment: Instant) -> Option<anyhow::Result<T>> {
        let left = moment.saturating_duration_since(Instant::now());
        match self.answer.recv_timeout(left) {
            Ok(answer) => Some(answer.map_err(Into::into)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(self.failed())),
        }
    }

    fn failed(&self) -> anyhow::Error {
        anyhow!(
            "stream {:?}: the query failed, or this process may start no more threads",
            self.name
        )
    }

    /// Waits for the answer. An error if the time is over.
    pub fn wait(self) -> anyhow::Result<T> {
        let left = PATIENCE.saturating_sub(self.asked.elapsed());
        match self.answer.recv_timeout(left) {
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Disconnected) => Err(self.failed()),
            Err(RecvTimeoutError::Timeout) => Err(silence(&self.name)),
        }
    }
}

/// The process that listens at the socket `path`, if the kernel tells at once. It accepts a
/// connection even for a stopped process, unless that one has very many waiting.
pub fn pid_behind(path: &Path) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path).ok()?).ok()?;
    socket::peer(fd).ok().map(|peer| peer.pid)
}

/// Why the broker of `name` does not answer, and what to do.
pub fn silence(name: &str) -> anyhow::Error {
    let path = match name.contains('/') {
        true => Some(PathBuf::from(name)),
        false => {
            ringweir::view::streams().into_iter().find(|(n, _)| n == name).map(|(_, path)| path)
        }
    };
    let Some(pid) = path.and_then(|path| pid_behind(&path)) else {
        return anyhow!("stream {name:?}: its broker does not answer; start ringd again");
    };
    match Process::look(pid.into()) {
        Process::Stopped(c) => {
            anyhow!(
                "stream {name:?}: its broker (pid {pid}) is stopped ({c}); `kill -CONT {pid}` \
                resumes it"
            )
        }
        Process::Gone => {
            anyhow!("stream {name:?}: its broker (pid {pid}) is gone; start ringd again")
        }
        _ => anyhow!(
            "stream {name:?}: its broker (pid {pid}) has not answered for {} s: it is hung or \
            overloaded",
            PATIENCE.as_secs()
        ),
    }
}

/// A message for each run directory that exists and cannot be read.
pub fn unreadable() -> Vec<String> {
    let mut problems = Vec::new();
    let explicit = std::env::var_os(paths::RUN_DIR_ENV).is_some_and(|v| !v.is_empty());
    for dir in paths::search_dirs() {
        let shown = dir.display();
        match std::fs::read_dir(&dir) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if explicit {
                    problems.push(format!("{}={shown} does not exist", paths::RUN_DIR_ENV));
                }
            }
            Err(e) => problems.push(format!(
                "cannot read {shown}: {e}; ask its owner for access, or run as another user"
            )),
        }
    }
    problems
}

/// The error if no stream is running: which directories were searched, and what to do.
pub fn nothing_runs() -> anyhow::Error {
    let dirs: Vec<_> = paths::search_dirs().iter().map(|d| d.display().to_string()).collect();
    let mut text = format!("no stream is running (looked in {})", dirs.join(", "));
    for problem in unreadable() {
        text += "; ";
        text += &problem;
    }
    anyhow!(
        "{text}\nstart one, for example: ringd run --name demo --source gen:rate=1MB/s,size=256"
    )
}

/// Adds the directories that could not be read to the error of a name that was not found.
pub fn with_unreadable(error: anyhow::Error) -> anyhow::Error {
    let missing = matches!(error.downcast_ref(), Some(ringweir::Error::StreamNotFound { .. }));
    let problems = if missing { unreadable() } else { Vec::new() };
    problems.into_iter().fold(error, |e, problem| anyhow!("{e} ({problem})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn an_answer_is_returned() {
        assert_eq!(Pending::ask("demo", |name| Ok(name.len())).wait().unwrap(), 4);
    }

    /// Queries that are not answered hold up the others for a moment only. Control: among young
    /// ones, no more run at once than a broker takes.
    #[test]
    fn many_queries_take_turns_and_silent_ones_hold_up_none() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let brief = |name: &str| {
            let (running, most) = (running.clone(), most.clone());
            Pending::ask(name, move |_| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let many: Vec<_> = (0..300).map(|n| brief(&n.to_string())).collect();
        many.into_iter().for_each(|pending| pending.wait().unwrap());
        assert!(most.load(Ordering::SeqCst) <= YOUNG_MOST + 1, "{most:?}");

        let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let silent: Vec<_> = (0..3 * YOUNG_MOST)
            .map(|n| {
                let held = held.clone();
                Pending::ask(&n.to_string(), move |_| {
                    let _released = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    Ok(())
                })
            })
            .collect();
        brief("honest").wait().unwrap();
        assert!(silent[0].poll().is_none(), "the control: they are still held");
        drop(release);
    }

    #[test]
    fn a_silent_broker_is_an_error_that_names_the_stream() {
        assert!(silence("no-such-stream").to_string().contains("no-such-stream"));
    }
}
