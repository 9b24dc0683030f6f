//! `fifo:` — a device that is a program. It shares its memory; interrupts and doorbell are
//! eventfds.
//!
//! Contract: behind a socket there is a server of QEMU's ivshmem protocol ([`ivshmem`]). If it
//! disconnects, the device is gone, and what it has stored by then is drained, unless it has
//! cleared its magic number. A plain file is only the memory, without interrupts, so it is polled.
//! It must belong to the broker's user or to root, because a user who can truncate it can stop the
//! broker. It is locked (`flock`), because two brokers would each get half of the datagrams. Such a
//! device disconnects by clearing its magic number.

use super::hotplug::{self, DeviceKind};
use super::location::Location;
use super::mapping::{lock, map, only_ours};
use super::transport::{self, Gone, Interrupts, Opening, Transport, disable_interrupts};
use crate::source::contract::{OpenFor, Source, SourceError, SourceKind};
use ringweir_device::DeviceMemory;
use ringweir_device::ivshmem;
use ringweir_proto::os::event;
use rustix::event::epoll;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub const KIND: SourceKind = SourceKind {
    name: "fifo",
    usage: "fifo:[rate=R:]PATH",
    about: "a device with a FIFO that is a program: PATH is its ivshmem socket, or a memory file \
        without interrupts; rate= as in 1Mbit/s",
    open: opened,
};

/// Needs sockets later: when the device is back, its socket is connected again.
pub(super) static FIFO: DeviceKind =
    DeviceKind { name: KIND.name, opener: opening, families: &[libc::AF_UNIX], writes: &[] };

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    hotplug::open(&FIFO, Location::parse(argument, &[])?, stream)
}

fn opening(location: &Location) -> Result<Opening, SourceError> {
    let path = &location.path;
    let stat = rustix::fs::stat(path.as_str()).map_err(|e| SourceError(format!("{path}: {e}")))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => Ok(Opening::Waiting(Box::new(Joining::new(path)?))),
        FileType::RegularFile => Ok(Opening::now(File::open(path)?)),
        _ => Err(SourceError(format!("{path} is neither a socket nor a file of a device"))),
    }
}

/// A connection to a socket whose handshake is not complete.
struct Joining {
    path: String,
    peer: ivshmem::Joining,
}

impl Joining {
    fn new(path: &str) -> Result<Self, SourceError> {
        let peer = ivshmem::Joining::new(Path::new(path)).map_err(SourceError::new)?;
        Ok(Self { path: path.into(), peer })
    }
}

impl transport::Joining for Joining {
    fn advance(self: Box<Self>) -> Result<Opening, SourceError> {
        let Self { path, peer } = *self;
        match peer.advance().map_err(SourceError::new)? {
            ControlFlow::Break(peer) => Ok(Opening::now(Peer::new(&path, peer)?)),
            ControlFlow::Continue(peer) => Ok(Opening::Waiting(Box::new(Self { path, peer }))),
        }
    }
}

/// A device behind a socket.
struct Peer {
    window: DeviceMemory,
    peer: ivshmem::Client,
    /// Watches both the interrupt and the socket.
    watch: OwnedFd,
}

impl Peer {
    fn new(path: &str, peer: ivshmem::Client) -> Result<Self, SourceError> {
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
    fn window(&self) -> &DeviceMemory {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.as_fd())
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        disable_interrupts(&self.window);
        if self.peer.is_gone() {
            return Err(Gone("it disconnected".into()));
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.peer.interrupt, &mut count) {
            Ok(_) => Ok(Interrupts::signalled(u64::from_ne_bytes(count))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Interrupts::default()),
            Err(e) => Err(Gone(format!("reading its interrupt: {e}"))),
        }
    }

    fn doorbell(&self) {
        // If the device is gone, `take` notices.
        let _gone = event::ring(&self.peer.doorbell);
    }

    fn is_intact(&self) -> bool {
        self.window.is_there()
    }

    fn is_present(&self) -> bool {
        !self.peer.is_gone() && self.is_intact()
    }

    fn describe(&self) -> String {
        "interrupts by eventfd".into()
    }
}

/// A device in a memory file.
struct File {
    window: DeviceMemory,
    /// Holds the file's lock.
    _fd: OwnedFd,
}

impl File {
    fn open(path: &str) -> Result<Self, SourceError> {
        let failed = |e: Errno| SourceError(format!("{path}: {e}"));
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        // Check the open file: the path may lead to another one by now.
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
    fn window(&self) -> &DeviceMemory {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        Ok(Interrupts::default())
    }

    fn doorbell(&self) {
        // There is only the register, and no event. Release: the order was written before it.
        // Partner: the device's load of `control`.
        let doorbell = &self.window.registers().control.doorbell;
        doorbell.store(1, ringweir_proto::sync::Ordering::Release);
    }

    fn is_intact(&self) -> bool {
        self.window.is_there()
    }

    fn describe(&self) -> String {
        "polled".into()
    }
}
