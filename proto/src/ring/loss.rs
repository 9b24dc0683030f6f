//! Loss as data: what a reader is told it will never see, and its books.
//!
//! Contract: plain values. That they are exact, told in order and told once is the reader's doing
//! ([`super::RingReader`]).

use crate::layout::flags;
use crate::stats::PumpCounter;

/// A layer that can lose datagrams before they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Layer {
    /// The device's own buffer overflowed.
    Device = 1,
    /// The kernel had no room between driver and source.
    Kernel = 2,
    /// The broker received but could not publish: over the largest datagram, malformed.
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

    /// The counter this layer's losses go to.
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
    /// The publisher passed this reader: seqs `first .. first + count`.
    Lapped,
    /// They were lost before they were published and have no seq; they were due before seq `first`.
    Upstream {
        /// Which layer lost last.
        layer: Layer,
        /// False: at least `count`.
        exact: bool,
    },
    /// The device behind the source went away before seq `first`. Nobody knows what it would have
    /// brought: `count` is 0. Datagrams that follow come from the device that came back.
    SourceGone,
}

/// Datagrams a reader will never see. Data, not an error: told in order, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First seq concerned.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Their payload bytes, where knowable.
    pub bytes: Option<u64>,
    /// Publish time of the datagram at which reading goes on (CLOCK_MONOTONIC ns), 0 if there is
    /// none yet.
    pub time: u64,
    /// Why.
    pub cause: Cause,
}

/// A new broker took over the ring of one that died. Everything before `first` was told before
/// this, and nothing from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The life of the ring that begins.
    pub generation: u64,
    /// Its first seq.
    pub first: u64,
    /// Datagrams without a seq that the restart cost: taken from the source, or counted as lost, by
    /// the broker that died, and never told.
    pub lost: u64,
    /// False: at least `lost`.
    pub exact: bool,
}

/// A reader's books. `start + delivered + lost = read cursor` at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Seq the reader began at.
    pub start: u64,
    /// Datagrams handed out whole.
    pub delivered: u64,
    /// Datagrams it was lapped over.
    pub lost: u64,
    /// Payload bytes delivered.
    pub bytes_delivered: u64,
    /// Payload bytes lost, where known.
    pub bytes_lost: u64,
    /// Laps told.
    pub gaps: u64,
    /// Losses before the ring it was told of.
    pub upstream_lost: u64,
    /// Restarts it was told of.
    pub restarts: u64,
    /// What they cost, at least.
    pub restart_lost: u64,
    /// Largest lag seen, in datagrams.
    pub lag_max: u64,
    /// The last lap.
    pub last_gap: Option<Gap>,
}
