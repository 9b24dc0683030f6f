//! The statistics: the lists of figures that feed table, JSON and Prometheus, and the shared area
//! in which the broker publishes them.
//!
//! Contract: a new counter is one line in one of the lists. The broker's sampler writes whole
//! snapshots into the statistics area several times a second ([`StatsWriter`]); a viewer maps it
//! read-only and copies a snapshot out ([`StatsView`]). That takes no system call and no help from
//! the broker, so it works while the broker is busy, stopped or dead. [`StreamFact::SampledAt`]
//! says how old the figures are. There are two copies, written in turn: if the writer stops in the
//! middle of one, the other stays readable.

use crate::layout::READERS_MAX;
use crate::printable::printable;
use crate::sync::{AtomicU64, Ordering, load_acquire};

/// How to interpret a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Nanoseconds of CLOCK_MONOTONIC.
    Monotonic,
    /// Nanoseconds since 1970.
    Realtime,
}

macro_rules! figures {
    ($(#[$meta:meta])* $name:ident, most $most:literal {
        $($variant:ident $key:literal $kind:ident $help:literal;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $(#[doc = $help] $variant,)* }
        impl $name {
            /// Every figure of the list, in memory order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// Words reserved for the list.
            pub const MOST: usize = $most;
            /// Name in JSON and Prometheus.
            pub const fn key(self) -> &'static str { match self { $($name::$variant => $key),* } }
            /// How to interpret it.
            pub const fn kind(self) -> Kind { match self { $($name::$variant => Kind::$kind),* } }
            /// One line for people.
            pub const fn help(self) -> &'static str { match self { $($name::$variant => $help),* } }
        }
        const _: () = assert!($name::ALL.len() <= $most);
    };
}

figures! {
    /// Counters in the ring's header. The pump is the only writer.
    PumpCounter, most 32 {
        Published "published" Counter "datagrams published";
        PublishedBytes "published_bytes" Counter "payload bytes published";
        DeviceLost "device_lost" Counter "datagrams the device lost because its buffer overflowed";
        KernelLost "kernel_lost" Counter "datagrams the kernel dropped before the broker could \
            take them";
        BrokerLost "broker_lost" Counter "datagrams the broker received and could not publish: too \
            long or malformed";
        Truncated "truncated" Counter "datagrams published cut, with their original length";
        Batches "batches" Counter "commits of the write cursor";
        Sleeps "pump_sleeps" Counter "times the pump went to sleep waiting for its source";
        WakesInline "wakes_inline" Counter "readers woken by the pump itself (a single sleeper)";
        WakeEvents "wake_events" Counter "times the pump signalled the waker (several sleepers)";
        SourceFaults "source_faults" Counter "faults of the source: wrong lengths, errors of calls";
        SourceGone "source_gone" Counter "times the device behind the source went away";
        Interrupts "interrupts" Counter "interrupts of the device, as far as they are counted \
            below the broker";
        InterruptJumps "interrupt_jumps" Counter "times that several interrupts were seen as one";
        InterruptsIdle "interrupts_idle" Counter "awakenings by an interrupt that found nothing";
        InterruptsLost "interrupts_lost" Counter "times data was found by looking, though its \
            interrupt should have come";
        Drains "drains" Counter "times a device's FIFO was drained";
        DrainGapMax "drain_gap_max_ns" Gauge "longest time between drains of a device's FIFO while \
            it was filling";
        Restarts "restarts" Counter "times a new broker adopted the ring of one that died";
        RestartLost "restart_lost" Counter "datagrams that brokers which died had taken or counted \
            as lost and never reported, at least";
        Holds "holds" Counter "times a lossless reader delayed the stream";
        HeldTime "held_ns" Counter "time for which lossless readers delayed the stream";
        Demotions "demotions" Counter "lossless readers that used up their budget and are not \
            waited for any more";
        Moved "moved" Counter "datagrams copied a second time because they outgrew their part of \
            a batch";
        LinkType "link_type" Gauge "link type of the datagrams in a capture, plus 1; 0 if the \
            source gives none, 65537 if there are several";
        SourceDue "source_due" Monotonic "when the next datagram of a recording is due that is \
            played with its pauses, 0 if none is waited for";
        Skipped "skipped" Counter "datagrams of the other stream that a ring: source left out on \
            purpose: of other channels, or by every= or rate=";
    }
}

figures! {
    /// Figures about the stream that the sampler adds.
    StreamFact, most 32 {
        SampledAt "sampled_at" Monotonic "when this snapshot was taken";
        SampledRealtime "sampled_realtime" Realtime "when this snapshot was taken";
        StartedRealtime "started_realtime" Realtime "when the stream began";
        BrokerPid "broker_pid" Gauge "process of the broker";
        Generation "generation" Gauge "generation of the ring, from 1";
        Depth "depth" Gauge "slots";
        Capacity "capacity_bytes" Gauge "payload bytes the ring holds";
        MaxDatagram "max_datagram_bytes" Gauge "largest datagram in bytes";
        WriteCursor "write_cursor" Counter "seq of the next datagram";
        ClaimedSeq "claimed_seq" Counter "slots below this seq minus depth are gone";
        LastPublished "last_published" Monotonic "publish time of the newest datagram, 0 if none";
        Ended "ended" Gauge "1 when the stream has ended";
        Readers "readers" Gauge "readers attached";
        ReadersMost "readers_max" Gauge "readers that may attach";
        ReadersEver "readers_ever" Counter "readers that ever attached";
        LostByGone "lost_by_gone_readers" Counter "datagrams that readers no longer attached had \
            been lapped over";
        Refused "refused" Counter "attaches refused";
        WakesByWaker "wakes_by_waker" Counter "readers woken by the waker";
        NominalRate "nominal_rate" Gauge "bytes per second the stream was sized for, 0 if not \
            stated";
        OldestSeq "oldest_seq" Counter "oldest seq that is still in the ring";
        History "history_ns" Gauge "age of the oldest datagram that is still in the ring, 0 if \
            there is none";
        SourceAway "source_away" Gauge "1 while the device behind the source is gone";
        DrainSlack "drain_slack_ns" Gauge "time in which a device's FIFO fills up at its \
            configured rate, 0 if it has none";
    }
}

figures! {
    /// Figures about one reader, as the sampler found it. What the reader reports about itself is
    /// untrusted and clamped.
    ReaderFact, most 32 {
        Index "index" Gauge "reader index";
        Pid "pid" Gauge "process that attached";
        Uid "uid" Gauge "user that attached";
        AttachedRealtime "attached_realtime" Realtime "when it attached";
        ReadCursor "read_cursor" Counter "next seq it reads";
        StartSeq "start_seq" Counter "seq it began at";
        Delivered "delivered" Counter "datagrams handed out whole";
        Lost "lost" Counter "datagrams it was lapped over";
        Gaps "gaps" Counter "gaps reported to it";
        BytesDelivered "bytes_delivered" Counter "payload bytes delivered";
        BytesLost "bytes_lost" Counter "payload bytes lost, where known";
        Lag "lag" Gauge "datagrams behind the write cursor";
        LagBytes "lag_bytes" Gauge "payload bytes behind the write cursor";
        LagTime "lag_ns" Gauge "age of the next datagram it would read, 0 if it has read all; a \
            lower bound once that one is overwritten";
        LagMax "lag_max" Gauge "largest lag seen, datagrams (high-water mark)";
        LastGapFirst "last_gap_first" Counter "first seq of its last loss";
        LastGapCount "last_gap_count" Gauge "datagrams of its last loss";
        LastGapRealtime "last_gap_realtime" Realtime "when it noticed its last loss, 0 if never";
        UpstreamLost "upstream_lost" Counter "losses before the ring that were reported to it";
        Waiting "waiting" Gauge "1 while it sleeps until the next datagram";
        LagMaxBytes "lag_max_bytes" Gauge "largest lag seen, payload bytes; looked at ten times a \
            second";
        LagMaxTime "lag_max_ns" Gauge "largest lag seen, age of the datagram it read or had to \
            read next; looked at ten times a second, and by the reader once in a millisecond";
        Lossless "lossless" Gauge "1 while the stream waits for it";
        Held "held_ns" Counter "time for which it delayed the stream";
        DemotedRealtime "demoted_realtime" Realtime "when it had used up its budget and became \
            lossy, 0 if never";
        Lapped "lapped" Gauge "1 if the datagram it would read next is overwritten and it has not \
            noticed yet";
        SleepRequests "sleep_requests" Counter "times that its sleep request was received";
        SlowWakes "slow_wakes" Gauge "1 once waking it took the pump so long that the waker \
            does it since then";
        Implausible "implausible" Gauge "0, or what in its page is impossible, so that nothing \
            it says is to be believed: 1 a cursor ahead of the stream, 2 a cursor that goes back, \
            3 more datagrams than were published";
    }
}

/// Texts for [`ReaderFact::Implausible`].
pub const IMPLAUSIBLE: [&str; 4] = [
    "",
    "its cursor is ahead of the stream",
    "its cursor goes back",
    "it counts more datagrams than were published",
];

/// Bytes of a stream name, a source's description and a reader's label in a snapshot.
const TEXT: usize = 64;
const TEXT_WORDS: usize = TEXT / 8;
const STREAM_WORDS: usize = PumpCounter::MOST + StreamFact::MOST + 3 * TEXT_WORDS;
const READER_WORDS: usize = ReaderFact::MOST + TEXT_WORDS;
const HEADER_WORDS: usize = 16;
/// "RWSTATS1".
const STATS_MAGIC: u64 = u64::from_le_bytes(*b"RWSTATS1");

/// One reader in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderFigures {
    /// Its label.
    pub label: String,
    figures: [u64; ReaderFact::MOST],
}

/// All figures of one stream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Stream name.
    pub name: String,
    /// Its source, as configured (cut to 64 bytes).
    pub source: String,
    /// Text on the state of the source, empty when all is well (cut to 64 bytes).
    pub note: String,
    pump: [u64; PumpCounter::MOST],
    stream: [u64; StreamFact::MOST],
    /// Its readers.
    pub readers: Vec<ReaderFigures>,
}

impl ReaderFigures {
    /// A reader called `label`, all figures 0.
    pub fn new(label: &str) -> Self {
        Self { label: label.into(), figures: [0; ReaderFact::MOST] }
    }
    /// A figure.
    pub fn get(&self, fact: ReaderFact) -> u64 {
        self.figures[fact as usize]
    }
    /// Sets a figure.
    pub fn set(&mut self, fact: ReaderFact, value: u64) {
        self.figures[fact as usize] = value;
    }
}

impl Snapshot {
    /// A stream called `name`, all figures 0.
    pub fn new(name: &str, source: &str) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            note: String::new(),
            pump: [0; PumpCounter::MOST],
            stream: [0; StreamFact::MOST],
            readers: Vec::new(),
        }
    }
    /// A counter of the pump.
    pub fn pump(&self, counter: PumpCounter) -> u64 {
        self.pump[counter as usize]
    }
    /// A fact about the stream.
    pub fn get(&self, fact: StreamFact) -> u64 {
        self.stream[fact as usize]
    }
    /// Sets a fact about the stream.
    pub fn set(&mut self, fact: StreamFact, value: u64) {
        self.stream[fact as usize] = value;
    }
    /// Sets a counter of the pump.
    pub fn set_pump(&mut self, counter: PumpCounter, value: u64) {
        self.pump[counter as usize] = value;
    }
    /// Copies the pump's counters from a ring.
    pub fn take_pump(&mut self, memory: &crate::ring::RingMemory) {
        for (to, from) in self.pump.iter_mut().zip(&memory.counters().count) {
            *to = from.load(Ordering::Relaxed);
        }
    }
}

