//! The bytes that processes share: every struct of the ring object and of the reader page, and the
//! checked geometry.
//!
//! Contract: the `repr(C)` structs here are the ABI. Each field's offset is asserted below and
//! compared with a C program in `tests/`; changing one takes a new [`LAYOUT_VERSION`]. Integers are
//! little-endian because every supported machine is. A ring object is: one [`Header`] page, `depth`
//! [`Slot`]s, `capacity` payload bytes, each part on a page boundary. A reader's page object is two
//! pages: the first holds one [`ReaderBlock`] at an offset which differs from reader to reader, the
//! second begins with its [`LatencyBlock`].

use crate::sync::AtomicU64;

/// First eight bytes of a ring object: "RINGWEIR".
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGWEIR");
/// Version of everything in this file.
pub const LAYOUT_VERSION: u32 = 4;
/// Distance that keeps two words in separate cache lines, adjacent-line prefetch included.
pub const LINE: usize = 128;
/// Alignment of the parts of a ring object, whatever the machine's page size is.
pub const PAGE: usize = 4096;
/// Longest stream name, in bytes.
pub const NAME_MAX: usize = 64;
/// Room for key/value metadata, in bytes.
pub const METADATA_MAX: usize = 2048 - 8;
/// Largest datagram any ring may be configured for: 16 MiB.
pub const DATAGRAM_MAX: u64 = 16 << 20;
/// Most readers of a stream.
pub const READERS_MAX: u32 = 4096;
/// Largest number of slots: 2^26.
pub const DEPTH_MAX: u64 = 1 << 26;

/// The constant part of the header: plain words, written once, before any other process can see the
/// object.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`LAYOUT_VERSION`].
    pub layout_version: u32,
    /// Size of [`Header`], so that later versions can enlarge it.
    pub header_bytes: u32,
    /// Size of the whole object.
    pub total_bytes: u64,
    /// Number of slots, a power of two.
    pub depth: u64,
    /// Payload bytes.
    pub capacity: u64,
    /// Largest datagram in bytes.
    pub max_datagram: u64,
    /// Slots claimed at a time.
    pub claim_slots: u64,
    /// Payload bytes claimed at a time.
    pub claim_bytes: u64,
    /// Where the slots begin.
    pub slots_offset: u64,
    /// Where the payload begins.
    pub payload_offset: u64,
    /// CLOCK_REALTIME of creation, ns.
    pub created_ns: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC at creation, ns: converts publish times to dates.
    pub realtime_offset_ns: u64,
    /// The kernel's boot id: monotonic times of different boots cannot be compared.
    pub boot_id: [u8; 16],
    /// Process that created the object.
    pub broker_pid: u32,
    /// User that owns it.
    pub owner_uid: u32,
    /// Stream name, zero-padded.
    pub name: [u8; NAME_MAX],
    /// Zero.
    pub reserved: [u64; 41],
}

/// What may be overwritten at any moment: slots of seqs below `seq - depth`, payload at positions
/// below `pos - capacity`. Both words share one line.
#[repr(C, align(128))]
pub struct ClaimLine {
    /// Seqs below this one are committed or may be being written.
    pub seq: AtomicU64,
    /// Virtual payload positions below this one are in use or may be being written.
    pub pos: AtomicU64,
    /// Zero.
    pub reserved: [u64; 14],
}

/// How far the stream has been written.
#[repr(C, align(128))]
pub struct WriteLine {
    /// The write cursor: all seqs below it are committed.
    pub seq: AtomicU64,
    /// Zero.
    pub reserved: [u64; 15],
}

