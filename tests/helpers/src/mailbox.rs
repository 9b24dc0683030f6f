//! Where test processes meet: a shared segment with a start gate and one slot for each reader.
//!
//! Contract: only for tests. `shared_memory` and `raw_sync` have limits that the ring could not
//! live with, but that do no harm here: one owner of the mapping (dropped last), waits only with
//! `Timeout::Infinite`, no link files. A process that dies with a lock held cannot make another one
//! hang: each mailbox has its own lock, and the parent takes it only after that reader has ended by
//! itself. A reader that was killed at that moment could still hold the gate's own lock: then the
//! environment's watchdog ends the test.

#![allow(unsafe_code)]

use raw_sync::Timeout;
use raw_sync::events::{Event, EventImpl, EventInit, EventState};
use raw_sync::locks::{LockInit, Mutex};
use ringweir_proto::sync::{AtomicU64, Ordering};
use shared_memory::{Shmem, ShmemConf};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: u64,)* }
        impl $name {
            fn to_words(self) -> Vec<u64> { vec![$(self.$field),*] }
            fn from_words(mut next: impl FnMut() -> u64) -> Self { Self { $($field: next()),* } }
        }
    };
}

words! {
    /// A reader's report at its end. It counted `own_*` itself; the rest is the library's account.
    Report {
        /// 1 once it is written.
        written,
        /// First seq.
        start,
        /// Delivered.
        delivered,
        /// Lost by being lapped.
        lost,
        /// Gaps.
        gaps,
        /// Read cursor.
        cursor,
        /// Payload bytes delivered.
        bytes_delivered,
        /// Payload bytes lost.
        bytes_lost,
        /// First seq of the first gap.
        first_gap_first,
        /// Length of the first gap.
        first_gap_count,
        /// Datagrams that were right, in all generations.
        own_right,
        /// Datagrams in which any byte, length, channel or number was wrong.
        own_wrong,
        /// Sum of the gaps in this generation.
        own_lost,
        /// Delivered in this generation.
        own_delivered,
        /// Items whose seq was not the expected one.
        own_disorder,
        /// Torn datagrams.
        own_torn,
        /// Restarts.
        restarts,
        /// Demotions.
        demotions,
        /// Generation at the end.
        generation,
        /// Read cursor at the end of the previous generation.
        earlier_cursor,
        /// 1: the stream ended. 2: the broker is gone. 3: its limit was reached. 4: it was asked to
        /// stop.
        end,
    }
}

impl Report {
    /// Checks that the account closes over `published` datagrams of a generation.
    pub fn check(&self, published: u64) -> Result<(), String> {
        let claims = [
            ("it wrote a report", self.written == 1),
            ("no byte was wrong", self.own_wrong == 0),
            ("every seq came in order", self.own_disorder == 0),
            (
                "start + delivered + lost = cursor",
                self.start + self.delivered + self.lost == self.cursor,
            ),
            ("cursor = published", self.cursor == published),
            ("lost is the sum of the gaps", self.lost == self.own_lost),
            ("delivered is what was received", self.delivered == self.own_delivered),
        ];
        match claims.iter().find(|(_, holds)| !holds) {
            None => Ok(()),
            Some((claim, _)) => Err(format!("not true: {claim} (published {published}): {self:?}")),
        }
    }
}

const GATE_BYTES: usize = 256;
const SLOT_BYTES: usize = 1024;
const LOCK_BYTES: usize = 128;
const PROGRESS_WORDS: usize = 8;

/// The segment. Its creator removes it.
pub struct Mailbox {
    segment: Shmem,
    slots: usize,
}

impl Mailbox {
    /// Creates the segment.
    pub fn create(slots: usize) -> Self {
        let segment = ShmemConf::new()
            .size(GATE_BYTES + slots * SLOT_BYTES)
            .create()
            .expect("a scratch segment");
        let mailbox = Self { segment, slots };
        // SAFETY: fresh zeroed memory of GATE_BYTES that no other process has mapped yet; an event
        // takes about 100 bytes.
        let (_gate, used) =
            unsafe { Event::new(mailbox.segment.as_ptr(), false) }.expect("an event");
        assert!(used <= GATE_BYTES);
        for i in 0..slots {
            // SAFETY: fresh zeroed memory of LOCK_BYTES inside the segment.
            let (_lock, used) =
                unsafe { Mutex::new(mailbox.at(i, 0), std::ptr::null_mut()) }.expect("a lock");
            assert!(used <= LOCK_BYTES);
        }
        mailbox
    }

    /// Opens the segment that another process created.
    pub fn open(id: &str) -> Self {
        let segment = ShmemConf::new().os_id(id).open().expect("the segment of the parent");
        let slots = (segment.len() - GATE_BYTES) / SLOT_BYTES;
        Self { segment, slots }
    }

    /// Its name, for other processes.
    pub fn id(&self) -> &str {
        self.segment.get_os_id()
    }

