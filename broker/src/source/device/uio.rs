//! `uio:` — a device of Linux's own UIO. One of its maps holds the FIFO; reading its node returns
//! the count of its interrupts.
//!
//! Contract: UIO masks the interrupt whenever one comes. It is enabled again in the way that its
//! driver supports: by writing to the node if the driver has an `irqcontrol`, or, with
//! `uio_pci_generic`, by the "interrupt disable" bit in PCI configuration space. The mask of the
//! register map is used as well, and after both there is one more check for data. If the count
//! jumps, several interrupts came together. A driver without an interrupt is polled. UIO lets
//! several processes open a node, so it is locked (`flock`).

use super::hotplug::{self, DeviceKind};
use super::location::Location;
use super::mapping::{lock, map, only_ours};
use super::transport::{Gone, Interrupts, Opening, Transport, disable_interrupts};
use crate::source::contract::{OpenFor, Source, SourceError, SourceKind};
use ringweir_device::{DeviceMemory, IRQ_DATA, arm};
use ringweir_proto::sync::{AtomicU32, Ordering};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub const KIND: SourceKind = SourceKind {
    name: "uio",
    usage: "uio:[map=N,memory=PATH,rate=R:]/dev/uioN",
    about: "a device with a FIFO through UIO; map= which of its maps (0), memory= a PCI resource \
        file instead; rate= as in 1Mbit/s",
    open: opened,
};

/// Offset of the PCI command register in configuration space, and its bit that disables INTx.
const PCI_COMMAND: u64 = 4;
const INTX_DISABLE: u16 = 1 << 10;

/// Needs /sys/devices later: interrupts may be enabled in the device's PCI configuration.
static UIO: DeviceKind =
    DeviceKind { name: KIND.name, opener: opening, families: &[], writes: &["/sys/devices"] };

fn opened(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    hotplug::open(&UIO, Location::parse(argument, &["map", "memory"])?, stream)
}

/// How interrupts are enabled again.
enum Enable {
    /// The device has none.
    None,
    /// By a write to the node.
    Node,
    /// By the PCI command register, in this file.
    Command(OwnedFd),
}

struct Uio {
    window: DeviceMemory,
    fd: OwnedFd,
    enable: Enable,
    driver: String,
    /// The count as last read.
    count: AtomicU32,
}

