//! The register map: the offset of every register, and the checked shape of a device.
//!
//! Contract: this is the same map as in `kmod-shim/ringshim.h`; `kmod-shim/device/tests/fifo.rs`
//! compares the two field by field. Registers are 32 bits wide, accessed as such, and little-endian
//! like the machines that we support.

use ringweir_proto::sync::{AtomicU32, AtomicU64, Ordering};

/// "RIFO": value of a device's first register.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RIFO");
/// Version of the map. The high half is the major version; a different one means an incompatible
/// map.
pub const VERSION: u32 = 0x0001_0000;
/// Smallest FIFO in bytes.
pub const FIFO_MIN: u32 = 1 << 10;
/// Largest FIFO in bytes.
pub const FIFO_MAX: u32 = 1 << 20;
/// Most channels.
pub const CHANNELS_MAX: u32 = 32;
/// Bytes of registers. FIFO memory comes after them.
pub const REGISTERS_BYTES: usize = 0x2000;
/// [`Identity::features`]: the device raises interrupts.
pub const HAS_INTERRUPT: u32 = 1 << 0;
/// [`Identity::features`]: entries carry a device time.
pub const HAS_TIME: u32 = 1 << 1;
/// [`Identity::features`]: that device time is CLOCK_REALTIME, ns since 1970.
pub const HAS_DATE: u32 = 1 << 2;
/// [`Status::status`]: the device accepts datagrams.
pub const IS_RUNNING: u32 = 1 << 0;
/// [`Status::status`]: the device has reset itself, and waits until [`DO_RESET`] is cleared.
pub const IS_RESETTING: u32 = 1 << 1;
/// [`Control::control`]: accept datagrams.
pub const DO_RUN: u32 = 1 << 0;
/// [`Control::control`]: empty all FIFOs and set the counters to 0.
pub const DO_RESET: u32 = 1 << 1;
/// Interrupt cause: data was stored.
pub const IRQ_DATA: u32 = 1 << 0;
/// First word of every entry: "RDGM".
pub const MARK: u32 = u32::from_le_bytes(*b"RDGM");
/// Bytes of an entry's header.
pub const ENTRY_HEADER: u32 = 16;
/// Bytes of an entry's device time, if it has one.
pub const ENTRY_TIME: u32 = 8;

/// What the device is; constant while it is present.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: AtomicU32,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Identifies the board; its maker chooses the value.
    pub device_id: AtomicU32,
    /// [`HAS_INTERRUPT`] and so on.
    pub features: AtomicU32,
    /// Offset of the first FIFO, a multiple of 4096.
    pub fifo_offset: AtomicU32,
    /// Size of each FIFO in bytes, a power of two.
    pub fifo_bytes: AtomicU32,
    /// Longest payload.
    pub max_datagram: AtomicU32,
    /// Number of FIFOs, which are contiguous.
    pub channels: AtomicU32,
    /// FIFO bytes per second that it was designed for, 0 = unknown.
    pub rate: AtomicU32,
    /// Zero.
    pub reserved: [u32; 7],
}

/// Written by the device.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Status {
    /// [`IS_RUNNING`] and so on.
    pub status: AtomicU32,
    /// Why it raised an interrupt.
    pub interrupt_status: AtomicU32,
    /// Bit n: channel n may have data. It may be set for an empty channel, but it is never clear
    /// for one with data.
    pub ready: AtomicU32,
    /// Device time now, ns, low half; reading it latches the high half.
    pub time_low: AtomicU32,
    /// High half.
    pub time_high: AtomicU32,
    /// Zero.
    pub reserved: [u32; 11],
}

/// Written by the consumer.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Control {
    /// [`DO_RUN`] and so on.
    pub control: AtomicU32,
    /// [`IRQ_DATA`]: the device may interrupt.
    pub interrupt_mask: AtomicU32,
    /// Write 1 to clear a bit of [`Status::interrupt_status`].
    pub interrupt_clear: AtomicU32,
    /// Any write makes the device read `control`.
    pub doorbell: AtomicU32,
    /// Zero.
    pub reserved: [u32; 12],
}

