//! The publisher as C sees it: create, claim and commit or publish, report losses, destroy.
//!
//! Contract: at most one claim is open, until it is committed or another one is made. A publisher
//! serves one call at a time and refuses a second one.

#![allow(unsafe_code)]

use crate::args::{Back, In, InMut, Out, Text};
use crate::handle::Handle;
use crate::types::{RW_LAYER_BROKER, RW_LAYER_DEVICE, RW_LAYER_KERNEL};
use crate::{Fault, rw_code};
use ringweir_broker::{Arrival, Layer, PublishError, Publisher, StartError, StreamOptions};
use std::ffi::{c_int, c_ulonglong, c_void};
use std::ptr::null_mut;
use std::time::Duration;

/// rw_publisher_options.flags: the ring is a sealed memfd, without a name in /dev/shm. It cannot be
/// adopted after the program's death.
pub const RW_MEMFD: u32 = 1;
/// rw_publisher_options.flags: use huge pages as far as the kernel has some.
pub const RW_HUGE_PAGES: u32 = 2;
/// rw_publisher_options.flags: the stream waits for lossless readers without limit. Without it, and
/// with a lossless_ns of 0, no reader may attach lossless.
pub const RW_WAIT_FOREVER: u32 = 4;

/// How a stream is served. All zero is a good choice; fields you do not know must be zero.
#[repr(C)]
pub struct rw_publisher_options<'a> {
    /// Directory of the control socket; NULL: where readers look by default.
    pub run_dir: Text<'a>,
    /// Group whose members may attach, by name or number; NULL: only root and this user.
    pub group: Text<'a>,
    /// Metadata for readers, lines of KEY=VALUE; NULL: none.
    pub metadata: Text<'a>,
    /// Room for payload, in bytes; 0: 8 MiB, or what depth implies.
    pub capacity: c_ulonglong,
    /// How many datagrams the ring remembers, at least; 0: 16384, or what capacity implies.
    pub depth: c_ulonglong,
    /// The largest datagram, in bytes, up to 16 MiB; 0: 64 KiB.
    pub max_datagram: c_ulonglong,
    /// The usual size of a datagram, in bytes: converts capacity into depth and back; 0: 1024.
    pub usual_datagram: c_ulonglong,
    /// How long the stream waits for a lossless reader in all, in ns; 0: no reader may attach
    /// lossless (but see RW_WAIT_FOREVER).
    pub lossless_ns: c_ulonglong,
    /// How many bytes a lossless reader may be behind before the stream waits for it; 0: the whole
    /// ring.
    pub lossless_bytes: c_ulonglong,
    /// Most readers at the same time, up to 4096; 0: 64.
    pub readers_max: u32,
    /// Any of RW_MEMFD, RW_HUGE_PAGES, RW_WAIT_FOREVER, or'ed.
    pub flags: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 6],
}

/// What the source knows of a datagram beside its bytes.
#[repr(C)]
pub struct rw_arrival {
    /// When the source saw it: ns since 1970; 0: not known.
    pub source_time: c_ulonglong,
    /// Its length in bytes before it was cut; 0: it was not cut.
    pub original_len: u32,
    /// Channel, 0 to 65535.
    pub channel: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 2],
}

/// The figures of a publisher.
#[repr(C)]
pub struct rw_published {
    /// Seq of the next datagram. It is not 0 at the start if the ring of an earlier run of the
    /// program was adopted.
    pub next_seq: c_ulonglong,
    /// Readers that are attached now.
    pub readers: c_ulonglong,
    /// How often the stream has waited for lossless readers.
    pub waits: c_ulonglong,
    /// For how long in all, in ns.
    pub waited_ns: c_ulonglong,
    /// The largest datagram, in bytes.
    pub max_datagram: c_ulonglong,
    /// Zero.
    pub reserved: [c_ulonglong; 3],
}

/// The writing end of a stream. Made by rw_publisher_create(), ended by rw_publisher_destroy().
/// Used by one thread at a time, which need not be the one that made it: several threads need a
/// lock around its calls, or a publisher and stream each, which is faster. It stays with the
/// process that made it: in a child of fork() calls return RW_FORKED.
pub struct rw_publisher(Handle<Publishing>);

