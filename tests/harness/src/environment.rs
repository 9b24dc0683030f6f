//! The environment of a test: a private run directory, the project's programs, and the processes
//! started in it, which end with it.
//!
//! Contract: nothing outlives an environment. Each process is killed by its pidfd; a process that
//! was waited for is never signalled again. If a test takes too long, its processes are killed, so
//! that whatever waits for them wakes up and fails; if that does not help, the test process is
//! aborted. At the end of a test that passed, /dev/shm and the run directory must be empty.

#![allow(unsafe_code)]

use crate::log_pipe::LogPipe;
use crate::programs;
use ringweir_proto::os::paths;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A user without rights.
pub const NOBODY: u32 = 65534;

/// Polls `found` until it returns something, at most for `limit`.
pub fn wait_for<T>(limit: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(it) = found() {
            return Some(it);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The environment of one test.
pub struct Environment {
    base: tempfile::TempDir,
    started: Arc<Mutex<Vec<OwnedFd>>>,
    count: AtomicUsize,
    _watchdog: Sender<()>,
    /// Do not fail if files are left behind.
    pub untidy: bool,
}

impl Environment {
    /// A new environment; its processes are killed after `limit`.
    pub fn new(limit: Duration) -> Self {
        programs::build();
        let base = tempfile::Builder::new().prefix("rw").tempdir().expect("a temporary directory");
        // Other users must reach the socket: its mode, not a directory's, keeps them out.
        for dir in [base.path(), &base.path().join("run")] {
            std::fs::create_dir_all(dir).expect("run directory");
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let started: Arc<Mutex<Vec<OwnedFd>>> = Arc::default();
        let (alive, ended) = channel::<()>();
        let watched = started.clone();
        let name = std::thread::current().name().unwrap_or("?").to_string();
        std::thread::spawn(move || {
            let over = || {
                matches!(ended.recv_timeout(limit), Err(std::sync::mpsc::RecvTimeoutError::Timeout))
            };
            if over() {
                eprintln!(
                    "watchdog: {name} has not ended within {limit:?}: its processes are killed"
                );
                kill_all(&watched);
                if matches!(
                    ended.recv_timeout(Duration::from_secs(10)),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                ) {
                    eprintln!("watchdog: {name} hangs: aborting");
                    std::process::abort();
                }
            }
        });
        Self { base, started, count: AtomicUsize::new(0), _watchdog: alive, untidy: false }
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.base.path().join("run")
    }

    /// A path for a file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A program of the project, in this environment.
    pub fn command(&self, program: &str) -> Command {
        self.command_at(&programs::path(program))
    }

    /// Any program, in this environment.
    pub fn command_at(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(paths::RUN_DIR_ENV, self.run_dir())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command
    }

    /// A program of the project, run as [`NOBODY`] from a copy that any user can run. Needs root.
    pub fn command_as_nobody(&self, program: &str) -> Command {
        let copy = self.path(program);
        if !copy.exists() {
            programs::copy(program, &copy);
        }
        let mut command = self.command_at("setpriv".as_ref());
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(copy);
        command
    }

    /// Starts a process that ends with this environment. Its stderr goes to a file.
    pub fn start(&self, command: Command) -> Process {
        let err = self.path(&format!("err{}", self.count.fetch_add(1, Ordering::Relaxed)));
        let to = File::create(&err).expect("a file for stderr");
        self.start_to(command, to.into(), err)
    }

    /// The same, with `log` as its stderr.
    pub fn start_with_log(&self, command: Command, log: &LogPipe) -> Process {
        self.start_to(command, log.stderr(), log.copy())
    }

    fn start_to(&self, mut command: Command, stderr: Stdio, err: PathBuf) -> Process {
        let parent = std::process::id();
        // SAFETY: two async-signal-safe system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died since the fork.
                if rustix::process::getppid().map(|p| p.as_raw_nonzero().get() as u32)
                    != Some(parent)
                {
                    return Err(std::io::ErrorKind::NotFound.into());
                }
                Ok(())
            });
        }
        let child = command.stderr(stderr).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let pid = Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
        let copy = handle.try_clone().expect("dup");
        let mut started = self.started.lock().expect("list of processes");
        // A soak starts thousands.
        started.retain(|handle| !has_ended(handle));
        started.push(copy);
        Process { child, handle, err, what: format!("{command:?}") }
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = self.command(program);
        command.args(args).stdout(Stdio::piped());
        self.start(command).output()
    }

    /// Starts `ringd run --name NAME --source SOURCE …` and waits until it is up.
    pub fn broker(&self, name: &str, source: &str, more: &[&str]) -> Daemon {
        let mut command = self.command("ringd");
        command.arg("--run-dir").arg(self.run_dir());
        command.args(["run", "--name", name, "--source", source]).args(more);
        self.broker_of(name, command)
    }

    /// The same with the caller's command.
    pub fn broker_of(&self, name: &str, command: Command) -> Daemon {
        self.is_up(name, self.start(command))
    }

    /// Waits until stream `name` of a broker that was started is up.
    pub fn is_up(&self, name: &str, mut process: Process) -> Daemon {
        let socket = paths::socket_path(&self.run_dir(), name);
        let answers = wait_for(Duration::from_secs(20), || {
            if let Some(status) = process.ended() {
                panic!("ringd ended at once ({status}): {}", process.stderr());
            }
            // It logs this line after the socket listens.
            (socket.exists() && process.stderr().contains(&format!("{name} gen "))).then_some(())
        });
        assert!(answers.is_some(), "ringd is not up after 20 s: {}", process.stderr());
        Daemon { process, name: name.into(), socket }
    }

    /// Shared-memory objects of this run directory.
    pub fn objects(&self) -> Vec<PathBuf> {
        let whole = paths::object_name(&self.run_dir(), "x");
        let prefix = whole[1..].strip_suffix('x').expect("ends with the name").to_string();
        let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm").flatten();
        entries
            .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
            .map(|e| e.path())
            .collect()
    }

    /// Files that are left in the run directory.
    pub fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.run_dir())
            .expect("run directory")
            .flatten()
            .map(|e| e.path())
            .collect()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        kill_all(&self.started);
        let (objects, left) = (self.objects(), self.left());
        for object in &objects {
            let _gone = std::fs::remove_file(object);
        }
        if !std::thread::panicking() && !self.untidy {
            assert!(objects.is_empty(), "left in /dev/shm: {objects:?}");
            assert!(left.is_empty(), "left in the run directory: {left:?}");
        }
    }
}