/// One channel: one line that the device writes, and one that the consumer writes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Channel {
    /// Bytes ever stored, modulo 2^32.
    pub producer: AtomicU32,
    /// Datagrams that the device produced, including lost ones.
    pub produced: AtomicU32,
    /// Datagrams that it lost because the FIFO was full.
    pub lost: AtomicU32,
    /// Their payload bytes.
    pub lost_bytes: AtomicU32,
    /// Zero.
    pub reserved0: [u32; 12],
    /// Bytes ever taken, modulo 2^32.
    pub consumer: AtomicU32,
    /// Sequence number that the consumer expects next, for the consumer that takes over from it.
    pub next_sequence: AtomicU32,
    /// The part of `lost` that the consumer has accounted for.
    pub lost_reported: AtomicU32,
    /// Zero.
    pub reserved1: [u32; 13],
}

/// All registers, which come before FIFO memory.
#[cfg(not(ringweir_loom))]
#[repr(C)]
#[derive(Debug)]
pub struct Registers {
    /// Constant registers.
    pub identity: Identity,
    /// Registers that the device writes.
    pub status: Status,
    /// Registers that the consumer writes.
    pub control: Control,
    /// Zero.
    pub reserved: [u32; 976],
    /// One per channel. Those beyond [`Identity::channels`] are unused.
    pub channel: [Channel; CHANNELS_MAX as usize],
}

// Loom's atomics have another size, so these assertions hold only for the real ones.
#[cfg(not(ringweir_loom))]
mod asserted {
    use super::*;
    use core::mem::{offset_of, size_of};

    const _: () = assert!(size_of::<Registers>() == REGISTERS_BYTES);
    const _: () =
        assert!(offset_of!(Registers, status) == 0x40 && offset_of!(Registers, control) == 0x80);
    const _: () = assert!(offset_of!(Registers, channel) == 0x1000 && size_of::<Channel>() == 0x80);
    const _: () = assert!(offset_of!(Channel, consumer) == 0x40);
}

/// One channel as the algorithm uses it: its registers and the words of its FIFO.
#[derive(Clone, Copy, Debug)]
pub struct Fifo<'w> {
    /// Registers.
    pub registers: &'w Channel,
    /// FIFO memory; its size is a power of two.
    pub words: &'w [AtomicU64],
}

impl Fifo<'_> {
    /// Size in bytes.
    #[inline]
    pub fn bytes(&self) -> u32 {
        (self.words.len() * 8) as u32
    }

    /// The word at position `at`, which is any multiple of 8 and wraps at the FIFO's size.
    #[inline(always)]
    pub(super) fn word(&self, at: u32) -> &AtomicU64 {
        &self.words[(at as usize / 8) & (self.words.len() - 1)]
    }
}

/// The checked sizes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Identifies the board.
    pub device_id: u32,
    /// [`HAS_INTERRUPT`] and so on.
    pub features: u32,
    /// Offset of the first FIFO.
    pub fifo_offset: u32,
    /// Size of each FIFO.
    pub fifo_bytes: u32,
    /// Longest payload.
    pub max_datagram: u32,
    /// Number of FIFOs.
    pub channels: u32,
    /// FIFO bytes per second that it was designed for, 0 = unknown.
    pub rate: u32,
}

