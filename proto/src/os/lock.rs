//! The locks of a stream. The kernel releases them when their holder dies, however it dies.
//!
//! Contract: a broker holds the stream's lock file ([`StreamLock`]) and its ring object
//! ([`hold_object`]) for as long as it serves. `ringctl gc` takes both before it removes anything.
//! Nothing here decides by pid. A lock counts only while its path still leads to the locked file.

#![allow(unsafe_code)]

use super::fork::ClosedInChild;
use super::{OsError, paths};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lock file's content while `ringctl gc` cleans up.
const GC_HOLDER: &str = "ringctl gc";
/// Length of a lock file: ten characters for the holder, twenty for the generation, two newlines.
const WORDS: usize = 32;
/// How long a starting broker waits for a holder whose file does not hold a pid: a broker that is
/// starting or ending, or gc.
const PASSING: Duration = Duration::from_secs(5);
/// How long it waits for a holder whose file does hold a pid: gc locks a dead broker's file before
/// it replaces the pid in it.
const SETTLING: Duration = Duration::from_millis(200);

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A broker serves the stream.
    #[error(
        "stream {name:?} is already served by ringd with pid {holder}: choose another --name or \
        --run-dir"
    )]
    Held {
        /// Stream.
        name: String,
        /// The holder, as the lock file names it.
        holder: String,
    },
    /// A system call failed.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// The right to serve a stream name in a run directory, or to clean up after the broker that served
/// it. Dropping it removes its file.
#[derive(Debug)]
pub struct StreamLock {
    path: PathBuf,
    /// A child would hold the lock after this process's death.
    _in_child: ClosedInChild,
    file: std::fs::File,
    last_generation: u64,
    stays: bool,
}

impl StreamLock {
    /// Generation that the last broker recorded, if it died and left its file; 0 otherwise.
    pub fn last_generation(&self) -> u64 {
        self.last_generation
    }

    /// Records the generation for the next broker.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn remember(&self, generation: u64) -> Result<(), OsError> {
        write(&self.file, &std::process::id().to_string(), generation)
            .map_err(OsError::io(format_args!("cannot write {}", self.path.display())))
    }

    /// Leaves the file when dropped, as a broker that is killed does.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// Takes the lock for a broker. It waits a moment for `ringctl gc` and for a broker that is
    /// about to end.
    ///
    /// # Errors
    /// [`LockError::Held`] if a broker serves the stream.
    pub fn take(run_dir: &Path, name: &str) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            match Self::try_as(run_dir, name, &std::process::id().to_string(), None) {
                Err(LockError::Held { holder, .. })
                    if began.elapsed()
                        < if holder.parse::<u32>().is_ok() { SETTLING } else { PASSING } =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    /// Takes the lock to clean up after a broker of user `owner`; fails at once if another process
    /// holds it. A missing lock file is created for the time being and given to `owner`, so that
    /// even the file of a killed gc does not block a broker.
    ///
    /// # Errors
    /// [`LockError::Held`] if the stream is served, or about to be.
    pub fn take_for_gc(run_dir: &Path, name: &str, owner: u32) -> Result<Self, LockError> {
        Self::try_as(run_dir, name, GC_HOLDER, Some(owner))
    }

    fn try_as(
        run_dir: &Path,
        name: &str,
        word: &str,
        owner: Option<u32>,
    ) -> Result<Self, LockError> {
        let path = paths::lock_path(run_dir, name);
        let shown = path.display();
        loop {
            let (fd, in_child) = ClosedInChild::make(|| open_lock(&path, run_dir))?;
            if !lock(&fd).map_err(OsError::at(format_args!("cannot lock {shown}")))? {
                let content = content(&fd);
                let holder = content.lines().next().map_or("", str::trim);
                let holder = if holder.is_empty() { "(just starting)" } else { holder };
                return Err(LockError::Held { name: name.into(), holder: holder.into() });
            }
            // The previous holder may have removed the file between our open and our lock. Then we
            // have locked a file without a name.
            if !is_at(&fd, &path) {
                continue;
            }
            // The path may be a hard link to another user's file, which must not be overwritten
            // below.
            let links = rustix::fs::fstat(&fd)
                .map_err(OsError::at(format_args!("fstat {shown}")))?
                .st_nlink;
            if links != 1 {
                let what = format!("{shown} has {links} names: remove it");
                return Err(OsError { what, errno: Errno::MLINK }.into());
            }
            if let Some(owner) = owner.filter(|o| *o != rustix::process::geteuid().as_raw()) {
                rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(owner)), None)
                    .map_err(OsError::at(format_args!("chown {shown}")))?;
            }
            let (before, file) = (content(&fd), std::fs::File::from(fd));
            if !may_be_taken(&before) {
                let what = format!(
                    "{shown} is in the way and is no lock of a stream: move it away, or choose \
                    another --name or --run-dir"
                );
                return Err(OsError { what, errno: Errno::EXIST }.into());
            }
            // A wrong number does no harm: the next generation only has to be larger.
            let last_generation =
                before.lines().nth(1).and_then(|g| g.trim().parse().ok()).unwrap_or(0);
            write(&file, word, last_generation)
                .map_err(OsError::io(format_args!("cannot write {shown}")))?;
            return Ok(Self { path, _in_child: in_child, file, last_generation, stays: false });
        }
    }
}