struct Publishing {
    publisher: Publisher,
    /// Length of the open claim.
    claimed: Option<usize>,
}

impl rw_publisher {
    #[inline]
    fn enter(
        publisher: In<'_, rw_publisher>,
        act: impl FnOnce(&mut Publishing) -> Result<rw_code, Fault>,
    ) -> c_int {
        Handle::enter(publisher.get().map(|publisher| &publisher.0), act)
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Self {
        Self { code: rw_code::RW_NOT_STARTED, text: error.to_string() }
    }
}

impl From<PublishError> for Fault {
    fn from(error: PublishError) -> Self {
        let code = match error {
            PublishError::Forked => rw_code::RW_FORKED,
            PublishError::NotServed => rw_code::RW_NOT_RUNNING,
            _ => rw_code::RW_INVALID,
        };
        Self { code, text: error.to_string() }
    }
}

fn options(name: &str, given: In<'_, rw_publisher_options<'_>>) -> Result<StreamOptions, Fault> {
    let mut chosen = StreamOptions::new(name);
    if given.is_null() {
        return Ok(chosen);
    }
    let given = given.get().ok_or_else(|| Fault::invalid("options are misaligned"))?;
    let unknown = given.flags & !(RW_MEMFD | RW_HUGE_PAGES | RW_WAIT_FOREVER);
    if unknown != 0 {
        return Err(Fault::invalid(format!("flags {unknown:#x} are unknown to this release")));
    }
    if given.reserved != [0; 6] {
        return Err(Fault::invalid(
            "a reserved field of the options is not zero: set the struct to zero first",
        ));
    }
    if !given.run_dir.is_null() {
        chosen = chosen.run_dir(given.run_dir.read("run_dir")?);
    }
    if !given.group.is_null() {
        chosen = chosen.group(given.group.read("group")?);
    }
    if !given.metadata.is_null() {
        for line in given.metadata.read("metadata")?.lines() {
            let (key, value) = line.split_once('=').ok_or_else(|| {
                Fault::invalid(format!("metadata {line:?}: lines of KEY=VALUE are expected"))
            })?;
            chosen = chosen.metadata(key, value);
        }
    }
    let set = |value: c_ulonglong| (value != 0).then_some(value);
    if let Some(bytes) = set(given.capacity) {
        chosen = chosen.capacity(bytes);
    }
    if let Some(datagrams) = set(given.depth) {
        chosen = chosen.depth(datagrams);
    }
    if let Some(bytes) = set(given.max_datagram) {
        chosen = chosen.max_datagram(bytes);
    }
    if let Some(bytes) = set(given.usual_datagram) {
        chosen = chosen.usual_datagram(bytes);
    }
    if given.readers_max != 0 {
        chosen = chosen.readers_max(given.readers_max);
    }
    let has = |flag| given.flags & flag != 0;
    let time = set(given.lossless_ns).map(Duration::from_nanos);
    if has(RW_WAIT_FOREVER) && time.is_some() {
        return Err(Fault::invalid("RW_WAIT_FOREVER contradicts a lossless_ns"));
    }
    if has(RW_WAIT_FOREVER) || time.is_some() {
        chosen = chosen.lossless(set(given.lossless_bytes), time);
    } else if given.lossless_bytes != 0 {
        return Err(Fault::invalid("lossless_bytes goes with lossless_ns or RW_WAIT_FOREVER"));
    }
    if has(RW_MEMFD) {
        chosen = chosen.memfd();
    }
    if has(RW_HUGE_PAGES) {
        chosen = chosen.huge_pages();
    }
    Ok(chosen)
}

/// NULL means that nothing is known.
#[inline]
fn arrival(given: In<'_, rw_arrival>) -> Result<Arrival, Fault> {
    if given.is_null() {
        return Ok(Arrival::default());
    }
    let rw_arrival { source_time, original_len, channel, reserved } =
        given.get().ok_or_else(|| Fault::invalid("arrival is misaligned"))?;
    let channel = u16::try_from(*channel)
        .map_err(|_| Fault::invalid(format!("channel {channel}: 0 to 65535 are possible")))?;
    if *reserved != [0; 2] {
        return Err(Fault::invalid("a reserved field of the arrival is not zero"));
    }
    Ok(Arrival { original_len: *original_len, channel, source_time: *source_time })
}

/// Serves the stream name, which this program publishes. options may be NULL. On RW_OK end
/// *publisher with rw_publisher_destroy(), otherwise it is NULL. If an earlier run of the program
/// died, its ring is adopted: readers read on and get RW_RESTARTED. The library starts two threads
/// for each publisher; they sleep unless readers attach, sleep or leave, and look after them ten
/// times a second. Errors: RW_INVALID, RW_NOT_STARTED (the name is served already, a value is out
/// of range, no room: the message says it), RW_PANIC.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_create(
    name: Text<'_>,
    options: In<'_, rw_publisher_options<'_>>,
    publisher: Out<'_, *mut rw_publisher>,
) -> c_int {
    publisher.lend("publisher", || {
        let publisher = self::options(name.read("name")?, options)?.build()?;
        Ok(rw_publisher(Handle::new(Publishing { publisher, claimed: None })))
    })
}

