//! Back-pressure: when the stream waits for its lossless readers, for which of them, and for how
//! long.
//!
//! Contract: runs on the pump's thread; nothing here allocates, blocks or logs. The stream waits
//! only if not even one more datagram fits without overwriting something that a lossless reader has
//! yet to read. It waits for each reader at most as long as that reader's budget lasts. Then the
//! reader is demoted: its page says so, it is counted, and a notice names it. What the source loses
//! meanwhile is counted by the layer that loses it.

use crate::intake::for_pump::PumpIntake;
use crate::readers::entry::ReaderEntry;
use crate::readers::pump_list::PumpReaders;
use ringweir_cli::quantity::Span;
use ringweir_proto::control::Mode;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Budget, LosslessGate};
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;
use std::time::Duration;

/// Shortest and longest pause between two checks of the readers' cursors. The checks are needed
/// because readers do not report that they have advanced.
const PAUSE_LEAST: Duration = Duration::from_micros(20);
const PAUSE_MOST: Duration = Duration::from_millis(1);

/// The lossless readers of one stream.
pub struct BackPressure {
    gate: LosslessGate,
    /// When the cursors were last checked, if the stream is waiting.
    held_at: Option<u64>,
    pause: Duration,
}

impl Default for BackPressure {
    /// No reader is lossless, and the stream never waits.
    fn default() -> Self {
        Self::new(Budget { bytes: 0, time_ns: 0 }, 0)
    }
}

impl BackPressure {
    /// For at most `most` readers, each with `budget`.
    pub fn new(budget: Budget, most: u32) -> Self {
        Self { gate: LosslessGate::new(budget, most), held_at: None, pause: PAUSE_LEAST }
    }

    /// A reader has attached; everything is flushed.
    pub fn attach(&mut self, entry: &ReaderEntry, intake: &mut PumpIntake) {
        let Mode::Lossless { start } = entry.mode else { return };
        entry.lossless.store(1, Ordering::Relaxed);
        self.gate.admit(intake.publisher(), entry.index, start, entry.page().block());
        intake.set_gated(true);
    }

    /// A reader has detached.
    pub fn detach(&mut self, index: u32, intake: &mut PumpIntake) {
        self.gate.remove(intake.publisher(), index);
        intake.set_gated(!self.gate.is_empty());
    }

    /// Whether the stream must wait now. Returns the time after which to check again.
    pub fn check(&mut self, intake: &mut PumpIntake, readers: &PumpReaders) -> Option<Duration> {
        let (now, bytes) = (intake.now(), intake.longest());
        let fits = intake.publisher().fits(bytes) || {
            let cursor_of = |index: u32| Some(&readers.get(index)?.page().block().read_seq);
            self.gate.look(intake.publisher(), cursor_of);
            intake.publisher().fits(bytes)
        };
        if fits || self.charge(now, intake, readers) {
            self.held_at = None;
            self.pause = PAUSE_LEAST;
            return None;
        }
        let left = Duration::from_nanos(self.gate.left_ns(intake.publisher(), bytes).max(1));
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        Some(pause)
    }

    /// Charges the time since the last check to all readers in the way, and demotes those whose
    /// budget is used up. Returns whether the stream can continue without them.
    fn charge(&mut self, now: u64, intake: &mut PumpIntake, readers: &PumpReaders) -> bool {
        let bytes = intake.longest();
        if self.held_at.is_none() {
            intake.count(PumpCounter::Holds, 1);
        }
        let mut ns = now.saturating_sub(self.held_at.replace(now).unwrap_or(now));
        intake.count(PumpCounter::HeldTime, ns);
        for index in self.gate.in_the_way(intake.publisher(), bytes) {
            if let Some(entry) = readers.get(index) {
                entry.held_ns.fetch_add(ns, Ordering::Relaxed);
            }
        }
        while let Some(index) = self.gate.charge(intake.publisher(), bytes, std::mem::take(&mut ns))
        {
            // Cannot happen: every reader of the gate is in the list.
            let Some(entry) = readers.get(index) else {
                self.detach(index, intake);
                continue;
            };
            let demoted = self.gate.demote(intake.publisher(), index, entry.page().block());
            entry.lossless.store(0, Ordering::Relaxed);
            entry.demoted_at.store(clock::realtime_ns(), Ordering::Relaxed);
            intake.count(PumpCounter::Demotions, 1);
            intake.set_gated(!self.gate.is_empty());
            intake.notice(format_args!(
                "{} was demoted to lossy: the stream has waited {} for it, and its budget is used \
                up",
                entry.describe(),
                Span(Duration::from_nanos(demoted.held_ns)),
            ));
        }
        intake.publisher().fits(bytes)
    }
}
