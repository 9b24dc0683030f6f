//! A `ringd` of its own for a test: private run directory, ended and checked for leftovers when dropped.

use crate::programs;
use ringweir_proto::os::paths;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` says so, or panics with `what` after [`PATIENCE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < limit, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running broker of one stream.
pub struct Broker {
    child: Child,
    name: String,
    dir: tempfile::TempDir,
}

impl Broker {
    /// Starts `ringd run --name NAME --source SOURCE ARGS…` and waits until it answers.
    pub fn start(name: &str, source: &str, args: &[&str]) -> Self {
        Self::start_by(programs::command("ringd"), name, source, args)
    }

    /// The same through another command line in front (`chrt -f 60 ringd`, `ip netns exec …`).
    pub fn start_by(command: Command, name: &str, source: &str, args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), command, name, source, args)
    }

    /// The same in a run directory that is there already.
    pub fn start_in(dir: tempfile::TempDir, mut command: Command, name: &str, source: &str, args: &[&str]) -> Self {
        command.args(["run", "--name", name, "--source", source, "--run-dir"]).arg(dir.path()).args(args);
        let child = command.spawn().expect("ringd starts");
        let mut broker = Self { child, name: name.into(), dir };
        wait_until("ringd answers", || {
            if let Some(status) = broker.child.try_wait().expect("wait for ringd") {
                panic!("ringd ended at its start: {status}");
            }
            ringweir::describe(&broker.socket().to_string_lossy()).is_ok()
        });
        broker
    }

    /// Its run directory: `RINGWEIR_DIR` for programs that shall find it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        paths::socket_path(self.dir(), &self.name)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal ringd");
    }

    /// Waits until it ends by itself or by a signal sent before.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("ringd ends", || {
            ended = self.child.try_wait().expect("wait for ringd");
            ended.is_some()
        });
        ended.expect("just waited for")
    }

    /// Ends it with SIGTERM and checks that it leaves nothing behind.
    pub fn stop(mut self) -> ExitStatus {
        // It may have ended by itself.
        let _ended = kill_process(self.pid(), Signal::TERM);
        let status = self.wait();
        assert_eq!(self.leftovers(), Vec::<String>::new(), "ringd left something behind");
        status
    }

    /// Kills it with SIGKILL; its run directory, for the next one.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().expect("kill ringd");
        self.child.wait().expect("reap ringd");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory"))
    }

    /// Files in its run directory and shared-memory objects of its stream.
    pub fn leftovers(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir()).into_iter().flatten().flatten();
        let mut found: Vec<String> = files.map(|e| e.path().display().to_string()).collect();
        let object = format!("/dev/shm{}", paths::object_name(self.dir(), &self.name));
        if Path::new(&object).exists() {
            found.push(object);
        }
        found
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // SIGTERM, so that even a failing test leaves nothing in /dev/shm; SIGKILL if that does not help.
        let _ended = kill_process(self.pid(), Signal::TERM);
        let limit = Instant::now() + Duration::from_secs(5);
        while self.child.try_wait().is_ok_and(|s| s.is_none()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
