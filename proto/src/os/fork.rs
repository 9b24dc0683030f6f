//! Control sockets, locks and reader pages do not survive `fork()`: a reader stays with the process
//! that attached it, and a stream with the process that publishes it.
//!
//! Otherwise a child that does not exec would keep the sockets and locks open, so the death of its
//! parent would free nothing; and both processes would move the same read cursor. So a handler runs
//! in the child before the C library's `fork()` returns there. The handler:
//!
//! - closes the child's copy of each registered socket and lock: the other side sees the parent
//!   hang up when the parent dies;
//! - replaces each reader page by private memory in which `detached_by` is set: the child's writes
//!   stay private, and its next call to the reader returns an error. This costs the parent's reader
//!   nothing, because it loads that word anyway;
//! - counts the fork, so that a publisher knows that it is in a child ([`count`]).
//!
//! Contract: a registry entry names an open descriptor and a mapped page of this process. The code
//! that closes or unmaps them removes the entry first, under the lock, which `fork()` holds too. A
//! child made without the C library's fork handlers (`clone`, `_Fork`) is not noticed, and a signal
//! handler must not call `fork()`.

#![allow(unsafe_code)]

use super::page::ReaderPage;
use crate::layout::{PAGE, READER_OBJECT};
use crate::sync::AtomicU64;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// What a child must not inherit.
struct Entry {
    fd: RawFd,
    /// Address of `detached_by` in the reader page that came over this socket.
    page: Option<usize>,
}

static REGISTRY: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Number of forks in this process's line of ancestors, counted in each child by the handler.
static FORKS: AtomicU32 = AtomicU32::new(0);

fn registry() -> MutexGuard<'static, Vec<Entry>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The registry's lock while `fork()` runs.
struct Held(UnsafeCell<Option<MutexGuard<'static, Vec<Entry>>>>);

// SAFETY: only `before`, `in_parent` and `in_child` use it, each on the thread that forks, which
// holds the lock from the first to the last of them; no other thread gets past `registry()`
// meanwhile.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

extern "C" fn before() {
    let guard = registry();
    // SAFETY: this thread holds the registry's lock, so no other thread accesses the cell until it
    // is released in `in_parent` or `in_child`.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread stored the guard in `before` and still holds the lock, so no other thread
    // accesses the cell.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn in_child() {
    // SAFETY: the thread that forked stored the guard in `before`, and it is the only thread of the
    // child, so no other thread accesses the cell.
    let Some(mut entries) = (unsafe { (*HELD.0.get()).take() }) else { return };
    for Entry { fd, page } in entries.drain(..) {
        // SAFETY: an entry names an open descriptor, and its owner does not close it again in this
        // process: `Socket::drop` checks `parent()`, and a child never drops what belongs to a
        // [`ClosedInChild`], as its contract says.
        unsafe { rustix::io::close(fd) };
        let Some(word) = page else { continue };
        let base = (word & !(PAGE - 1)) as *mut _;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range is exactly the reader page, which is mapped as long as its entry
        // exists. References into it stay valid: the new memory is at the same address, and the
        // page consists of atomics, which are valid for any bits.
        let private = unsafe {
            mmap_anonymous(base, READER_OBJECT, protection, MapFlags::PRIVATE | MapFlags::FIXED)
        };
        if private.is_ok() {
            // SAFETY: `word` is the address of an `AtomicU64` inside the page just mapped, so it is
            // mapped and aligned.
            unsafe { &*(word as *const AtomicU64) }.store(1, Ordering::Relaxed);
        }
    }
    FORKS.fetch_add(1, Ordering::Relaxed);
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are plain functions of this library, and the C library drops them
        // when it unloads this library.
        let code = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert!(code == 0, "pthread_atfork: {}", std::io::Error::from_raw_os_error(code));
    });
}

/// Removes an entry. Removing the last one frees the memory: a program that has detached holds
/// none.
fn forget(entries: &mut Vec<Entry>, fd: RawFd) {
    entries.retain(|e| e.fd != fd);
    if entries.is_empty() {
        *entries = Vec::new();
    }
}

/// How often this process and its ancestors were made by `fork()`, as far as that was noticed. If
/// it is another number than before, this process is a child.
pub fn count() -> u32 {
    install();
    FORKS.load(Ordering::Relaxed)
}

/// Keeps a child of this process from inheriting a descriptor, while this exists.
///
/// Contract: it is dropped before the descriptor is closed. In a child neither is dropped: the
/// threads and values that own them exist only in the parent, or are leaked.
#[derive(Debug)]
pub struct ClosedInChild {
    fd: RawFd,
}

impl ClosedInChild {
    /// For the descriptor that `make` creates. It must not block: no thread can fork meanwhile.
    /// Bound in the order of the result, the two are dropped in the right one.
    pub fn make<F: AsFd, E>(make: impl FnOnce() -> Result<F, E>) -> Result<(F, Self), E> {
        install();
        let mut entries = registry();
        let made = make()?;
        let fd = made.as_fd().as_raw_fd();
        entries.push(Entry { fd, page: None });
        Ok((made, Self { fd }))
    }
}

impl Drop for ClosedInChild {
    fn drop(&mut self) {
        forget(&mut registry(), self.fd);
    }
}

/// A control socket of a reader, which a child of this process does not inherit.
#[derive(Debug)]
pub struct Socket {
    fd: ManuallyDrop<OwnedFd>,
    forks: u32,
    process: u32,
}

impl Socket {
    /// Creates the socket with `make`, which must not block: no thread can fork meanwhile.
    pub fn new(make: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Self, Errno> {
        install();
        let mut entries = registry();
        let fd = make()?;
        entries.push(Entry { fd: fd.as_raw_fd(), page: None });
        let forks = FORKS.load(Ordering::Relaxed);
        Ok(Self { fd: ManuallyDrop::new(fd), forks, process: std::process::id() })
    }

    /// Keeps a child from sharing `page` as well. The socket must be dropped before the page.
    pub fn guard(&self, page: &ReaderPage) {
        let word = (&raw const page.block().detached_by).addr();
        if let Some(entry) = self.entry(&mut registry()) {
            entry.page = Some(word);
        }
    }

    fn entry<'e>(&self, entries: &'e mut [Entry]) -> Option<&'e mut Entry> {
        entries.iter_mut().find(|e| e.fd == self.fd.as_raw_fd())
    }

    /// The process that created the socket, if it is not this one.
    pub fn parent(&self) -> Option<u32> {
        (self.forks != FORKS.load(Ordering::Relaxed)).then_some(self.process)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut entries = registry();
        // SAFETY: `fd` is taken only here, and `drop` runs once.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if self.parent().is_some() {
            // The fork handler closed it in this process; the number may belong to another file by
            // now.
            let _not_ours = fd.into_raw_fd();
            return;
        }
        forget(&mut entries, fd.as_raw_fd());
        drop(fd);
    }
}
