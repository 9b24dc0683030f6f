//! The books of `ringcat`: what was delivered and lost, whether the datagrams' numbers prove it, and how it is told.
//!
//! Contract: counted here and not by the library, so that the two can be compared. What is told goes to stderr, never
//! into the output, and not faster than anybody can read.

use crate::sink::About;
use ringweir::{Account, Cause, Gap, Layer};
use ringweir_proto::numbered::Verifier;
use ringweir_proto::quantity::Bytes;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Lines about losses or wrong datagrams in a second; more are summed up.
const LINES_PER_SECOND: u32 = 20;

/// Words to stderr, not more than anybody can read.
pub(super) struct Words {
    stream: String,
    quiet: bool,
    second: Instant,
    lines: u32,
    withheld: u64,
}

impl Words {
    pub(super) fn new(stream: &str, quiet: bool) -> Self {
        Self { stream: stream.into(), quiet, second: Instant::now(), lines: 0, withheld: 0 }
    }

    pub(super) fn say(&self, text: impl std::fmt::Display) {
        // A stderr that is gone must not end what stdout still gets.
        let _gone = writeln!(io::stderr(), "ringcat: {}: {text}", self.stream);
    }

    /// One of many.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.quiet {
            return;
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.lines = 0;
            self.sum_up();
        }
        self.lines += 1;
        if self.lines > LINES_PER_SECOND {
            self.withheld += 1;
        } else {
            self.say(text());
        }
    }

    pub(super) fn sum_up(&mut self) {
        if std::mem::take(&mut self.withheld) > 0 && !self.quiet {
            self.say("… and more such lines; the summary counts them");
        }
    }
}

/// What one generation of the stream gave us, counted here and not by the library, so that the two can be compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) first: u64,
    pub(super) delivered: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) gaps: u64,
    pub(super) upstream: u64,
}

impl Window {
    pub(super) fn beginning(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    fn next(&self) -> u64 {
        self.first + self.delivered + self.lost
    }

    /// Whether the library's books say the same, and add up.
    pub(super) fn agrees(&self, account: &Account, read_cursor: u64) -> bool {
        let theirs = (account.start, account.delivered, account.lost, account.gaps, account.bytes_delivered);
        theirs == (self.first, self.delivered, self.lost, self.gaps, self.bytes) && self.next() == read_cursor
    }
}

/// Compares the numbers in the datagrams with what was told as lost.
#[derive(Default)]
pub(super) struct Proof {
    verifier: Verifier,
    /// Told as lost since the last right datagram; `None`: at least that many, nobody knows how many.
    pending: Option<u64>,
    explained: u64,
    unexplained: u64,
    ok: u64,
    bad: u64,
    repeated: u64,
}

impl Proof {
    pub(super) fn new() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    pub(super) fn told(&mut self, gap: &Gap) {
        let exact = !matches!(gap.cause, Cause::Upstream { exact: false, .. });
        self.pending = self.pending.filter(|_| exact).map(|n| n + gap.count);
    }

    /// Checks a datagram; `Some` says what is wrong.
    pub(super) fn check(&mut self, bytes: &[u8], about: &About) -> Option<String> {
        let before = self.verifier;
        match self.verifier.accept(bytes) {
            Err(fault) => {
                self.bad += 1;
                self.pending = self.pending.map(|n| n + 1);
                return Some(format!("seq {}: {fault}", about.seq));
            }
            Ok(_) => self.ok += 1,
        }
        if self.verifier.repeated > before.repeated {
            self.repeated += 1;
            return Some(format!("seq {}: a number that came before", about.seq));
        }
        let told = self.pending.replace(0);
        let missing = self.verifier.missing - before.missing;
        let last = before.last?;
        let told = told.unwrap_or(missing);
        self.explained += missing.min(told);
        let difference = missing.abs_diff(told);
        self.unexplained += difference;
        (difference > 0).then(|| {
            format!("seq {}: {missing} numbers are missing behind number {last}, {told} were told as lost", about.seq)
        })
    }

