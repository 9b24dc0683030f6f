//! The memory of a ring: a named POSIX shared-memory object or a sealed memfd, in small or huge
//! pages.
//!
//! Contract: all memory is allocated, faulted in and (if allowed) locked before another process
//! sees it. `Backing` reports what was granted and every kind of page that was not, with the
//! remedy.

use super::object::ObjectError;
use super::{OsError, fd_store, lock, paths, sealed, users};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::shm;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Size of a huge page in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;

/// The kind of memory that holds a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// A named object in /dev/shm. Other users cannot write it, but processes of the broker's own
    /// user can open it again.
    #[default]
    Shm,
    /// A sealed memfd: only the broker can write it, whatever user other processes run as.
    Memfd,
    /// A memfd that a service manager stores for the next broker, so it is not sealed against
    /// writing (`fd_store.rs`). Users cannot choose it by name: under such a manager, `memfd` means
    /// this.
    StoredMemfd,
}

impl std::str::FromStr for Memory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "shm" => Ok(Self::Shm),
            "memfd" => Ok(Self::Memfd),
            _ => Err(format!("{text:?} is no kind of memory: say shm or memfd")),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shm => "shm",
            Self::Memfd | Self::StoredMemfd => "memfd",
        })
    }
}

/// The kind of pages that a ring got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Pages of the usual size.
    Small,
    /// Reserved huge pages, which are always locked.
    Reserved,
    /// Transparent huge pages, as far as the kernel had some: the number of bytes in them.
    Transparent(u64),
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.write_str("4 KiB pages"),
            Self::Reserved => f.write_str("2 MiB pages"),
            Self::Transparent(bytes) => {
                write!(f, "2 MiB pages (transparent, {} MiB of it)", bytes >> 20)
            }
        }
    }
}

/// A ring's bytes, mapped writable by the broker.
pub(super) struct Backing {
    pub(super) map: MmapRaw,
    /// The fd for readers, who cannot write through it.
    pub(super) read_only: OwnedFd,
    pub(super) pages: Pages,
    /// Kinds of page that were not granted, each with the reason.
    pub(super) declined: Vec<String>,
    pub(super) locked: Result<(), Errno>,
    /// Its name in /dev/shm, removed on drop.
    pub(super) name: Option<Named>,
    /// The fd for the service manager to store, if it has not stored it yet.
    pub(super) stored: Option<OwnedFd>,
    /// Whether a stored memfd can never be opened for writing again.
    pub(super) immutable: Result<(), Errno>,
}

impl Backing {
    /// Allocates `bytes` (a multiple of the page size, or of [`HUGE_PAGE`] if `huge`) in `memory`.
    /// It replaces a named object of that name: the caller holds the stream's lock, so no broker
    /// serves it.
    pub(super) fn create(
        object_name: &str,
        bytes: u64,
        memory: Memory,
        huge: bool,
    ) -> Result<Self, ObjectError> {
        // What a dead broker left is removed, whatever the kind of memory.
        let mut declined = Vec::new();
        match remove_leftover(object_name) {
            Ok(()) => {}
            // What somebody else put there is in the way of a name only.
            Err(Leftover::Foreign(_)) if memory != Memory::Shm => {}
            Err(e) => return Err(e.into_error(object_name)),
        }
        match memory {
            Memory::Memfd => Self::sealed(bytes, huge, declined, SealFlags::FUTURE_WRITE),
            Memory::StoredMemfd => {
                let sealed = Self::sealed(bytes, huge, declined, SealFlags::empty())?;
                let (read_only, immutable) = fd_store::shut(&sealed.read_only)?;
                Ok(Self { stored: Some(sealed.read_only), read_only, immutable, ..sealed })
            }
            Memory::Shm => {
                if huge {
                    declined.push("reserved 2 MiB pages: only with --memory memfd".into());
                }
                Self::named(object_name, bytes, huge, declined)
            }
        }
    }