    fn at(&self, slot: usize, offset: usize) -> *mut u8 {
        assert!(slot < self.slots && offset < SLOT_BYTES);
        // SAFETY: inside the segment, by the assertion and its size.
        unsafe { self.segment.as_ptr().add(GATE_BYTES + slot * SLOT_BYTES + offset) }
    }

    fn gate(&self) -> Box<dyn EventImpl> {
        // SAFETY: the creator made an event there; it is dropped before the mapping, which self
        // owns.
        unsafe { Event::from_existing(self.segment.as_ptr()) }.expect("the gate").0
    }

    /// Opens the gate for all, now and later.
    pub fn open_gate(&self) {
        self.gate().set(EventState::Signaled).expect("the gate opens");
    }

    /// Waits until the gate is open.
    pub fn pass_gate(&self) {
        self.gate().wait(Timeout::Infinite).expect("the gate");
    }

    /// The slot of a reader.
    pub fn slot(&self, index: usize) -> Slot<'_> {
        assert!(index < self.slots);
        Slot { mailbox: self, index }
    }
}

/// One reader's part of the segment.
#[derive(Clone, Copy)]
pub struct Slot<'m> {
    mailbox: &'m Mailbox,
    index: usize,
}

/// Figures of a running reader.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Live {
    /// 1 once it is attached.
    Attached,
    /// Datagrams received.
    Delivered,
    /// Restarts received.
    Restarts,
    /// Set by the parent: end.
    Stop,
}

impl Slot<'_> {
    fn words(&self) -> &[AtomicU64] {
        let count = (SLOT_BYTES - LOCK_BYTES) / 8;
        let at = self.mailbox.at(self.index, LOCK_BYTES).cast::<AtomicU64>();
        // SAFETY: aligned (page-aligned segment, offsets of 128), inside it, alive as long as the
        // mailbox; atomics.
        unsafe { std::slice::from_raw_parts(at, count) }
    }

    /// Shows a figure.
    pub fn show(&self, what: Live, value: u64) {
        self.words()[what as usize].store(value, Ordering::Release);
    }

    /// Looks at a figure.
    pub fn live(&self, what: Live) -> u64 {
        self.words()[what as usize].load(Ordering::Acquire)
    }

    fn locked<R>(&self, act: impl FnOnce(&[AtomicU64]) -> R) -> R {
        let at = self.mailbox.at(self.index, 0);
        // SAFETY: the creator made a lock there; it is dropped before the mapping.
        let (lock, _) = unsafe { Mutex::from_existing(at, std::ptr::null_mut()) }.expect("a lock");
        let guard = lock.lock().expect("the lock");
        let result = act(&self.words()[PROGRESS_WORDS..]);
        drop(guard);
        result
    }

    /// Writes the reader's report.
    pub fn put(&self, report: &Report) {
        self.locked(|words| {
            for (word, value) in words.iter().zip(report.to_words()) {
                word.store(value, Ordering::Relaxed);
            }
        });
    }

    /// Reads the report. Only after the reader has ended by itself.
    pub fn take(&self) -> Report {
        self.locked(|words| {
            let mut words = words.iter();
            Report::from_words(|| words.next().expect("room for a report").load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_arrives_and_a_false_one_is_found() {
        let mailbox = Mailbox::create(2);
        let other = Mailbox::open(mailbox.id());
        let good = Report {
            written: 1,
            delivered: 7,
            lost: 3,
            cursor: 10,
            own_lost: 3,
            own_delivered: 7,
            ..Report::default()
        };
        other.slot(1).put(&good);
        assert_eq!(mailbox.slot(1).take(), good);
        assert_eq!(mailbox.slot(0).take(), Report::default());
        good.check(10).unwrap();
        // The controls: each claim can fail.
        for (bad, says) in [
            (Report::default(), "report"),
            (Report { own_wrong: 1, ..good }, "byte"),
            (Report { own_disorder: 1, ..good }, "order"),
            (Report { lost: 4, own_lost: 4, ..good }, "start + delivered + lost"),
            (Report { start: 1, cursor: 11, ..good }, "cursor = published"),
            (Report { own_lost: 2, ..good }, "gaps"),
            (Report { own_delivered: 6, ..good }, "received"),
        ] {
            let error = bad.check(10).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn readers_wait_until_the_gate_is_opened() {
        let mailbox = Mailbox::create(1);
        let id = mailbox.id().to_string();
        let waiter = std::thread::spawn(move || {
            let mine = Mailbox::open(&id);
            mine.slot(0).show(Live::Attached, 1);
            mine.pass_gate();
        });
        ringweir_harness::wait_for(std::time::Duration::from_secs(5), || {
            (mailbox.slot(0).live(Live::Attached) == 1).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiter.is_finished());
        mailbox.open_gate();
        waiter.join().unwrap();
    }
}