/// Size in bytes of a statistics area for `readers_max` readers.
pub const fn area_bytes(readers_max: u32) -> usize {
    (HEADER_WORDS + 2 * (STREAM_WORDS + readers_max as usize * READER_WORDS)) * 8
}

/// Why a statistics area cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AreaError {
    /// Not a statistics area, or one of another release.
    #[error("not a statistics area of this release")]
    Magic,
    /// Its size contradicts its header.
    #[error("statistics area of {0} words does not match its header")]
    Size(usize),
}

// Header words: magic, most readers, number of snapshots published (the newest is in copy `n % 2`).
const MAGIC_AT: usize = 0;
const MOST_AT: usize = 1;
const TURN_AT: usize = 2;

fn copy_words(readers_max: usize) -> usize {
    STREAM_WORDS + readers_max * READER_WORDS
}

/// The sampler's end of a statistics area.
#[derive(Debug)]
pub struct StatsWriter<'a> {
    words: &'a [AtomicU64],
    readers_max: usize,
}

impl<'a> StatsWriter<'a> {
    /// Takes [`area_bytes`] of zeroed words.
    ///
    /// # Panics
    /// If there are too few.
    pub fn new(words: &'a [AtomicU64], readers_max: u32) -> Self {
        assert!(words.len() * 8 >= area_bytes(readers_max), "statistics area too small");
        words[MOST_AT].store(u64::from(readers_max), Ordering::Relaxed);
        words[MAGIC_AT].store(STATS_MAGIC, Ordering::Release);
        Self { words, readers_max: readers_max as usize }
    }