/// Ends the stream: readers read what is there, then get RW_ENDED. NULL is fine. RW_BUSY: another
/// call is using it, and nothing was done. In a child of fork() it frees the child's memory only.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_destroy(publisher: Back<rw_publisher>) -> c_int {
    Handle::discard(publisher, |publisher| &publisher.0)
}

/// Publishes the size bytes at data as one datagram, and shows it to readers at once. arrival may
/// be NULL. Made for call-backs: it needs no other call. It waits for no lossy reader, and for
/// lossless ones as long as their budget allows. An open claim is given up, and data must not be
/// its memory. Errors: RW_INVALID (longer than the largest datagram), RW_BUSY, RW_FORKED,
/// RW_NOT_RUNNING (the library's control thread has ended), RW_PANIC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_publish(
    publisher: InMut<'_, rw_publisher>,
    data: *const c_void,
    size: usize,
    arrival: In<'_, rw_arrival>,
) -> c_int {
    // SAFETY: header, Pointers: `data` has `size` bytes, which no other thread changes during the
    // call.
    unsafe { put(publisher, data, size, arrival, Publisher::publish_as) }
}

/// As rw_publish(), but returns RW_WOULD_WAIT instead of waiting for a lossless reader; nothing was
/// published then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rw_try_publish(
    publisher: InMut<'_, rw_publisher>,
    data: *const c_void,
    size: usize,
    arrival: In<'_, rw_arrival>,
) -> c_int {
    // SAFETY: header, Pointers: `data` has `size` bytes, which no other thread changes during the
    // call.
    unsafe { put(publisher, data, size, arrival, Publisher::try_publish) }
}

/// Publishes in one of the two ways.
///
/// # Safety
/// `data` has `size` bytes that do not change during the call.
#[inline]
unsafe fn put(
    publisher: InMut<'_, rw_publisher>,
    data: *const c_void,
    size: usize,
    arrival: In<'_, rw_arrival>,
    how: fn(&mut Publisher, &[u8], Arrival) -> Result<(), PublishError>,
) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        let arrival = self::arrival(arrival)?;
        // SAFETY: the caller's promise.
        let bytes = unsafe { given(data, size)? };
        publishing.claimed = None;
        match how(&mut publishing.publisher, bytes, arrival) {
            Err(PublishError::WouldWait) => Ok(rw_code::RW_WOULD_WAIT),
            done => done.map(|()| rw_code::RW_OK).map_err(Fault::from),
        }
    })
}

/// # Safety
/// `data` has `size` bytes that do not change while the result is used.
#[inline]
unsafe fn given<'a>(data: *const c_void, size: usize) -> Result<&'a [u8], Fault> {
    if size == 0 {
        return Ok(&[]);
    }
    if data.is_null() || isize::try_from(size).is_err() {
        return Err(Fault::invalid(format!("data is {data:?}, its size {size}")));
    }
    // SAFETY: not NULL, and below isize::MAX (both checked); the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), size) })
}

