//! The spawner: a small process that starts one program for a broker which may not start any more.
//!
//! Contract: it is a copy of the broker from before the broker gave up its rights. What it can run
//! is fixed when it is made, so an attacker who takes over the broker can only start and end that
//! program. It holds no descriptor of the broker but its end of a socket, ignores signals, and
//! belongs to no terminal. When the socket is closed (the broker has dropped the source, or was
//! killed) it ends the program and then itself.
//!
//! The program gets nothing of the broker's but its user: no descriptor, no ambient capability, no
//! real-time class, no raised limit of open files, no blocked or ignored signal. It leads a session
//! and process group of its own. Ended means SIGTERM to the group, and SIGKILL after
//! [`Program::kill_after`]. When it has ended, what is left of its group is killed. If the spawner
//! is killed, the kernel kills the program; not one that runs with more rights than its caller
//! (set-user-ID, file capabilities), for which the kernel drops that order.
//!
//! It is the child of a broker that may have threads, so it makes only system calls: no allocation,
//! no lock, no panic. The broker waits for it, so neither leaves a zombie.

#![allow(unsafe_code)]

use crate::process::sched;
use ringweir_proto::os::{clock, event};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Start the program; with the writing ends of its output and error output.
pub(super) const START: u8 = b'S';
/// End the program.
pub(super) const END: u8 = b'E';

/// What the spawner reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The program runs as this process.
    Started(i32),
    /// The program could not be started: errno.
    NotStarted(i32),
    /// The program has ended, with this status as `waitpid` gives it.
    Ended(i32),
    /// The program has ended, and the kernel does not give its status: errno.
    StatusUnknown(i32),
    /// The spawner cannot work: errno.
    Unusable(i32),
}

impl Report {
    /// Length of a report.
    pub(super) const BYTES: usize = 5;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, number) = match self {
            Self::Started(pid) => (0, pid),
            Self::NotStarted(errno) => (1, errno),
            Self::Ended(status) => (2, status),
            Self::StatusUnknown(errno) => (3, errno),
            Self::Unusable(errno) => (4, errno),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    /// A received report.
    pub(super) fn decode([kind, number @ ..]: [u8; Self::BYTES]) -> Self {
        let number = i32::from_le_bytes(number);
        match kind {
            0 => Self::Started(number),
            1 => Self::NotStarted(number),
            2 => Self::Ended(number),
            3 => Self::StatusUnknown(number),
            _ => Self::Unusable(number),
        }
    }
}

/// What the spawner runs.
pub(super) struct Program {
    path: CString,
    /// The pointers of these, and a null.
    _words: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    _environment: Vec<CString>,
    envp: Vec<*const libc::c_char>,
    /// The name of the spawner in lists of processes.
    spawner_name: CString,
    /// The limit of open files that the broker was started with: a program that uses `select` may
    /// depend on a low one.
    open_files: Option<Rlimit>,
    /// From SIGTERM to SIGKILL.
    pub(super) kill_after: Duration,
}

