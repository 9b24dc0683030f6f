//! The memory of one device as the algorithm sees it: mapped registers and FIFOs, and the owner
//! that keeps them mapped.
//!
//! Contract: a [`DeviceMemory`] is created over memory that stays mapped while its backing lives,
//! and its shape is checked. The other side may write the memory at any time, so all of it is
//! atomics and never a slice of bytes.

#![allow(unsafe_code)]

use super::map::{Fifo, Identity, NotAFifo, REGISTERS_BYTES, Registers, Shape};
use super::{HAS_TIME, MAGIC, VERSION};
use ringweir_proto::sync::{AtomicU64, Ordering, fence_acquire};
use std::any::Any;
use std::ptr::NonNull;

/// Registers and FIFO memory of one device.
pub struct DeviceMemory {
    shape: Shape,
    registers: NonNull<Registers>,
    fifos: NonNull<[AtomicU64]>,
    // Invariant: dropping it unmaps or frees the above, and nothing else does.
    _backing: Box<dyn Any + Send + Sync>,
}

// SAFETY: everything behind the pointers is atomics, and the backing is Send + Sync itself.
unsafe impl Send for DeviceMemory {}
// SAFETY: shared references reach only atomics, and the backing is Sync itself.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    /// The device in the `len` bytes at `start`.
    ///
    /// # Safety
    /// `start` is aligned to 8 and valid for reads and writes of `len` bytes for as long as
    /// `backing` lives; other code in this process makes no references to that memory.
    ///
    /// # Errors
    /// If there is no FIFO device with this register map.
    pub unsafe fn over(
        start: NonNull<u8>,
        len: usize,
        backing: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, NotAFifo> {
        if len < REGISTERS_BYTES {
            return Err(NotAFifo::Short(len as u64));
        }
        let registers = start.cast::<Registers>();
        // SAFETY: long enough, checked above; aligned and valid by this function's contract.
        let identity: &Identity = unsafe { &registers.as_ref().identity };
        let shape = Shape::of(identity, len as u64)?;
        // SAFETY: the shape was checked to lie inside `len`, at a multiple of 4096.
        let fifos = unsafe { start.add(shape.fifo_offset as usize) }.cast::<AtomicU64>();
        let words = shape.fifo_bytes as usize / 8 * shape.channels as usize;
        Ok(Self {
            shape,
            registers,
            fifos: NonNull::slice_from_raw_parts(fifos, words),
            _backing: backing,
        })
    }

    /// Creates a device of `shape` in zeroed memory, for the device's side.
    ///
    /// # Safety
    /// As for [`Self::over`]; no other code uses the memory yet.
    ///
    /// # Errors
    /// If the shape is impossible or does not fit.
    pub unsafe fn format(
        start: NonNull<u8>,
        len: usize,
        shape: &Shape,
        backing: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, NotAFifo> {
        if len < REGISTERS_BYTES {
            return Err(NotAFifo::Short(len as u64));
        }
        shape.check(len as u64)?;
        // SAFETY: long enough, checked above; aligned and valid by this function's contract.
        let identity = unsafe { &start.cast::<Registers>().as_ref().identity };
        for (register, value) in [
            (&identity.version, VERSION),
            (&identity.device_id, shape.device_id),
            (&identity.features, shape.features),
            (&identity.fifo_offset, shape.fifo_offset),
            (&identity.fifo_bytes, shape.fifo_bytes),
            (&identity.max_datagram, shape.max_datagram),
            (&identity.channels, shape.channels),
            (&identity.rate, shape.rate),
        ] {
            register.store(value, Ordering::Relaxed);
        }
        // Stored last: a thread that sees it also sees the other registers; partner: the load in
        // `Shape::of`.
        identity.magic.store(MAGIC, Ordering::Release);
        // SAFETY: `start` and `len` meet the contract of `over`, which is part of this function's.
        unsafe { Self::over(start, len, backing) }
    }

    /// A device of `shape` on the heap.
    ///
    /// # Errors
    /// If the shape is impossible.
    pub fn on_heap(shape: &Shape) -> Result<Self, NotAFifo> {
        shape.check(shape.window_bytes() as u64)?;
        let mut memory = vec![0u64; shape.window_bytes() / 8].into_boxed_slice();
        let start = NonNull::new(memory.as_mut_ptr().cast::<u8>()).expect("a box is not null");
        // SAFETY: zeroed and aligned to 8. The box moves into the result as its backing, and no
        // other code uses it.
        unsafe { Self::format(start, shape.window_bytes(), shape, Box::new(memory)) }
    }

    /// Its checked sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its registers.
    pub fn registers(&self) -> &Registers {
        // SAFETY: valid and aligned while the backing lives. All of it is atomics, or reserved
        // words that neither side writes.
        unsafe { self.registers.as_ref() }
    }

    /// Channel `index`.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn fifo(&self, index: u32) -> Fifo<'_> {
        assert!(index < self.shape.channels, "no channel {index}");
        let words = self.shape.fifo_bytes as usize / 8;
        // SAFETY: valid and aligned while the backing lives.
        let all = unsafe { self.fifos.as_ref() };
        Fifo {
            registers: &self.registers().channel[index as usize],
            words: &all[index as usize * words..][..words],
        }
    }

    /// Whether the device is still there. If so, everything loaded before this call came from it:
    /// the memory of a device that was removed reads as ones or zeros.
    pub fn is_there(&self) -> bool {
        // Keeps the earlier loads before the one below. It has no partner, since a device that is
        // removed stores nothing.
        fence_acquire();
        self.registers().identity.magic.load(Ordering::Relaxed) == MAGIC
    }

    /// Device time now, ns, if the device has one.
    pub fn device_time(&self) -> Option<u64> {
        let status = &self.registers().status;
        (self.shape.features & HAS_TIME != 0).then(|| {
            // The low half first, since reading it latches the high half. Acquire keeps the two
            // loads in that order; it has no partner store.
            let low = status.time_low.load(Ordering::Acquire);
            u64::from(low) | u64::from(status.time_high.load(Ordering::Relaxed)) << 32
        })
    }
}

impl std::fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceMemory").field("shape", &self.shape).finish_non_exhaustive()
    }
}