    /// Publishes `snapshot`. Readers that do not fit into the area are left out.
    pub fn publish(&mut self, snapshot: &Snapshot) {
        let turn = self.words[TURN_AT].load(Ordering::Relaxed) + 1;
        let size = copy_words(self.readers_max);
        let start = HEADER_WORDS + (turn as usize % 2) * size;
        let mut cells = self.words[start..start + size].iter();
        // The next turn is stored before the fence, so a viewer that reads any word of this copy
        // also sees the newer turn; partner: the acquire fence in `StatsView::read`.
        self.words[TURN_AT + 1].store(turn, Ordering::Relaxed);
        crate::sync::fence_release();
        let mut put = |value: u64| {
            if let Some(cell) = cells.next() {
                cell.store(value, Ordering::Relaxed);
            }
        };
        let text = |s: &str| -> [u64; TEXT_WORDS] {
            let mut bytes = [0; TEXT];
            let cut = s.floor_char_boundary(TEXT.min(s.len()));
            bytes[..cut].copy_from_slice(&s.as_bytes()[..cut]);
            std::array::from_fn(|i| {
                u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8 bytes"))
            })
        };
        let shown = snapshot.readers.len().min(self.readers_max);
        snapshot.pump.iter().for_each(|v| put(*v));
        for (i, v) in snapshot.stream.iter().enumerate() {
            put(if i == StreamFact::Readers as usize { shown as u64 } else { *v });
        }
        for s in [&snapshot.name, &snapshot.source, &snapshot.note] {
            text(s).into_iter().for_each(&mut put);
        }
        for reader in &snapshot.readers[..shown] {
            reader.figures.iter().for_each(|v| put(*v));
            text(&reader.label).into_iter().for_each(&mut put);
        }
        self.words[TURN_AT].store(turn, Ordering::Release);
    }
}

