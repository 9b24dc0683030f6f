//! Latencies from publish to read, as C sees them: a histogram with its percentiles and buckets.

#![allow(unsafe_code, reason = "exported symbols")]

use crate::args::{Back, In, Out, Text};
use crate::border::quietly;
use crate::{Fault, border, rw_code};
use ringweir::view::{Histogram, Latency, buckets};
use std::ffi::{c_int, c_ulonglong};

/// Latencies of one reader from publish to read. The reader samples at most one datagram per
/// millisecond. Constant, so any number of threads may use it.
pub struct rw_latency(Latency);

/// Totals of a histogram.
#[repr(C)]
pub struct rw_latency_total {
    /// When the reader attached, ns since 1970; together with its index this identifies it. 0 for
    /// drain gaps.
    pub attached_realtime: c_ulonglong,
    /// Number of samples.
    pub samples: c_ulonglong,
    /// Sum of all samples, ns.
    pub sum_ns: c_ulonglong,
    /// The longest sample, ns.
    pub max_ns: c_ulonglong,
    /// Zero.
    pub reserved: [c_ulonglong; 4],
}

/// Samples of at least from_ns and less than to_ns.
#[repr(C)]
pub struct rw_bucket {
    /// The shortest time in it, ns.
    pub from_ns: c_ulonglong,
    /// The shortest time above it, ns: at most an eighth above from_ns, or 1 above it. UINT64_MAX
    /// for the last bucket.
    pub to_ns: c_ulonglong,
    /// Samples in it, never 0.
    pub count: c_ulonglong,
    /// Zero.
    pub reserved: c_ulonglong,
}

/// Runs one entry on a histogram.
fn look(
    latency: In<'_, rw_latency>,
    act: impl FnOnce(&Latency) -> Result<rw_code, Fault>,
) -> c_int {
    border(|| act(&latency.get().ok_or_else(|| Fault::invalid("latency is NULL"))?.0))
}

/// Asks the broker of the stream name for the latencies of the reader whose figure "index"
/// (rw_watch_get()) is index. On RW_OK free *latency with rw_latency_free(), otherwise it is NULL.
/// RW_NOT_FOUND: no such stream, or no reader with that index. Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_ask(
    name: Text<'_>,
    index: u32,
    latency: Out<'_, *mut rw_latency>,
) -> c_int {
    let make = || {
        let name = name.read("name")?;
        ringweir::view::latencies(name, &[index])?.pop().map(rw_latency).ok_or_else(|| Fault {
            code: rw_code::RW_NOT_FOUND,
            text: format!("no reader of stream {name:?} has index {index}"),
        })
    };
    latency.lend("latency", make)
}

/// Asks the broker of the stream name for its drain gaps since the stream began: how long the
/// device's FIFO had been filling each time it was drained. On RW_OK free *latency with
/// rw_latency_free(), otherwise it is NULL. RW_NOT_FOUND: no such stream, or its source has no
/// FIFO. Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub extern "C" fn rw_drain_gaps_ask(name: Text<'_>, latency: Out<'_, *mut rw_latency>) -> c_int {
    let make = || {
        let name = name.read("name")?;
        let histogram = ringweir::view::drain_gaps(name)?.ok_or_else(|| Fault {
            code: rw_code::RW_NOT_FOUND,
            text: format!("the source of stream {name:?} has no FIFO"),
        })?;
        // No reader has this index.
        Ok(rw_latency(Latency { index: u32::MAX, attached: 0, histogram }))
    };
    latency.lend("latency", make)
}

/// Makes a histogram of the samples that latency has and before does not have; both must be of the
/// same reader. Its longest sample is only as exact as its bucket. On RW_OK free *since with
/// rw_latency_free(), otherwise it is NULL. Errors: RW_INVALID (also: of two readers).
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_since(
    latency: In<'_, rw_latency>,
    before: In<'_, rw_latency>,
    since: Out<'_, *mut rw_latency>,
) -> c_int {
    let make = || {
        let (Some(rw_latency(now)), Some(rw_latency(then))) = (latency.get(), before.get()) else {
            return Err(Fault::invalid("latency or before is NULL"));
        };
        if (now.index, now.attached) != (then.index, then.attached) {
            return Err(Fault::invalid("latency and before are of two readers"));
        }
        Ok(rw_latency(Latency { histogram: now.histogram.since(&then.histogram), ..*now }))
    };
    since.lend("since", make)
}

/// Number of samples, their sum, and the longest one. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_all(
    latency: In<'_, rw_latency>,
    total: Out<'_, rw_latency_total>,
) -> c_int {
    let act = |seen: &Latency| {
        let Histogram { sum_ns, max_ns, .. } = seen.histogram;
        let (attached_realtime, samples) = (seen.attached, seen.histogram.samples());
        let sums =
            rw_latency_total { attached_realtime, samples, sum_ns, max_ns, reserved: [0; 4] };
        total.write("total", sums)?;
        Ok(rw_code::RW_OK)
    };
    look(latency, act)
}

/// The time in ns that a share (0 to 1) of the samples does not exceed; share 0.99 gives the 99th
/// percentile. *ns is at most 12.5 % too high, never too low, and never above the longest sample.
/// RW_EMPTY: there are no samples, and *ns is untouched. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_quantile(
    latency: In<'_, rw_latency>,
    share: f64,
    ns: Out<'_, c_ulonglong>,
) -> c_int {
    let act = |seen: &Latency| {
        if !(0.0..=1.0).contains(&share) {
            return Err(Fault::invalid(format!("share {share}: use 0 to 1")));
        }
        let Some(found) = seen.histogram.quantile(share) else { return Ok(rw_code::RW_EMPTY) };
        ns.write("ns", found)?;
        Ok(rw_code::RW_OK)
    };
    look(latency, act)
}

/// Bucket i (from 0) of the buckets that are not empty, in rising order. RW_EMPTY: i is past the
/// last one, and *bucket is untouched. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_bucket(
    latency: In<'_, rw_latency>,
    i: usize,
    bucket: Out<'_, rw_bucket>,
) -> c_int {
    let act = |seen: &Latency| {
        let Some(found) = buckets(&seen.histogram).nth(i) else {
            return Ok(rw_code::RW_EMPTY);
        };
        let one = rw_bucket {
            from_ns: found.from_ns,
            to_ns: found.to_ns,
            count: found.count,
            reserved: 0,
        };
        bucket.write("bucket", one)?;
        Ok(rw_code::RW_OK)
    };
    look(latency, act)
}

/// Frees a histogram. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn rw_latency_free(latency: Back<rw_latency>) {
    quietly((), || drop(latency.take(|_| Ok(()))));
}