/// State that changes rarely.
#[repr(C, align(128))]
pub struct StateLine {
    /// 0 running; 1 ended: nothing more will be published.
    pub ended: AtomicU64,
    /// Generation of the ring, from 1. Each adoption adds 1.
    pub generation: AtomicU64,
    /// Once ended: the losses before the ring up to the end, as in [`Slot::tags`] from bit 16 on.
    pub upstream: AtomicU64,
    /// Whether the source's device is present: twice the number of times it went away, plus 1 while
    /// it is away.
    pub source: AtomicU64,
    /// For a source that numbers its datagrams: how its numbers relate to ours. It is the numbers
    /// accounted for minus (write cursor + losses reported in slots + losses reported by restarts),
    /// modulo 2^32, with bit 63 set; 0 = not known.
    pub position: AtomicU64,
    /// Zero.
    pub reserved: [u64; 11],
}

/// Number of restarts that a ring remembers. Fewer in models: loom creates every word again for
/// each run.
pub const RESTARTS: usize = if cfg!(ringweir_loom) { 3 } else { 16 };

/// How one generation of the ring began, if by adoption. `lost` and `inexact` are sums over all
/// restarts: the difference of two records is what the restarts between them cost.
#[repr(C)]
pub struct RestartRecord {
    /// The generation that began. If it is not the one looked for, or 0, there is no record of that
    /// one.
    pub generation: AtomicU64,
    /// Its first seq.
    pub first: AtomicU64,
    /// Datagrams that all restarts up to this one cost, beyond those that readers learn of in
    /// another way.
    pub lost: AtomicU64,
    /// Number of these restarts that lost an unknown number more.
    pub inexact: AtomicU64,
}

/// The newest restarts. The record of generation `g` is at `g % RESTARTS`.
#[repr(C, align(128))]
pub struct RestartLines {
    /// The records, reused in turn.
    pub record: [RestartRecord; RESTARTS],
}

/// The pump's counters. The pump alone writes them; the statistics sampler reads them. The index is
/// a [`crate::stats::PumpCounter`].
#[repr(C, align(128))]
pub struct CounterLines {
    /// Counts from 0.
    pub count: [AtomicU64; 32],
}

/// First page of a ring object.
#[repr(C, align(4096))]
pub struct Header {
    /// Constant after creation.
    pub identity: Identity,
    /// Alone on its line: readers re-check it after every datagram.
    pub claim: ClaimLine,
    /// Alone on its line: it moves once per batch.
    pub write: WriteLine,
    /// Rarely changing.
    pub state: StateLine,
    /// Counters.
    pub counters: CounterLines,
    /// Zero.
    pub reserved: [u64; 48],
    /// How its generations began.
    pub restarts: RestartLines,
    /// Bytes used in `metadata`.
    pub metadata_len: u64,
    /// `key NUL value NUL …`, UTF-8, constant after creation.
    pub metadata: [u8; METADATA_MAX],
}

/// Descriptor of one datagram; one cache line.
#[repr(C, align(64))]
pub struct Slot {
    /// seq + 1; 0 = never written.
    pub stamp: AtomicU64,
    /// Virtual payload position: it only grows, and counts padding too.
    pub pos: AtomicU64,
    /// Where the payload lies: byte offset in the payload area.
    pub offset: AtomicU64,
    /// Length in the low, original length in the high 32 bits.
    pub lengths: AtomicU64,
    /// Channel in bits 0..16, [`flags`] in bits 16..32, count of datagrams lost before the ring,
    /// modulo 2^32, above.
    pub tags: AtomicU64,
    /// When the source saw it: CLOCK_REALTIME ns, 0 = unknown.
    pub source_time: AtomicU64,
    /// When the broker took its batch from the source: CLOCK_MONOTONIC ns.
    pub publish_time: AtomicU64,
    /// Sum of the lengths of all earlier datagrams, which makes the bytes of any gap exact.
    pub bytes_before: AtomicU64,
}

