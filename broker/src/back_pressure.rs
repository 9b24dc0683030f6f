//! Holding the stream back for its lossless readers: when, for whom, and for how long.
//!
//! Contract: on the pump's thread; nothing here allocates, blocks or logs. The stream is held back
//! only while not one more datagram fits what a lossless reader has still to read, and by each
//! reader for at most its budget; then that one is demoted, told, counted and named in a notice.
//! What the source loses meanwhile is counted where it is lost.

use crate::intake::Intake;
use crate::readers::ReaderEntry;
use ringweir_cli::quantity::{Bytes, Span};
use ringweir_proto::control::Mode;
use ringweir_proto::os::clock;
use ringweir_proto::ring::{Budget, LosslessGate};
use ringweir_proto::stats::PumpCounter;
use ringweir_proto::sync::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What `--lossless` says: `TIME`, or `BYTES,TIME`; the time may be `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance(pub Budget);

impl FromStr for Allowance {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (bytes, time) = match text.split_once(',') {
            Some((bytes, time)) => (bytes.parse::<Bytes>().map_err(|e| e.to_string())?.0, time),
            None => (u64::MAX, text),
        };
        let time_ns = match time {
            "forever" => u64::MAX,
            _ => {
                let Span(time) =
                    time.parse().map_err(|e| format!("{e} (a budget is TIME or BYTES,TIME)"))?;
                u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
            }
        };
        if time_ns == 0 {
            return Err(
                "a budget of no time: leave --lossless out, and no reader is waited for".into()
            );
        }
        Ok(Self(Budget { bytes, time_ns }))
    }
}

/// For the start message.
impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Budget { bytes, time_ns } = self.0;
        match time_ns {
            u64::MAX => f.write_str("for ever")?,
            _ => write!(f, "for {}", Span(Duration::from_nanos(time_ns)))?,
        }
        if bytes == u64::MAX { Ok(()) } else { write!(f, " when it is {} ahead", Bytes(bytes)) }
    }
}

/// Looks at who holds the stream back, at first and at last: readers tell nobody that they have
/// read on.
const PAUSE_LEAST: Duration = Duration::from_micros(20);
const PAUSE_MOST: Duration = Duration::from_millis(1);

/// Places of the readers, as the pump has them.
type Places = [Option<Arc<ReaderEntry>>];

/// The pump's part in it.
pub struct BackPressure {
    gate: LosslessGate,
    /// When it was looked last, if the stream is held back.
    held_at: Option<u64>,
    pause: Duration,
}

impl BackPressure {
    /// For at most `most` readers. Without an allowance nobody is let in, and nothing is ever held
    /// back.
    pub fn new(allowance: Option<Allowance>, most: u32) -> Self {
        let (budget, most) =
            allowance.map_or((Budget { bytes: 0, time_ns: 0 }, 0), |allowance| (allowance.0, most));
        Self { gate: LosslessGate::new(budget, most), held_at: None, pause: PAUSE_LEAST }
    }

    /// A reader has come; everything is flushed.
    pub fn attach(&mut self, entry: &ReaderEntry, intake: &mut Intake) {
        let Mode::Lossless { start } = entry.mode else { return };
        entry.lossless.store(1, Ordering::Relaxed);
        self.gate.admit(intake.publisher(), entry.index, start, entry.page.block());
        intake.set_gated(true);
    }

    /// One has gone.
    pub fn detach(&mut self, index: u32, intake: &mut Intake) {
        self.gate.remove(intake.publisher(), index);
        intake.set_gated(!self.gate.is_empty());
    }

    /// Whether the stream is to be held back at this moment of `intake`: until it is looked again,
    /// after so long.
    pub fn look(&mut self, intake: &mut Intake, readers: &Places) -> Option<Duration> {
        let (now, bytes) = (intake.now(), intake.longest());
        let fits = intake.publisher().fits(bytes) || {
            let cursor_of =
                |index: u32| Some(&readers.get(index as usize)?.as_ref()?.page.block().read_seq);
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

    /// Charges the time since it was looked last to all who are in the way; true if it can go on
    /// without those who had none left.
    fn charge(&mut self, now: u64, intake: &mut Intake, readers: &Places) -> bool {
        let bytes = intake.longest();
        if self.held_at.is_none() {
            intake.count(PumpCounter::Holds, 1);
        }
        let mut ns = now.saturating_sub(self.held_at.replace(now).unwrap_or(now));
        intake.count(PumpCounter::HeldTime, ns);
        let entry = |index: u32| readers.get(index as usize).and_then(Option::as_ref);
        for index in self.gate.in_the_way(intake.publisher(), bytes) {
            if let Some(entry) = entry(index) {
                entry.held_ns.fetch_add(ns, Ordering::Relaxed);
            }
        }
        while let Some(index) = self.gate.charge(intake.publisher(), bytes, std::mem::take(&mut ns))
        {
            // The list has nobody who is not here.
            let Some(entry) = entry(index) else {
                self.detach(index, intake);
                continue;
            };
            let told = self.gate.demote(intake.publisher(), index, entry.page.block());
            entry.lossless.store(0, Ordering::Relaxed);
            entry.demoted_at.store(clock::realtime_ns(), Ordering::Relaxed);
            intake.count(PumpCounter::Demotions, 1);
            intake.set_gated(!self.gate.is_empty());
            intake.notice(format_args!(
                "reader {index} {:?} (pid {}, uid {}) held the stream back for {} and is not \
                waited \
                for any more",
                entry.label,
                entry.peer.pid,
                entry.peer.uid,
                Span(Duration::from_nanos(told.held_ns)),
            ));
        }
        intake.publisher().fits(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_in_words() {
        let parse =
            |text: &str| text.parse::<Allowance>().map(|a| (a.0.bytes, a.0.time_ns, a.to_string()));
        assert_eq!(parse("250ms"), Ok((u64::MAX, 250_000_000, "for 250 ms".into())));
        assert_eq!(
            parse("64MiB,2s"),
            Ok((64 << 20, 2_000_000_000, "for 2 s when it is 64 MiB ahead".into()))
        );
        assert_eq!(parse("forever"), Ok((u64::MAX, u64::MAX, "for ever".into())));
        for bad in ["", "0s", "64MiB", "250ms,64MiB", "1MiB,", "-1s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
