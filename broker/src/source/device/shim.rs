//! `shim:` — a device that `ringshim.ko` hands out.
//!
//! Contract: the module's `poll` does the wake handshake in the kernel. It zaps the mapping when the device is torn out and puts
//! blank pages there, so nothing is read that way unnoticed: [`Transport::intact`] looks for the magic number.

use super::memory::map;
use super::{Gone, Interrupts, Place, Transport, open};
use crate::source::{OpenFor, Source, SourceError, SourceKind};
use ringweir_proto::fifo::Window;
use ringweir_proto::os::shim::{self, ABI, Info};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub const KIND: SourceKind = SourceKind {
    name: "shim",
    usage: "shim:[rate=R:]/dev/ringshimN",
    about: "a device with a FIFO or a DMA buffer, through ringshim.ko (ringctl devices lists them); rate= as in 1Mbit/s",
    open: opened,
};

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    open(KIND.name, Place::parse(argument, &[])?, transport, stream)
}

fn transport(place: &Place) -> Result<Box<dyn Transport>, SourceError> {
    let path = &place.path;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(|e| match e {
        Errno::BUSY => {
            SourceError(format!("{path}: {e}: a broker drains it already: attach readers to that one (ringctl ls)"))
        }
        Errno::ACCESS | Errno::PERM => SourceError(format!("{path}: {e}: join the group that owns it (ls -l {path})")),
        Errno::NOENT | Errno::NXIO | Errno::NODEV => {
            SourceError(format!("{path}: {e}: ringctl devices says what there is"))
        }
        e => SourceError(format!("{path}: {e}")),
    })?;
    let info = shim::info(&fd).map_err(|e| match e {
        Errno::NOTTY => SourceError(format!("{path} is no device of ringshim.ko: use chardev: for others")),
        e => SourceError(format!("{path}: asking what it is: {e}")),
    })?;
    if info.abi != ABI {
        return Err(SourceError(format!(
            "{path}: ringshim.ko speaks version {}, not {ABI}: install the one of this release",
            info.abi
        )));
    }
    let bytes = usize::try_from(info.window_bytes).map_err(SourceError::new)?;
    Ok(Box::new(Shim { window: map(&fd, 0, bytes, path)?, info, fd }))
}

struct Shim {
    // Before the fd: unmapped first.
    window: Window,
    info: Info,
    fd: OwnedFd,
}

impl Transport for Shim {
    fn window(&self) -> &Window {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        (self.info.interrupts != 0).then(|| self.fd.as_fd())
    }

    fn arm(&self, _empty: &dyn Fn() -> bool) -> bool {
        // The pump's poll does it.
        true
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let _ready = poll(&mut fds, Some(&at_once));
        let found = fds[0].revents();
        if found.intersects(PollFlags::HUP | PollFlags::ERR) || !self.intact() {
            return Err(Gone("unplugged, or its driver was unbound".into()));
        }
        Ok(Interrupts::rung(found.contains(PollFlags::IN).into()))
    }

    fn doorbell(&self) {
        // A device that is gone hears nothing, which `take` finds out.
        let _heard = shim::doorbell(&self.fd);
    }

    fn intact(&self) -> bool {
        self.window.is_there()
    }

    fn words(&self) -> String {
        format!("{} at {}", self.info.interrupts(), self.info.bus_id())
    }
}
