//! Decides which readers to wake, with atomics only. The eventfds are handled elsewhere.
//!
//! Contract: a reader that goes to sleep signals its own sleep request, at the cost of a system
//! call that it makes instead of spinning. The *waker*, a thread of the broker, enters it into the
//! [`WakeGate`], fences, and checks the write cursor again. The publisher commits, fences, and
//! loads one word that only the broker writes. So no reader can hide another reader's sleep, and no
//! reader can make the publisher do work. The publisher's check costs the same for 1 reader and for
//! 1024 (G4, G5). See I5 and P3.

use super::crash::{self, Point};
use super::site;
use crate::sync::{AtomicU64, Ordering, weakened};

/// No reader sleeps.
const NOBODY: u64 = 0;
/// More than one reader sleeps. Any other value is one sleeper's index plus 1.
const SEVERAL: u64 = u64::MAX;

/// What the publisher has to do after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing: no system call.
    Nobody,
    /// Wake this reader inline, which is cheaper than through the waker.
    One(u32),
    /// Signal the waker's event, once for all sleepers.
    Several,
}

/// The summary of sleepers, alone on its line. Only threads of the broker use it.
#[repr(align(128))]
#[derive(Debug)]
pub struct WakeGate {
    summary: AtomicU64,
}

impl Default for WakeGate {
    fn default() -> Self {
        Self { summary: AtomicU64::new(NOBODY) }
    }
}

impl WakeGate {
    /// The publisher's check after the flush of a batch. Call it only while some reader may sleep,
    /// since it costs a full fence.
    #[inline]
    pub fn after_commit(&self) -> Wake {
        // P3: either this load sees the sleeper that was entered before SLEEP_FENCE, or the waker's
        // check after SLEEP_FENCE sees the write cursor that was stored before this fence; partner:
        // SLEEP_FENCE.
        site::WAKE_FENCE.fence_full();
        if self.summary.load(Ordering::Relaxed) == NOBODY {
            return Wake::Nobody;
        }
        let taken = self.summary.swap(NOBODY, Ordering::AcqRel);
        crash::at(Point::K9);
        match taken {
            NOBODY => Wake::Nobody,
            SEVERAL => Wake::Several,
            one => Wake::One((one - 1) as u32),
        }
    }
}

/// The waker's list of sleepers. It has one owner and is not shared.
#[derive(Debug)]
pub struct Sleepers {
    /// One bit per reader. Invariant: `count` bits are set.
    asleep: Vec<u64>,
    count: usize,
    /// One bit per reader, set if the publisher must not wake that reader itself.
    slow_to_wake: Vec<u64>,
    /// The value that the waker stored last. If the gate's word is 0 instead, the publisher has
    /// taken it.
    stored: u64,
}

impl Sleepers {
    /// A list for readers `0..most`.
    pub fn new(most: u32) -> Self {
        let none = vec![0; most.div_ceil(64) as usize];
        Self { slow_to_wake: none.clone(), asleep: none, count: 0, stored: NOBODY }
    }

    /// Sets whether waking reader `index` takes so long that the publisher must leave it to the
    /// waker. It applies from the next time that the reader is entered.
    pub fn set_slow_to_wake(&mut self, index: u32, slow_to_wake: bool) {
        let (word, bit) = (&mut self.slow_to_wake[index as usize / 64], 1 << (index % 64));
        *word = if slow_to_wake { *word | bit } else { *word & !bit };
    }

