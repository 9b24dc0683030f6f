//! `shim:` — a device of `ringshim.ko`.
//!
//! Contract: the module's `poll` does the wake handshake in the kernel. If the device is unplugged,
//! the module replaces the mapping by blank pages. [`Transport::is_intact`] checks the magic
//! number, so what was read from blank pages is never used. If `poll` finds data, that does not
//! prove that an interrupt came. So interrupts are counted where the module counts them, in sysfs.

use super::hotplug::{self, DeviceKind};
use super::location::Location;
use super::mapping::map;
use super::transport::{Gone, Interrupts, Opening, Transport};
use crate::source::contract::{OpenFor, Source, SourceError, SourceKind};
use ringweir_device::DeviceMemory;
use ringweir_device::shim::{self, ABI, Info};
use ringweir_proto::sync::{AtomicU64, Ordering};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub const KIND: SourceKind = SourceKind {
    name: "shim",
    usage: "shim:[rate=R:]/dev/ringshimN",
    about: "a device with a FIFO or a DMA buffer, through ringshim.ko (ringctl devices lists \
        them); \
        rate= as in 1Mbit/s",
    open: opened,
};

static SHIM: DeviceKind =
    DeviceKind { name: KIND.name, opener: opening, families: &[], writes: &[] };

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    hotplug::open(&SHIM, Location::parse(argument, &[])?, stream)
}

fn opening(location: &Location) -> Result<Opening, SourceError> {
    let path = &location.path;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(|e| match e {
        Errno::BUSY => SourceError(format!(
            "{path}: {e}: a broker drains it already: attach readers to that one (ringctl ls)"
        )),
        Errno::ACCESS | Errno::PERM => {
            SourceError(format!("{path}: {e}: join the group that owns it (ls -l {path})"))
        }
        Errno::NOENT | Errno::NXIO | Errno::NODEV => {
            SourceError(format!("{path}: {e}: ringctl devices lists what there is"))
        }
        e => SourceError(format!("{path}: {e}")),
    })?;
    let info = shim::info(&fd).map_err(|e| match e {
        Errno::NOTTY => {
            SourceError(format!("{path} is no device of ringshim.ko: use chardev: for others"))
        }
        e => SourceError(format!("{path}: asking what it is: {e}")),
    })?;
    if info.abi != ABI {
        return Err(SourceError(format!(
            "{path}: ringshim.ko speaks version {}, not {ABI}: install the one of this release",
            info.abi
        )));
    }
    let counter = Counter::of(&fd)
        .map_err(|e| SourceError(format!("{path}: its count of interrupts: {e}")))?;
    let bytes = usize::try_from(info.window_bytes).map_err(SourceError::new)?;
    Ok(Opening::now(Shim { window: map(&fd, 0, bytes, path)?, info, counter, fd }))
}

struct Shim {
    // Before the fd, so that it is unmapped first.
    window: DeviceMemory,
    info: Info,
    counter: Counter,
    fd: OwnedFd,
}

/// The module's count of a device's interrupts.
struct Counter {
    file: OwnedFd,
    last: AtomicU64,
}

impl Counter {
    /// The counter of an open node.
    fn of(node: &OwnedFd) -> Result<Self, Errno> {
        let number = rustix::fs::fstat(node)?.st_rdev;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Self::at(&format!("/sys/dev/char/{major}:{minor}/interrupts"))
    }

    fn at(path: &str) -> Result<Self, Errno> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let counter = Self { file, last: AtomicU64::new(0) };
        // Skip the interrupts that came before.
        counter.take();
        Ok(counter)
    }

    /// How many came since the last call; 0 once the device is gone.
    fn take(&self) -> u64 {
        let mut text = [0; 24];
        let Ok(len) = rustix::io::pread(&self.file, &mut text, 0) else { return 0 };
        let Some(now) =
            std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim_end().parse().ok())
        else {
            return 0;
        };
        u64::wrapping_sub(now, self.last.swap(now, Ordering::Relaxed))
    }
}

impl Transport for Shim {
    fn window(&self) -> &DeviceMemory {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        (self.info.interrupts != 0).then(|| self.fd.as_fd())
    }

    fn arm(&self, _empty: &dyn Fn() -> bool) -> bool {
        // The module's `poll` does it.
        true
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let _ready = poll(&mut fds, Some(&at_once));
        let found = fds[0].revents();
        if found.intersects(PollFlags::HUP | PollFlags::ERR) || !self.is_intact() {
            return Err(Gone("unplugged, or its driver was unbound".into()));
        }
        Ok(Interrupts::signalled(self.counter.take()))
    }

    fn doorbell(&self) {
        // If the device is gone, `take` notices.
        let _gone = shim::doorbell(&self.fd);
    }

    fn is_intact(&self) -> bool {
        self.window.is_there()
    }

    fn describe(&self) -> String {
        format!("{} at {}", self.info.interrupts(), self.info.bus_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_counted_from_opening() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let say = |text: &str| std::fs::write(file.path(), text).unwrap();
        say("4711\n");
        let counter = Counter::at(file.path().to_str().unwrap()).unwrap();
        assert_eq!(counter.take(), 0);
        say("4713\n");
        assert_eq!((counter.take(), counter.take()), (2, 0));
        // A device that is gone: 0, now and later.
        say("");
        assert_eq!(counter.take(), 0);
        say("18446744073709551615\n");
        counter.take();
        say("0\n");
        assert_eq!(counter.take(), 1);
    }
}