impl Drop for StreamLock {
    fn drop(&mut self) {
        // Removed while the lock is still held, so that no other process can lock the removed file
        // and take that for the stream's lock. If our file was removed, the one that is there now
        // is not ours.
        if !self.stays && is_at(&self.file, &self.path) {
            let _gone = rustix::fs::unlink(&self.path);
        }
    }
}

/// Whether a process holds the lock of a stream at this moment. Creates and removes nothing.
pub fn is_served(run_dir: &Path, name: &str) -> bool {
    let Ok(fd) = rustix::fs::open(paths::lock_path(run_dir, name), OPEN, Mode::empty()) else {
        return false;
    };
    // Whatever else has that name is no lock, and a lock on it says nothing.
    if kind_of(&fd) != Some(FileType::RegularFile) {
        return false;
    }
    // If it cannot be determined, the stream counts as served.
    !lock(&fd).unwrap_or(false)
}

/// Flags for a file of whose name any user may have made something else: no link is followed, and
/// a FIFO or a device keeps nobody waiting.
const OPEN: OFlags =
    OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// Opens or makes the lock file. It must be a regular file of this user, of root, or of the user to
/// whom the run directory belongs: anybody else could hold its lock for ever.
fn open_lock(path: &Path, run_dir: &Path) -> Result<OwnedFd, OsError> {
    let shown = path.display();
    let refused = |what: String, errno| {
        let remedy = "remove it, or choose another --name or --run-dir";
        OsError {
            what: format!("{shown} is in the way and is no lock of a stream: {what}; {remedy}"),
            errno,
        }
    };
    // Looked at before it is opened, since opening a device can have effects.
    let there = rustix::fs::lstat(path).ok().map(|s| FileType::from_raw_mode(s.st_mode));
    if let Some(kind) = there.filter(|kind| *kind != FileType::RegularFile) {
        return Err(refused(format!("it is a {}", paths::kind_name(kind)), Errno::EXIST));
    }
    let fd = rustix::fs::open(path, OPEN | OFlags::CREATE, Mode::RUSR | Mode::WUSR)
        .map_err(OsError::at(format_args!("cannot open {shown}")))?;
    let stat = rustix::fs::fstat(&fd).map_err(OsError::at(format_args!("fstat {shown}")))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(refused(format!("it is a {}", paths::kind_name(kind)), Errno::EXIST));
    }
    let trusted = |uid| uid == 0 || uid == rustix::process::geteuid().as_raw();
    if !trusted(stat.st_uid) && rustix::fs::stat(run_dir).map_or(true, |d| d.st_uid != stat.st_uid)
    {
        return Err(refused(format!("it belongs to uid {}", stat.st_uid), Errno::PERM));
    }
    Ok(fd)
}

/// The beginning of a lock file. What cannot be read becomes a text that no lock has.
fn content(fd: &OwnedFd) -> String {
    let mut bytes = [0; 2 * WORDS];
    let got = rustix::io::pread(fd, &mut bytes, 0);
    let text = got.ok().and_then(|n| std::str::from_utf8(&bytes[..n]).ok());
    text.unwrap_or("not readable").into()
}

