//! `--verify`: whether the numbers in the datagrams prove what was reported as lost.
//!
//! Contract: a datagram is checked byte by byte; a number that is missing must have been reported
//! as lost before, and what was reported as lost must be missing. That holds across a restart of
//! the broker too, unless the numbers begin anew with it, as those of `gen:` do.

use crate::sink::About;
use ringweir::{Cause, Gap, Restart};
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
    seam: Option<Seam>,
    /// Restarts across which the numbers were compared, and those with which they began anew.
    compared: u64,
    anew: u64,
}

/// A restart of the broker after which no right datagram has arrived yet.
#[derive(Clone, Copy)]
struct Seam {
    /// Seq of the first datagram of the new broker.
    base: u64,
    /// Datagrams reported as lost since then that never had a seq; `None`: not known exactly, nor
    /// is what the restart cost.
    upstream: Option<u64>,
}

impl Seam {
    /// Whether a source that counts from 0 since the restart gives this number to the datagram
    /// `seq`. The numbers of one that continues are compared, as far as possible.
    fn is_anew(self, number: u64, seq: u64, last: u64) -> bool {
        let published = seq.saturating_sub(self.base);
        match self.upstream {
            _ if number == last.wrapping_add(1) => false,
            Some(lost) => number == published + lost,
            None => number >= published && number <= last,
        }
    }
}

impl Proof {
    pub(crate) fn new() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    pub(crate) fn reported(&mut self, gap: &Gap) {
        let exact = !matches!(gap.cause, Cause::Upstream { exact: false, .. } | Cause::SourceGone);
        self.pending = self.pending.filter(|_| exact).map(|n| n + gap.count);
        if let Some(seam) = &mut self.seam
            && gap.cause != Cause::Lapped
        {
            seam.upstream = seam.upstream.filter(|_| exact).map(|n| n + gap.count);
        }
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
            Ok(header) => {
                self.ok += 1;
                if let Some(seam) = self.seam.take()
                    && let Some(last) = before.last
                {
                    if seam.is_anew(header.number, about.seq, last) {
                        self.anew += 1;
                        self.pending = Some(0);
                        self.verifier =
                            Verifier { last: Some(header.number), ok: before.ok + 1, ..before };
                        return None;
                    }
                    self.compared += 1;
                }
            }
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
                "seq {}: {missing} numbers are missing after number {last}, {reported} were \
                reported as lost",
                about.seq
            )
        })
    }

    /// The broker was restarted: its source continues in its numbers, or counts anew. What a fresh
    /// ring cost is not known.
    pub(crate) fn restarted(&mut self, restart: &Restart) {
        let Restart { first, adopted, lost, exact, .. } = *restart;
        self.pending = self.pending.filter(|_| adopted && exact).map(|n| n + lost);
        let upstream = (adopted && exact).then_some(0);
        self.seam = Some(Seam { base: if adopted { first } else { 0 }, upstream });
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
            "{word}: {ok} right, {bad} wrong, {explained} missing as reported, {unexplained} \
            unexplained, {repeated} repeated"
        )?;
        if self.compared > 0 {
            write!(f, ", compared across {} restarts", self.compared)?;
        }
        if self.anew > 0 {
            write!(f, ", numbers from 0 again after {} restarts", self.anew)?;
        }
        Ok(())
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

    fn restart(adopted: bool, first: u64, lost: u64, exact: bool) -> Restart {
        // Only the library makes one.
        Restart { generation: 2, first, adopted, lost, exact }
    }

    /// Number and seq of the last datagram before a restart, and of the first one after it.
    fn across(restart: &Restart, number: u64, seq: u64) -> (Proof, Option<String>) {
        let mut proof = Proof::new();
        for n in 0..=100 {
            assert_eq!(proof.check(&datagram(n), &About { seq: n, ..ABOUT }), None);
        }
        proof.restarted(restart);
        let fault = proof.check(&datagram(number), &About { seq, ..ABOUT });
        (proof, fault)
    }

    #[test]
    fn numbers_are_compared_across_a_restart() {
        let exact = restart(true, 101, 3, true);
        let (proof, fault) = across(&exact, 104, 101);
        assert!(fault.is_none() && proof.holds(), "{proof}: {fault:?}");
        assert_eq!((proof.explained, proof.compared, proof.anew), (3, 1, 0));
        assert!(proof.to_string().ends_with("compared across 1 restarts"), "{proof}");
        // Controls: one more is missing than was reported; one less; one has come twice.
        assert!(across(&exact, 105, 101).1.unwrap().contains("4 numbers are missing"));
        assert!(across(&exact, 103, 101).1.unwrap().contains("3 were reported"));
        assert!(across(&exact, 100, 101).1.unwrap().contains("arrived before"));
        // What a fresh ring cost is not known, nor what an inexact restart cost.
        for unknown in [restart(false, 0, 0, false), restart(true, 101, 3, false)] {
            let (proof, fault) = across(&unknown, 200, unknown.first);
            assert!(fault.is_none() && proof.holds() && proof.explained == 99, "{proof}");
        }
    }

    #[test]
    fn numbers_may_begin_anew_with_a_restart() {
        let exact = restart(true, 101, 3, true);
        for (restart, number, seq) in [
            (exact, 0, 101),
            (exact, 7, 108),
            (restart(false, 0, 0, false), 0, 0),
            (restart(false, 5, 0, false), 5, 5),
            (restart(true, 101, 0, false), 9, 105),
        ] {
            let (mut proof, fault) = across(&restart, number, seq);
            assert!(fault.is_none() && proof.holds() && proof.anew == 1, "{number}: {proof}");
            assert_eq!(proof.check(&datagram(number + 1), &ABOUT), None);
            assert!(proof.check(&datagram(number + 3), &ABOUT).is_some(), "the control");
        }
        // With losses since then that have no seq.
        let mut proof = across(&exact, 104, 101).0;
        proof.restarted(&restart(true, 102, 0, true));
        let kernel = Cause::Upstream { layer: Layer::Kernel, exact: true };
        proof.reported(&Gap { cause: kernel, ..lapped(4) });
        assert_eq!(proof.check(&datagram(4), &About { seq: 102, ..ABOUT }), None);
        assert_eq!((proof.compared, proof.anew), (1, 1));
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
