//! Who serves a stream: locks that the kernel gives back when their holder dies, however it dies.
//!
//! Contract: a broker holds the stream's lock file ([`StreamLock`]) and its ring object ([`hold_object`]) for as long as it
//! serves; `ringctl gc` takes both before it removes anything. Pids are never asked. A lock counts only if its file is
//! still the one that the name leads to.

use super::{OsError, paths};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the lock file says while `ringctl gc` clears up.
const SWEEPING: &str = "ringctl gc";
/// How long a broker that starts waits for a holder that does not say it is a broker: one that starts or ends, or gc.
const PASSING: Duration = Duration::from_secs(5);
/// How long it waits for one that does: gc takes the lock of a dead broker before it writes its own word into it.
const SETTLING: Duration = Duration::from_millis(200);

/// Why a lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody serves the stream.
    #[error("stream {name:?} is already served by ringd with pid {holder}: choose another --name or --run-dir")]
    Held {
        /// Stream.
        name: String,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// The kernel said no.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// The right to serve a stream name in a run directory, or to clear up behind who served it. Its file is removed when it
/// is dropped.
#[derive(Debug)]
pub struct StreamLock {
    path: PathBuf,
    file: std::fs::File,
    last_generation: u64,
}

impl StreamLock {
    /// Generation that the last broker noted, if it died and left its file; 0 otherwise.
    pub fn last_generation(&self) -> u64 {
        self.last_generation
    }

    /// Notes the generation, for the broker after this one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn remember(&self, generation: u64) -> Result<(), OsError> {
        write(&self.file, &std::process::id().to_string(), generation)
            .map_err(OsError::io(format_args!("cannot write {}", self.path.display())))
    }

    /// For a broker: waits a moment for one that is ending and for `ringctl gc`.
    ///
    /// # Errors
    /// [`LockError::Held`] if a broker serves the stream.
    pub fn take(run_dir: &Path, name: &str) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            match Self::try_as(run_dir, name, &std::process::id().to_string(), None) {
                Err(LockError::Held { holder, .. })
                    if began.elapsed() < if holder.parse::<u32>().is_ok() { SETTLING } else { PASSING } =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    /// For clearing up behind a broker of user `owner`: fails at once if somebody holds it. A lock file that is missing is
    /// made for the moment, and belongs to `owner`, so that even one left by a killed gc is in no broker's way.
    ///
    /// # Errors
    /// [`LockError::Held`] if the stream is served, or about to be.
    pub fn take_to_sweep(run_dir: &Path, name: &str, owner: u32) -> Result<Self, LockError> {
        Self::try_as(run_dir, name, SWEEPING, Some(owner))
    }

    fn try_as(run_dir: &Path, name: &str, word: &str, owner: Option<u32>) -> Result<Self, LockError> {
        let path = paths::lock_path(run_dir, name);
        let shown = path.display();
        loop {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(OsError::at(format_args!("cannot open {shown}")))?;
            if !lock(&fd).map_err(OsError::at(format_args!("cannot lock {shown}")))? {
                let content = std::fs::read_to_string(&path).unwrap_or_default();
                let holder = content.lines().next().map_or("", str::trim);
                let holder = if holder.is_empty() { "(just starting)" } else { holder };
                return Err(LockError::Held { name: name.into(), holder: holder.into() });
            }
            // The one who held it may have removed the file between our open and our lock: then this lock is on nothing.
            if !is_at(&fd, &path) {
                continue;
            }
            // What is written below must not reach a file that somebody made this a second name of.
            let links = rustix::fs::fstat(&fd).map_err(OsError::at(format_args!("fstat {shown}")))?.st_nlink;
            if links != 1 {
                let what = format!("{shown} has {links} names: remove it");
                return Err(OsError { what, errno: Errno::MLINK }.into());
            }
            if let Some(owner) = owner.filter(|o| *o != rustix::process::geteuid().as_raw()) {
                rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(owner)), None)
                    .map_err(OsError::at(format_args!("chown {shown}")))?;
            }
            let mut file = std::fs::File::from(fd);
            let mut before = String::new();
            // Whatever stands there, it is only ever a number to go beyond.
            let _unreadable = (&mut file).take(64).read_to_string(&mut before);
            let last_generation = before.lines().nth(1).and_then(|g| g.parse().ok()).unwrap_or(0);
            write(&file, word, last_generation).map_err(OsError::io(format_args!("cannot write {shown}")))?;
            return Ok(Self { path, file, last_generation });
        }
    }
}

