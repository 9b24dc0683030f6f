//! `uio:` — a device through Linux' own UIO: its map holds the FIFO, reading the node counts its interrupts.
//!
//! Contract: UIO masks the interrupt each time one comes. It is allowed again in the way its driver has: by writing to the node
//! where there is an `irqcontrol`, or, with `uio_pci_generic`, by the "interrupt disable" bit in PCI configuration space; the
//! register map's own mask is used beside it, and data is looked for once more after both. A count that jumps says that
//! interrupts came together. A driver without an interrupt is polled.

use super::memory::map;
use super::{Gone, Interrupts, Place, Transport, forbid, open};
use crate::source::{OpenFor, Source, SourceError, SourceKind};
use ringweir_proto::fifo::{IRQ_DATA, Window, arm};
use ringweir_proto::sync::{AtomicU32, Ordering};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub const KIND: SourceKind = SourceKind {
    name: "uio",
    usage: "uio:[map=N,memory=PATH,rate=R:]/dev/uioN",
    about: "a device with a FIFO through UIO; map= which of its maps (0), memory= a PCI resource file instead; rate= as in 1Mbit/s",
    open: opened,
};

/// Where the PCI command register lies in configuration space, and its bit that disables INTx.
const PCI_COMMAND: u64 = 4;
const INTX_DISABLE: u16 = 1 << 10;

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    open(KIND.name, Place::parse(argument, &["map", "memory"])?, transport, stream)
}

/// How interrupts are allowed again.
enum Enable {
    /// There are none.
    None,
    /// A write to the node.
    Node,
    /// The command register, in this file.
    Command(OwnedFd),
}

struct Uio {
    window: Window,
    fd: OwnedFd,
    enable: Enable,
    driver: String,
    /// The count as read last.
    count: AtomicU32,
}

fn transport(place: &Place) -> Result<Box<dyn Transport>, SourceError> {
    let path = &place.path;
    let fd = rustix::fs::open(path.as_str(), OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|e| SourceError(format!("{path}: {e}")))?;
    let name = Path::new(path).file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let sys = PathBuf::from(format!("/sys/class/uio/{name}"));
    let driver = std::fs::read_to_string(sys.join("name"))
        .map_err(|e| SourceError(format!("{path} is no UIO device: {}: {e}", sys.display())))?;
    let driver = driver.trim().to_string();
    let window = match &place.memory {
        Some(memory) => {
            let file = rustix::fs::open(memory.as_str(), OFlags::RDWR | OFlags::CLOEXEC | OFlags::SYNC, Mode::empty())
                .map_err(|e| SourceError(format!("{memory}: {e}")))?;
            let stat = rustix::fs::fstat(&file).map_err(|e| SourceError(format!("{memory}: {e}")))?;
            map(&file, 0, usize::try_from(stat.st_size).map_err(SourceError::new)?, memory)?
        }
        None => {
            let of = sys.join(format!("maps/map{}", place.map));
            let number = |file: &str| -> Result<u64, SourceError> {
                let text = std::fs::read_to_string(of.join(file)).map_err(|e| {
                    SourceError(format!(
                        "{path} has no map {}: {}: {e} (memory= names its memory)",
                        place.map,
                        of.display()
                    ))
                })?;
                u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
                    .map_err(|e| SourceError(format!("{}/{file}: {e}", of.display())))
            };
            if number("offset")? != 0 {
                return Err(SourceError(format!("{path}: map {} does not begin on a page", place.map)));
            }
            // UIO names its maps by the page at which they are mapped.
            let offset = place.map as u64 * rustix::param::page_size() as u64;
            map(&fd, offset, usize::try_from(number("size")?).map_err(SourceError::new)?, path)?
        }
    };
    let mut count = [0; 4];
    let (enable, count) = match rustix::io::read(&fd, &mut count) {
        Err(Errno::IO) => (Enable::None, 0),
        Ok(4) => (Enable::of(&fd, &sys)?, u32::from_ne_bytes(count)),
        Ok(_) | Err(Errno::AGAIN) => (Enable::of(&fd, &sys)?, 0),
        Err(e) => return Err(SourceError(format!("{path}: reading its count of interrupts: {e}"))),
    };
    Ok(Box::new(Uio { window, fd, enable, driver, count: AtomicU32::new(count) }))
}

impl Enable {
    fn of(fd: &OwnedFd, sys: &Path) -> Result<Self, SourceError> {
        if rustix::io::write(fd, &1u32.to_ne_bytes()).is_ok() {
            return Ok(Self::Node);
        }
        let config = sys.join("device/config");
        let opened = rustix::fs::open(&config, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|e| {
            SourceError(format!(
                "its driver has no irqcontrol, and interrupts cannot be allowed in {}: {e}",
                config.display()
            ))
        })?;
        let enable = Self::Command(file);
        enable.again(fd).map_err(|e| SourceError(format!("{}: {e}", config.display())))?;
        Ok(enable)
    }

    /// Allows the next interrupt.
    fn again(&self, fd: &OwnedFd) -> Result<(), Errno> {
        match self {
            Self::None => Ok(()),
            Self::Node => rustix::io::write(fd, &1u32.to_ne_bytes()).map(|_| ()),
            Self::Command(config) => {
                let mut command = [0; 2];
                rustix::io::pread(config, &mut command, PCI_COMMAND)?;
                let command = u16::from_le_bytes(command) & !INTX_DISABLE;
                rustix::io::pwrite(config, &command.to_le_bytes(), PCI_COMMAND).map(|_| ())
            }
        }
    }
}

impl Transport for Uio {
    fn window(&self) -> &Window {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        (!matches!(self.enable, Enable::None)).then(|| self.fd.as_fd())
    }

    fn arm(&self, empty: &dyn Fn() -> bool) -> bool {
        let control = &self.window.registers().control;
        control.interrupt_clear.store(IRQ_DATA, Ordering::Relaxed);
        // A device that is gone is found out by `take`, which the hang-up, or the time, brings about.
        let _allowed = self.enable.again(&self.fd);
        arm(&control.interrupt_mask, empty)
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        forbid(&self.window);
        if !self.window.is_there() {
            return Err(Gone("unplugged, or its driver was unbound".into()));
        }
        let mut count = [0; 4];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(4) => {
                let now = u32::from_ne_bytes(count);
                let before = self.count.swap(now, Ordering::Relaxed);
                Ok(Interrupts::rung(now.wrapping_sub(before).into()))
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Interrupts::default()),
            Err(e) => Err(Gone(format!("reading its count of interrupts: {e}"))),
        }
    }

    fn doorbell(&self) {
        // Release: the order stands before it; partner: the device's load of `control`.
        self.window.registers().control.doorbell.store(1, Ordering::Release);
    }

    fn intact(&self) -> bool {
        self.window.is_there()
    }

    fn words(&self) -> String {
        match self.enable {
            Enable::None => format!("{}, polled", self.driver),
            Enable::Node | Enable::Command(_) => format!("{}, interrupts by UIO", self.driver),
        }
    }
}
