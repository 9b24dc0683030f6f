//! The device node of `ringshim.ko` as a program sees it: its system calls with the error each
//! gives, and its window. The numbers are those of `kmod-shim/ringshim.h`.

#![allow(unsafe_code)]

use ringweir_device::shim::Info;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub const INFO: u64 = 0x8000_7780 | (size_of::<Info>() as u64) << 16;
pub const START: u64 = 0x7781;
pub const STOP: u64 = 0x7782;
pub const DOORBELL: u64 = 0x7783;

pub const STATUS: usize = 0x40;
pub const CONTROL: usize = 0x80;
pub const INTERRUPT_MASK: usize = 0x84;
pub const PRODUCER: usize = 0x1000;
pub const LOST: usize = 0x1008;
pub const CONSUMER: usize = 0x1040;
pub const NEXT_SEQUENCE: usize = 0x1044;
pub const MARK: u32 = 0x4d47_4452;
pub const PAGE: usize = 4096;

/// The result of a system call, or its error number.
pub type Got<T> = std::result::Result<T, i32>;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An open device node.
pub struct Device {
    fd: OwnedFd,
    pub path: PathBuf,
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Device {
    /// Opens the node at `path` with `flags`.
    pub fn open(path: &Path, flags: i32) -> Got<Device> {
        let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Errno::raw_os_error)?;
        Ok(Device { fd, path: path.to_owned() })
    }

    /// Opens it for reading and writing. Tries for up to 10 s, because another process may still be
    /// ending.
    pub fn wait_open(path: &Path) -> Result<Device> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match Device::open(path, libc::O_RDWR) {
                Ok(device) => return Ok(device),
                Err(libc::EBUSY | libc::ENOENT | libc::ENXIO) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Err(error) => {
                    bail!("{}: {}", path.display(), std::io::Error::from_raw_os_error(error))
                }
            }
        }
    }

    pub fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// An ioctl whose argument is an address (which need not be valid).
    pub fn ioctl(&self, command: u64, argument: usize) -> Got<i32> {
        // SAFETY: every command writes at most an `Info` to `argument`. The callers pass room for
        // it, or an address that the kernel refuses.
        let got = unsafe { libc::ioctl(self.raw(), command as _, argument) };
        if got < 0 { Err(errno()) } else { Ok(got) }
    }

    pub fn info(&self) -> Result<Info> {
        let mut info = Info::default();
        self.ioctl(INFO, (&raw mut info) as usize)
            .map_err(std::io::Error::from_raw_os_error)
            .context("INFO")?;
        Ok(info)
    }

    pub fn pending(&self) -> Got<usize> {
        let mut length = 0i32;
        self.ioctl(libc::FIONREAD, (&raw mut length) as usize)?;
        Ok(length as usize)
    }

    /// `read(2)` of up to `length` bytes to an address that need not be valid.
    pub fn read_to(&self, address: usize, length: usize) -> Got<usize> {
        // SAFETY: the callers pass room of that length, or an address the kernel refuses to write
        // to.
        let got = unsafe { libc::read(self.raw(), address as *mut _, length) };
        if got < 0 { Err(errno()) } else { Ok(got as usize) }
    }

    pub fn read(&self, buffer: &mut [u8]) -> Got<usize> {
        self.read_to(buffer.as_mut_ptr() as usize, buffer.len())
    }

    /// Waits up to `wait` for events; 0 if there are none.
    pub fn poll(&self, wait: Duration) -> i16 {
        let mut poll = [PollFd::new(&self.fd, PollFlags::IN)];
        let limit = ringweir_proto::os::event::timespec(wait);
        // After an error, such as a signal, there are no events.
        let _found = rustix::event::poll(&mut poll, Some(&limit));
        poll[0].revents().bits() as i16
    }

    pub fn nonblocking(&self, on: bool) {
        let flags = if on { OFlags::NONBLOCK } else { OFlags::empty() };
        rustix::fs::fcntl_setfl(&self.fd, flags).expect("F_SETFL");
    }

    pub fn map(
        &self,
        length: usize,
        protection: i32,
        flags: i32,
        offset: usize,
    ) -> Got<DeviceMemory> {
        let (anywhere, fd, offset) = (std::ptr::null_mut(), self.raw(), offset as libc::off_t);
        // SAFETY: at an address of the kernel's choice.
        let at = unsafe { libc::mmap(anywhere, length, protection, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            Err(errno())
        } else {
            Ok(DeviceMemory { at: at.cast(), length })
        }
    }

    /// Maps all that may be mapped.
    pub fn window(&self) -> Result<DeviceMemory> {
        let length = self.info()?.window_bytes as usize;
        self.map(length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, 0)
            .map_err(std::io::Error::from_raw_os_error)
            .context("mmap of the window")
    }

    /// A counter from sysfs, while the device is there.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let file = Path::new("/sys/class/ringshim")
            .join(self.path.file_name().unwrap_or_default())
            .join(name);
        Ok(fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().parse()?)
    }
}

/// Memory of the device, as mapped.
pub struct DeviceMemory {
    pub at: *mut u8,
    pub length: usize,
}

// SAFETY: it is memory of the process; every access is volatile and of 32 bits.
unsafe impl Send for DeviceMemory {}
// SAFETY: as above.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    fn word(&self, offset: usize) -> *mut u32 {
        assert!(offset + 4 <= self.length && offset.is_multiple_of(4));
        self.at.wrapping_add(offset).cast()
    }

    pub fn get(&self, offset: usize) -> u32 {
        let word = self.word(offset);
        // SAFETY: within the mapping, and aligned.
        unsafe { word.read_volatile() }
    }

    pub fn put(&self, offset: usize, value: u32) {
        let word = self.word(offset);
        // SAFETY: within the mapping, and aligned.
        unsafe { word.write_volatile(value) }
    }

    /// Waits up to 10 s until the register has `bits` (`set`), or has none of them.
    pub fn until(&self, offset: usize, bits: u32, set: bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while (self.get(offset) & bits == bits) != set {
            ensure!(
                Instant::now() < end,
                "register {offset:#x} is {:#x} for 10 s",
                self.get(offset)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `Device::map`, and nothing points into it any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}