    /// Numbers may begin anew.
    pub(super) fn restarted(&mut self) {
        self.verifier = Verifier::default();
        self.pending = Some(0);
    }

    pub(super) fn holds(&self) -> bool {
        self.bad == 0 && self.unexplained == 0 && self.repeated == 0
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.holds() { "verified" } else { "NOT verified" };
        let Self { ok, bad, explained, unexplained, repeated, .. } = self;
        write!(
            f,
            "{word}: {ok} right, {bad} wrong, {explained} missing as told, {unexplained} unexplained, {repeated} repeated"
        )
    }
}

/// A loss with its count, place and cause.
pub(super) fn gap_words(gap: &Gap) -> String {
    let Gap { first, count, .. } = *gap;
    match gap.cause {
        Cause::Lapped => {
            let bytes = gap.bytes.map(|b| format!(" ({})", Bytes(b))).unwrap_or_default();
            format!("lost {count} datagrams [seq {first}..{}]{bytes}, reader was lapped", first + count - 1)
        }
        Cause::Upstream { layer, exact } => {
            let least = if exact { "" } else { "at least " };
            let place = match layer {
                Layer::Device => "in the device",
                Layer::Kernel => "in the kernel",
                Layer::Broker => "in the broker",
            };
            format!("lost {least}{count} datagrams before seq {first}, {place}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_proto::numbered;

    fn datagram(number: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        numbered::fill(&mut bytes, number, 0);
        bytes
    }

    fn lapped(count: u64) -> Gap {
        Gap { first: 0, count, bytes: None, time: 0, cause: Cause::Lapped }
    }

    const ABOUT: About = About { seq: 0, len: 40, original_len: 40, channel: 0, time: 0 };

    #[test]
    fn what_is_missing_must_be_what_was_told() {
        let mut proof = Proof::new();
        // Lost before the first datagram: nobody can say which number it should have.
        proof.told(&lapped(5));
        for n in [5, 6] {
            assert_eq!(proof.check(&datagram(n), &ABOUT), None);
        }
        proof.told(&lapped(3));
        assert_eq!(proof.check(&datagram(10), &ABOUT), None);
        assert!(proof.holds());
        assert_eq!((proof.ok, proof.explained), (3, 3));
        // The controls: missing and not told, told and not missing, repeated, damaged.
        assert!(proof.check(&datagram(12), &ABOUT).unwrap().contains("1 numbers are missing"));
        proof.told(&lapped(1));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("1 were told"));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("came before"));
        let mut damaged = datagram(14);
        damaged[30] ^= 1;
        assert!(proof.check(&damaged, &ABOUT).unwrap().contains("checksum"));
        assert_eq!((proof.unexplained, proof.repeated, proof.bad), (2, 1, 1));
        assert!(proof.to_string().starts_with("NOT verified"));
        // A damaged datagram is counted once, not again as a missing number.
        assert_eq!(proof.check(&datagram(15), &ABOUT), None);
    }

    #[test]
    fn a_loss_of_unknown_extent_explains_any_jump() {
        let mut proof = Proof::new();
        proof.check(&datagram(0), &ABOUT);
        proof.told(&Gap { cause: Cause::Upstream { layer: Layer::Kernel, exact: false }, ..lapped(1) });
        assert_eq!(proof.check(&datagram(9), &ABOUT), None);
        assert!(proof.holds());
    }

    #[test]
    fn gaps_are_told_with_count_place_and_cause() {
        let gap = Gap { first: 100, bytes: Some(64 << 10), ..lapped(4005) };
        assert_eq!(gap_words(&gap), "lost 4005 datagrams [seq 100..4104] (64 KiB), reader was lapped");
        let gap = Gap { cause: Cause::Upstream { layer: Layer::Device, exact: false }, ..gap };
        assert_eq!(gap_words(&gap), "lost at least 4005 datagrams before seq 100, in the device");
    }
}
