//! Broker queries: asks brokers without hanging on one that does not answer, and explains why a
//! broker cannot be reached.
//!
//! Contract: every query runs on a separate thread, so a stopped broker costs the caller at most
//! [`PATIENCE`]; the error then names its process and state. This module stays with the tools and
//! is not shared with the broker: it needs the client library, on which the broker must not depend.

use crate::process::Process;
use anyhow::anyhow;
use ringweir_proto::os::{paths, socket};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant};

/// How long a broker may take for an answer. A healthy one takes less than a millisecond.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A query under way.
#[derive(Debug)]
pub struct Pending<T> {
    name: String,
    answer: Receiver<Result<T, ringweir::Error>>,
    asked: Instant,
}

impl<T: Send + 'static> Pending<T> {
    /// Runs `question` for the broker of `name`.
    pub fn ask(
        name: &str,
        question: impl FnOnce(&str) -> Result<T, ringweir::Error> + Send + 'static,
    ) -> Self {
        let (answered, answer) = channel();
        let asked = name.to_owned();
        std::thread::spawn(move || {
            // Fails if the caller has given up, which does not matter.
            let _given_up = answered.send(question(&asked));
        });
        Self { name: name.into(), answer, asked: Instant::now() }
    }

    /// The answer if it has come.
    pub fn poll(&self) -> Option<anyhow::Result<T>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer.map_err(Into::into)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(anyhow!("stream {:?}: the query failed", self.name)))
            }
        }
    }

    /// Waits for the answer. An error if the time is over.
    pub fn wait(self) -> anyhow::Result<T> {
        let left = PATIENCE.saturating_sub(self.asked.elapsed());
        match self.answer.recv_timeout(left) {
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Disconnected) => {
                Err(anyhow!("stream {:?}: the query failed", self.name))
            }
            Err(RecvTimeoutError::Timeout) => Err(silence(&self.name)),
        }
    }
}

/// Why the broker of `name` does not answer, and what to do.
pub fn silence(name: &str) -> anyhow::Error {
    let path = match name.contains('/') {
        true => Some(PathBuf::from(name)),
        false => {
            ringweir::view::streams().into_iter().find(|(n, _)| n == name).map(|(_, path)| path)
        }
    };
    // The kernel accepts a connection even for a stopped process, and knows whose socket it is.
    let peer = path.and_then(|p| socket::connect(&p).ok()).and_then(|fd| socket::peer(fd).ok());
    let Some(pid) = peer.map(|p| p.pid) else {
        return anyhow!("stream {name:?}: its broker does not answer; start ringd again");
    };
    match Process::look(pid.into()) {
        Process::Stopped(c) => {
            anyhow!(
                "stream {name:?}: its broker (pid {pid}) is stopped ({c}); `kill -CONT {pid}` resumes it"
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

    #[test]
    fn an_answer_is_returned() {
        assert_eq!(Pending::ask("demo", |name| Ok(name.len())).wait().unwrap(), 4);
    }

    #[test]
    fn a_silent_broker_is_an_error_that_names_the_stream() {
        assert!(silence("no-such-stream").to_string().contains("no-such-stream"));
    }
}
