//! `fifo:` — a device that is a program: its memory shared with us, interrupts and doorbell as
//! eventfds.
//!
//! Contract: behind a socket stands a server of QEMU's ivshmem protocol ([`ivshmem`]), whose
//! hanging up is the device's going away; what it had stored by then is drained, unless it took its
//! magic number back. A plain file is the memory alone, without interrupts: it is polled, and
//! belongs to us or to root, since whoever can shorten it can stop the broker. It is locked
//! (`flock`), for two who drain it would each get half. Such a device goes away by taking its magic
//! number back.

use super::{Gone, Interrupts, Opening, Place, Transport, forbid, open};
use crate::source::{OpenFor, Source, SourceError, SourceKind};
use memmap2::MmapOptions;
use ringweir_device::Window;
use ringweir_device::ivshmem;
use ringweir_proto::os::event;
use rustix::event::epoll;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

pub const KIND: SourceKind = SourceKind {
    name: "fifo",
    usage: "fifo:[rate=R:]PATH",
    about: "a device with a FIFO that is a program: PATH is its ivshmem socket, or a memory file \
        without interrupts; rate= as in 1Mbit/s",
    open: opened,
};

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    open(KIND.name, Place::parse(argument, &[])?, opening, stream)
}

pub(super) fn opening(place: &Place) -> Result<Opening, SourceError> {
    let path = &place.path;
    let stat = rustix::fs::stat(path.as_str()).map_err(|e| SourceError(format!("{path}: {e}")))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => Ok(Opening::Joining(Box::new(Joining::new(path)?))),
        FileType::RegularFile => Ok(Opening::now(File::open(path)?)),
        _ => Err(SourceError(format!("{path} is neither a socket nor a file of a device"))),
    }
}

/// Maps `len` bytes of `fd` from `offset` on.
pub(super) fn map(
    fd: impl AsFd,
    offset: u64,
    len: usize,
    path: &str,
) -> Result<Window, SourceError> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    let mapped = MmapOptions::new().offset(offset).len(len).populate().map_raw(raw);
    let mapped = mapped.map_err(|e| SourceError(format!("{path}: mapping {len} bytes: {e}")))?;
    let start = NonNull::new(mapped.as_mut_ptr()).expect("a mapping is not at 0");
    // SAFETY: mapped for reading and writing on a page boundary, `len` bytes, until the mapping,
    // which moves along, is dropped; nothing else here knows the address.
    unsafe { Window::over(start, len, Box::new(mapped)) }
        .map_err(|e| SourceError(format!("{path}: {e}")))
}

/// A socket, until everything is said.
pub(super) struct Joining {
    path: String,
    peer: ivshmem::Joining,
}

impl Joining {
    fn new(path: &str) -> Result<Self, SourceError> {
        let peer = ivshmem::Joining::new(Path::new(path)).map_err(SourceError::new)?;
        Ok(Self { path: path.into(), peer })
    }

    pub(super) fn go_on(self) -> Result<Opening, SourceError> {
        let Self { path, peer } = self;
        match peer.go_on().map_err(SourceError::new)? {
            ControlFlow::Break(peer) => Ok(Opening::now(Peer::new(&path, peer)?)),
            ControlFlow::Continue(peer) => Ok(Opening::Joining(Box::new(Self { path, peer }))),
        }
    }
}

/// Behind a socket.
struct Peer {
    window: Window,
    peer: ivshmem::Peer,
    /// Watches the interrupt and the socket.
    watch: OwnedFd,
}

impl Peer {
    fn new(path: &str, peer: ivshmem::Peer) -> Result<Self, SourceError> {
        let bytes = usize::try_from(peer.bytes).map_err(SourceError::new)?;
        let window = map(&peer.memory, 0, bytes, path)?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|e| SourceError(format!("epoll_create: {e}")))?;
        for fd in [peer.interrupt.as_fd(), peer.socket()] {
            epoll::add(&watch, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(|e| SourceError(format!("epoll_ctl: {e}")))?;
        }
        Ok(Self { window, peer, watch })
    }
}

impl Transport for Peer {
    fn window(&self) -> &Window {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.as_fd())
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        forbid(&self.window);
        if self.peer.is_gone() {
            return Err(Gone("it hung up".into()));
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.peer.interrupt, &mut count) {
            Ok(_) => Ok(Interrupts::rung(u64::from_ne_bytes(count))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Interrupts::default()),
            Err(e) => Err(Gone(format!("reading its interrupt: {e}"))),
        }
    }

    fn doorbell(&self) {
        // A device that is gone hears nothing, which `take` finds out.
        let _heard = event::ring(&self.peer.doorbell);
    }

    fn intact(&self) -> bool {
        self.window.is_there()
    }

    fn is_there(&self) -> bool {
        !self.peer.is_gone() && self.intact()
    }

    fn words(&self) -> String {
        "interrupts by eventfd".into()
    }
}

/// Refuses a file that somebody else can make shorter: the next look at it would be the end of the
/// broker.
pub(super) fn only_ours(path: &str, stat: &Stat) -> Result<(), SourceError> {
    let us = rustix::process::geteuid().as_raw();
    if (stat.st_uid != us && stat.st_uid != 0) || stat.st_mode & 0o022 != 0 {
        return Err(SourceError(format!(
            "{path} can be shortened by others while it is mapped: let it belong to this user or \
            root, with mode 0600"
        )));
    }
    Ok(())
}

/// Has it for this process alone, where the kernel would let everybody in.
pub(super) fn lock(fd: &OwnedFd, path: &str) -> Result<(), SourceError> {
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        Errno::WOULDBLOCK => SourceError(format!(
            "{path}: locked: a broker drains it already: attach readers to that one (ringctl ls)"
        )),
        e => SourceError(format!("{path}: flock: {e}")),
    })
}

/// A memory file.
struct File {
    window: Window,
    /// Holds the lock.
    _fd: OwnedFd,
}

impl File {
    fn open(path: &str) -> Result<Self, SourceError> {
        let failed = |e: Errno| SourceError(format!("{path}: {e}"));
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        // Of what is open: another file may stand at the path by now.
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SourceError(format!("{path} is no longer a file")));
        }
        only_ours(path, &stat)?;
        lock(&fd, path)?;
        let bytes = usize::try_from(stat.st_size).map_err(SourceError::new)?;
        if bytes == 0 {
            return Err(SourceError(format!("{path} is empty")));
        }
        Ok(Self { window: map(&fd, 0, bytes, path)?, _fd: fd })
    }
}

impl Transport for File {
    fn window(&self) -> &Window {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        Ok(Interrupts::default())
    }

    fn doorbell(&self) {
        // The register is all there is. Release: the order stands before it; partner: the device's
        // load of `control`.
        let doorbell = &self.window.registers().control.doorbell;
        doorbell.store(1, ringweir_proto::sync::Ordering::Release);
    }

    fn intact(&self) -> bool {
        self.window.is_there()
    }

    fn words(&self) -> String {
        "polled".into()
    }
}