/// Bits of [`Slot::tags`], 16..32 (shown here shifted down).
pub mod flags {
    /// The datagram was cut; its original length is kept.
    pub const TRUNCATED: u16 = 1 << 0;
    /// The count of losses since the previous datagram is a lower bound (the layer below does not
    /// count).
    pub const LOSS_UNKNOWN: u16 = 1 << 1;
    /// The layer of the latest loss: 0 none, 1 device, 2 kernel, 3 broker.
    pub const LAYER_SHIFT: u16 = 2;
    /// Mask of the layer after shifting.
    pub const LAYER_MASK: u16 = 3;
    /// The count of losses since the stream began is a lower bound. This serves a reader that was
    /// lapped in between.
    pub const LOSS_EVER_UNKNOWN: u16 = 1 << 4;
    /// From this bit up: how often the source's device had gone away before this datagram, modulo
    /// 2^11.
    pub const GONE_SHIFT: u16 = 5;
}

/// What one reader reports about itself. It is the only shared memory that a reader can write. The
/// broker loads each word once, clamps it and never trusts it.
#[repr(C, align(128))]
pub struct ReaderBlock {
    /// Read cursor: the next seq to read. Between two reads it equals `start + delivered + lost`.
    pub read_seq: AtomicU64,
    /// The seq at which the reader began.
    pub start_seq: AtomicU64,
    /// Datagrams handed out whole.
    pub delivered: AtomicU64,
    /// Datagrams that it lost because it was lapped.
    pub lost: AtomicU64,
    /// Gaps reported.
    pub gaps: AtomicU64,
    /// Payload bytes delivered.
    pub bytes_delivered: AtomicU64,
    /// Payload bytes lost, where known.
    pub bytes_lost: AtomicU64,
    /// Largest lag seen, datagrams.
    pub lag_max: AtomicU64,
    /// Last gap: first seq lost.
    pub last_gap_first: AtomicU64,
    /// Last gap: number of datagrams lost.
    pub last_gap_count: AtomicU64,
    /// Last gap: when it was noticed, CLOCK_REALTIME ns.
    pub last_gap_time: AtomicU64,
    /// Losses before the ring that were reported to it.
    pub upstream_lost: AtomicU64,
    /// 0 running, 1 waiting.
    pub waiting: AtomicU64,
    /// `bytes_before` of the next datagram: the read cursor in bytes.
    pub read_bytes: AtomicU64,
    /// Who detached it by force ([`DetachedBy`]), 0 while attached. The broker writes it, once. It
    /// is on the line that the reader writes anyway, so checking it costs nothing.
    pub detached_by: AtomicU64,
    /// Set once this lossless reader is demoted ([`crate::ring::Demoted`]), 0 while the stream
    /// waits for it. The broker writes it, once.
    pub demoted: AtomicU64,
    /// Sleep line: the write cursor that the reader saw when it went to sleep.
    pub seen_seq: AtomicU64,
    /// Sleep line: [`StateLine::source`] as the reader saw it then.
    pub seen_source: AtomicU64,
    /// The seq at which a lossless reader begins, plus 1; 0 until it is known. The broker writes
    /// it, once.
    pub granted: AtomicU64,
    /// Zero.
    pub reserved: [u64; 13],
}

impl Default for ReaderBlock {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            read_seq: zero(),
            start_seq: zero(),
            delivered: zero(),
            lost: zero(),
            gaps: zero(),
            bytes_delivered: zero(),
            bytes_lost: zero(),
            lag_max: zero(),
            last_gap_first: zero(),
            last_gap_count: zero(),
            last_gap_time: zero(),
            upstream_lost: zero(),
            waiting: zero(),
            read_bytes: zero(),
            detached_by: zero(),
            demoted: zero(),
            seen_seq: zero(),
            seen_source: zero(),
            granted: zero(),
            reserved: [0; 13],
        }
    }
}

/// Number of buckets of a [`LatencyBlock`]; [`crate::latency`] maps times to buckets.
pub const LATENCY_BUCKETS: usize = 368;