impl Program {
    /// The program `path`, with `words` as its arguments (the first is its name).
    pub(super) fn new(
        path: CString,
        words: Vec<CString>,
        environment: Vec<CString>,
        kill_after: Duration,
    ) -> Self {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&words), pointers(&environment));
        let file = path.to_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
        let name = [b"exec:", &file[..file.len().min(10)]].concat();
        let spawner_name = CString::new(name).unwrap_or_default();
        Self {
            path,
            _words: words,
            argv,
            _environment: environment,
            envp,
            spawner_name,
            open_files: sched::earlier_open_files(),
            kill_after,
        }
    }

    /// Makes a spawner for it, and returns its process and the socket to it.
    pub(super) fn make_spawner(&self) -> Result<(Pid, OwnedFd), Errno> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty())?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // The spawner makes its own 0, 1 and 2.
        let [null, theirs] = [null, theirs].map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, 3));
        let (null, theirs) = (null?, theirs?);
        let before = set_signal_mask(&every_signal());
        // SAFETY: the child makes system calls only, as a child of a process with threads must, and
        // never returns from this arm.
        let child = match unsafe { libc::fork() } {
            0 => {
                let _leave = LeaveAtOnce;
                self.spawn_for(&theirs, &null)
            }
            child => Pid::from_raw(child).filter(|_| child > 0).ok_or_else(last_errno),
        };
        set_signal_mask(&before);
        Ok((child?, ours))
    }

    /// The spawner.
    fn spawn_for(&self, socket: &OwnedFd, null: &OwnedFd) -> ! {
        if let Err(e) = self.prepare(socket, null) {
            report(socket, Report::Unusable(e.raw_os_error()));
            exit();
        }
        let mut running: Option<Running> = None;
        let mut left = false;
        loop {
            if left && running.is_none() {
                exit();
            }
            let pidfd = running.as_ref().map_or(socket.as_fd(), |r| r.pidfd.as_fd());
            let mut fds = [
                PollFd::new(socket, if left { PollFlags::empty() } else { PollFlags::IN }),
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            ];
            let (watched, limit) = match &running {
                None => (&mut fds[..1], None),
                // A socket that was closed is always ready.
                Some(r) if left => (&mut fds[1..], r.time_left()),
                Some(r) => (&mut fds[..], r.time_left()),
            };
            let limit = limit.map(event::timespec);
            let _woken = poll(watched, limit.as_ref());
            let [command, death] = fds.map(|fd| !fd.revents().is_empty());
            if death && let Some(dead) = running.take_if(|r| r.is_dead()) {
                report(socket, dead.bury());
            }
            if command && !left {
                match receive(socket) {
                    (Some(START), [Some(out), Some(err)]) if running.is_none() => {
                        running = self.start(socket, null, &out, &err);
                    }
                    (Some(START), _) if running.is_none() => {
                        // The kernel leaves out descriptors that this process may not have.
                        report(socket, Report::NotStarted(Errno::MFILE.raw_os_error()));
                    }
                    (Some(END), _) => end(running.as_mut(), self.kill_after),
                    (Some(_), _) => {}
                    (None, _) => {
                        left = true;
                        end(running.as_mut(), self.kill_after);
                    }
                }
            }
            if let Some(running) = running.as_mut()
                && running.time_left() == Some(Duration::ZERO)
            {
                running.kill();
            }
        }
    }

    /// Gives up what belongs to the broker.
    fn prepare(&self, socket: &OwnedFd, null: &OwnedFd) -> Result<(), Errno> {
        rustix::process::setsid()?;
        let _only_a_name = rustix::thread::set_name(&self.spawner_name);
        // It has the broker's mappings. A program that it runs can be inspected again.
        let hidden = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(hidden)?;
        sched::become_ordinary();
        // If the broker was started with SIGCHLD ignored, there would be no status of a program.
        restore_default_action(libc::SIGCHLD);
        // An error means that the kernel has no ambient capabilities.
        let _none = rustix::thread::clear_ambient_capability_set();
        for number in 0..3 {
            put_at(null, number)?;
        }
        let [low, high] = [socket, null].map(|fd| fd.as_raw_fd().cast_unsigned());
        let (low, high) = (low.min(high), low.max(high));
        close_all(3, low - 1)?;
        close_all(low + 1, high - 1)?;
        close_all(high + 1, u32::MAX)
    }

    fn start(
        &self,
        socket: &OwnedFd,
        null: &OwnedFd,
        out: &OwnedFd,
        err: &OwnedFd,
    ) -> Option<Running> {
        match self.fork(null, out, err) {
            Ok(running) => {
                report(socket, Report::Started(running.pid.as_raw_nonzero().get()));
                Some(running)
            }
            Err(e) => {
                report(socket, Report::NotStarted(e.raw_os_error()));
                None
            }
        }
    }

    fn fork(&self, null: &OwnedFd, out: &OwnedFd, err: &OwnedFd) -> Result<Running, Errno> {
        // Closed by a successful exec.
        let (failure, to_failure) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let spawner = rustix::process::getpid();
        // SAFETY: this process has one thread; the child makes system calls only and never returns
        // from this arm.
        let pid = match unsafe { libc::fork() } {
            0 => {
                let _leave = LeaveAtOnce;
                let errno = self.become_program(spawner, null, out, err);
                let _unread = rustix::io::write(&to_failure, &errno.raw_os_error().to_le_bytes());
                exit();
            }
            pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or(Errno::AGAIN)?,
        };
        drop(to_failure);
        let mut errno = [0; 4];
        let failed = rustix::io::retry_on_intr(|| rustix::io::read(&failure, &mut errno));
        let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        match (failed, opened) {
            (Ok(0), Ok(pidfd)) => Ok(Running { pid, pidfd, kill_at: None }),
            (failed, opened) => {
                let _ended = rustix::process::kill_process(pid, Signal::KILL);
                let _status = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                Err(match (failed, opened) {
                    (Ok(4), _) => Errno::from_raw_os_error(i32::from_le_bytes(errno)),
                    (_, Err(e)) | (Err(e), _) => e,
                    _ => Errno::IO,
                })
            }
        }
    }

    /// The child: returns only if the program cannot be run.
    fn become_program(&self, spawner: Pid, null: &OwnedFd, out: &OwnedFd, err: &OwnedFd) -> Errno {
        let prepared = || -> Result<(), Errno> {
            rustix::process::setsid()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The spawner may have died before the line above.
            if rustix::process::getppid() != Some(spawner) {
                return Err(Errno::SRCH);
            }
            put_at(null, 0)?;
            put_at(out, 1)?;
            put_at(err, 2)?;
            match self.open_files {
                Some(limit) => rustix::process::setrlimit(Resource::Nofile, limit),
                None => Ok(()),
            }
        };
        if let Err(e) = prepared() {
            return e;
        }
        (1..=64).for_each(restore_default_action);
        set_signal_mask(&no_signal());
        let (path, argv, envp) = (self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
        // SAFETY: all three end with a null, and `self` owns what they point to.
        unsafe { libc::execve(path, argv, envp) };
        Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
    }
}