/// A viewer's end of a statistics area.
#[derive(Debug)]
pub struct StatsView<'a> {
    words: &'a [AtomicU64],
    readers_max: usize,
}

impl<'a> StatsView<'a> {
    /// Checks the area's header.
    pub fn new(words: &'a [AtomicU64]) -> Result<Self, AreaError> {
        if words.len() < HEADER_WORDS || load_acquire(&words[MAGIC_AT]) != STATS_MAGIC {
            return Err(AreaError::Magic);
        }
        let most = words[MOST_AT].load(Ordering::Relaxed);
        // An area of terabytes costs its maker nothing, but its viewers would fill their memory.
        let plausible = u32::try_from(most).ok().filter(|most| *most <= READERS_MAX);
        let fits = plausible.is_some_and(|most| words.len() * 8 >= area_bytes(most));
        if !fits {
            return Err(AreaError::Size(words.len()));
        }
        Ok(Self { words, readers_max: most as usize })
    }

    /// The newest whole snapshot; `None` before the first, or if the sampler laps this viewer a
    /// thousand times.
    pub fn read(&self) -> Option<Snapshot> {
        for _ in 0..1000 {
            let turn = load_acquire(&self.words[TURN_AT]);
            if turn == 0 {
                return None;
            }
            let snapshot = self.copy(turn);
            crate::sync::fence_acquire();
            // This copy is not overwritten before turn + 2 begins; partner: the release fence in
            // `StatsWriter::publish`.
            if self.words[TURN_AT + 1].load(Ordering::Relaxed) < turn + 2 {
                return Some(snapshot);
            }
        }
        None
    }