/// Whether the process of a pidfd is dead, waited for or not.
fn has_ended(handle: &OwnedFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(handle, rustix::event::PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
}

fn kill_all(started: &Mutex<Vec<OwnedFd>>) {
    for handle in started.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        // A pidfd never signals another process, even if this one has ended.
        let _ended = rustix::process::pidfd_send_signal(handle, Signal::KILL);
    }
}

/// A process of an environment.
pub struct Process {
    child: Child,
    handle: OwnedFd,
    err: PathBuf,
    what: String,
}

impl Process {
    /// Its process id, valid until it is waited for.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.handle, signal)
            .unwrap_or_else(|e| panic!("{}: {e}", self.what));
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits until it ends. The watchdog of the environment limits the time.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("wait")
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(9), "{}: {}", self.what, self.stderr());
    }

    /// Stops it, and waits until it is stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        wait_for(Duration::from_secs(5), || (crate::proc::state(pid) == Some('T')).then_some(()))
            .expect("stopped");
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> String {
        std::fs::read(&self.err)
            .map_or_else(|e| e.to_string(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Its stdin, if it was piped.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Its stdout, if it was piped.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it ends; returns status, stdout if it was piped, and stderr.
    pub fn output(mut self) -> Output {
        let mut stdout = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("its stdout");
        }
        let status = self.wait();
        Output { status, stdout, stderr: self.stderr().into_bytes() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ended = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
            let _reaped = self.child.wait();
        }
    }
}

/// A running `ringd` with one stream.
pub struct Daemon {
    /// The process.
    pub process: Process,
    /// Its stream.
    pub name: String,
    /// Its control socket.
    pub socket: PathBuf,
}

impl Daemon {
    /// The socket as a string to attach to.
    pub fn path(&self) -> &str {
        self.socket.to_str().expect("UTF-8")
    }

    /// Ends it with SIGTERM; the exit status must be 0.
    pub fn end(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.process.stderr());
    }

    /// Waits until its source has ended; returns the number of datagrams that it logged as
    /// published.
    pub fn published(mut self) -> u64 {
        let status = self.process.wait();
        let said = self.process.stderr();
        assert!(status.success(), "{status}: {said}");
        let number = said
            .split(&format!("{} ended: ", self.name))
            .nth(1)
            .and_then(|s| s.split(' ').next())
            .and_then(|n| n.parse().ok());
        number.unwrap_or_else(|| panic!("ringd did not log how much it published: {said}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Let it clean up; dropping the process kills it otherwise.
        if !std::thread::panicking() && self.process.ended().is_none() {
            self.process.signal(Signal::TERM);
            self.process.wait();
        }
    }
}
