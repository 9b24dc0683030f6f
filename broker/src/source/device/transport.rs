//! What the transport of a device does, however the device is reached.

use super::location::Location;
use crate::source::contract::SourceError;
use ringweir_device::{DeviceMemory, arm, disarm};
use ringweir_proto::sync::Ordering;
use std::os::fd::BorrowedFd;

/// Why a device cannot be used any more.
#[derive(Debug)]
pub(super) struct Gone(pub(super) String);

/// An open device.
pub(super) trait Transport: Send {
    /// Its memory.
    fn window(&self) -> &DeviceMemory;

    /// What to sleep on after [`Self::arm`] returned true. It also becomes readable when the device
    /// goes away. `None`: the device has no interrupts and is polled.
    fn interrupt(&self) -> Option<BorrowedFd<'_>>;

    /// Enables interrupts, then checks for data once more ([`ringweir_device::arm`]). True: sleep.
    fn arm(&self, empty: &dyn Fn() -> bool) -> bool {
        let control = &self.window().registers().control;
        control.interrupt_clear.store(ringweir_device::IRQ_DATA, Ordering::Relaxed);
        arm(&control.interrupt_mask, empty)
    }

    /// Runs after a sleep: disables interrupts, and returns those that came.
    fn take(&self) -> Result<Interrupts, Gone>;

    /// Makes the device read its control register.
    fn doorbell(&self);

    /// Whether the bytes just read came from the device. False once it was unplugged and its memory
    /// is blank.
    fn is_intact(&self) -> bool {
        true
    }

    /// Whether the device is present. For devices that are polled: no interrupt reports that they
    /// are gone.
    fn is_present(&self) -> bool {
        self.is_intact()
    }

    /// How it interrupts, for the start message.
    fn describe(&self) -> String;
}

/// Interrupts taken at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interrupts {
    /// How many interrupts there were, as far as the layer below counts them.
    pub(super) count: u64,
    /// How often several interrupts were seen as one.
    pub(super) jumps: u64,
}

impl Interrupts {
    /// From an event that counts its signals.
    pub(super) fn signalled(count: u64) -> Self {
        Self { count, jumps: u64::from(count > 1) }
    }
}

/// Disables interrupts: the half of the handshake in [`Transport::take`].
pub(super) fn disable_interrupts(window: &DeviceMemory) {
    disarm(&window.registers().control.interrupt_mask);
}

/// Begins to open the device at a [`Location`]. Returns quickly, without waiting for the device.
pub(super) type Opener = fn(&Location) -> Result<Opening, SourceError>;

/// A device that is being opened.
pub(super) enum Opening {
    /// It is open.
    Done(Box<dyn Transport>),
    /// The other side must answer first.
    Waiting(Box<dyn Joining>),
}

/// A device whose other side must answer before it is open.
pub(super) trait Joining: Send {
    /// Continues as far as possible without waiting.
    fn advance(self: Box<Self>) -> Result<Opening, SourceError>;
}

impl Opening {
    pub(super) fn now(transport: impl Transport + 'static) -> Self {
        Self::Done(Box::new(transport))
    }

    /// Continues as far as possible without waiting.
    pub(super) fn advance(self) -> Result<Self, SourceError> {
        match self {
            Self::Waiting(joining) => joining.advance(),
            done => Ok(done),
        }
    }
}
