//! The run directory, and the names in it and in /dev/shm.
//!
//! Contract: stream NAME of a broker with run directory D is `D/NAME.sock` (control socket),
//! `D/NAME.lock` (held while a broker serves it) and the shared-memory object
//! `/ringweir.UID.TAG.NAME`. TAG is derived from D, so brokers with different directories do not
//! collide.

use super::OsError;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Environment variable that names the run directory for brokers and clients.
pub const RUN_DIR_ENV: &str = "RINGWEIR_DIR";
const SYSTEM_RUN_DIR: &str = "/run/ringweir";

/// An invalid stream name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream name {0:?}: use 1 to {max} of A-Z a-z 0-9 . _ - and begin with a letter or \
    digit", max = crate::layout::NAME_MAX)]
pub struct BadName(pub String);

/// Checks a stream name.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.len() <= crate::layout::NAME_MAX && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(BadName(name.into()))
    }
}

/// Directories in which a client looks for streams, in this order: only `$RINGWEIR_DIR` if set,
/// else `$XDG_RUNTIME_DIR/ringweir`, `/run/user/UID/ringweir` and `/run/ringweir`.
pub fn search_dirs() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os(RUN_DIR_ENV).filter(|d| !d.is_empty()) {
        return vec![dir.into()];
    }
    let mut dirs = Vec::new();
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        dirs.push(Path::new(&dir).join("ringweir"));
    }
    dirs.push(format!("/run/user/{}/ringweir", rustix::process::getuid().as_raw()).into());
    dirs.push(SYSTEM_RUN_DIR.into());
    dirs.dedup();
    dirs
}

/// The directory in which a broker creates its sockets: `explicit`, else the first of
/// [`search_dirs`] that can be created and written. It is created if its parent exists.
pub fn make_run_dir(explicit: Option<&Path>) -> Result<PathBuf, OsError> {
    let candidates = explicit.map_or_else(search_dirs, |dir| vec![dir.to_path_buf()]);
    let mut last = None;
    for dir in &candidates {
        match make(dir) {
            Ok(()) => return Ok(dir.clone()),
            Err(e) => last = Some(e),
        }
    }
    let tried: Vec<_> = candidates.iter().map(|d| d.display().to_string()).collect();
    let what = format!(
        "no run directory could be made (tried {}); give --run-dir DIR or set {RUN_DIR_ENV}",
        tried.join(", ")
    );
    Err(OsError { what, errno: last.unwrap_or(Errno::NOENT) })
}

fn make(dir: &Path) -> Result<(), Errno> {
    let open_to_all = rustix::fs::Mode::from_raw_mode(0o755);
    match rustix::fs::mkdir(dir, open_to_all) {
        // The umask may have closed it. Who may connect is decided by the mode and group of each
        // socket in it, and a directory that is closed would make them useless.
        Ok(()) => {
            use rustix::fs::{Mode, OFlags, fchmod, open};
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fchmod(open(dir, flags, Mode::empty())?, open_to_all)?;
        }
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let stat = rustix::fs::stat(dir)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
}

/// A type of file, for messages.
pub fn kind_name(kind: rustix::fs::FileType) -> &'static str {
    use rustix::fs::FileType;
    match kind {
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Directory => "directory",
        FileType::Socket => "socket",
        FileType::RegularFile => "regular file",
        _ => "device",
    }
}

/// Control socket of a stream.
pub fn socket_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.sock"))
}

/// Lock file of a stream.
pub fn lock_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.lock"))
}

/// Name of a stream's shared-memory object.
pub fn object_name(dir: &Path, name: &str) -> String {
    format!("/ringweir.{}.{:08x}.{name}", rustix::process::geteuid().as_raw(), tag(dir))
}

/// The tag of a run directory in the names of objects.
pub fn tag(dir: &Path) -> u32 {
    let full = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    crc32fast::hash(full.as_os_str().as_encoded_bytes())
}

/// The parts of the name of an object in /dev/shm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// User of its broker.
    pub uid: u32,
    /// [`tag`] of its run directory.
    pub tag: u32,
    /// Its stream.
    pub stream: String,
}

impl ObjectName {
    /// Parses a name without its leading slash. `None` if it is not exactly what [`object_name`]
    /// builds.
    pub fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_prefix("ringweir.")?.splitn(3, '.');
        let (uid, tag, stream) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let tag = u32::from_str_radix(tag, 16).ok()?;
        check_name(stream).ok()?;
        let parsed = Self { uid, tag, stream: stream.into() };
        // Other spellings of the same numbers are rejected.
        (format!("ringweir.{uid}.{tag:08x}.{stream}") == file_name).then_some(parsed)
    }
}

/// Streams that have a lock file in `dir`, sorted, whether or not a process holds the lock.
pub fn locks_in(dir: &Path) -> Vec<String> {
    names_in(dir, ".lock")
}

/// Streams that have a socket in `dir`, sorted, whether or not a broker answers on it.
pub fn streams_in(dir: &Path) -> Vec<String> {
    names_in(dir, ".sock")
}

fn names_in(dir: &Path, suffix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names =
        entries.filter_map(|e| e.file_name().to_str()?.strip_suffix(suffix).map(String::from));
    let mut names: Vec<_> = names.filter(|n| check_name(n).is_ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["demo", "itch_a", "fpga0.raw", "A-1"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", ".", "..", "a/b", "-x", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(check_name(bad), Err(BadName(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn a_run_dir_that_cannot_be_made_is_named() {
        let error = make_run_dir(Some(Path::new("/proc/nowhere/x"))).unwrap_err();
        assert!(
            error.to_string().contains("/proc/nowhere/x")
                && error.to_string().contains("--run-dir"),
            "{error}"
        );
    }

    #[test]
    fn names_of_objects_are_taken_apart_and_others_are_not_ours() {
        let name = object_name(Path::new("/tmp"), "a.b-c");
        let parsed = ObjectName::parse(&name[1..]).unwrap();
        assert_eq!((parsed.tag, parsed.stream.as_str()), (tag(Path::new("/tmp")), "a.b-c"));
        let good = "ringweir.0.00c0ffee.x";
        assert!(ObjectName::parse(good).is_some());
        for bad in [
            "ringweir.0.c0ffee.x",
            "ringweir.00.00c0ffee.x",
            "ringweir.0.00C0FFEE.x",
            "ringweir.0.00c0ffee.",
            "ringweir.-1.00c0ffee.x",
            "ringweir.0.00c0ffee",
            "ringweirx.0.00c0ffee.x",
            "ringweir.0.00c0ffee.a b",
        ] {
            assert_eq!(ObjectName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn brokers_of_different_dirs_do_not_meet() {
        assert_ne!(object_name(Path::new("/tmp"), "a"), object_name(Path::new("/"), "a"));
        assert!(object_name(Path::new("/tmp"), &"x".repeat(64)).len() < 255);
    }
}
