//! Latencies from publish to read, as C sees them: a histogram with its percentiles and buckets.

#![allow(unsafe_code)]

use crate::border::{live, quietly};
use crate::{Fault, border, rw_code, text, write};
use ringweir::view::{Histogram, Latency, buckets};
use std::ffi::{c_char, c_int, c_ulonglong};

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
///
/// # Safety
/// `latency` is NULL, or handed out by this library and not freed.
unsafe fn look(
    latency: *const rw_latency,
    act: impl FnOnce(&Latency) -> Result<rw_code, Fault>,
) -> c_int {
    border(|| {
        // SAFETY: by the caller's promise `latency` is NULL, or handed out by this library and not
        // freed.
        let seen = unsafe { live(latency) }.ok_or_else(|| Fault::invalid("latency is NULL"))?;
        act(&seen.0)
    })
}

/// Makes a histogram for the caller, who frees it.
///
/// # Safety
/// `out` is NULL or room for a pointer.
unsafe fn lend(out: *mut *mut rw_latency, make: impl FnOnce() -> Result<Latency, Fault>) -> c_int {
    border(|| {
        // SAFETY: by the caller's promise `out` is NULL or room for a pointer.
        unsafe { write(out, "latency", std::ptr::null_mut()) }?;
        let made = Box::into_raw(Box::new(rw_latency(make()?)));
        // SAFETY: the first `write` succeeded, so `out` is not NULL, aligned, and room for a
        // pointer.
        unsafe { write(out, "latency", made) }?;
        Ok(rw_code::RW_OK)
    })
}

/// Asks the broker of the stream name for the latencies of the reader whose figure "index"
/// (rw_watch_get()) is index. On RW_OK free *latency with rw_latency_free(), otherwise it is NULL.
/// RW_NOT_FOUND: no such stream, or no reader with that index. Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_ask(
    name: *const c_char,
    index: u32,
    latency: *mut *mut rw_latency,
) -> c_int {
    let make = || {
        // SAFETY: header, Pointers: `name` is NULL or a string that ends with a NUL.
        let name = unsafe { text(name, "name") }?;
        ringweir::view::latencies(name, &[index])?.pop().ok_or_else(|| Fault {
            code: rw_code::RW_NOT_FOUND,
            text: format!("stream {name:?} has no reader in place {index}"),
        })
    };
    // SAFETY: header, Pointers: `latency` is NULL or room for a pointer.
    unsafe { lend(latency, make) }
}

/// Asks the broker of the stream name for its drain gaps since the stream began: how long the
/// device's FIFO had been filling each time it was drained. On RW_OK free *latency with
/// rw_latency_free(), otherwise it is NULL. RW_NOT_FOUND: no such stream, or its source has no
/// FIFO. Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_drain_gaps_ask(
    name: *const c_char,
    latency: *mut *mut rw_latency,
) -> c_int {
    let make = || {
        // SAFETY: header, Pointers: `name` is NULL or a string that ends with a NUL.
        let name = unsafe { text(name, "name") }?;
        let histogram = ringweir::view::drain_gaps(name)?.ok_or_else(|| Fault {
            code: rw_code::RW_NOT_FOUND,
            text: format!("the source of stream {name:?} has no FIFO"),
        })?;
        // No reader has this index.
        Ok(Latency { index: u32::MAX, attached: 0, histogram })
    };
    // SAFETY: header, Pointers: `latency` is NULL or room for a pointer.
    unsafe { lend(latency, make) }
}