impl Drop for StreamLock {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody can hold a lock on the removed file believing it counts.
        let _gone = rustix::fs::unlink(&self.path);
    }
}

/// Whether somebody holds the lock of a stream at this moment; makes nothing and removes nothing.
pub fn is_served(run_dir: &Path, name: &str) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(fd) = rustix::fs::open(paths::lock_path(run_dir, name), flags, Mode::empty()) else { return false };
    // What cannot be told counts as served.
    !lock(&fd).unwrap_or(false)
}

/// Who holds it, and the last generation.
fn write(file: &std::fs::File, word: &str, generation: u64) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(format!("{word}\n{generation}\n").as_bytes(), 0)
}

/// Whether a lock file's content is what a broker or gc writes, or what they leave if they are killed before they can.
pub fn is_our_word(content: &str) -> bool {
    let number = |line: &str| line.bytes().all(|b| b.is_ascii_digit());
    let mut lines = content.lines();
    lines.next().is_none_or(|word| word == SWEEPING || number(word))
        && lines.next().is_none_or(number)
        && lines.next().is_none()
}

/// Takes the lock of the ring object at `path`, which lasts as long as `fd` or a mapping of it. False to its broker: gc was
/// quicker, took the fresh object for a dead one and removes it, so make another. False to gc: its broker lives, or it is
/// gone already.
pub fn hold_object(fd: impl AsFd, path: &Path) -> Result<bool, Errno> {
    Ok(lock(&fd)? && is_at(&fd, path))
}

fn lock(fd: impl AsFd) -> Result<bool, Errno> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether `path` still leads to this very file, a regular one.
fn is_at(fd: impl AsFd, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (rustix::fs::fstat(fd), rustix::fs::lstat(path)) else { return false };
    (ours.st_ino, ours.st_dev) == (there.st_ino, there.st_dev)
        && FileType::from_raw_mode(there.st_mode) == FileType::RegularFile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let held = StreamLock::take(dir.path(), "a").unwrap();
        assert!(is_served(dir.path(), "a"));
        let refused = StreamLock::take_to_sweep(dir.path(), "a", 0).unwrap_err();
        assert!(matches!(&refused, LockError::Held { holder, .. } if *holder == std::process::id().to_string()));
        let second = StreamLock::take(dir.path(), "a").unwrap_err().to_string();
        assert!(second.contains("already served by ringd with pid"), "{second}");
        drop(held);
        assert!(!is_served(dir.path(), "a"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A broker that starts while gc clears up waits for it. Control: one that starts while a broker serves does not.
    #[test]
    fn a_broker_waits_for_gc() {
        let dir = tempfile::tempdir().unwrap();
        let swept = StreamLock::take_to_sweep(dir.path(), "a", rustix::process::geteuid().as_raw()).unwrap();
        std::thread::scope(|scope| {
            let starts = scope.spawn(|| StreamLock::take(dir.path(), "a"));
            std::thread::sleep(2 * SETTLING);
            assert!(!starts.is_finished());
            drop(swept);
            starts.join().unwrap().unwrap();
        });
    }

    #[test]
    fn nothing_is_written_into_a_file_of_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "1").unwrap();
        std::fs::hard_link(&precious, dir.path().join("a.lock")).unwrap();
        let error = StreamLock::take(dir.path(), "a").unwrap_err().to_string();
        assert!(error.contains("a.lock has 2 names"), "{error}");
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "1");
    }

    #[test]
    fn an_object_is_held_by_its_mapping_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let make = || std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let first = make();
        first.set_len(4096).unwrap();
        assert_eq!(hold_object(&first, &path), Ok(true));
        let map = memmap2::MmapOptions::new().len(4096).map_raw(&first).unwrap();
        drop(first);
        assert_eq!(hold_object(make(), &path), Ok(false), "the broker lives");
        drop(map);
        let other = make();
        assert_eq!(hold_object(&other, &path), Ok(true));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(hold_object(&other, &path), Ok(false), "gone meanwhile");
    }
}