/// Times from publishing to delivery, as the reader sampled them. The block is at the beginning of
/// the second page of the reader's page object, away from what the reader writes with every
/// datagram. It is as untrusted as [`ReaderBlock`].
#[repr(C, align(128))]
pub struct LatencyBlock {
    /// Sum of all samples, ns.
    pub sum_ns: AtomicU64,
    /// The longest, ns.
    pub max_ns: AtomicU64,
    /// Zero.
    pub reserved: [u64; 14],
    /// Samples by time.
    pub buckets: [AtomicU64; LATENCY_BUCKETS],
}

impl Default for LatencyBlock {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sum_ns: zero(),
            max_ns: zero(),
            reserved: [0; 14],
            buckets: core::array::from_fn(|_| zero()),
        }
    }
}

/// Size of a reader's page object in bytes.
pub const READER_OBJECT: usize = 2 * PAGE;
/// Who detached a reader by force, packed into one word that is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetachedBy {
    /// Process that requested it; 0 if it has no pid in the broker's pid namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

impl DetachedBy {
    const SET: u64 = 1 << 63;

    /// For [`ReaderBlock::detached_by`].
    pub const fn pack(self) -> u64 {
        Self::SET | ((self.pid & 0x7fff_ffff) as u64) << 32 | self.uid as u64
    }
    /// `None`: the reader was not detached.
    pub const fn unpack(word: u64) -> Option<Self> {
        if word & Self::SET == 0 {
            return None;
        }
        Some(Self { pid: (word >> 32) as u32 & 0x7fff_ffff, uid: word as u32 })
    }
}

/// Reader blocks start at multiples of this in their pages, so that 1024 pages do not fall into one
/// cache set.
pub const READER_STAGGER: usize = core::mem::size_of::<ReaderBlock>();

/// Where the block of reader `index` lies in its page.
pub const fn reader_block_offset(index: u32) -> usize {
    (index as usize % (PAGE / READER_STAGGER)) * READER_STAGGER
}

// Loom's atomics have another size, so these assertions hold only for the real ones.
#[cfg(not(ringweir_loom))]
mod asserted {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};

    macro_rules! at {
        ($t:ty { $($field:ident = $offset:expr),* $(,)? } size $size:expr) => {
            $(const _: () = assert!(offset_of!($t, $field) == $offset);)*
            const _: () = assert!(size_of::<$t>() == $size);
        };
    }
    at!(Identity { magic = 0, layout_version = 8, header_bytes = 12, total_bytes = 16, depth = 24,
        capacity = 32, max_datagram = 40, claim_slots = 48, claim_bytes = 56, slots_offset = 64,
        payload_offset = 72, created_ns = 80, realtime_offset_ns = 88, boot_id = 96, broker_pid =
        112, owner_uid = 116, name = 120, reserved = 184 } size 512);
    at!(ClaimLine { seq = 0, pos = 8, reserved = 16 } size 128);
    at!(WriteLine { seq = 0, reserved = 8 } size 128);
    at!(StateLine { ended = 0, generation = 8, upstream = 16, source = 24, position = 32, reserved =
        40 } size 128);
    at!(RestartRecord { generation = 0, first = 8, lost = 16, inexact = 24 } size 32);
    at!(RestartLines { record = 0 } size 512);
    at!(CounterLines { count = 0 } size 256);
    at!(Header { identity = 0, claim = 512, write = 640, state = 768, counters = 896, reserved =
        1152, restarts = 1536, metadata_len = 2048, metadata = 2056 } size 4096);
    at!(Slot { stamp = 0, pos = 8, offset = 16, lengths = 24, tags = 32, source_time = 40,
        publish_time = 48, bytes_before = 56 } size 64);
    at!(ReaderBlock { read_seq = 0, start_seq = 8, delivered = 16, lost = 24, gaps = 32,
        bytes_delivered = 40, bytes_lost = 48, lag_max = 56, last_gap_first = 64, last_gap_count =
        72, last_gap_time = 80, upstream_lost = 88, waiting = 96, read_bytes = 104, detached_by =
        112, demoted = 120, seen_seq = 128, seen_source = 136, granted = 144, reserved = 152 } size
        256);
    at!(LatencyBlock { sum_ns = 0, max_ns = 8, reserved = 16, buckets = 128 } size 3072);
    const _: () = assert!(align_of::<Header>() == PAGE && align_of::<Slot>() == 64);
}

