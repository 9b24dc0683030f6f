//! `ringctl gc`: removes what dead brokers left behind.
//!
//! Contract: a stream is dead if no process holds its locks ([`lock`]); pids are never used. The
//! stream's lock is held while its leftovers are removed, so a broker that starts at the same
//! moment keeps its fresh ring. What is not exactly ours (another type of file, another magic,
//! another user's) is not touched, and reported. Run directories stay: an administrator may have
//! set their group and mode.

use crate::json_line::json_line;
use clap::Args;
use ringweir_cli::quantity::Bytes;
use ringweir_cli::stderr;
use ringweir_proto::layout::{MAGIC, PAGE};
use ringweir_proto::os::lock::{self, LockError, StreamLock};
use ringweir_proto::os::paths::{self, ObjectName};
use ringweir_proto::os::socket_file;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

const SHM: &str = "/dev/shm";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only print what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Clean up this run directory, which need not exist any more, instead of the usual ones
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// For root: also remove what the brokers of other users left behind
    #[arg(long)]
    all_users: bool,
    /// Print one JSON object per file looked at, each on a line
    #[arg(long)]
    json: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ringctl gc --dry-run
  ringctl gc
  ringctl gc --run-dir /tmp/old/run     rings, sockets and locks of that directory
  ringctl gc --json | jq -r 'select(.action==\"removed\")|.path'

Running streams are not touched, and neither is any file that ringd did not make.
Exit status: 0 done, even if there was nothing to do; 1 something could not be removed; 2 wrong
usage.";

/// What was done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    Removed,
    WouldRemove,
    /// Looks like ours but is not, or must not be removed here.
    Kept,
    /// Belongs to a running stream.
    Live,
    Failed,
}

/// One file that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Found {
    pub action: Action,
    kind: &'static str,
    pub path: PathBuf,
    bytes: u64,
    stream: String,
    reason: String,
}

pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    let me = rustix::process::geteuid().as_raw();
    if options.all_users && me != 0 {
        anyhow::bail!("--all-users needs root: sudo ringctl gc --all-users");
    }
    let dirs = options.run_dir.clone().map_or_else(paths::search_dirs, |dir| vec![dir]);
    let sweep = Sweep { dry: options.dry_run, uid: (!options.all_users).then_some(me), dirs };
    let found = sweep.run();
    let text = if options.json { found.iter().map(json_line).collect() } else { words(&found) };
    ringweir_cli::stdout::put(&text)?;
    let count = |action| found.iter().filter(|f| f.action == action).count();
    if !options.json
        && count(Action::Removed) + count(Action::WouldRemove) + count(Action::Failed) == 0
    {
        stderr::line(format_args!(
            "nothing to remove ({} files belong to running streams)",
            count(Action::Live)
        ));
    }
    Ok(count(Action::Failed) == 0)
}

fn words(found: &[Found]) -> String {
    let line = |f: &Found| {
        let what = match f.action {
            Action::Removed => "removed",
            Action::WouldRemove => "would remove",
            Action::Kept => "kept",
            Action::Failed => "failed",
            Action::Live => return None,
        };
        let size = if f.kind == "ring" { format!("  {}", Bytes(f.bytes)) } else { String::new() };
        Some(format!("{what}  {}{size}  ({})\n", f.path.display(), f.reason))
    };
    found.iter().filter_map(line).collect()
}

/// One cleanup.
pub(super) struct Sweep {
    pub dry: bool,
    /// The user whose files are removed; `None`: all users.
    pub uid: Option<u32>,
    pub dirs: Vec<PathBuf>,
}

impl Sweep {
    pub fn run(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let objects = objects();
        for dir in &self.dirs {
            let tag = paths::tag(dir);
            let of_dir: Vec<&ObjectName> = objects.iter().filter(|o| o.tag == tag).collect();
            let names = paths::streams_in(dir).into_iter().chain(paths::locks_in(dir));
            let streams: BTreeSet<String> =
                names.chain(of_dir.iter().map(|o| o.stream.clone())).collect();
            for stream in streams {
                self.stream(dir, &stream, &of_dir, &mut found);
            }
        }
        let tags: Vec<u32> = self.dirs.iter().map(|d| paths::tag(d)).collect();
        for object in objects.iter().filter(|o| !tags.contains(&o.tag)) {
            let Thing { path, .. } = Thing::object(object);
            if inspect_ring(&path, object.uid, self.uid).is_ok() && !is_held(&path) {
                let reason = "its run directory was not searched: use ringctl gc --run-dir DIR";
                found.push(note(Action::Kept, "ring", path, &object.stream, reason));
            }
        }
        found
    }

