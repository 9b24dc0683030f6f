//! The state of a process as /proc shows it: running, stopped or gone.
//!
//! Contract: an answer is never a guess. A process that may exist but is not visible here (another
//! user's under `hidepid`, or in another pid namespace) is [`Process::Unseen`], not gone.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use std::path::PathBuf;

/// State of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// It runs, sleeps or waits for a device: the letter of /proc/PID/stat.
    Runs(char),
    /// Stopped by a signal (`T`) or by a debugger (`t`).
    Stopped(char),
    /// It does not exist any more, or is a zombie.
    Gone,
    /// It is not visible here.
    Unseen,
}

impl Process {
    /// The state of process `pid`; 0 stands for a process of another namespace.
    pub fn look(pid: u64) -> Self {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Self::Unseen;
        };
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => Self::parse(&stat),
            Err(_) => match test_kill_process(number) {
                Err(Errno::SRCH) => Self::Gone,
                _ => Self::Unseen,
            },
        }
    }

    /// Processor time that all threads of process `pid` have used, ns; `None` if it is not visible.
    pub fn used_ns(pid: u64) -> Option<u64> {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        threads
            // A thread may end at this moment; the others are enough.
            .filter_map(|thread| {
                let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                text.split_whitespace().next()?.parse::<u64>().ok()
            })
            .reduce(u64::saturating_add)
    }

    /// The directory in /proc of the pump of stream `name` in process `pid`; `None` if it is not
    /// visible.
    fn pump(pid: u64, name: &str) -> Option<PathBuf> {
        // Thread names have 15 bytes.
        let thread: String = format!("pump:{name}").chars().take(15).collect();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        tasks.map(|task| task.path()).find(|task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == thread)
        })
    }

    /// Whether process `pid` is seen to be the broker of stream `name`. Then the pids that this
    /// broker tells are of the same pid namespace as ours.
    pub fn is_broker(pid: u64, name: &str) -> bool {
        Self::pump(pid, name).is_some()
    }

    /// Whether the pump of stream `name` in process `pid` is of a real-time class; `None` if it is
    /// not visible.
    pub fn pump_is_realtime(pid: u64, name: &str) -> Option<bool> {
        let pump = Self::pump(pid, name)?;
        let stat = std::fs::read_to_string(pump.join("stat")).ok()?;
        let policy = Self::field(&stat, 41)?;
        Some(policy == libc::SCHED_FIFO as u64 || policy == libc::SCHED_RR as u64)
    }

    /// Field `number` of a stat file, counted from 1 as in proc(5); from 3 on.
    fn field(stat: &str, number: usize) -> Option<u64> {
        stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)?.parse().ok()
    }

    /// The state letter follows the name in parentheses, which may itself hold blanks and
    /// parentheses.
    fn parse(stat: &[u8]) -> Self {
        let behind = stat.iter().rposition(|b| *b == b')').map_or(&[][..], |at| &stat[at + 1..]);
        let threads = Self::field(&String::from_utf8_lossy(stat), 20);
        match behind.trim_ascii_start().first() {
            Some(b @ (b'T' | b't')) => Self::Stopped(char::from(*b)),
            // The first thread of a process may end before the others.
            Some(b'Z') if threads.is_some_and(|n| n > 1) => Self::Runs('Z'),
            Some(b'Z' | b'X' | b'x') => Self::Gone,
            Some(b) => Self::Runs(char::from(*b)),
            None => Self::Unseen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_letters_are_found_after_any_name() {
        assert_eq!(Process::parse(b"12 (ringcat) S 1 2"), Process::Runs('S'));
        assert_eq!(Process::parse(b"12 (a) T (b) ) T 1 2"), Process::Stopped('T'));
        assert_eq!(Process::parse(b"12 (gdb'd) t 1"), Process::Stopped('t'));
        assert_eq!(Process::parse(b"12 (dead) Z 1"), Process::Gone);
        assert_eq!(Process::parse(b""), Process::Unseen);
        let threads = |n| format!("12 (main) Z{} {n} 0", " 0".repeat(16)).into_bytes();
        assert_eq!(Process::parse(&threads(1)), Process::Gone);
        assert_eq!(Process::parse(&threads(2)), Process::Runs('Z'), "its other threads run");
    }

    #[test]
    fn fields_are_counted_as_in_the_manual() {
        let stat = "12 (a b) c) S 4 5 6 7 8 9 10 11 12 13 14 15 16";
        assert_eq!(
            (Process::field(stat, 4), Process::field(stat, 14), Process::field(stat, 99)),
            (Some(4), Some(14), None)
        );
        assert!(Process::used_ns(std::process::id().into()).is_some());
        assert_eq!(Process::used_ns(0x7fff_fff0), None);
        assert_eq!(Process::pump_is_realtime(std::process::id().into(), "none"), None);
    }

    #[test]
    fn this_process_runs_and_an_impossible_one_is_gone() {
        assert!(matches!(Process::look(std::process::id().into()), Process::Runs(_)));
        assert_eq!(Process::look(0x7fff_fff0), Process::Gone);
        assert_eq!(Process::look(0), Process::Unseen);
    }
}
