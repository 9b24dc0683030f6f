//! One attached reader, as control thread, waker and pump share it.

use super::kit::Kit;
use super::plausibility::Observed;
use ringweir_proto::control::Mode;
use ringweir_proto::os::clock;
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::socket::Peer;
use ringweir_proto::sync::{AtomicU32, AtomicU64, Ordering};

/// One attached reader.
pub struct ReaderEntry {
    /// Its index.
    pub index: u32,
    /// The process that attached.
    pub peer: Peer,
    /// The label it gave itself, cleaned.
    pub label: String,
    /// When it attached, ns since 1970.
    pub attached: u64,
    /// Its page and events.
    pub kit: Kit,
    /// Whether its kit is kept for its user after it, see `kit.rs`.
    pub(super) keeps_kit: AtomicU32,
    /// Whether it may sleep.
    pub may_sleep: bool,
    /// The mode it asked for.
    pub mode: Mode,
    /// 1 while the stream waits for it. This and the next two are written by the pump.
    pub lossless: AtomicU32,
    /// For how long the stream has waited for it, ns.
    pub held_ns: AtomicU64,
    /// When it was demoted, ns since 1970; 0 = never.
    pub demoted_at: AtomicU64,
    /// What the sampler remembers of it.
    pub observed: Observed,
    /// 1 once the pump counts it among the readers that may sleep.
    known_to_pump: AtomicU32,
    /// Sleep requests so far.
    sleep_requests: AtomicU64,
    /// 1 once its wakes were found to take the pump too long.
    slow_to_wake: AtomicU32,
    /// Under the registry's lock: its last wakes by the waker that took long, in a row.
    pub(super) long_wakes: AtomicU32,
}

impl ReaderEntry {
    /// An entry that uses `kit`, which is kept for its user if `keeps_kit`.
    pub fn new(
        index: u32,
        peer: Peer,
        label: String,
        may_sleep: bool,
        mode: Mode,
        (kit, keeps_kit): (Kit, bool),
    ) -> Self {
        Self {
            index,
            peer,
            label,
            attached: clock::realtime_ns(),
            kit,
            keeps_kit: AtomicU32::new(keeps_kit.into()),
            may_sleep,
            mode,
            lossless: AtomicU32::new(0),
            held_ns: AtomicU64::new(0),
            demoted_at: AtomicU64::new(0),
            observed: Observed::default(),
            known_to_pump: AtomicU32::new(0),
            sleep_requests: AtomicU64::new(0),
            slow_to_wake: AtomicU32::new(0),
            long_wakes: AtomicU32::new(0),
        }
    }

    /// Its page.
    pub fn page(&self) -> &ReaderPage {
        &self.kit.page
    }

    /// The pump: from now on every commit fences and reads the wake gate.
    pub fn set_known_to_pump(&self) {
        // P5: partner: the Acquire load in `is_known_to_pump`. All commits after this read the
        // gate; all commits before it are visible to a thread that sees the 1.
        self.known_to_pump.store(1, Ordering::Release);
    }

    /// The waker: whether the pump reads the gate for this reader.
    pub fn is_known_to_pump(&self) -> bool {
        // P5: partner: the Release store in `set_known_to_pump`.
        self.known_to_pump.load(Ordering::Acquire) != 0
    }

    /// Waking this reader takes too long, so the pump leaves it to the waker from now on, and the
    /// waker wakes it last, within limits. A reader can poll its wake descriptor many times over,
    /// and a wake walks all the entries.
    pub fn mark_slow_to_wake(&self) {
        self.slow_to_wake.store(1, Ordering::Relaxed);
    }

    /// Whether its wakes were found to be slow.
    pub fn is_slow_to_wake(&self) -> bool {
        self.slow_to_wake.load(Ordering::Relaxed) != 0
    }

    /// The waker: counts a sleep request.
    pub fn count_sleep_request(&self) {
        self.sleep_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Sleep requests so far.
    pub fn sleep_requests(&self) -> u64 {
        self.sleep_requests.load(Ordering::Relaxed)
    }

    /// For log lines: "reader cat (index 3, pid 4711, uid 1000)".
    pub fn describe(&self) -> impl std::fmt::Display + '_ {
        std::fmt::from_fn(move |f| {
            let Self { label, index, peer, .. } = self;
            write!(f, "reader {label} (index {index}, pid {}, uid {})", peer.pid, peer.uid)
        })
    }
}