    /// Adopts the existing named object. It must be a private regular file of this user with
    /// exactly `bytes` bytes, and no other broker may hold it.
    pub(super) fn adopt(object_name: &str, bytes: u64) -> Result<Self, String> {
        let path = format!("/dev/shm{object_name}");
        // Any user may create something of that name in /dev/shm: a link, a FIFO, a file.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| e.to_string())?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| e.to_string())?;
        if !users::is_me(stat.st_uid) {
            return Err(users::why_not_mine(stat.st_uid));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_mode & 0o077 != 0
        {
            return Err("it is no private file".into());
        }
        if u64::try_from(stat.st_size) != Ok(bytes) {
            return Err(format!("it has {} bytes, and this stream takes {bytes}", stat.st_size));
        }
        if !lock::hold_object(&fd, Path::new(&path)).map_err(|e| e.to_string())? {
            return Err("somebody holds its lock".into());
        }
        // A process that could write the object may have punched holes in it. A hole that cannot be
        // filled later would raise SIGBUS in the middle of a datagram.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes).map_err(|e| e.to_string())?;
        let flags = shm::OFlags::RDONLY;
        let read_only =
            shm::open(object_name, flags, shm::Mode::empty()).map_err(|e| e.to_string())?;
        if !lock::is_at(&read_only, Path::new(&path)) || !lock::is_at(&fd, Path::new(&path)) {
            return Err("its name leads to something else meanwhile".into());
        }
        let map = MmapOptions::new()
            .len(bytes as usize)
            .populate()
            .map_raw(&fd)
            .map_err(|e| e.to_string())?;
        let locked = lock_pages(&map);
        let pages = match huge_bytes(&map) {
            0 => Pages::Small,
            huge => Pages::Transparent(huge),
        };
        let name = Some(Named::of(object_name, &fd).map_err(|e| e.to_string())?);
        Ok(Self {
            map,
            read_only,
            pages,
            declined: Vec::new(),
            locked,
            name,
            stored: None,
            immutable: Ok(()),
        })
    }

    fn named(
        object_name: &str,
        bytes: u64,
        huge: bool,
        mut declined: Vec<String>,
    ) -> Result<Self, ObjectError> {
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let fd = loop {
            let fd = shm::open(object_name, flags, shm::Mode::RUSR | shm::Mode::WUSR)
                .map_err(OsError::at(format_args!("cannot create /dev/shm{object_name}")))?;
            let held = lock::hold_object(&fd, Path::new(&format!("/dev/shm{object_name}")))
                .map_err(OsError::at(format_args!("cannot lock /dev/shm{object_name}")))?;
            if held {
                break fd;
            }
            remove_leftover(object_name).map_err(|e| e.into_error(object_name))?;
        };
        let name = Named::of(object_name, &fd)
            .map_err(OsError::at(format_args!("fstat /dev/shm{object_name}")))?;
        let early = if huge { transparent(&fd, bytes, &mut declined) } else { None };
        match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(Errno::NOSPC) => {
                let free = rustix::fs::fstatvfs(&fd).map_or(0, |s| s.f_bavail * s.f_frsize);
                return Err(ObjectError::NoRoom { need: bytes, free });
            }
            Err(e) => {
                let what = format!("cannot allocate {bytes} bytes of shared memory");
                return Err(sealed::cannot_allocate(&what, e).into());
            }
        }
        let (map, pages) = mapped(&fd, bytes, early, &mut declined)?;
        let read_only = shm::open(object_name, shm::OFlags::RDONLY, shm::Mode::empty())
            .map_err(OsError::at(format_args!("cannot open /dev/shm{object_name} read-only")))?;
        let (locked, name) = (lock_pages(&map), Some(name));
        Ok(Self { map, read_only, pages, declined, locked, name, stored: None, immutable: Ok(()) })
    }

