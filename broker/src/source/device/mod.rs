//! Devices with a FIFO of the map in `kmod-shim/REGISTERS.md`: one drain loop (`drain`, under
//! `slot`), three ways to reach them.
//!
//! Contract: the payload goes from device memory straight into the ring. What the device lost, what
//! was thrown away as garbage, and that the device went away, readers are told. A device that went
//! away is looked for until it is back; the stream goes on meanwhile. `fifo:` (`memory`) is memory
//! shared with a program that is the device, `shim:` (`shim`) a device of `ringshim.ko`, `uio:`
//! (`uio`) one of Linux' own UIO.

use super::{OpenFor, Source, SourceError, options_and_path};
use ringweir_cli::quantity::Rate;
use ringweir_device::{Window, arm, disarm};
use ringweir_proto::sync::Ordering;
use std::os::fd::BorrowedFd;

mod drain;
mod memory;
mod shim;
mod slot;
#[cfg(test)]
mod tests;
mod uio;

pub use memory::KIND as FIFO;
pub use shim::KIND as SHIM;
pub use uio::KIND as UIO;

/// Why a device cannot be used any more, for people.
#[derive(Debug)]
struct Gone(String);

/// One device, open.
trait Transport: Send {
    /// Its memory.
    fn window(&self) -> &Window;

    /// What to sleep on when [`Self::arm`] says so; it also becomes readable when the device goes.
    /// `None`: the device has no interrupts and is polled.
    fn interrupt(&self) -> Option<BorrowedFd<'_>>;

    /// Allows interrupts, then looks again ([`ringweir_device::arm`]). True: sleep.
    fn arm(&self, empty: &dyn Fn() -> bool) -> bool {
        let control = &self.window().registers().control;
        control.interrupt_clear.store(ringweir_device::IRQ_DATA, Ordering::Relaxed);
        arm(&control.interrupt_mask, empty)
    }

    /// After a sleep, whatever ended it: forbids interrupts and takes those that came.
    fn take(&self) -> Result<Interrupts, Gone>;

    /// Has the device look at its control register.
    fn doorbell(&self);

    /// Whether what was just read came from the device: false once it has been torn out and its
    /// memory reads as nothing.
    fn intact(&self) -> bool {
        true
    }

    /// Whether the device is there, for when no interrupt is listened to that would tell.
    fn is_there(&self) -> bool {
        self.intact()
    }

    /// How it interrupts, for the start message.
    fn words(&self) -> String;
}

/// Interrupts taken at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interrupts {
    /// How many there were, as far as that is counted below.
    count: u64,
    /// Times that several were seen as one.
    jumps: u64,
}

impl Interrupts {
    /// `count` rings of a counting bell.
    fn rung(count: u64) -> Self {
        Self { count, jumps: u64::from(count > 1) }
    }
}

/// [`Transport::take`]'s half of the handshake.
fn forbid(window: &Window) {
    disarm(&window.registers().control.interrupt_mask);
}

/// Begins to open what a [`Place`] names; quick, and does not wait for the device.
type Opener = fn(&Place) -> Result<Opening, SourceError>;

/// A device that is opened.
enum Opening {
    /// It is.
    Done(Box<dyn Transport>),
    /// Somebody has to say something first.
    Joining(Box<memory::Joining>),
}

impl Opening {
    fn now(transport: impl Transport + 'static) -> Self {
        Self::Done(Box::new(transport))
    }

    /// Goes on as far as that is possible without waiting.
    fn go_on(self) -> Result<Self, SourceError> {
        match self {
            Self::Joining(joining) => joining.go_on(),
            done => Ok(done),
        }
    }
}

/// What stands behind the colon.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    /// `rate=`: bytes a second; overrides what the device says.
    rate: Option<f64>,
    /// `map=`, of `uio:`.
    map: usize,
    /// `memory=`, of `uio:`.
    memory: Option<String>,
    path: String,
}

impl Place {
    /// Takes the argument apart; `own` are the options beside `rate=` that the kind has.
    fn parse(argument: &str, own: &[&str]) -> Result<Self, SourceError> {
        let (options, path) = options_and_path(argument)?;
        let mut place = Self { path: path.into(), ..Self::default() };
        for option in options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "rate" => match value.parse().map_err(SourceError::new)? {
                    Rate::Bytes(rate) => place.rate = Some(rate),
                    Rate::Datagrams(_) => {
                        return Err(SourceError(format!(
                            "{option}: a FIFO fills by bytes: say 1Mbit/s or 125kB/s"
                        )));
                    }
                },
                "map" if own.contains(&key) => {
                    place.map = value.parse().ok().filter(|n| *n < 5).ok_or_else(|| {
                        SourceError(format!(
                            "{option}: say which of the device's maps, 0 to 4 (ls \
                            /sys/class/uio/*/maps)"
                        ))
                    })?;
                }
                "memory" if own.contains(&key) && value.starts_with('/') => {
                    place.memory = Some(value.into())
                }
                "memory" if own.contains(&key) => {
                    return Err(SourceError(format!(
                        "{option}: say a path, as /sys/bus/pci/devices/0000:00:04.0/resource2"
                    )));
                }
                _ => {
                    let there_are = ["rate"]
                        .iter()
                        .chain(own)
                        .map(|o| format!("{o}="))
                        .collect::<Vec<_>>()
                        .join(", ");
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there are {there_are}"
                    )));
                }
            }
        }
        Ok(place)
    }
}

/// Opens a device and starts it, if it does not run.
fn open(
    kind: &'static str,
    place: Place,
    opener: Opener,
    stream: &OpenFor,
) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(slot::Device::open(kind, place, opener, stream.max_datagram)?))
}
