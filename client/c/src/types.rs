//! The structs that calls fill in. Every struct ends with room to grow, which the library sets to
//! zero.

use ringweir::{Account, Cause, Gap, Layer, Restart};
use std::ffi::c_ulonglong;

/// rw_gap.cause: the publisher lapped this reader, which was too slow. The seqs first to last are
/// lost.
pub const RW_LAPPED: u32 = 1;
/// rw_gap.cause: the datagrams were lost before they were published, so they have no seq. They were
/// due before seq first.
pub const RW_UPSTREAM: u32 = 2;
/// rw_gap.cause: the device behind the stream's source went away; what follows was sent after its
/// return.
pub const RW_SOURCE_GONE: u32 = 3;
/// rw_gap.cause: the broker was restarted.
pub const RW_RESTART: u32 = 4;

/// Where it was lost: the publisher lapped this reader.
pub const RW_LAYER_READER: u32 = 0;
/// Where it was lost: the device's own buffer overflowed.
pub const RW_LAYER_DEVICE: u32 = 1;
/// Where it was lost: the kernel had no room between driver and broker.
pub const RW_LAYER_KERNEL: u32 = 2;
/// Where it was lost: the broker received it and could not publish it (too long, malformed).
pub const RW_LAYER_BROKER: u32 = 3;

/// rw_gap.bytes: the number is not known.
pub const RW_UNKNOWN: c_ulonglong = u64::MAX;

/// One datagram.
#[repr(C)]
pub struct rw_datagram {
    /// Its first byte. From rw_next(): in the shared ring, 8-aligned, read-only, and valid until
    /// the next call on this reader. The bytes may be overwritten at any moment; rw_release() says
    /// whether they were. From rw_read(): your buffer.
    pub data: *const u8,
    /// Length in bytes.
    pub len: usize,
    /// Number in the stream, from 0.
    pub seq: c_ulonglong,
    /// Length in bytes before it was cut on its way into the ring; equals len if it was not.
    pub original_len: usize,
    /// When the source saw it: ns since 1970; 0 if the source does not report it.
    pub source_time: c_ulonglong,
    /// When the broker received it: CLOCK_MONOTONIC ns; rw_reader_date() turns it into a date.
    pub publish_time: c_ulonglong,
    /// Channel, 0 to 65535; 0 if there is only one.
    pub channel: u32,
    /// Zero.
    pub reserved0: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 2],
}

impl rw_datagram {
    /// Describes a datagram whose bytes are at `data`.
    #[inline(always)]
    pub(crate) fn of(datagram: &ringweir::Datagram<'_>, data: *const u8) -> Self {
        Self {
            data,
            len: datagram.len(),
            seq: datagram.seq(),
            original_len: datagram.original_len(),
            source_time: datagram.source_time().unwrap_or(0),
            publish_time: datagram.publish_time(),
            channel: datagram.channel().into(),
            reserved0: 0,
            reserved: [0; 2],
        }
    }
}

/// Datagrams a reader will never see.
#[repr(C)]
#[derive(Default)]
pub struct rw_gap {
    /// First seq lost; for RW_UPSTREAM and RW_SOURCE_GONE the seq before which it happened.
    pub first: c_ulonglong,
    /// Last seq lost; for RW_UPSTREAM and RW_SOURCE_GONE equal to first.
    pub last: c_ulonglong,
    /// How many were lost; last - first + 1 for RW_LAPPED; 0 for RW_SOURCE_GONE, because the number
    /// is not known.
    pub count: c_ulonglong,
    /// Their payload bytes, or RW_UNKNOWN.
    pub bytes: c_ulonglong,
    /// Publish time of the datagram at which reading continues (CLOCK_MONOTONIC ns); 0 if there is
    /// none yet.
    pub time: c_ulonglong,
    /// RW_LAPPED, RW_UPSTREAM or RW_SOURCE_GONE; with RW_RESTARTED always RW_RESTART.
    pub cause: u32,
    /// Where they were lost: RW_LAYER_READER, _DEVICE, _KERNEL or _BROKER; for RW_SOURCE_GONE
    /// always _DEVICE.
    pub layer: u32,
    /// 1: count is exact (always so for RW_LAPPED). 0: at least count were lost, because the layer
    /// below does not count exactly (always so for RW_SOURCE_GONE).
    pub exact: u32,
    /// RW_RESTART: 1 if the new broker took over the ring, so that seqs, account and sizes
    /// continue; count is what the restart cost. 0 if it made a fresh ring: the account begins
    /// anew, and metadata and geometry may have changed. For other causes 0.
    pub adopted: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 2],
}