    /// Enters reader `index`, which found nothing and signalled its sleep request. Calls `wake` for
    /// every reader that must be woken now: the reader itself if `news()` (the write cursor is not
    /// where the reader saw it, or the stream has ended), and others if the publisher has taken
    /// them meanwhile.
    pub fn enter(
        &mut self,
        gate: &WakeGate,
        index: u32,
        news: impl Fn() -> bool,
        mut wake: impl FnMut(u32),
    ) {
        // First settle what the publisher took before this sleep request, so that a stale entry of
        // the same reader is not mistaken for the new one.
        self.settle(gate, &mut wake);
        self.set(index);
        self.store(gate, &mut wake);
        if !self.is_asleep(index) {
            // The publisher took it while we were storing. Its wake is under way, and comes after
            // the sleep request.
            return;
        }
        // P3: either `news` sees what the publisher stored before its fence, or the publisher sees
        // this sleeper; partner: the publisher's WAKE_FENCE.
        site::SLEEP_FENCE.fence_full();
        if !weakened(site::LOOK_AGAIN_SKIPPED) && news() {
            self.remove(gate, index, &mut wake);
            wake(index);
        }
    }

    /// Removes reader `index` from the list: it detached, or the waker wakes it.
    pub fn remove(&mut self, gate: &WakeGate, index: u32, mut wake: impl FnMut(u32)) {
        if self.clear(index) {
            self.store(gate, &mut wake);
        }
    }

    /// Settles what the publisher has taken from the gate since the waker stored it. If it was
    /// several readers, the publisher signalled the event and they are woken here. If it was one,
    /// the publisher wakes that one itself.
    pub fn settle(&mut self, gate: &WakeGate, mut wake: impl FnMut(u32)) {
        if gate.summary.load(Ordering::Acquire) != self.stored {
            self.taken(&mut wake);
        }
    }

    /// Wakes every reader on the list, because the stream ends.
    pub fn wake_all(&mut self, gate: &WakeGate, mut wake: impl FnMut(u32)) {
        gate.summary.swap(NOBODY, Ordering::AcqRel);
        self.stored = NOBODY;
        self.drain(&mut wake);
    }

    /// Number of sleepers on the list.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no reader sleeps.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Stores the word that matches the list into the gate.
    fn store(&mut self, gate: &WakeGate, wake: &mut impl FnMut(u32)) {
        loop {
            let new = match self.count {
                0 => NOBODY,
                // As if there were several: the publisher signals the event, and the reader is
                // woken here.
                1 if self.is_slow_to_wake(self.first()) => SEVERAL,
                1 => u64::from(self.first()) + 1,
                _ => SEVERAL,
            };
            if gate
                .summary
                .compare_exchange(self.stored, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                self.stored = new;
                return;
            }
            self.taken(wake);
        }
    }

    /// The gate's word is not what we stored. Only the publisher overwrites ours, and only with 0:
    /// it took the readers that our word stood for.
    fn taken(&mut self, wake: &mut impl FnMut(u32)) {
        match std::mem::replace(&mut self.stored, NOBODY) {
            NOBODY => {}
            SEVERAL => self.drain(wake),
            one => {
                self.clear((one - 1) as u32);
            }
        }
    }

    fn is_asleep(&self, index: u32) -> bool {
        self.asleep[index as usize / 64] & (1 << (index % 64)) != 0
    }

    fn is_slow_to_wake(&self, index: u32) -> bool {
        self.slow_to_wake[index as usize / 64] & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: u32) {
        if !self.is_asleep(index) {
            self.asleep[index as usize / 64] |= 1 << (index % 64);
            self.count += 1;
        }
    }

    fn clear(&mut self, index: u32) -> bool {
        let was = self.is_asleep(index);
        if was {
            self.asleep[index as usize / 64] &= !(1 << (index % 64));
            self.count -= 1;
        }
        was
    }

    fn first(&self) -> u32 {
        let word = self.asleep.iter().position(|w| *w != 0).expect("count says one is set");
        word as u32 * 64 + self.asleep[word].trailing_zeros()
    }

    fn drain(&mut self, wake: &mut impl FnMut(u32)) {
        while self.count > 0 {
            let index = self.first();
            self.clear(index);
            wake(index);
        }
    }
}

#[cfg(all(test, not(ringweir_loom)))]
mod tests {
    use super::*;

