//! Control sockets and reader pages do not survive `fork()`: a reader stays with the process that
//! attached it.
//!
//! Without this a child that does not exec would keep the socket open, so that the death of its
//! parent would free nothing, and both would move one read cursor. So `fork()` of the C library,
//! in the child, before it returns there:
//!
//! - closes the child's copy of each control socket: the broker sees the parent hang up when the
//!   parent dies;
//! - puts private memory in the place of each reader page, with `detached_by` set: the child's
//!   writes reach nobody, and its next [`crate::Reader::next`] takes the path that says
//!   [`crate::Error::Forked`]. A reader that was not forked pays nothing for it: that word is
//!   looked at anyway.
//!
//! Contract: an entry of the registry names an open socket, and a mapped page, of this process; the
//! code that closes or unmaps them takes the entry out first, under the lock, which `fork()` holds.
//! A child made by the bare system call (`clone`, `_Fork`) is not noticed.

#![allow(unsafe_code)]

use ringweir_proto::layout::{PAGE, READER_OBJECT};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::sync::AtomicU64;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// What the child must not have.
struct Entry {
    socket: RawFd,
    /// Address of `detached_by` in the reader page that came over this socket.
    page: Option<usize>,
}

static REGISTRY: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// How often this process's line of ancestors has forked, as far as handlers ran.
static FORKS: AtomicU32 = AtomicU32::new(0);

fn registry() -> MutexGuard<'static, Vec<Entry>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The registry's lock while `fork()` is at work.
struct Held(UnsafeCell<Option<MutexGuard<'static, Vec<Entry>>>>);

// SAFETY: only `before`, `in_parent` and `in_child` use it, each on the thread that forks, which
// holds the lock from the first to the last of them; no other thread gets that far meanwhile.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

extern "C" fn before() {
    let guard = registry();
    // SAFETY: this thread holds the lock, so no other one is between `before` and the end.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread put the guard there in `before`.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn in_child() {
    // SAFETY: the thread that forked put the guard there in `before`, and is the only one here.
    let Some(mut entries) = (unsafe { (*HELD.0.get()).take() }) else { return };
    for Entry { socket, page } in entries.drain(..) {
        // SAFETY: an entry's socket is open, and its owner closes it no more: see `Drop`.
        unsafe { rustix::io::close(socket) };
        let Some(word) = page else { continue };
        let base = (word & !(PAGE - 1)) as *mut _;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: exactly the reader page, which is mapped as long as the entry is there; whatever
        // refers into it goes on referring to mapped memory, atomics valid for any bits.
        let private = unsafe {
            mmap_anonymous(base, READER_OBJECT, protection, MapFlags::PRIVATE | MapFlags::FIXED)
        };
        if private.is_ok() {
            // SAFETY: inside the page just mapped, aligned as it was before.
            unsafe { &*(word as *const AtomicU64) }.store(1, Ordering::Relaxed);
        }
    }
    FORKS.fetch_add(1, Ordering::Relaxed);
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: three functions without captures that live as long as this library: the C
        // library forgets them when it is unloaded.
        let code = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert!(code == 0, "pthread_atfork: {}", std::io::Error::from_raw_os_error(code));
    });
}

/// A control socket, which a child of this process does not inherit.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: ManuallyDrop<OwnedFd>,
    forks: u32,
    process: u32,
}

impl Socket {
    /// The socket that `make` makes. No other thread can fork while it does: it must not block.
    pub fn new(make: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Self, Errno> {
        install();
        let mut entries = registry();
        let fd = make()?;
        entries.push(Entry { socket: fd.as_raw_fd(), page: None });
        let forks = FORKS.load(Ordering::Relaxed);
        Ok(Self { fd: ManuallyDrop::new(fd), forks, process: std::process::id() })
    }

    /// A child does not share `page` either. The socket is dropped before the page is.
    pub fn guard(&self, page: &ReaderPage) {
        let word = (&raw const page.block().detached_by).addr();
        if let Some(entry) = self.entry(&mut registry()) {
            entry.page = Some(word);
        }
    }

    fn entry<'e>(&self, entries: &'e mut [Entry]) -> Option<&'e mut Entry> {
        entries.iter_mut().find(|e| e.socket == self.fd.as_raw_fd())
    }

    /// The process that made it, if it is not this one.
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
        // SAFETY: taken once, here.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if self.parent().is_some() {
            // Closed when this process began: the number may be another file's by now.
            let _not_ours = fd.into_raw_fd();
            return;
        }
        entries.retain(|e| e.socket != fd.as_raw_fd());
        // The last one gives the memory back: a program that has detached holds nothing.
        if entries.is_empty() {
            *entries = Vec::new();
        }
        drop(fd);
    }
}