    /// Everything of one stream of one run directory.
    fn stream(&self, dir: &Path, stream: &str, objects: &[&ObjectName], found: &mut Vec<Found>) {
        let mut things: Vec<Thing> =
            objects.iter().filter(|o| o.stream == stream).map(|o| Thing::object(o)).collect();
        things.push(Thing { kind: "socket", path: paths::socket_path(dir, stream), uid: None });
        let lock_path = paths::lock_path(dir, stream);
        let has_lock = rustix::fs::lstat(&lock_path).is_ok();
        let live = "its broker is running";
        if lock::is_served(dir, stream) || answers(&paths::socket_path(dir, stream)) {
            let there =
                things.into_iter().chain([Thing { kind: "lock", path: lock_path, uid: None }]);
            for thing in there.filter(|t| rustix::fs::lstat(&t.path).is_ok()) {
                found.push(note(Action::Live, thing.kind, thing.path, stream, live));
            }
            return;
        }
        let mut dead = Vec::new();
        for thing in things {
            match thing.inspect(self.uid) {
                Ok(Some(owner)) => dead.push((thing, owner)),
                Ok(None) => {}
                Err(reason) => {
                    found.push(note(Action::Kept, thing.kind, thing.path, stream, &reason))
                }
            }
        }
        let mut remove_lock = false;
        if has_lock {
            match inspect_lock(&lock_path, self.uid) {
                Ok(Some(_)) => remove_lock = true,
                Ok(None) => {}
                Err(reason) => {
                    // Without it no file of this stream can be called dead.
                    found.push(note(Action::Kept, "lock", lock_path, stream, &reason));
                    return;
                }
            }
        }
        if !remove_lock && dead.iter().all(|(thing, _)| thing.kind == "socket") {
            // ringd removes its lock last, so a socket without a lock belongs to another program.
            for (thing, _) in dead {
                let reason = "not ours: there is no lock file and no ring with it";
                found.push(note(Action::Kept, thing.kind, thing.path, stream, reason));
            }
            if has_lock {
                let reason =
                    "empty, so its owner is not known; the next ringd of this name takes it over";
                found.push(note(Action::Kept, "lock", lock_path, stream, reason));
            }
            return;
        }
        let owner = dead.first().map_or(rustix::process::geteuid().as_raw(), |(_, owner)| *owner);
        let made = Guard::lock(dir, stream, owner, self.dry);
        let guard = match made {
            Ok(guard) => guard,
            Err(LockError::Held { .. }) => {
                for (thing, _) in dead {
                    found.push(note(
                        Action::Live,
                        thing.kind,
                        thing.path,
                        stream,
                        "a broker is starting",
                    ));
                }
                return;
            }
            Err(e) => {
                for (thing, _) in dead {
                    found.push(note(
                        Action::Failed,
                        thing.kind,
                        thing.path,
                        stream,
                        &e.to_string(),
                    ));
                }
                return;
            }
        };
        for (thing, _) in dead {
            found.extend(self.remove(thing, stream));
        }
        if remove_lock {
            let action = if self.dry { Action::WouldRemove } else { Action::Removed };
            found.push(note(action, "lock", lock_path, stream, "its broker is gone"));
        }
        drop(guard);
    }

    /// Removes a file of a stream whose lock is held; `None` if it is already gone.
    fn remove(&self, thing: Thing, stream: &str) -> Option<Found> {
        // Checked again, because the file may have changed before the lock was taken.
        match thing.inspect(self.uid) {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(reason) => {
                return Some(note(Action::Kept, thing.kind, thing.path, stream, &reason));
            }
        }
        if thing.kind == "ring" && is_held(&thing.path) {
            let reason = "a broker holds it, although its lock file is gone";
            return Some(note(Action::Live, thing.kind, thing.path, stream, reason));
        }
        if thing.kind == "socket" && answers(&thing.path) {
            let reason = "a process listens there, although the stream's lock is free";
            return Some(note(Action::Live, thing.kind, thing.path, stream, reason));
        }
        let mut done =
            note(Action::WouldRemove, thing.kind, thing.path, stream, "its broker is gone");
        if !self.dry {
            match rustix::fs::unlink(&done.path) {
                Ok(()) => done.action = Action::Removed,
                Err(Errno::NOENT) => return None,
                Err(e) => (done.action, done.reason) = (Action::Failed, e.to_string()),
            }
        }
        Some(done)
    }
}

/// Prevents a stream from starting while its leftovers are removed.
struct Guard {
    _lock: Option<StreamLock>,
    /// The run directory, if it was made only for the lock.
    made: Option<PathBuf>,
}

impl Guard {
    fn lock(dir: &Path, stream: &str, owner: u32, dry: bool) -> Result<Self, LockError> {
        let mut guard = Self { _lock: None, made: None };
        if dry {
            return Ok(guard);
        }
        if !dir.exists() {
            match rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)) {
                Ok(()) => guard.made = Some(dir.into()),
                Err(Errno::EXIST) => {}
                // A broker cannot make the directory either.
                Err(Errno::NOENT) => return Ok(guard),
                Err(e) => {
                    let what = format!("cannot make {} for the time of the cleanup", dir.display());
                    return Err(ringweir_proto::os::OsError { what, errno: e }.into());
                }
            }
        }
        guard._lock = Some(StreamLock::take_for_gc(dir, stream, owner)?);
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self._lock = None;
        if let Some(dir) = &self.made {
            // A broker may be using the directory by now.
            let _used = rustix::fs::rmdir(dir);
        }
    }
}