    fn sealed(
        bytes: u64,
        huge: bool,
        mut declined: Vec<String>,
        seals: SealFlags,
    ) -> Result<Self, ObjectError> {
        const NAME: &str = "ringweir-ring";
        if huge {
            let kind = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            match sealed::create(NAME, bytes as usize, seals, kind) {
                Ok((read_only, map)) => {
                    let (locked, pages) = (lock_pages(&map), Pages::Reserved);
                    let (name, stored, immutable) = (None, None, Ok(()));
                    return Ok(Self {
                        map,
                        read_only,
                        pages,
                        declined,
                        locked,
                        name,
                        stored,
                        immutable,
                    });
                }
                Err(e) => {
                    let wanted = bytes / HUGE_PAGE;
                    let free =
                        read_word("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
                    declined.push(format!(
                        "reserved 2 MiB pages: {} ({wanted} wanted, {free} free: sysctl \
                        vm.nr_hugepages=…)",
                        e.errno
                    ));
                }
            }
        }
        let fd = sealed::open(NAME, MemfdFlags::empty())?;
        let early = if huge { transparent(&fd, bytes, &mut declined) } else { None };
        sealed::allocate(&fd, NAME, bytes as usize)?;
        let (map, pages) = mapped(&fd, bytes, early, &mut declined)?;
        sealed::seal(&fd, NAME, seals)?;
        let (locked, read_only) = (lock_pages(&map), fd);
        Ok(Self {
            map,
            read_only,
            pages,
            declined,
            locked,
            name: None,
            stored: None,
            immutable: Ok(()),
        })
    }
}

/// Maps the memory and faults it in with transparent huge pages. This comes before the allocation,
/// since pages that are small already stay small.
fn transparent(fd: &OwnedFd, bytes: u64, declined: &mut Vec<String>) -> Option<MmapRaw> {
    let attempt = || -> std::io::Result<MmapRaw> {
        rustix::fs::ftruncate(fd, bytes)?;
        let map = MmapOptions::new().len(bytes as usize).map_raw(fd)?;
        map.advise(Advice::HugePage)?;
        // The allocation that follows reports missing memory, with a better message.
        let _missing = map.advise(Advice::PopulateWrite);
        Ok(map)
    };
    attempt().inspect_err(|e| declined.push(format!("transparent huge pages: {e}"))).ok()
}

/// The whole mapping, faulted in, and its kind of pages.
fn mapped(
    fd: &OwnedFd,
    bytes: u64,
    early: Option<MmapRaw>,
    declined: &mut Vec<String>,
) -> Result<(MmapRaw, Pages), OsError> {
    let Some(map) = early else {
        let map = MmapOptions::new().len(bytes as usize).populate().map_raw(fd);
        return Ok((
            map.map_err(OsError::io(format_args!("mmap ring of {bytes} bytes")))?,
            Pages::Small,
        ));
    };
    let huge = huge_bytes(&map);
    if huge == 0 {
        declined.push(format!(
            "transparent huge pages: none given (/sys/kernel/mm/transparent_hugepage/shmem_enabled \
            is {}: advise, within_size or always is needed)",
            chosen(&read_word("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))
        ));
        return Ok((map, Pages::Small));
    }
    Ok((map, Pages::Transparent(huge)))
}

pub(super) fn lock_pages(map: &MmapRaw) -> Result<(), Errno> {
    map.lock().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// Number of bytes of a mapping in huge pages, as the kernel counts them.
pub(super) fn huge_bytes(map: &MmapRaw) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let begins = format!("{:x}-", map.as_ptr() as usize);
    let ours = smaps.lines().skip_while(|l| !l.starts_with(&begins));
    let kib = ours.skip(1).find_map(|l| {
        l.strip_prefix("ShmemPmdMapped:")?.trim().strip_suffix("kB")?.trim().parse().ok()
    });
    kib.unwrap_or(0u64) << 10
}

fn read_word(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".into(), |s| s.trim().into())
}

/// The bracketed word of a setting: `never` in `always [never]`.
fn chosen(options: &str) -> &str {
    options
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(options, |(word, _)| word)
}

/// Why a leftover could not be removed.
enum Leftover {
    /// Another user made it: what it is.
    Foreign(String),
    /// A broker uses it.
    Live,
    /// A system call failed.
    Failed(Errno),
}

impl Leftover {
    fn into_error(self, object_name: &str) -> ObjectError {
        let path = format!("/dev/shm{object_name}");
        let (what, errno) = match self {
            Self::Foreign(what) => (
                format!(
                    "{path} is in the way: {what}, and this user may not remove it: have root \
                    remove it (sudo rm -r {path}), use --memory memfd, which takes no name there, \
                    or choose another --run-dir"
                ),
                Errno::EXIST,
            ),
            Self::Live => (
                format!(
                    "{path} is the ring of a broker that still runs, though the stream's lock file \
                    was removed: end that broker first (fuser {path})"
                ),
                Errno::BUSY,
            ),
            Self::Failed(errno) => (format!("cannot remove {path}"), errno),
        };
        OsError { what, errno }.into()
    }
}

/// Removes what a dead broker left at this name. The caller holds the stream's lock, but its file
/// may have been removed under a broker that lives: that one still holds its ring.
fn remove_leftover(object_name: &str) -> Result<(), Leftover> {
    let path = format!("/dev/shm{object_name}");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(&path, flags, Mode::empty())
        && lock::object_is_held(&fd) == Ok(true)
        && rustix::fs::fstat(&fd)
            .is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw())
    {
        return Err(Leftover::Live);
    }
    let what = || {
        let stat = rustix::fs::lstat(&path).ok()?;
        let kind = paths::kind_name(FileType::from_raw_mode(stat.st_mode));
        Some(format!("a {kind} of uid {}", stat.st_uid))
    };
    match shm::unlink(object_name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e @ (Errno::PERM | Errno::ACCESS | Errno::ISDIR)) => {
            Err(what().map_or(Leftover::Failed(e), Leftover::Foreign))
        }
        Err(e) => Err(Leftover::Failed(e)),
    }
}

/// A name in /dev/shm that leads to a file of this process.
pub(super) struct Named {
    name: String,
    /// Device and inode of the file.
    id: (u64, u64),
    /// Whether it stays when this is dropped.
    pub(super) stays: bool,
}

impl Named {
    fn of(name: &str, fd: &OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { name: name.into(), id: (stat.st_dev, stat.st_ino), stays: false })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It does not matter if the name was removed already. If it leads to another file now, that
        // is the next broker's ring.
        let path = format!("/dev/shm{}", self.name);
        if !self.stays
            && rustix::fs::lstat(&path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id)
        {
            let _gone = shm::unlink(self.name.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_candidate_is_found() {
        assert_eq!(chosen("always within_size advise [never] deny force"), "never");
        assert_eq!(chosen("unknown"), "unknown");
    }

    #[test]
    fn memory_falls_back_to_small_pages_with_the_reason() {
        for memory in [Memory::Shm, Memory::Memfd, Memory::StoredMemfd] {
            let name = format!("/ringweir-test.{}.{memory:?}", std::process::id());
            let ring = Backing::create(&name, 2 * HUGE_PAGE, memory, true).unwrap();
            assert_eq!(ring.map.len() as u64, 2 * HUGE_PAGE);
            match &ring.pages {
                Pages::Small => assert!(ring.declined.len() == 2, "{:?}", ring.declined),
                Pages::Transparent(bytes) => assert!(*bytes > 0 && ring.declined.len() == 1),
                Pages::Reserved => assert!(memory != Memory::Shm && ring.declined.is_empty()),
            }
            let plain = Backing::create(&format!("{name}.plain"), 4096, memory, false).unwrap();
            assert_eq!((&plain.pages, plain.declined.len()), (&Pages::Small, 0));
        }
    }
}