/// Makes a histogram of the samples that latency has and before does not have; both must be of the
/// same reader. Its longest sample is only as exact as its bucket. On RW_OK free *since with
/// rw_latency_free(), otherwise it is NULL. Errors: RW_INVALID (also: of two readers).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_since(
    latency: *const rw_latency,
    before: *const rw_latency,
    since: *mut *mut rw_latency,
) -> c_int {
    let make = || {
        // SAFETY: header, Pointers: `latency` is NULL, or handed out by this library and not freed.
        let now = unsafe { live(latency) };
        // SAFETY: header, Pointers: `before` is NULL, or handed out by this library and not freed.
        let then = unsafe { live(before) };
        let (Some(rw_latency(now)), Some(rw_latency(then))) = (now, then) else {
            return Err(Fault::invalid("latency or before is NULL"));
        };
        if (now.index, now.attached) != (then.index, then.attached) {
            return Err(Fault::invalid("latency and before are of two readers"));
        }
        Ok(Latency { histogram: now.histogram.since(&then.histogram), ..*now })
    };
    // SAFETY: header, Pointers: `since` is NULL or room for a pointer.
    unsafe { lend(since, make) }
}

/// Number of samples, their sum, and the longest one. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_all(
    latency: *const rw_latency,
    total: *mut rw_latency_total,
) -> c_int {
    let act = |seen: &Latency| {
        let Histogram { sum_ns, max_ns, .. } = seen.histogram;
        let (attached_realtime, samples) = (seen.attached, seen.histogram.samples());
        let told =
            rw_latency_total { attached_realtime, samples, sum_ns, max_ns, reserved: [0; 4] };
        // SAFETY: header, Pointers: `total` is NULL or room for one, which `write` checks.
        unsafe { write(total, "total", told) }?;
        Ok(rw_code::RW_OK)
    };
    // SAFETY: header, Pointers: `latency` is NULL, or handed out by this library and not freed.
    unsafe { look(latency, act) }
}

/// The time in ns that a share (0 to 1) of the samples does not exceed; share 0.99 gives the 99th
/// percentile. *ns is at most 12.5 % too high, never too low, and never above the longest sample.
/// RW_EMPTY: there are no samples, and *ns is untouched. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_quantile(
    latency: *const rw_latency,
    share: f64,
    ns: *mut c_ulonglong,
) -> c_int {
    let act = |seen: &Latency| {
        if !(0.0..=1.0).contains(&share) {
            return Err(Fault::invalid(format!("share {share}: use 0 to 1")));
        }
        let Some(found) = seen.histogram.quantile(share) else { return Ok(rw_code::RW_EMPTY) };
        // SAFETY: header, Pointers: `ns` is NULL or room for one, which `write` checks.
        unsafe { write(ns, "ns", found) }?;
        Ok(rw_code::RW_OK)
    };
    // SAFETY: header, Pointers: `latency` is NULL, or handed out by this library and not freed.
    unsafe { look(latency, act) }
}

/// Bucket i (from 0) of the buckets that are not empty, in rising order. RW_EMPTY: i is past the
/// last one, and *bucket is untouched. Errors: RW_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_bucket(
    latency: *const rw_latency,
    i: usize,
    bucket: *mut rw_bucket,
) -> c_int {
    let act = |seen: &Latency| {
        let Some(found) = buckets(&seen.histogram).nth(i) else {
            return Ok(rw_code::RW_EMPTY);
        };
        let told = rw_bucket {
            from_ns: found.from_ns,
            to_ns: found.to_ns,
            count: found.count,
            reserved: 0,
        };
        // SAFETY: header, Pointers: `bucket` is NULL or room for one, which `write` checks.
        unsafe { write(bucket, "bucket", told) }?;
        Ok(rw_code::RW_OK)
    };
    // SAFETY: header, Pointers: `latency` is NULL, or handed out by this library and not freed.
    unsafe { look(latency, act) }
}

/// Frees a histogram. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_latency_free(latency: *mut rw_latency) {
    quietly((), || {
        if !latency.is_null() && latency.is_aligned() {
            // SAFETY: header, Pointers: not NULL, so handed out by this library (`lend` made it
            // with Box::into_raw), and not used again.
            drop(unsafe { Box::from_raw(latency) });
        }
    });
}
