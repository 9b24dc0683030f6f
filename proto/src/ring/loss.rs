//! Loss as data: what a reader learns about datagrams that it will never see, and its account.
//!
//! Contract: plain values. The reader ([`super::RingReader`]) ensures that they are exact and that
//! each is reported once, in order.

use crate::layout::flags;
use crate::stats::PumpCounter;
use core::fmt;

/// A layer that can lose datagrams before they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Layer {
    /// The device's own buffer overflowed.
    Device = 1,
    /// The kernel had no room between driver and source.
    Kernel = 2,
    /// The broker received them but could not publish them: too long or malformed.
    Broker = 3,
}

impl Layer {
    pub(super) fn from_bits(bits: u16) -> Self {
        match bits & flags::LAYER_MASK {
            1 => Layer::Device,
            2 => Layer::Kernel,
            _ => Layer::Broker,
        }
    }

    /// The counter for this layer's losses.
    pub const fn counter(self) -> PumpCounter {
        match self {
            Layer::Device => PumpCounter::DeviceLost,
            Layer::Kernel => PumpCounter::KernelLost,
            Layer::Broker => PumpCounter::BrokerLost,
        }
    }
}

/// Why datagrams are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The publisher overwrote seqs `first .. first + count` before this reader had read them.
    Lapped,
    /// They were lost before they were published, so they have no seq. They were due before seq
    /// `first`.
    Upstream {
        /// The layer of the latest loss.
        layer: Layer,
        /// False: at least `count`.
        exact: bool,
    },
    /// The source's device went away before seq `first`. What it would have sent is unknown, so
    /// `count` is 0. The datagrams that follow are from after it came back.
    SourceGone,
}

/// Datagrams that a reader will never see. This is data, not an error: it is reported once, in
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First seq concerned.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Their payload bytes, where knowable.
    pub bytes: Option<u64>,
    /// Publish time of the datagram at which reading continues (CLOCK_MONOTONIC ns), 0 if there is
    /// none yet.
    pub time: u64,
    /// Why.
    pub cause: Cause,
}

/// Count, position and cause, for people. Only a lap has a range of seqs.
impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, count, .. } = *self;
        match self.cause {
            Cause::Lapped => {
                let last = first.saturating_add(count.saturating_sub(1));
                write!(f, "lost {count} datagrams [seq {first}..{last}], reader was lapped")
            }
            Cause::Upstream { layer, exact } => {
                let least = if exact { "" } else { "at least " };
                let place = match layer {
                    Layer::Device => "in the device",
                    Layer::Kernel => "in the kernel",
                    Layer::Broker => "in the broker",
                };
                write!(f, "lost {least}{count} datagrams before seq {first}, {place}")
            }
            Cause::SourceGone => write!(
                f,
                "the source's device went away; datagrams from seq {first} on are from after its \
                return"
            ),
        }
    }
}

/// A new broker adopted the ring of one that died. A reader gets this after everything before
/// `first` and before anything from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The generation that begins.
    pub generation: u64,
    /// Its first seq.
    pub first: u64,
    /// Datagrams without a seq that the restart cost: the dead broker took them from the source, or
    /// counted them as lost, and never reported them.
    pub lost: u64,
    /// False: at least `lost`.
    pub exact: bool,
}

/// A reader's account. `start + delivered + lost = read cursor` at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The seq at which the reader began.
    pub start: u64,
    /// Datagrams handed out whole.
    pub delivered: u64,
    /// Datagrams that it lost because it was lapped.
    pub lost: u64,
    /// Payload bytes delivered.
    pub bytes_delivered: u64,
    /// Payload bytes lost, where known.
    pub bytes_lost: u64,
    /// Number of reported gaps with [`Cause::Lapped`].
    pub gaps: u64,
    /// Losses before the ring that were reported to it.
    pub upstream_lost: u64,
    /// Restarts that were reported to it.
    pub restarts: u64,
    /// Datagrams that they cost, at least.
    pub restart_lost: u64,
    /// Largest lag seen, in datagrams.
    pub lag_max: u64,
    /// The last of these gaps.
    pub last_gap: Option<Gap>,
}
