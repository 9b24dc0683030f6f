//! `--verify`: whether the numbers in the datagrams prove what was reported as lost.
//!
//! Contract: a datagram is checked byte by byte; a number that is missing must have been reported
//! as lost before, and what was reported as lost must be missing.

use crate::sink::About;
use ringweir::{Cause, Gap};
use ringweir_pattern::verify::Verifier;

/// Compares the numbers in the datagrams with what was reported as lost.
#[derive(Default)]
pub(crate) struct Proof {
    verifier: Verifier,
    /// Datagrams reported as lost since the last right one; `None`: the exact number is not known.
    pending: Option<u64>,
    explained: u64,
    unexplained: u64,
    ok: u64,
    bad: u64,
    repeated: u64,
}

impl Proof {
    pub(crate) fn new() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    pub(crate) fn reported(&mut self, gap: &Gap) {
        let exact = !matches!(gap.cause, Cause::Upstream { exact: false, .. } | Cause::SourceGone);
        self.pending = self.pending.filter(|_| exact).map(|n| n + gap.count);
    }

    /// Checks a datagram. `Some`: what is wrong with it.
    pub(crate) fn check(&mut self, bytes: &[u8], about: &About) -> Option<String> {
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
            return Some(format!("seq {}: its number has arrived before", about.seq));
        }
        let reported = self.pending.replace(0);
        let missing = self.verifier.missing - before.missing;
        let last = before.last?;
        let reported = reported.unwrap_or(missing);
        self.explained += missing.min(reported);
        let difference = missing.abs_diff(reported);
        self.unexplained += difference;
        (difference > 0).then(|| {
            format!(
                "seq {}: {missing} numbers are missing after number {last}, {reported} were reported as lost",
                about.seq
            )
        })
    }

    /// The broker was restarted, so numbers may start again.
    pub(crate) fn restarted(&mut self) {
        self.verifier = Verifier::default();
        self.pending = Some(0);
    }

    pub(crate) fn holds(&self) -> bool {
        self.bad == 0 && self.unexplained == 0 && self.repeated == 0
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.holds() { "verified" } else { "NOT verified" };
        let Self { ok, bad, explained, unexplained, repeated, .. } = self;
        write!(
            f,
            "{word}: {ok} right, {bad} wrong, {explained} missing as reported, {unexplained} unexplained, {repeated} repeated"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir::Layer;
    use ringweir_pattern::crc;

    fn datagram(number: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        crc::fill(&mut bytes, number, 0);
        bytes
    }

    fn lapped(count: u64) -> Gap {
        Gap { first: 0, count, bytes: None, time: 0, cause: Cause::Lapped }
    }

    const ABOUT: About = About { seq: 0, len: 40, original_len: 40, channel: 0, time: 0 };

    #[test]
    fn missing_numbers_must_match_the_reported_loss() {
        let mut proof = Proof::new();
        // The number of the first datagram is not known in advance, so a loss before it proves
        // nothing.
        proof.reported(&lapped(5));
        for n in [5, 6] {
            assert_eq!(proof.check(&datagram(n), &ABOUT), None);
        }
        proof.reported(&lapped(3));
        assert_eq!(proof.check(&datagram(10), &ABOUT), None);
        assert!(proof.holds());
        assert_eq!((proof.ok, proof.explained), (3, 3));
        // Controls: missing but not reported, reported but not missing, repeated, damaged.
        assert!(proof.check(&datagram(12), &ABOUT).unwrap().contains("1 numbers are missing"));
        proof.reported(&lapped(1));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("1 were reported"));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("arrived before"));
        let mut damaged = datagram(14);
        damaged[30] ^= 1;
        assert!(proof.check(&damaged, &ABOUT).unwrap().contains("checksum"));
        assert_eq!((proof.unexplained, proof.repeated, proof.bad), (2, 1, 1));
        assert!(proof.to_string().starts_with("NOT verified"));
        // A damaged datagram is counted once, not again as a missing number.
        assert_eq!(proof.check(&datagram(15), &ABOUT), None);
    }

    #[test]
    fn an_inexact_loss_explains_any_jump() {
        let mut proof = Proof::new();
        proof.check(&datagram(0), &ABOUT);
        proof.reported(&Gap {
            cause: Cause::Upstream { layer: Layer::Kernel, exact: false },
            ..lapped(1)
        });
        assert_eq!(proof.check(&datagram(9), &ABOUT), None);
        assert!(proof.holds());
    }
}