/// The program as a process.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    /// When to kill it, CLOCK_MONOTONIC ns.
    kill_at: Option<u64>,
}

impl Running {
    fn time_left(&self) -> Option<Duration> {
        let left = |at: u64| Duration::from_nanos(at.saturating_sub(clock::monotonic_ns()));
        self.kill_at.map(left)
    }

    fn is_dead(&self) -> bool {
        let at_once = event::timespec(Duration::ZERO);
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&at_once)) == Ok(1)
    }

    /// Kills it and its group, once.
    fn kill(&mut self) {
        self.kill_at = None;
        let _ended = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    /// Kills what is left of its group, and returns its status. Until the status is taken, nothing
    /// else can have the number of the group.
    fn bury(self) -> Report {
        let _none_left = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(self.pid), WaitOptions::empty())
        });
        match status {
            Ok(Some((_, status))) => Report::Ended(status.as_raw()),
            Ok(None) => Report::StatusUnknown(Errno::CHILD.raw_os_error()),
            Err(e) => Report::StatusUnknown(e.raw_os_error()),
        }
    }
}

/// Asks the program to end, unless it has been asked.
fn end(running: Option<&mut Running>, kill_after: Duration) {
    if let Some(running) = running
        && running.kill_at.is_none()
    {
        running.kill_at = Some(clock::monotonic_ns() + kill_after.as_nanos() as u64);
        // One that is stopped acts on SIGTERM once it continues.
        for signal in [Signal::TERM, Signal::CONT] {
            let _ended = rustix::process::kill_process_group(running.pid, signal);
        }
    }
}

/// Sends a report, if the broker is there and has room.
fn report(socket: &OwnedFd, report: Report) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _unread = rustix::net::send(socket, &report.encode(), flags);
}

/// The next command with its descriptors; no command once the broker has closed its end.
fn receive(socket: &OwnedFd) -> (Option<u8>, [Option<OwnedFd>; 2]) {
    let (mut byte, mut fds) = ([0], [None, None]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, buffers, &mut ancillary, flags));
    let received = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(received) => Some(received),
        _ => None,
    });
    for (fd, to) in received.flatten().zip(&mut fds) {
        *to = Some(fd);
    }
    (got.is_ok_and(|got| got.bytes == 1).then_some(byte[0]), fds)
}

/// Makes descriptor `number` a copy of `fd` that a program inherits.
fn put_at(fd: &OwnedFd, number: i32) -> Result<(), Errno> {
    // SAFETY: `fd` is open and never 0, 1 or 2, which only the C library's streams and their users
    // in the program name; in this process nothing uses them.
    let rc = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if rc == number { Ok(()) } else { Err(last_errno()) }
}

/// Closes the descriptors from `first` to `last`.
fn close_all(first: u32, last: u32) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the spawner uses none of these descriptors, and never returns to code that does.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The default action for a signal. SIGKILL and SIGSTOP have it anyway.
fn restore_default_action(signal: i32) {
    // The kernel's structure: default action, no flags, no restorer, empty mask. The C library
    // would refuse the signals that it uses itself.
    let default = [0_u64; 4];
    let (new, old) = (default.as_ptr(), std::ptr::null_mut::<u64>());
    // SAFETY: the kernel reads one structure, which `default` is, and writes nothing. The default
    // action installs no function; SIGKILL and SIGSTOP are refused.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8_usize) };
}

fn every_signal() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call fills the whole set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: filled above.
    unsafe { set.assume_init() }
}

fn no_signal() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call fills the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: filled above.
    unsafe { set.assume_init() }
}

/// Sets which signals the calling thread blocks. Returns the ones before.
fn set_signal_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = no_signal();
    // SAFETY: both sets are valid, and the call changes only the second.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, &raw mut before) };
    before
}

/// Ends a forked process if its code should ever unwind or return.
struct LeaveAtOnce;

impl Drop for LeaveAtOnce {
    fn drop(&mut self) {
        exit();
    }
}

/// Ends this process without running anything of the broker's.
fn exit() -> ! {
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(0) }
}
