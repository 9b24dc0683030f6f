//! The user-space interface of `ringshim.ko`: its description of a device, and its ioctls. The C
//! side is `kmod-shim/ringshim.h`.

#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, ioctl, opcode};
use std::os::fd::AsFd;

/// The [`Info::abi`] that this file implements.
pub const ABI: u32 = 1;

/// The module's description of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    /// [`ABI`].
    pub abi: u32,
    /// 1: the map is in the device's own memory. 2: the module keeps it in main memory, for a
    /// device that does DMA.
    pub kind: u32,
    /// Bytes that can be mapped, from offset 0.
    pub window_bytes: u64,
    /// 0 none, 1 INTx, 2 MSI, 3 MSI-X.
    pub interrupts: u32,
    /// Zero.
    pub reserved0: u32,
    /// This field and those up to `rate` are the device's registers, read once:
    /// [`MAGIC`](crate::MAGIC).
    pub magic: u32,
    /// Version of the register map.
    pub version: u32,
    /// Identifies the board; its maker chooses the value.
    pub device_id: u32,
    /// Bits: 0 it raises interrupts, 1 entries carry a time, 2 that time is a date.
    pub features: u32,
    /// Offset of the first FIFO in the mapping, bytes.
    pub fifo_offset: u32,
    /// Size of each FIFO; checked, like the fields that follow.
    pub fifo_bytes: u32,
    /// Longest payload, bytes.
    pub max_datagram: u32,
    /// Number of FIFOs.
    pub channels: u32,
    /// Bytes per second that it was designed for; 0: unknown.
    pub rate: u32,
    /// Zero.
    pub reserved1: [u32; 7],
    /// "0000:00:04.0", zero-padded.
    pub bus_id: [u8; 32],
    /// Zero.
    pub reserved2: [u32; 6],
}

const _: () = assert!(size_of::<Info>() == 144);

impl Info {
    /// Its kind of interrupts, spelled as `lspci` does.
    pub fn interrupts(&self) -> &'static str {
        match self.interrupts {
            0 => "no interrupts",
            1 => "INTx",
            2 => "MSI",
            _ => "MSI-X",
        }
    }

    /// Its bus address.
    pub fn bus_id(&self) -> String {
        let text = self.bus_id.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

const INFO: u32 = opcode::read::<Info>(b'w', 0x80);
const DOORBELL: u32 = opcode::none(b'w', 0x83);
/// Every ioctl that this module makes.
pub const REQUESTS: [u32; 2] = [INFO, DOORBELL];

/// Gets the description. `ENOTTY`: `fd` is not a device of this kernel module.
pub fn info(fd: impl AsFd) -> Result<Info, Errno> {
    // SAFETY: the opcode carries the size of `Info`, so the kernel writes at most one `Info`, and
    // any bytes are a valid one, since it consists of integers.
    let ask = unsafe { Getter::<INFO, Info>::new() };
    // SAFETY: the kernel writes only to the value that `ask` owns.
    unsafe { ioctl(fd, ask) }
}

/// Makes the device read its `control` register.
pub fn doorbell(fd: impl AsFd) -> Result<(), Errno> {
    // SAFETY: this ioctl takes no argument, as its opcode says.
    let ring = unsafe { NoArg::<DOORBELL>::new() };
    // SAFETY: without an argument, the kernel accesses no memory of this process.
    unsafe { ioctl(fd, ring) }
}