/// Claims size bytes of the ring itself, so that nothing is copied: *memory is 8-aligned, and valid
/// for writing until rw_publisher_commit() or another call on this publisher that publishes or
/// claims; in a child of fork() never. Claiming the same size again gives the same memory with what
/// was filled in. Its old content is lost to readers from now on. Waits as rw_publish() does.
/// Errors: those of rw_publish(); *memory is NULL then.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_claim(
    publisher: InMut<'_, rw_publisher>,
    size: usize,
    memory: Out<'_, *mut c_void>,
) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        memory.write("memory", null_mut())?;
        publishing.claimed = None;
        let mut claim = publishing.publisher.claim(size)?;
        memory.write("memory", claim.bytes().as_mut_ptr().cast())?;
        publishing.claimed = Some(size);
        Ok(rw_code::RW_OK)
    })
}

/// Commits the first size bytes of the open claim as the next datagram; rw_publisher_flush() shows
/// it. arrival may be NULL. If a lossless reader has attached since the claim, this may wait for
/// it. Errors: RW_INVALID (no claim is open, or size is larger than it), RW_BUSY, RW_FORKED,
/// RW_NOT_RUNNING, RW_PANIC.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_commit(
    publisher: InMut<'_, rw_publisher>,
    size: usize,
    arrival: In<'_, rw_arrival>,
) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        let arrival = self::arrival(arrival)?;
        let claimed = publishing.claimed.ok_or_else(|| {
            Fault::invalid("no claim is open: it was committed already, or never made")
        })?;
        if size > claimed {
            return Err(PublishError::PastTheClaim { asked: size, claimed }.into());
        }
        // The same memory again, with what was filled in.
        publishing.publisher.claim(claimed)?.commit_as(size, arrival)?;
        publishing.claimed = None;
        Ok(rw_code::RW_OK)
    })
}

/// Shows all commits to readers, and wakes those that sleep. What nobody flushes is shown after 64
/// commits, or when the program has been silent for 200 ms. Errors: RW_INVALID, RW_BUSY, RW_FORKED,
/// RW_PANIC.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_flush(publisher: InMut<'_, rw_publisher>) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        publishing.publisher.flush()?;
        Ok(rw_code::RW_OK)
    })
}

/// Reports that count datagrams were lost before the next one, in a layer (RW_LAYER_DEVICE,
/// RW_LAYER_KERNEL or RW_LAYER_BROKER); exact 0: at least so many. Readers get a gap of cause
/// RW_UPSTREAM before the next datagram. Errors: RW_INVALID, RW_BUSY, RW_FORKED, RW_PANIC.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_lost(
    publisher: InMut<'_, rw_publisher>,
    layer: u32,
    count: c_ulonglong,
    exact: c_int,
) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        let layer = match layer {
            RW_LAYER_DEVICE => Layer::Device,
            RW_LAYER_KERNEL => Layer::Kernel,
            RW_LAYER_BROKER => Layer::Broker,
            other => {
                return Err(Fault::invalid(format!(
                    "layer {other}: use RW_LAYER_DEVICE, RW_LAYER_KERNEL or RW_LAYER_BROKER"
                )));
            }
        };
        publishing.publisher.lost(layer, count, exact != 0)?;
        Ok(rw_code::RW_OK)
    })
}

/// The publisher's figures. Errors: RW_INVALID, RW_BUSY, RW_FORKED, RW_PANIC.
#[unsafe(no_mangle)]
pub extern "C" fn rw_publisher_stats(
    publisher: InMut<'_, rw_publisher>,
    figures: Out<'_, rw_published>,
) -> c_int {
    rw_publisher::enter(publisher, |publishing| {
        if publishing.publisher.is_in_child() {
            return Err(PublishError::Forked.into());
        }
        let (waits, waited) = publishing.publisher.waited();
        let now = rw_published {
            next_seq: publishing.publisher.next_seq(),
            readers: publishing.publisher.readers() as c_ulonglong,
            waits,
            waited_ns: waited.as_nanos() as c_ulonglong,
            max_datagram: publishing.publisher.max_datagram() as c_ulonglong,
            reserved: [0; 3],
        };
        figures.write("figures", now)?;
        Ok(rw_code::RW_OK)
    })
}