/// Most payload bytes: 1 TiB.
const CAPACITY_MAX: u64 = 1 << 40;

/// The checked sizes of a ring. Only a `Geometry` gives the offsets in a ring object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    depth: u64,
    capacity: u64,
    max_datagram: u64,
    claim_slots: u64,
    claim_bytes: u64,
}

/// Why a geometry is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Depth is not a power of two in range.
    #[error("depth {0} is not a power of two from 2 to {DEPTH_MAX}")]
    Depth(u64),
    /// Largest datagram out of range.
    #[error("largest datagram {0} bytes is over {DATAGRAM_MAX}")]
    MaxDatagram(u64),
    /// Capacity too small or not aligned.
    #[error(
        "capacity {capacity} bytes: must be a multiple of 8, at least {least} for this largest \
        datagram, and at most 2^40"
    )]
    Capacity {
        /// The requested capacity.
        capacity: u64,
        /// The least capacity that works.
        least: u64,
    },
    /// Claims out of range.
    #[error("claims of {slots} slots and {bytes} bytes do not fit the ring")]
    Claim {
        /// Slots per claim.
        slots: u64,
        /// Bytes per claim.
        bytes: u64,
    },
}

/// `n` rounded up to the payload alignment, 8.
#[inline(always)]
pub const fn align8(n: u64) -> u64 {
    (n + 7) & !7
}

impl Geometry {
    /// A ring of `depth` slots and `capacity` payload bytes for datagrams of up to `max_datagram`
    /// bytes; claims are 1/16 of it.
    pub fn new(depth: u64, capacity: u64, max_datagram: u64) -> Result<Self, GeometryError> {
        Self::with_claims(
            depth,
            capacity,
            max_datagram,
            (depth / 16).max(1),
            ((capacity / 16) & !7).max(8),
        )
    }

    /// Like [`Geometry::new`], with explicit claim sizes (for a header read from a peer, and for
    /// models with a depth of 2).
    pub fn with_claims(
        depth: u64,
        capacity: u64,
        max_datagram: u64,
        claim_slots: u64,
        claim_bytes: u64,
    ) -> Result<Self, GeometryError> {
        if !depth.is_power_of_two() || !(2..=DEPTH_MAX).contains(&depth) {
            return Err(GeometryError::Depth(depth));
        }
        if max_datagram > DATAGRAM_MAX {
            return Err(GeometryError::MaxDatagram(max_datagram));
        }
        if claim_slots == 0
            || claim_slots > depth / 2
            || claim_bytes == 0
            || !claim_bytes.is_multiple_of(8)
            || claim_bytes > capacity
        {
            return Err(GeometryError::Claim { slots: claim_slots, bytes: claim_bytes });
        }
        let least = Self::least_capacity(max_datagram, claim_bytes);
        if !capacity.is_multiple_of(8) || capacity < least || capacity > CAPACITY_MAX {
            return Err(GeometryError::Capacity { capacity, least });
        }
        Ok(Self { depth, capacity, max_datagram, claim_slots, claim_bytes })
    }

    /// A datagram of the largest size must stay readable while the next span is claimed after it.
    /// That takes room for the datagram, the span, the tail of the area that is skipped where the
    /// span does not fit (shorter than the span), and the claim ahead. A span is the largest
    /// datagram or a quarter of the capacity, so: `3 * datagram + claim`, `2 * (datagram + claim)`.
    const fn least_capacity(max_datagram: u64, claim_bytes: u64) -> u64 {
        let one = align8(max_datagram);
        // Saturating, because a peer's header may hold any numbers.
        (2 * one).saturating_add(claim_bytes).saturating_add(if one > claim_bytes {
            one
        } else {
            claim_bytes
        })
    }