fn kind_of(fd: impl AsFd) -> Option<FileType> {
    rustix::fs::fstat(fd).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// Writes the holder and the last generation. The length is always the same and it is one write, so
/// a process that is killed here leaves either the old content or the new.
fn write(file: &std::fs::File, word: &str, generation: u64) -> std::io::Result<()> {
    let words = format!("{word:<10}\n{generation:020}\n");
    debug_assert_eq!(words.len(), WORDS);
    file.write_all_at(words.as_bytes(), 0)
}

/// Whether a lock file's content is exactly what a broker or gc writes. The lock files of other
/// programs often hold only a pid or nothing, so they do not match.
pub fn is_lock_content(content: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let lines: Vec<&str> = content.lines().map(str::trim_end).collect();
    content.len() <= WORDS
        && matches!(
            lines[..],
            [word, generation] if (word == GC_HOLDER || number(word)) && number(generation)
        )
}

/// Whether a lock file may be overwritten: it is one of ours, or empty, as a process leaves it that
/// is killed before it writes.
fn may_be_taken(content: &str) -> bool {
    content.is_empty() || is_lock_content(content)
}

/// Takes a broker's lock on the ring object at `path`. It lasts as long as `fd`, which is open for
/// writing, or a mapping of it. Returns false if another broker holds it, or if the object was
/// removed.
///
/// It is a write lock, because only a process that may write the ring can take one. Readers, one of
/// which may be hostile, have a descriptor of the same file and can take any other lock. A reader's
/// read lock prevents an adopting broker from locking the ring, but not from adopting it: a reader
/// cannot touch the stream's own lock.
pub fn hold_object(fd: impl AsFd, path: &Path) -> Result<bool, Errno> {
    let took = match whole_file(&fd, libc::F_OFD_SETLK, libc::F_WRLCK) {
        Err(Errno::AGAIN | Errno::ACCESS) => !object_is_held(&fd)?,
        other => other.map(|_| true)?,
    };
    Ok(took && is_at(&fd, path))
}

/// Whether a broker holds the ring object of `fd`.
pub fn object_is_held(fd: impl AsFd) -> Result<bool, Errno> {
    // Only a write lock conflicts with a read lock.
    Ok(whole_file(fd, libc::F_OFD_GETLK, libc::F_RDLCK)? != libc::F_UNLCK)
}

/// One operation on the lock over a whole file. The lock belongs to the open file, not to the
/// process, which rustix does not support. Returns the kind of lock that the kernel reports.
fn whole_file(fd: impl AsFd, operation: i32, kind: i32) -> Result<i32, Errno> {
    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the fd is open, the struct outlives the call, and the kernel writes only to the
    // struct.
    let rc = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), operation, &raw mut lock) };
    if rc != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(lock.l_type.into())
}