/// Why memory is not a FIFO device with this map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAFifo {
    /// Too short for registers.
    #[error("{0} bytes are too few for registers, which take {REGISTERS_BYTES}")]
    Short(u64),
    /// It is something else.
    #[error("no FIFO device: its first register is {0:#010x} and not {MAGIC:#010x} (\"RIFO\")")]
    Magic(u32),
    /// An incompatible version of the map.
    #[error("version {}.{} of the register map is not {}.x: it takes another \
        driver", .0 >> 16, .0 & 0xffff, VERSION >> 16)]
    Version(u32),
    /// Impossible FIFO size.
    #[error("FIFO of {0} bytes: must be a power of two from {FIFO_MIN} to {FIFO_MAX}")]
    FifoBytes(u32),
    /// Impossible number of channels.
    #[error("{0} channels: must be 1 to {CHANNELS_MAX}")]
    Channels(u32),
    /// FIFO memory is not inside the window.
    #[error(
        "FIFO memory from {offset:#x} to {end:#x} is not behind the registers, page-aligned and \
        inside {window:#x} bytes"
    )]
    Offset {
        /// First byte.
        offset: u32,
        /// One past the last.
        end: u64,
        /// Size of what can be mapped.
        window: u64,
    },
    /// The FIFO cannot hold the longest datagram.
    #[error("longest datagram of {longest} bytes does not fit a FIFO of {fifo} with its header")]
    MaxDatagram {
        /// The value in the register.
        longest: u32,
        /// FIFO bytes.
        fifo: u32,
    },
}

impl Shape {
    /// The shape in a device's registers, each read once, in a mapping of `window` bytes.
    ///
    /// # Errors
    /// If it is not a FIFO device, or its registers contradict each other.
    pub fn of(identity: &Identity, window: u64) -> Result<Self, NotAFifo> {
        let read = |register: &AtomicU32| register.load(Ordering::Relaxed);
        // Partner: `DeviceMemory::format`, which stores it last.
        let magic = identity.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(NotAFifo::Magic(magic));
        }
        let version = read(&identity.version);
        if version >> 16 != VERSION >> 16 {
            return Err(NotAFifo::Version(version));
        }
        let shape = Self {
            device_id: read(&identity.device_id),
            features: read(&identity.features),
            fifo_offset: read(&identity.fifo_offset),
            fifo_bytes: read(&identity.fifo_bytes),
            max_datagram: read(&identity.max_datagram),
            channels: read(&identity.channels),
            rate: read(&identity.rate),
        };
        shape.check(window).map(|()| shape)
    }

    /// Checks that this shape is possible in a mapping of `window` bytes.
    ///
    /// # Errors
    /// What is not possible.
    pub fn check(&self, window: u64) -> Result<(), NotAFifo> {
        let Self { fifo_offset: offset, fifo_bytes: fifo, max_datagram: longest, channels, .. } =
            *self;
        if !fifo.is_power_of_two() || !(FIFO_MIN..=FIFO_MAX).contains(&fifo) {
            return Err(NotAFifo::FifoBytes(fifo));
        }
        if !(1..=CHANNELS_MAX).contains(&channels) {
            return Err(NotAFifo::Channels(channels));
        }
        let end = u64::from(offset) + u64::from(fifo) * u64::from(channels);
        if (offset as usize) < REGISTERS_BYTES || !offset.is_multiple_of(4096) || end > window {
            return Err(NotAFifo::Offset { offset, end, window });
        }
        if longest > fifo || self.entry_bytes(longest) > fifo {
            return Err(NotAFifo::MaxDatagram { longest, fifo });
        }
        Ok(())
    }

    /// Whether entries carry a device time.
    pub const fn timed(&self) -> bool {
        self.features & HAS_TIME != 0
    }

    /// Bytes of an entry before the payload.
    pub const fn front(&self) -> u32 {
        ENTRY_HEADER + if self.timed() { ENTRY_TIME } else { 0 }
    }

    /// FIFO bytes that a datagram of `len` bytes takes; `len` is at most [`FIFO_MAX`].
    pub const fn entry_bytes(&self, len: u32) -> u32 {
        self.front() + len.next_multiple_of(8)
    }

    /// Bytes of registers and FIFO memory.
    pub const fn window_bytes(&self) -> usize {
        self.fifo_offset as usize + self.fifo_bytes as usize * self.channels as usize
    }
}