    /// Number of slots, a power of two.
    #[inline(always)]
    pub const fn depth(&self) -> u64 {
        self.depth
    }
    /// Payload bytes.
    #[inline(always)]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }
    /// Largest datagram in bytes.
    #[inline(always)]
    pub const fn max_datagram(&self) -> u64 {
        self.max_datagram
    }
    /// Slots claimed at a time.
    #[inline(always)]
    pub const fn claim_slots(&self) -> u64 {
        self.claim_slots
    }
    /// Payload bytes claimed at a time.
    #[inline(always)]
    pub const fn claim_bytes(&self) -> u64 {
        self.claim_bytes
    }
    /// The least number of bytes by which the publisher must be able to run ahead of a reader that
    /// holds the newest datagram: that datagram, the longest span, and the tail of the area that is
    /// skipped for it. Never more than the capacity.
    pub(crate) const fn least_window(&self) -> u64 {
        align8(self.max_datagram) + 2 * self.max_span()
    }
    /// Largest span that one claim may cover: several datagrams that the kernel fills in one call.
    pub const fn max_span(&self) -> u64 {
        let quarter = (self.capacity / 4) & !7;
        let one = align8(self.max_datagram);
        if quarter > one { quarter } else { one }
    }
    /// Where the slots begin in a ring object.
    pub const fn slots_offset(&self) -> u64 {
        PAGE as u64
    }
    /// Where the payload begins in a ring object.
    pub const fn payload_offset(&self) -> u64 {
        let end = self.slots_offset() + self.depth * 64;
        end.next_multiple_of(PAGE as u64)
    }
    /// Size of the whole object. It cannot overflow, since its parts are bounded.
    pub const fn footprint(&self) -> u64 {
        (self.payload_offset() + self.capacity).next_multiple_of(PAGE as u64)
    }
}

/// Why an object is not a readable ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Too short even for a header.
    #[error("object of {0} bytes is too short for a ring header")]
    TooShort(u64),
    /// The magic is missing.
    #[error("not a ringweir ring: magic is {0:#018x}")]
    Magic(u64),
    /// Another version of the layout.
    #[error(
        "ring layout version {found}, this program reads version {LAYOUT_VERSION}: use programs of \
        one release"
    )]
    Version {
        /// The object's version.
        found: u32,
    },
    /// A number in the header contradicts another or the object's size.
    #[error("ring header is inconsistent: {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The value it must have.
        expected: u64,
    },
    /// The geometry itself is impossible.
    #[error("ring header is inconsistent: {0}")]
    Geometry(#[from] GeometryError),
}

impl Identity {
    /// The geometry that this header claims, if the whole header is consistent with an object of
    /// `object_bytes` bytes.
    pub fn validate(&self, object_bytes: u64) -> Result<Geometry, IdentityError> {
        if self.magic != MAGIC {
            return Err(IdentityError::Magic(self.magic));
        }
        if self.layout_version != LAYOUT_VERSION {
            return Err(IdentityError::Version { found: self.layout_version });
        }
        let geometry = Geometry::with_claims(
            self.depth,
            self.capacity,
            self.max_datagram,
            self.claim_slots,
            self.claim_bytes,
        )?;
        let field = |field, found: u64, expected: u64| {
            if found == expected {
                Ok(())
            } else {
                Err(IdentityError::Field { field, found, expected })
            }
        };
        field("header_bytes", u64::from(self.header_bytes), PAGE as u64)?;
        field("slots_offset", self.slots_offset, geometry.slots_offset())?;
        field("payload_offset", self.payload_offset, geometry.payload_offset())?;
        field("total_bytes", self.total_bytes, geometry.footprint())?;
        field("object size", object_bytes, geometry.footprint())?;
        Ok(geometry)
    }

    /// The stream name; empty if it is not UTF-8.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|b| *b == 0).unwrap_or(NAME_MAX);
        core::str::from_utf8(&self.name[..end]).unwrap_or("")
    }
}
