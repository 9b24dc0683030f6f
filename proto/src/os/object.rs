//! The ring object. The broker creates it in the memory of [`super::backing`]; all other processes
//! map it read-only.
//!
//! Contract: the header is complete before another process sees the object. Only this module casts
//! shared bytes to the layout's structs, after it has checked every number in the header against
//! the object's real size.

#![allow(unsafe_code)]

use super::backing::{Backing, Memory, Named, Pages};
use super::{OsError, clock, fd_store, sealed, users};
use crate::layout::{
    Geometry, Header, Identity, IdentityError, LAYOUT_VERSION, MAGIC, METADATA_MAX, NAME_MAX, PAGE,
    Slot,
};
use crate::ring::{Access, Parts, RingMemory, WritableRing};
use crate::sync::AtomicU64;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FileType, Mode, OFlags};
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Why a ring could not be created or attached.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A system call failed.
    #[error(transparent)]
    Os(#[from] OsError),
    /// No room in /dev/shm.
    #[error(
        "no room in /dev/shm for a ring of {need} bytes ({free} free): make the ring smaller \
        (--capacity, --depth) or enlarge /dev/shm (mount -o remount,size=…)"
    )]
    NoRoom {
        /// Bytes the ring takes.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The object is not a readable ring.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Metadata too long or not text without NUL.
    #[error("metadata {0}")]
    Metadata(String),
}

/// The broker's choices for a new ring.
#[derive(Clone, Copy, Debug)]
pub struct RingSpec<'a> {
    /// Stream name.
    pub name: &'a str,
    /// Sizes.
    pub geometry: Geometry,
    /// The ring's generation.
    pub generation: u64,
    /// Key/value metadata for readers.
    pub metadata: &'a [(String, String)],
    /// The kind of memory that holds it.
    pub memory: Memory,
    /// Whether to request huge pages. The footprint must then be a multiple of
    /// [`super::backing::HUGE_PAGE`].
    pub huge_pages: bool,
}

/// A ring object that this process created or adopted. Dropping it unlinks it, unless it is to
/// stay.
pub struct RingObject {
    memory: Arc<RingMemory>,
    read_only: OwnedFd,
    pages: Pages,
    declined: Vec<String>,
    locked: Result<(), rustix::io::Errno>,
    stored: Option<OwnedFd>,
    immutable: Result<(), rustix::io::Errno>,
    name: Option<Named>,
}

/// The generation in the header of a leftover object of this name; 0 if there is no readable one of
/// this user.
pub fn leftover_generation(object_name: &str) -> u64 {
    // Any user may create something of that name in /dev/shm: a link, a FIFO, a file that shrinks
    // while it is mapped.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(format!("/dev/shm{object_name}"), flags, Mode::empty()) else {
        return 0;
    };
    let ours = rustix::fs::fstat(&fd).is_ok_and(|s| {
        users::is_me(s.st_uid) && FileType::from_raw_mode(s.st_mode) == FileType::RegularFile
    });
    if !ours {
        return 0;
    }
    attach(fd, false).map_or(0, |ring| ring.memory.generation())
}

impl RingObject {
    /// Creates the ring. `object_name` is its name in /dev/shm if it has one. A leftover of that
    /// name is removed in any case: the caller holds the stream's lock, so no broker serves it.
    pub fn create(
        object_name: &str,
        spec: &RingSpec<'_>,
    ) -> Result<(Self, WritableRing), ObjectError> {
        let bytes = spec.geometry.footprint();
        let backing = Backing::create(object_name, bytes, spec.memory, spec.huge_pages)?;
        write_header(&backing.map, spec)?;
        let (object, mut ring) = Self::of(backing, spec);
        ring.set_generation(spec.generation);
        Ok((object, ring))
    }

    /// Takes over the ring of a dead broker, if it matches `spec`: same name, sizes, metadata,
    /// owner, layout and boot. The generation in `spec` is ignored; the ring keeps its own. This
    /// does not write the ring: [`crate::ring::Publisher::adopt`] does the rest. Dropping the
    /// result removes the ring.
    ///
    /// # Errors
    /// Why it does not match; `None`: there is no ring.
    pub fn adopt(
        object_name: &str,
        spec: &RingSpec<'_>,
    ) -> Result<(Self, WritableRing), Option<String>> {
        if spec.memory != Memory::Shm || !Path::new(&format!("/dev/shm{object_name}")).exists() {
            return Err(None);
        }
        let backing = Backing::adopt(object_name, spec.geometry.footprint()).map_err(Some)?;
        describes(&backing.map, spec).map_err(Some)?;
        Ok(Self::of(backing, spec))
    }

    /// Like [`Self::adopt`], for a memfd that a service manager stored and passed on.
    ///
    /// # Errors
    /// Why it does not match; the memfd is then closed.
    pub fn adopt_stored(fd: OwnedFd, spec: &RingSpec<'_>) -> Result<(Self, WritableRing), String> {
        let backing = fd_store::adopt(fd, spec.geometry.footprint())?;
        describes(&backing.map, spec)?;
        Ok(Self::of(backing, spec))
    }