/// A file that a broker makes, apart from its lock.
struct Thing {
    kind: &'static str,
    path: PathBuf,
    /// For a ring: the user in its name.
    uid: Option<u32>,
}

impl Thing {
    fn object(name: &ObjectName) -> Self {
        let file = format!("ringweir.{}.{:08x}.{}", name.uid, name.tag, name.stream);
        Self { kind: "ring", path: Path::new(SHM).join(file), uid: Some(name.uid) }
    }

    /// The file's owner if the file is ours, `None` if it does not exist, or why it must not be
    /// touched.
    fn inspect(&self, whose: Option<u32>) -> Result<Option<u32>, String> {
        match self.uid {
            Some(uid) => inspect_ring(&self.path, uid, whose),
            None => inspect(&self.path, FileType::Socket, whose),
        }
    }
}

fn inspect(path: &Path, kind: FileType, whose: Option<u32>) -> Result<Option<u32>, String> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let is = FileType::from_raw_mode(stat.st_mode);
    if is != kind {
        return Err(format!("not ours: it is a {}", paths::kind_name(is)));
    }
    match whose {
        Some(me) if stat.st_uid != me => Err(format!(
            "belongs to uid {}: only that user, or root with --all-users, can remove it",
            stat.st_uid
        )),
        _ => Ok(Some(stat.st_uid)),
    }
}

/// The same for a lock file: it must contain exactly what ringd writes. `None` also for an empty
/// one. A broker that is killed before it writes leaves an empty file, but other programs have such
/// files too: it stops no broker, and is no reason to remove anything.
fn inspect_lock(path: &Path, whose: Option<u32>) -> Result<Option<u32>, String> {
    let Some(owner) = inspect(path, FileType::RegularFile, whose)? else { return Ok(None) };
    // Not by path: it may have become a FIFO, and reading that would wait for a writer.
    let mut text = String::new();
    open(path)
        .map_err(std::io::Error::from)
        .and_then(|fd| std::fs::File::from(fd).take(64).read_to_string(&mut text))
        .map_err(|e| format!("cannot be read: {e}"))?;
    match lock::is_lock_content(&text) {
        _ if text.is_empty() => Ok(None),
        true => Ok(Some(owner)),
        false => Err("not ours: its content is not that of a stream's lock".into()),
    }
}

/// The same for a ring: its owner must be the user in its name, and its header must be ours or not
/// yet written.
fn inspect_ring(path: &Path, named: u32, whose: Option<u32>) -> Result<Option<u32>, String> {
    let Some(owner) = inspect(path, FileType::RegularFile, whose)? else { return Ok(None) };
    if owner != named {
        return Err(format!("not ours: its name says uid {named}, its owner is uid {owner}"));
    }
    let fd = open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mut head = vec![0; PAGE];
    let mut got = 0;
    while got < PAGE {
        match rustix::io::pread(&fd, &mut head[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(format!("cannot be read: {e}")),
        }
    }
    let magic = u64::from_ne_bytes(head[..8].try_into().expect("eight bytes"));
    // All zero: its broker died before it wrote a header.
    if magic == MAGIC || head.iter().all(|b| *b == 0) {
        return Ok(Some(owner));
    }
    Err(format!("not ours: not a ring, its magic is {magic:#018x}"))
}

fn open(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Whether a broker holds the ring's own lock; true if that cannot be found out.
fn is_held(path: &Path) -> bool {
    match open(path) {
        Ok(fd) => lock::object_is_held(fd).unwrap_or(true),
        Err(_) => true,
    }
}

/// Whether a process listens at a socket; true if that cannot be found out.
fn answers(path: &Path) -> bool {
    socket_file::answers(path).unwrap_or(true)
}

/// Objects in /dev/shm whose names look like ours.
fn objects() -> Vec<ObjectName> {
    let entries = std::fs::read_dir(SHM).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|e| ObjectName::parse(e.file_name().to_str()?)).collect();
    names.sort_by(|a, b| (a.tag, &a.stream, a.uid).cmp(&(b.tag, &b.stream, b.uid)));
    names
}

fn note(action: Action, kind: &'static str, path: PathBuf, stream: &str, reason: &str) -> Found {
    let bytes =
        rustix::fs::lstat(&path).map_or(0, |s| u64::try_from(s.st_blocks).unwrap_or(0) * 512);
    Found { action, kind, path, bytes, stream: stream.into(), reason: reason.into() }
}