    fn woken(
        sleepers: &mut Sleepers,
        act: impl FnOnce(&mut Sleepers, &mut dyn FnMut(u32)),
    ) -> Vec<u32> {
        let mut woken = Vec::new();
        act(sleepers, &mut |i| woken.push(i));
        woken
    }

    #[test]
    fn one_sleeper_is_woken_inline_and_several_by_one_event() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(1024));
        assert_eq!(gate.after_commit(), Wake::Nobody);
        sleepers.enter(&gate, 700, || false, |_| panic!("no news"));
        assert_eq!(gate.after_commit(), Wake::One(700));
        assert_eq!(gate.after_commit(), Wake::Nobody, "one wake per sleep");
        for i in [3, 900, 5] {
            sleepers.enter(&gate, i, || false, |_| panic!("no news"));
        }
        assert_eq!(gate.after_commit(), Wake::Several);
        assert_eq!(gate.after_commit(), Wake::Nobody, "one event for all");
        assert_eq!(woken(&mut sleepers, |s, wake| s.settle(&gate, wake)), [3, 5, 900]);
        assert!(sleepers.is_empty());
    }

    /// Control: the same reader is woken inline before, and again once waking it is not slow any
    /// more.
    #[test]
    fn slow_reader_is_left_to_the_waker() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(128));
        for (slow_to_wake, reported) in
            [(false, Wake::One(70)), (true, Wake::Several), (false, Wake::One(70))]
        {
            sleepers.set_slow_to_wake(70, slow_to_wake);
            sleepers.enter(&gate, 70, || false, |_| panic!("no news"));
            assert_eq!(gate.after_commit(), reported);
            let here: &[u32] = if slow_to_wake { &[70] } else { &[] };
            assert_eq!(woken(&mut sleepers, |s, wake| s.settle(&gate, wake)), here);
            assert!(sleepers.is_empty());
        }
    }

    #[test]
    fn a_stale_entry_is_not_mistaken_for_the_new_sleep() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(8));
        for _ in 0..3 {
            sleepers.enter(&gate, 4, || false, |_| panic!("no news"));
            assert_eq!(gate.after_commit(), Wake::One(4));
        }
        sleepers.enter(&gate, 4, || false, |_| panic!("no news"));
        sleepers.enter(&gate, 4, || false, |_| panic!("no news"));
        assert_eq!(gate.after_commit(), Wake::One(4), "entered twice is still one");
    }

    #[test]
    fn news_between_look_and_sleep_wakes_at_once() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(8));
        assert_eq!(woken(&mut sleepers, |s, wake| s.enter(&gate, 2, || true, wake)), [2]);
        assert_eq!(gate.after_commit(), Wake::Nobody);
    }

    #[test]
    fn newcomer_wakes_those_taken_before_the_event_was_seen() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(8));
        sleepers.enter(&gate, 0, || false, |_| panic!("no news"));
        sleepers.enter(&gate, 1, || false, |_| panic!("no news"));
        assert_eq!(gate.after_commit(), Wake::Several);
        assert_eq!(woken(&mut sleepers, |s, wake| s.enter(&gate, 2, || false, wake)), [0, 1]);
        assert_eq!(
            woken(&mut sleepers, |s, wake| s.settle(&gate, wake)),
            [],
            "the late event wakes nobody in vain"
        );
        assert_eq!(gate.after_commit(), Wake::One(2));
    }

    #[test]
    fn detaching_leaves_the_others_asleep() {
        let (gate, mut sleepers) = (WakeGate::default(), Sleepers::new(8));
        for i in 0..3 {
            sleepers.enter(&gate, i, || false, |_| panic!("no news"));
        }
        sleepers.remove(&gate, 0, |_| panic!("nobody to wake"));
        sleepers.remove(&gate, 2, |_| panic!("nobody to wake"));
        assert_eq!(gate.after_commit(), Wake::One(1));
    }
}