    /// The ring in `backing`, which is either new or the ring of a dead broker. The caller holds
    /// the stream's lock, so no other writing end of it exists.
    fn of(backing: Backing, spec: &RingSpec<'_>) -> (Self, WritableRing) {
        let Backing { map, read_only, pages, declined, locked, name, stored, immutable } = backing;
        // A child that only forked must not write it, nor hold its lock after this process's death.
        // An error means that the kernel is older than this advice.
        let _not_in_children = map.advise(Advice::DontFork);
        let memory = Arc::new(over(Arc::new(map), spec.geometry, Access::Publisher));
        // SAFETY: this mapping is new, so no other code writes through it. The stream's lock, which
        // the caller holds, ensures that no other process or mapping writes the object.
        let ring = unsafe { WritableRing::assume_unique(memory.clone()) };
        (Self { memory, read_only, pages, declined, locked, stored, immutable, name }, ring)
    }

    /// Whether the object stays under its name when this is dropped, as the ring of a broker that
    /// was killed does.
    pub fn stay(&mut self, stays: bool) {
        if let Some(name) = &mut self.name {
            name.stays = stays;
        }
    }

    /// Takes the fd for the service manager to store. There is one only for a new ring of
    /// [`Memory::StoredMemfd`], and only once.
    pub fn take_for_store(&mut self) -> Option<OwnedFd> {
        self.stored.take()
    }

    /// For [`Memory::StoredMemfd`]: whether it can never be opened for writing again; else why not.
    pub fn immutable(&self) -> Result<(), rustix::io::Errno> {
        self.immutable
    }

    /// The ring's memory.
    pub fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    /// The fd for readers.
    pub fn read_only(&self) -> impl AsFd + '_ {
        &self.read_only
    }

    /// Its kind of pages.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Kinds of page that were requested and not granted, each with the reason.
    pub fn declined(&self) -> &[String] {
        &self.declined
    }

    /// Whether its pages are locked in memory.
    pub fn locked(&self) -> Result<(), rustix::io::Errno> {
        self.locked
    }
}

/// Checks that the header in `map` matches `spec`; the error names the difference.
fn describes(map: &MmapRaw, spec: &RingSpec<'_>) -> Result<(), String> {
    let identity = read_identity(map);
    let geometry = identity.validate(map.len() as u64).map_err(|e| e.to_string())?;
    let differs = [
        ("geometry", geometry != spec.geometry),
        ("stream name", identity.name() != spec.name),
        ("owner", identity.owner_uid != rustix::process::geteuid().as_raw()),
        ("boot", identity.boot_id != clock::boot_id()),
        ("metadata", read_metadata(map) != spec.metadata),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(format!("it has another {what}")),
        None => Ok(()),
    }
}

/// A ring mapped read-only, with the contents of its header.
pub struct AttachedRing {
    /// The ring.
    pub memory: Arc<RingMemory>,
    /// Its constant header.
    pub identity: Identity,
    /// Its key/value metadata.
    pub metadata: Vec<(String, String)>,
    map: Arc<MmapRaw>,
}

impl AttachedRing {
    /// Leaves the mapping out of children of this process: a child that lives long would hold
    /// the memory of a ring that has ended. A child that reads the ring is killed then.
    pub fn leave_out_of_children(&self) {
        // An error means that the kernel is older than this advice.
        let _in_children = self.map.advise(Advice::DontFork);
    }
}

/// Checks a received ring and maps it. `prefault` fills this process's page tables now, so that
/// reading causes no page faults later.
pub fn attach(fd: impl AsFd, prefault: bool) -> Result<AttachedRing, ObjectError> {
    let stat = rustix::fs::fstat(&fd).map_err(OsError::at("fstat ring"))?;
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    if bytes < PAGE as u64 {
        return Err(IdentityError::TooShort(bytes).into());
    }
    sealed::check_if_memfd(&fd, "ring")?;
    let mut options = MmapOptions::new();
    options.len(bytes as usize);
    if prefault {
        options.populate();
    }
    let map = options
        .map_raw_read_only(rustix::fd::AsRawFd::as_raw_fd(&fd.as_fd()))
        .map_err(OsError::io("mmap ring read-only"))?;
    let identity = read_identity(&map);
    let geometry = identity.validate(bytes)?;
    let metadata = read_metadata(&map);
    let map = Arc::new(map);
    let memory = Arc::new(over(map.clone(), geometry, Access::ReadOnly));
    Ok(AttachedRing { memory, identity, metadata, map })
}