impl From<Restart> for rw_gap {
    fn from(restart: Restart) -> Self {
        Self {
            first: restart.first,
            last: restart.first,
            count: restart.lost,
            bytes: RW_UNKNOWN,
            cause: RW_RESTART,
            layer: RW_LAYER_BROKER,
            exact: restart.exact.into(),
            adopted: restart.adopted.into(),
            ..Self::default()
        }
    }
}

impl From<Gap> for rw_gap {
    fn from(gap: Gap) -> Self {
        let lapped = (RW_LAPPED, RW_LAYER_READER, true, gap.first + gap.count.saturating_sub(1));
        let (cause, layer, exact, last) = match gap.cause {
            Cause::Lapped => lapped,
            Cause::Upstream { layer: Layer::Device, exact } => {
                (RW_UPSTREAM, RW_LAYER_DEVICE, exact, gap.first)
            }
            Cause::Upstream { layer: Layer::Kernel, exact } => {
                (RW_UPSTREAM, RW_LAYER_KERNEL, exact, gap.first)
            }
            Cause::Upstream { layer: Layer::Broker, exact } => {
                (RW_UPSTREAM, RW_LAYER_BROKER, exact, gap.first)
            }
            Cause::SourceGone => (RW_SOURCE_GONE, RW_LAYER_DEVICE, false, gap.first),
        };
        Self {
            first: gap.first,
            last,
            count: gap.count,
            bytes: gap.bytes.unwrap_or(RW_UNKNOWN),
            time: gap.time,
            cause,
            layer,
            exact: exact.into(),
            ..Self::default()
        }
    }
}

/// The account of a reader in this generation: always start + delivered + lost = read_cursor.
#[repr(C)]
#[derive(Default)]
pub struct rw_account {
    /// Seq at which it began.
    pub start: c_ulonglong,
    /// Datagrams delivered without being torn. One that is in hand, not released yet, is not
    /// counted.
    pub delivered: c_ulonglong,
    /// Datagrams lost because the reader was lapped.
    pub lost: c_ulonglong,
    /// Next seq to read.
    pub read_cursor: c_ulonglong,
    /// Payload bytes delivered.
    pub bytes_delivered: c_ulonglong,
    /// Payload bytes lost, where known.
    pub bytes_lost: c_ulonglong,
    /// Laps reported.
    pub gaps: c_ulonglong,
    /// Losses before the ring that were reported to it (these have no seq and are not in lost).
    pub upstream_lost: c_ulonglong,
    /// Largest lag seen, in datagrams.
    pub lag_max: c_ulonglong,
    /// Zero.
    pub reserved: [c_ulonglong; 7],
}

impl rw_account {
    pub(crate) fn of(account: &Account, read_cursor: u64) -> Self {
        Self {
            start: account.start,
            delivered: account.delivered,
            lost: account.lost,
            read_cursor,
            bytes_delivered: account.bytes_delivered,
            bytes_lost: account.bytes_lost,
            gaps: account.gaps,
            upstream_lost: account.upstream_lost,
            lag_max: account.lag_max,
            reserved: [0; 7],
        }
    }
}

/// Sizes of a ring.
#[repr(C)]
pub struct rw_geometry {
    /// Slots, a power of two: datagrams the ring holds at most.
    pub depth: c_ulonglong,
    /// Payload bytes the ring holds.
    pub capacity: c_ulonglong,
    /// Largest datagram in bytes: a buffer of this size is never too small.
    pub max_datagram: c_ulonglong,
    /// Zero.
    pub reserved: [c_ulonglong; 5],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What C sees of each kind of gap.
    #[test]
    fn gaps_convert_to_c() {
        let gap = |cause, bytes| rw_gap::from(Gap { first: 7, count: 3, bytes, time: 9, cause });
        let lapped = gap(Cause::Lapped, Some(30));
        assert_eq!(
            (lapped.first, lapped.last, lapped.count, lapped.bytes, lapped.time),
            (7, 9, 3, 30, 9)
        );
        assert_eq!((lapped.cause, lapped.layer, lapped.exact), (RW_LAPPED, RW_LAYER_READER, 1));
        for (layer, number) in [
            (Layer::Device, RW_LAYER_DEVICE),
            (Layer::Kernel, RW_LAYER_KERNEL),
            (Layer::Broker, RW_LAYER_BROKER),
        ] {
            let upstream = gap(Cause::Upstream { layer, exact: layer != Layer::Kernel }, None);
            assert_eq!(
                (upstream.first, upstream.last, upstream.count, upstream.bytes),
                (7, 7, 3, RW_UNKNOWN)
            );
            assert_eq!((upstream.cause, upstream.layer), (RW_UPSTREAM, number));
            assert_eq!(upstream.exact, u32::from(layer != Layer::Kernel));
        }
    }
}