fn opening(location: &Location) -> Result<Opening, SourceError> {
    let path = &location.path;
    let fd = rustix::fs::open(
        path.as_str(),
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(|e| SourceError(format!("{path}: {e}")))?;
    lock(&fd, path)?;
    let name = Path::new(path).file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let sys = PathBuf::from(format!("/sys/class/uio/{name}"));
    let driver = std::fs::read_to_string(sys.join("name"))
        .map_err(|e| SourceError(format!("{path} is no UIO device: {}: {e}", sys.display())))?;
    let driver = driver.trim().to_string();
    let window = match &location.memory {
        Some(memory) => {
            let file = rustix::fs::open(
                memory.as_str(),
                OFlags::RDWR | OFlags::CLOEXEC | OFlags::SYNC,
                Mode::empty(),
            )
            .map_err(|e| SourceError(format!("{memory}: {e}")))?;
            let stat =
                rustix::fs::fstat(&file).map_err(|e| SourceError(format!("{memory}: {e}")))?;
            only_ours(memory, &stat)?;
            map(&file, 0, usize::try_from(stat.st_size).map_err(SourceError::new)?, memory)?
        }
        None => {
            let of = sys.join(format!("maps/map{}", location.map));
            let number = |file: &str| -> Result<u64, SourceError> {
                let text = std::fs::read_to_string(of.join(file)).map_err(|e| {
                    SourceError(format!(
                        "{path} has no map {}: {}: {e} (memory= names its memory)",
                        location.map,
                        of.display()
                    ))
                })?;
                u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
                    .map_err(|e| SourceError(format!("{}/{file}: {e}", of.display())))
            };
            if number("offset")? != 0 {
                return Err(SourceError(format!(
                    "{path}: map {} does not begin on a page",
                    location.map
                )));
            }
            // UIO selects a map by the page offset of the mapping.
            let offset = location.map as u64 * rustix::param::page_size() as u64;
            map(&fd, offset, usize::try_from(number("size")?).map_err(SourceError::new)?, path)?
        }
    };
    let enable = match rustix::io::read(&fd, &mut [0; 4]) {
        // The device has no interrupt.
        Err(Errno::IO) => Enable::None,
        Ok(_) | Err(Errno::AGAIN) => Enable::of(&fd, &sys)?,
        Err(e) => return Err(SourceError(format!("{path}: reading its count of interrupts: {e}"))),
    };
    let count = AtomicU32::new(ever(&sys));
    Ok(Opening::now(Uio { window, fd, enable, driver, count }))
}

/// Interrupts since the driver was loaded. The node's count begins there.
fn ever(sys: &Path) -> u32 {
    let text = std::fs::read_to_string(sys.join("event"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
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

    /// Enables the next interrupt.
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
    fn window(&self) -> &DeviceMemory {
        &self.window
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        (!matches!(self.enable, Enable::None)).then(|| self.fd.as_fd())
    }

    fn arm(&self, empty: &dyn Fn() -> bool) -> bool {
        let control = &self.window.registers().control;
        control.interrupt_clear.store(IRQ_DATA, Ordering::Relaxed);
        // If the device is gone, `take` notices: the hang-up or the end of the sleep leads there.
        let _allowed = self.enable.again(&self.fd);
        arm(&control.interrupt_mask, empty)
    }

    fn take(&self) -> Result<Interrupts, Gone> {
        disable_interrupts(&self.window);
        if !self.window.is_there() {
            return Err(Gone("unplugged, or its driver was unbound".into()));
        }
        let mut count = [0; 4];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(4) => {
                let now = u32::from_ne_bytes(count);
                let before = self.count.swap(now, Ordering::Relaxed);
                Ok(Interrupts::signalled(now.wrapping_sub(before).into()))
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Interrupts::default()),
            Err(e) => Err(Gone(format!("reading its count of interrupts: {e}"))),
        }
    }

    fn doorbell(&self) {
        // Release: the order was written before it. Partner: the device's load of `control`.
        self.window.registers().control.doorbell.store(1, Ordering::Release);
    }

    fn is_intact(&self) -> bool {
        self.window.is_there()
    }

    fn describe(&self) -> String {
        match self.enable {
            Enable::None => format!("{}, polled", self.driver),
            Enable::Node | Enable::Command(_) => format!("{}, interrupts by UIO", self.driver),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_device::{HAS_INTERRUPT, Shape};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A node whose driver is this test: the other end receives what is written to the node, and
    /// sends the counts that are read from it.
    fn node() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn uio(fd: OwnedFd, enable: Enable, count: u32) -> Uio {
        let shape = Shape {
            device_id: 0,
            features: HAS_INTERRUPT,
            fifo_offset: 0x2000,
            fifo_bytes: 1024,
            max_datagram: 512,
            channels: 1,
            rate: 0,
        };
        let window = DeviceMemory::on_heap(&shape).unwrap();
        Uio { window, fd, enable, driver: "a test".into(), count: AtomicU32::new(count) }
    }

    fn mask(uio: &Uio) -> u32 {
        uio.window.registers().control.interrupt_mask.load(Ordering::Relaxed)
    }

    /// The count continues from its value at opening, also past 2^32. Several interrupts that are
    /// seen as one are a jump.
    #[test]
    fn a_count_that_jumps_is_interrupts_that_came_together() {
        let (ours, driver) = node();
        let uio = uio(ours, Enable::Node, u32::MAX - 1);
        let say = |count: u32| rustix::io::write(&driver, &count.to_ne_bytes()).unwrap();
        assert_eq!(uio.take().unwrap(), Interrupts::default(), "none has come");
        for (count, interrupts) in [(u32::MAX, (1, 0)), (0, (1, 0)), (5, (5, 1)), (6, (1, 0))] {
            say(count);
            let taken = uio.take().unwrap();
            assert_eq!((taken.count, taken.jumps), interrupts, "{count}");
        }
        drop(driver);
        let _end = uio.take();
    }

    /// A driver with `irqcontrol` gets a 1 each time. After that interrupts are enabled in the
    /// device, and then data is checked for.
    #[test]
    fn interrupts_are_enabled_the_way_the_driver_asks() {
        let (ours, driver) = node();
        let reported = || {
            let mut word = [0; 4];
            rustix::io::read(&driver, &mut word).map(|_| u32::from_ne_bytes(word))
        };
        let enable = Enable::of(&ours, Path::new("/nowhere")).unwrap();
        assert_eq!(
            (reported(), reported()),
            (Ok(1), Err(Errno::AGAIN)),
            "at once: an earlier user may have left it off"
        );
        let uio = uio(ours, enable, 0);
        assert_eq!(mask(&uio), 0);
        assert!(
            uio.arm(&|| mask(&uio) == IRQ_DATA && reported() == Ok(1)),
            "both, before the look"
        );
        assert_eq!(uio.take().unwrap(), Interrupts::default());
        assert_eq!(mask(&uio), 0, "and forbidden when it is awake");
        assert!(!uio.arm(&|| false), "there is data after all");
        assert_eq!(mask(&uio), 0);
    }

    /// `uio_pci_generic`: only one bit of the command register is changed.
    #[test]
    fn the_command_register_keeps_its_other_bits() {
        let sys = tempfile::tempdir().unwrap();
        std::fs::create_dir(sys.path().join("device")).unwrap();
        let config = sys.path().join("device/config");
        let off = [0x86, 0x80, 0x0e, 0x10, 0x07, 0x05, 0x10, 0x00];
        std::fs::write(&config, off).unwrap();
        // A node that takes no writes, like one without `irqcontrol`.
        let node = || {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let uio = uio(node(), Enable::of(&node(), sys.path()).unwrap(), 0);
        let on = [0x86, 0x80, 0x0e, 0x10, 0x07, 0x01, 0x10, 0x00];
        assert_eq!(std::fs::read(&config).unwrap(), on, "when it is opened");
        std::fs::write(&config, off).unwrap();
        assert!(uio.arm(&|| std::fs::read(&config).unwrap() == on), "and before each look");
        std::fs::remove_file(&config).unwrap();
        let refused = Enable::of(&node(), sys.path()).err().unwrap().to_string();
        assert!(refused.contains("device/config: No such file"), "{refused}");
    }

    #[test]
    fn the_count_begins_where_the_driver_is() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(ever(sys.path()), 0);
        std::fs::write(sys.path().join("event"), "4711\n").unwrap();
        assert_eq!(ever(sys.path()), 4711);
    }
}