    fn copy(&self, turn: u64) -> Snapshot {
        let size = copy_words(self.readers_max);
        let start = HEADER_WORDS + (turn as usize % 2) * size;
        let mut cells = self.words[start..start + size].iter();
        let mut take = || cells.next().map_or(0, |c| c.load(Ordering::Relaxed));
        let mut snapshot = Snapshot::new("", "");
        snapshot.pump.iter_mut().for_each(|v| *v = take());
        snapshot.stream.iter_mut().for_each(|v| *v = take());
        let text = |take: &mut dyn FnMut() -> u64| {
            let bytes: Vec<u8> = (0..TEXT_WORDS).flat_map(|_| take().to_le_bytes()).collect();
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(TEXT);
            // The area is another process's, which may write anything.
            printable(&String::from_utf8_lossy(&bytes[..end]))
        };
        snapshot.name = text(&mut take);
        snapshot.source = text(&mut take);
        snapshot.note = text(&mut take);
        let shown = snapshot.get(StreamFact::Readers).min(self.readers_max as u64);
        for _ in 0..shown {
            let mut reader = ReaderFigures::new("");
            reader.figures.iter_mut().for_each(|v| *v = take());
            reader.label = text(&mut take);
            snapshot.readers.push(reader);
        }
        snapshot
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;

    fn area(readers: u32) -> Vec<AtomicU64> {
        (0..area_bytes(readers) / 8).map(|_| AtomicU64::new(0)).collect()
    }

    fn snapshot(n: u64) -> Snapshot {
        let mut s = Snapshot::new("demo", "gen:rate=1MB/s");
        StreamFact::ALL.iter().for_each(|f| s.set(*f, n));
        for i in 0..3 {
            let mut r = ReaderFigures::new(&format!("reader-{i}"));
            ReaderFact::ALL.iter().for_each(|f| r.set(*f, n + i));
            s.readers.push(r);
        }
        s.set(StreamFact::Readers, 3);
        s
    }

    #[test]
    fn a_viewer_sees_the_newest_snapshot() {
        let words = area(4);
        assert!(matches!(StatsView::new(&words), Err(AreaError::Magic)));
        let mut writer = StatsWriter::new(&words, 4);
        let view = StatsView::new(&words).unwrap();
        assert_eq!(view.read(), None);
        for n in 1..5 {
            writer.publish(&snapshot(n));
            let mut expected = snapshot(n);
            expected.set(StreamFact::Readers, 3);
            assert_eq!(view.read(), Some(expected));
        }
    }

    #[test]
    fn too_many_readers_and_long_labels_are_cut() {
        let words = area(1);
        let mut writer = StatsWriter::new(&words, 1);
        let mut s = snapshot(1);
        s.readers[0].label = "ü".repeat(60);
        writer.publish(&s);
        let seen = StatsView::new(&words).unwrap().read().unwrap();
        assert_eq!((seen.readers.len(), seen.get(StreamFact::Readers)), (1, 1));
        assert_eq!(seen.readers[0].label, "ü".repeat(32));
    }

    /// Control: the largest that a broker makes is taken.
    #[test]
    fn an_area_for_more_readers_than_a_stream_may_have_is_refused() {
        for (readers, taken) in [(READERS_MAX, true), (READERS_MAX + 1, false)] {
            let words = area(readers);
            StatsWriter::new(&words, readers);
            assert_eq!(StatsView::new(&words).is_ok(), taken, "{readers}");
        }
    }

    /// The area of a hostile broker may hold any bytes.
    #[test]
    fn texts_are_printable() {
        let words = area(1);
        let mut hostile = Snapshot::new("a\x1b[2J", "b\u{202e}");
        hostile.note = "c\n".into();
        hostile.readers.push(ReaderFigures::new("d\u{9b}"));
        StatsWriter::new(&words, 1).publish(&hostile);
        let seen = StatsView::new(&words).unwrap().read().unwrap();
        let texts = [&seen.name, &seen.source, &seen.note, &seen.readers[0].label];
        assert_eq!(texts, ["a?[2J", "b?", "c?", "d?"]);
    }

    /// A viewer never mixes two snapshots, however fast they come.
    #[test]
    fn snapshots_are_whole_under_a_racing_writer() {
        let words = area(3);
        let mut writer = StatsWriter::new(&words, 3);
        writer.publish(&snapshot(1));
        std::thread::scope(|scope| {
            let words = &words;
            scope.spawn(move || {
                let view = StatsView::new(words).unwrap();
                let mut last = 0;
                while last < 20_000 {
                    if let Some(s) = view.read() {
                        let n = s.get(StreamFact::WriteCursor);
                        assert_eq!(s.readers[2].get(ReaderFact::Lapped), n + 2, "mixed");
                        assert!(n >= last);
                        last = n;
                    }
                }
            });
            for n in 2..=20_000 {
                writer.publish(&snapshot(n));
            }
        });
    }
}