fn lock(fd: impl AsFd) -> Result<bool, Errno> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether `path` still leads to this file, and it is a regular file.
pub(super) fn is_at(fd: impl AsFd, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (rustix::fs::fstat(fd), rustix::fs::lstat(path)) else {
        return false;
    };
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
        let refused = StreamLock::take_for_gc(dir.path(), "a", 0).unwrap_err();
        let us = std::process::id().to_string();
        assert!(matches!(&refused, LockError::Held { holder, .. } if *holder == us));
        let second = StreamLock::take(dir.path(), "a").unwrap_err().to_string();
        assert!(second.contains("already served by ringd with pid"), "{second}");
        drop(held);
        assert!(!is_served(dir.path(), "a"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A broker that starts while gc cleans up waits for it. Control: a broker that starts while
    /// another one serves does not wait.
    #[test]
    fn a_broker_waits_for_gc() {
        let dir = tempfile::tempdir().unwrap();
        let swept =
            StreamLock::take_for_gc(dir.path(), "a", rustix::process::geteuid().as_raw()).unwrap();
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

    /// A file at the lock's path that is not a lock is named in the error and left alone. Control:
    /// an empty file is taken.
    #[test]
    fn nothing_of_others_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let long = format!("1\n{}", "2".repeat(80));
        for foreign in
            [&b"notes of somebody"[..], b"12345\n", b"\xff\xfe", b"1\n2\n3\n", long.as_bytes()]
        {
            std::fs::write(&path, foreign).unwrap();
            let error = StreamLock::take(dir.path(), "a").unwrap_err().to_string();
            assert!(error.contains("a.lock is in the way"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), foreign);
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(StreamLock::take(dir.path(), "a").unwrap().last_generation(), 0);
    }

    /// What is not a file is named in the error, at once, whether or not a process holds a lock on
    /// it, and it is neither a lock nor a running broker. Control: a broker's lock beside it is.
    #[test]
    fn only_a_file_is_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| paths::lock_path(dir.path(), name);
        let fifo = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, fifo, 0).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let held = rustix::fs::open(at("fifo"), OPEN, Mode::empty()).unwrap();
        for locked in [false, true] {
            if locked {
                assert_eq!(lock(&held), Ok(true));
            }
            for (name, kind) in [
                ("fifo", "FIFO"),
                ("dir", "directory"),
                ("link", "symbolic link"),
                ("socket", "socket"),
            ] {
                for error in [
                    StreamLock::take(dir.path(), name).unwrap_err(),
                    StreamLock::take_for_gc(dir.path(), name, 0).unwrap_err(),
                ] {
                    let text = error.to_string();
                    assert!(
                        text.contains(&format!("{name}.lock is in the way"))
                            && text.contains(&format!("it is a {kind};"))
                            && text.contains("--run-dir"),
                        "{text}"
                    );
                }
                assert!(!is_served(dir.path(), name), "{name}");
                assert!(rustix::fs::lstat(at(name)).is_ok(), "{name} is left alone");
            }
        }
        let _lock = StreamLock::take(dir.path(), "a").unwrap();
        assert!(is_served(dir.path(), "a"), "control");
    }

    /// Another user could hold the lock of a file of its own for ever. Controls: the same file of
    /// root, and of the user to whom the directory belongs.
    #[test]
    fn a_lock_of_a_stranger_is_refused() {
        if !ringweir_needs::needs_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let taken = |owner: u32, of_dir: u32| {
            std::fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
            std::os::unix::fs::chown(dir.path(), Some(of_dir), None).unwrap();
            StreamLock::take(dir.path(), "a").map(drop).map_err(|e| e.to_string())
        };
        let refused = taken(4711, 4712).unwrap_err();
        assert!(refused.contains("it belongs to uid 4711; remove it"), "{refused}");
        assert_eq!((taken(0, 4712), taken(4711, 4711)), (Ok(()), Ok(())), "controls");
    }

    /// A broker whose lock was removed does not remove the lock of the next. Control: its own it
    /// does.
    #[test]
    fn the_lock_of_another_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let first = StreamLock::take(dir.path(), "a").unwrap();
        std::fs::remove_file(dir.path().join("a.lock")).unwrap();
        let second = StreamLock::take(dir.path(), "a").unwrap();
        drop(first);
        assert!(is_served(dir.path(), "a"));
        drop(second);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "control");
    }

    /// A broker that is killed while it writes leaves one generation or the other: the content
    /// never changes its length, so nothing is truncated first.
    #[test]
    fn values_are_replaced_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let held = StreamLock::take(dir.path(), "a").unwrap();
        let path = dir.path().join("a.lock");
        let len = || std::fs::metadata(&path).unwrap().len();
        let first = len();
        for generation in [1, 99, u64::MAX] {
            held.remember(generation).unwrap();
            let content = std::fs::read_to_string(&path).unwrap();
            assert!(is_lock_content(&content) && len() == first, "{content:?}");
        }
        write(&held.file, GC_HOLDER, 7).unwrap();
        assert!(is_lock_content(&std::fs::read_to_string(&path).unwrap()) && len() == first);
        drop(held);
        std::fs::write(&path, "4294967295\n00000000000000000042\n").unwrap();
        assert_eq!(StreamLock::take(dir.path(), "a").unwrap().last_generation(), 42);
    }

    #[test]
    fn an_object_is_held_by_its_mapping_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let make = || {
            std::fs::File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let first = make();
        first.set_len(4096).unwrap();
        assert_eq!(object_is_held(make()), Ok(false));
        assert_eq!(hold_object(&first, &path), Ok(true));
        assert_eq!(object_is_held(make()), Ok(true));
        let map = memmap2::MmapOptions::new().len(4096).map_raw(&first).unwrap();
        drop(first);
        assert_eq!(hold_object(make(), &path), Ok(false), "the broker lives");
        drop(map);
        let other = make();
        assert_eq!(hold_object(&other, &path), Ok(true));
        // A reader with every lock that it can take prevents neither a broker's lock nor the test
        // for it.
        drop(other);
        let reader = std::fs::File::open(&path).unwrap();
        assert_eq!(rustix::fs::flock(&reader, FlockOperation::NonBlockingLockExclusive), Ok(()));
        assert!(whole_file(&reader, libc::F_OFD_SETLK, libc::F_RDLCK).is_ok());
        assert_eq!(whole_file(&reader, libc::F_OFD_SETLK, libc::F_WRLCK), Err(Errno::BADF));
        assert_eq!(object_is_held(make()), Ok(false));
        let other = make();
        assert_eq!(hold_object(&other, &path), Ok(true));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(hold_object(&other, &path), Ok(false), "gone meanwhile");
    }
}
