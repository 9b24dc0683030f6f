//! The program of an `exec:` source, as the source sees it.
//!
//! Contract: only [`Program::open`] and dropping wait, for the first start and for the end.
//! Dropping ends the program, and waits until it is gone or `kill_after` and a second are over;
//! what cannot be killed then (in a driver, say) is left to the spawner.

use super::exit::Exit;
use super::spawner::{self, Report};
use super::spec::Command;
use crate::source::contract::SourceError;
use ringweir_proto::os::{clock, event, socket};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Room for output while the pump is busy.
const PIPE: usize = 1 << 20;
/// How long the first start may take.
const START: Duration = Duration::from_secs(20);
/// How long beyond `kill_after` the end may take.
const END: Duration = Duration::from_secs(1);

/// What has happened to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It runs as this process.
    Started(i32),
    /// It has ended, or could not be started.
    Ended(Exit),
    /// Its spawner is gone, and the program with it.
    SpawnerGone,
}

/// The reading ends of a program's pipes.
pub(super) struct Pipes {
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
}

/// A program that can be started again and again, one at a time.
pub(super) struct Program {
    process: Pid,
    spawner: OwnedFd,
    /// Ready when there is news or error output.
    events: OwnedFd,
    kill_after: Duration,
}

impl Program {
    /// Starts it for the first time, and waits until it runs. Returns its process too.
    pub(super) fn open(command: &Command) -> Result<(Self, Pipes, i32), SourceError> {
        let refused = |what: &str, e: Errno| SourceError(format!("{what}: {e}"));
        let program = command.program()?;
        let events =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| refused("epoll_create", e))?;
        let (process, spawner) =
            program.make_spawner().map_err(|e| refused("cannot make a process", e))?;
        let this = Self { process, spawner, events, kill_after: program.kill_after };
        epoll::add(&this.events, &this.spawner, EventData::new_u64(0), EventFlags::IN)
            .map_err(|e| refused("epoll_ctl", e))?;
        let pipes = this.start().map_err(|e| refused("cannot start a program", e))?;
        let until = clock::monotonic_ns() + START.as_nanos() as u64;
        while this.poll_spawner(until) == Err(Errno::INTR) {}
        match this.next() {
            Some(News::Started(pid)) => Ok((this, pipes, pid)),
            Some(News::Ended(exit)) => Err(SourceError(format!("{}: {exit}", command.name()))),
            Some(News::SpawnerGone) => {
                Err(SourceError::new("the process that starts the program has ended at once"))
            }
            None => Err(SourceError(format!(
                "{}: it has not been started within {} s",
                command.name(),
                START.as_secs()
            ))),
        }
    }

    /// Waits for news, until this moment at the latest, CLOCK_MONOTONIC ns.
    fn poll_spawner(&self, until: u64) -> Result<usize, Errno> {
        let left = until.saturating_sub(clock::monotonic_ns());
        let limit = event::timespec(Duration::from_nanos(left));
        poll(&mut [PollFd::new(&self.spawner, PollFlags::IN)], Some(&limit))
    }

    /// Starts it; [`Self::next`] says how that went. It is not running.
    pub(super) fn start(&self) -> Result<Pipes, Errno> {
        let (output, to_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, to_errors) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // An error means that this user has many large pipes already.
        let _smaller = rustix::pipe::fcntl_setpipe_size(&output, PIPE);
        epoll::add(&self.events, &errors, EventData::new_u64(1), EventFlags::IN)?;
        let ends = [to_output.as_fd(), to_errors.as_fd()];
        socket::send(&self.spawner, &[spawner::START], &ends)?;
        Ok(Pipes { output, errors })
    }

    /// What has happened, if anything has.
    pub(super) fn next(&self) -> Option<News> {
        let mut bytes = [0; Report::BYTES];
        let flags = RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.spawner, &mut bytes, flags)) {
            Err(Errno::AGAIN) => None,
            Ok((Report::BYTES, _)) => Some(match Report::decode(bytes) {
                Report::Started(pid) => News::Started(pid),
                Report::Ended(status) => News::Ended(Exit::Ended(status)),
                Report::StatusUnknown(errno) => {
                    News::Ended(Exit::Unknown(Errno::from_raw_os_error(errno)))
                }
                Report::NotStarted(errno) | Report::Unusable(errno) => {
                    News::Ended(Exit::NotStarted(Errno::from_raw_os_error(errno)))
                }
            }),
            _ => Some(News::SpawnerGone),
        }
    }

    /// Ends it, if it runs: SIGTERM, and SIGKILL after `kill_after`.
    pub(super) fn end(&self) {
        let _gone = socket::send(&self.spawner, &[spawner::END], &[]);
    }

    /// How long the end may take.
    pub(super) fn kill_after(&self) -> Duration {
        self.kill_after
    }

    /// Ready when there is news or error output.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The spawner ends the program and then itself, which closes its end.
        let _gone = rustix::net::shutdown(&self.spawner, Shutdown::Write);
        let until = clock::monotonic_ns() + (self.kill_after + END).as_nanos() as u64;
        loop {
            let left = until.saturating_sub(clock::monotonic_ns());
            let _woken = self.poll_spawner(until);
            let gone = left > 0 && self.next() == Some(News::SpawnerGone);
            if gone || left == 0 {
                let patience = if gone { WaitOptions::empty() } else { WaitOptions::NOHANG };
                let _status = rustix::process::waitpid(Some(self.process), patience);
                return;
            }
        }
    }
}
