//! `ringshim.ko` as programs see it: what it says of a device, and its ioctls. The C side is
//! `kmod-shim/ringshim.h`.

#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, ioctl, opcode};
use std::os::fd::AsFd;

/// [`Info::abi`] of this file.
pub const ABI: u32 = 1;

/// What the module says of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// [`ABI`].
    pub abi: u32,
    /// 1: the map is in the device's own memory. 2: the module keeps it in main memory, for a
    /// device that does DMA.
    pub kind: u32,
    /// What can be mapped, from offset 0.
    pub window_bytes: u64,
    /// 0 none, 1 INTx, 2 MSI, 3 MSI-X.
    pub interrupts: u32,
    /// Zero.
    pub reserved0: u32,
    /// What the device says of itself, read once: [`MAGIC`](crate::MAGIC).
    pub magic: u32,
    /// Of the register map.
    pub version: u32,
    /// Which board: the maker's choice.
    pub device_id: u32,
    /// Bits: 0 raises interrupts, 1 entries carry a time, 2 which is a date.
    pub features: u32,
    /// Where the first FIFO begins, bytes into the window.
    pub fifo_offset: u32,
    /// Of each FIFO; checked, as is what follows.
    pub fifo_bytes: u32,
    /// Longest payload, bytes.
    pub max_datagram: u32,
    /// FIFOs.
    pub channels: u32,
    /// Bytes a second it was designed for; 0: unknown.
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
    /// What interrupts it has, as `lspci` spells it.
    pub fn interrupts(&self) -> &'static str {
        match self.interrupts {
            0 => "no interrupts",
            1 => "INTx",
            2 => "MSI",
            _ => "MSI-X",
        }
    }

    /// Where it sits.
    pub fn bus_id(&self) -> String {
        let text = self.bus_id.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

const INFO: u32 = opcode::read::<Info>(b'w', 0x80);
const DOORBELL: u32 = opcode::none(b'w', 0x83);
/// Every ioctl made here.
pub const REQUESTS: [u32; 2] = [INFO, DOORBELL];

/// Asks for it. `ENOTTY`: `fd` is no device of this module.
pub fn info(fd: impl AsFd) -> Result<Info, Errno> {
    // SAFETY: the opcode carries the size of `Info`, which is plain numbers, so whatever is filled
    // in is one.
    let ask = unsafe { Getter::<INFO, Info>::new() };
    // SAFETY: it writes into `ask` alone.
    unsafe { ioctl(fd, ask) }
}

/// Has the device look at its `control` register.
pub fn doorbell(fd: impl AsFd) -> Result<(), Errno> {
    // SAFETY: the opcode says that there is no argument.
    let ring = unsafe { NoArg::<DOORBELL>::new() };
    // SAFETY: it touches no memory of ours.
    unsafe { ioctl(fd, ring) }
}