/// Casts shared bytes to the layout's structs; the only such cast.
fn over(map: Arc<MmapRaw>, geometry: Geometry, access: Access) -> RingMemory {
    assert!(map.len() as u64 >= geometry.footprint(), "checked by the callers");
    let at = |offset: usize| {
        NonNull::new(map.as_mut_ptr().wrapping_add(offset)).expect("a mapping is never at 0")
    };
    let slots = NonNull::slice_from_raw_parts(
        at(geometry.slots_offset() as usize).cast::<Slot>(),
        geometry.depth() as usize,
    );
    let payload = NonNull::slice_from_raw_parts(
        at(geometry.payload_offset() as usize).cast::<AtomicU64>(),
        geometry.capacity() as usize / 8,
    );
    let parts = Parts {
        claim: at(offset_of!(Header, claim)).cast(),
        write: at(offset_of!(Header, write)).cast(),
        state: at(offset_of!(Header, state)).cast(),
        counters: at(offset_of!(Header, counters)).cast(),
        restarts: at(offset_of!(Header, restarts)).cast(),
        slots,
        payload,
    };
    // SAFETY: all parts lie inside the mapping (offsets of a checked geometry), aligned by the
    // layout's assertions on a page-aligned base, and live as long as the mapping, which becomes
    // the backing. A read-only mapping is only ever given to readers, which do not store.
    unsafe { RingMemory::from_parts(geometry, access, parts, Box::new(map)) }
}

fn write_header(map: &MmapRaw, spec: &RingSpec<'_>) -> Result<(), ObjectError> {
    let geometry = spec.geometry;
    let mut name = [0; NAME_MAX];
    name[..spec.name.len()].copy_from_slice(spec.name.as_bytes());
    let (created_ns, monotonic) = (clock::realtime_ns(), clock::monotonic_ns());
    let identity = Identity {
        magic: MAGIC,
        layout_version: LAYOUT_VERSION,
        header_bytes: PAGE as u32,
        total_bytes: geometry.footprint(),
        depth: geometry.depth(),
        capacity: geometry.capacity(),
        max_datagram: geometry.max_datagram(),
        claim_slots: geometry.claim_slots(),
        claim_bytes: geometry.claim_bytes(),
        slots_offset: geometry.slots_offset(),
        payload_offset: geometry.payload_offset(),
        created_ns,
        realtime_offset_ns: created_ns.wrapping_sub(monotonic),
        boot_id: clock::boot_id(),
        broker_pid: std::process::id(),
        owner_uid: rustix::process::geteuid().as_raw(),
        name,
        reserved: [0; 41],
    };
    let mut packed = Vec::new();
    for (key, value) in spec.metadata {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            return Err(ObjectError::Metadata(format!(
                "{key:?}={value:?}: keys must not be empty, NUL is not allowed"
            )));
        }
        for text in [key, value] {
            packed.extend(text.as_bytes());
            packed.push(0);
        }
    }
    if packed.len() > METADATA_MAX {
        return Err(ObjectError::Metadata(format!(
            "takes {} bytes, at most {METADATA_MAX} fit",
            packed.len()
        )));
    }
    assert!(map.len() >= PAGE, "a ring has a header page");
    // SAFETY: a whole page is mapped, writable and page-aligned, and no other process and no other
    // code of this one uses it yet. A `Header` consists of integers, for which any bits are valid.
    let header = unsafe { &mut *map.as_mut_ptr().cast::<Header>() };
    header.identity = identity;
    header.metadata_len = packed.len() as u64;
    header.metadata[..packed.len()].copy_from_slice(&packed);
    Ok(())
}

/// Reads the header's identity, each word once. So the values that are checked are the values that
/// are used, even if another process can write the object.
fn read_identity(map: &MmapRaw) -> Identity {
    assert!(map.len() >= PAGE, "checked by the callers");
    // SAFETY: a whole page is mapped and page-aligned. An `Identity` consists of integers and
    // arrays of integers, for which any bits are valid. Volatile, so that the load is not repeated.
    unsafe { map.as_ptr().cast::<Identity>().read_volatile() }
}

fn read_metadata(map: &MmapRaw) -> Vec<(String, String)> {
    assert!(map.len() >= PAGE, "checked by the callers");
    let at = |offset: usize| map.as_ptr().wrapping_add(offset);
    let len = at(offset_of!(Header, metadata_len)).cast::<u64>();
    // SAFETY: a field of the header page, which is mapped, aligned to 8 by the layout's assertions.
    // Volatile, so that it is loaded once and the clamped length is the one that is used.
    let len = unsafe { len.read_volatile() }.min(METADATA_MAX as u64) as usize;
    let text = at(offset_of!(Header, metadata)).cast::<[u8; METADATA_MAX]>();
    // SAFETY: a field of the header page, which is mapped; bytes have no alignment. Volatile, so
    // that each is loaded once.
    let text = unsafe { text.read_volatile() };
    let packed = &text[..len];
    let mut texts = packed.split(|b| *b == 0).map(|t| String::from_utf8_lossy(t).into_owned());
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
        pairs.push((key, value));
    }
    pairs
}
