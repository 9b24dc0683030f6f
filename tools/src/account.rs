//! The books of a tool that reads a stream: what was delivered and lost, whether the datagrams'
//! numbers prove it, and how it is told.
//!
//! Contract: counted here and not by the library, so that the two can be compared. What is told
//! goes to stderr, never into the output, and not faster than anybody can read.

use crate::sink::About;
use ringweir::{Account, Cause, Demoted, Gap, Layer, Reader, Restart};
use ringweir_cli::quantity::{Bytes, Span};
use ringweir_pattern::crc::Verifier;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Exit status of a reader that `ringctl detach` sent away: what has come is right, and there is
/// more.
pub const DETACHED: u8 = 3;

/// Lines about losses or wrong datagrams in a second; more are summed up.
const LINES_PER_SECOND: u32 = 20;

/// Words to stderr, not more than anybody can read.
pub(crate) struct Words {
    /// Program and stream.
    who: String,
    quiet: bool,
    second: Instant,
    lines: u32,
    withheld: u64,
}

impl Words {
    pub(crate) fn new(who: String, quiet: bool) -> Self {
        Self { who, quiet, second: Instant::now(), lines: 0, withheld: 0 }
    }

    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        // A stderr that is gone must not end what stdout still gets.
        let _gone = writeln!(io::stderr(), "{}: {text}", self.who);
    }

    /// One of many.
    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
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

    pub(crate) fn sum_up(&mut self) {
        if std::mem::take(&mut self.withheld) > 0 && !self.quiet {
            self.say("… and more such lines; the summary counts them");
        }
    }
}

/// What one generation of the stream gave us, counted here and not by the library, so that the two
/// can be compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) first: u64,
    pub(crate) delivered: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
    pub(crate) gaps: u64,
    pub(crate) upstream: u64,
    /// Times the source's device went away.
    pub(crate) gone: u64,
}

impl Window {
    fn beginning(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    fn next(&self) -> u64 {
        self.first + self.delivered + self.lost
    }

    /// Whether the library's books say the same, and add up.
    fn agrees(&self, account: &Account, read_cursor: u64) -> bool {
        let theirs =
            (account.start, account.delivered, account.lost, account.gaps, account.bytes_delivered);
        theirs == (self.first, self.delivered, self.lost, self.gaps, self.bytes)
            && self.next() == read_cursor
    }
}

/// The account of one reading end over all generations.
pub(crate) struct ReaderAccount {
    pub(crate) words: Words,
    window: Window,
    /// Of the generations before this one.
    earlier: Window,
    proof: Option<Proof>,
}

impl ReaderAccount {
    /// Begins where `reader` stands; `who` is said in front of every word, `verify` has the numbers
    /// in the datagrams checked.
    pub(crate) fn new(who: String, quiet: bool, verify: bool, reader: &Reader) -> Self {
        Self {
            words: Words::new(who, quiet),
            window: Window::beginning(reader.account().start),
            earlier: Window::default(),
            proof: verify.then(Proof::new),
        }
    }

    /// A whole datagram was taken.
    pub(crate) fn datagram(&mut self, bytes: &[u8], about: &About) {
        self.window.delivered += 1;
        self.window.bytes += about.len as u64;
        if let Some(proof) = &mut self.proof
            && let Some(fault) = proof.check(bytes, about)
        {
            self.words.tell(|| fault);
        }
    }

    /// Something was lost.
    pub(crate) fn gap(&mut self, gap: &Gap) {
        match gap.cause {
            Cause::Lapped => {
                self.window.lost += gap.count;
                self.window.gaps += 1;
            }
            Cause::Upstream { .. } => self.window.upstream += gap.count,
            Cause::SourceGone => self.window.gone += 1,
        }
        if let Some(proof) = &mut self.proof {
            proof.told(gap);
        }
        self.words.tell(|| gap_words(gap));
    }

    /// The broker was restarted: the account goes on, or begins anew with a fresh ring.
    pub(crate) fn restarted(&mut self, restart: Restart) {
        self.words.tell(|| restart_words(&restart));
        if restart.adopted {
            self.window.upstream += restart.lost;
        } else {
            self.earlier = self.all();
            self.window = Window::beginning(restart.first);
        }
        if let Some(proof) = &mut self.proof {
            proof.restarted();
        }
    }

    /// It was lossless, and is not any more.
    pub(crate) fn demoted(&mut self, demoted: Demoted) {
        let held = Span(Duration::from_nanos(demoted.held_ns));
        self.words.tell(|| {
            format!(
                "the stream does not wait for this reader any more, which held it back for {held}"
            )
        });
    }

    /// Everything, over all generations.
    pub(crate) fn all(&self) -> Window {
        let Window { delivered, bytes, lost, gaps, upstream, gone, .. } = self.earlier;
        Window {
            first: self.window.first,
            delivered: delivered + self.window.delivered,
            bytes: bytes + self.window.bytes,
            lost: lost + self.window.lost,
            gaps: gaps + self.window.gaps,
            upstream: upstream + self.window.upstream,
            gone: gone + self.window.gone,
        }
    }

    /// Whether something was lost.
    pub(crate) fn has_losses(&self) -> bool {
        let all = self.all();
        all.lost + all.upstream > 0
    }

    /// The last word, said if it is `wanted` or something was lost, with `more` behind it; whether
    /// everything adds up.
    pub(crate) fn conclude(
        &mut self,
        reader: &mut Reader,
        wanted: bool,
        more: &str,
    ) -> anyhow::Result<bool> {
        // Nothing is held that is not counted, so this cannot find a gap; it brings the library's
        // books up to date.
        if let Some(gap) = reader.release()? {
            self.gap(&gap);
        }
        self.words.sum_up();
        let all = self.all();
        let agrees = self.window.agrees(reader.account(), reader.read_cursor());
        let proved = self.proof.as_ref().is_none_or(Proof::holds);
        if (wanted || self.has_losses() || all.gone > 0) && !self.words.quiet {
            let mut text = format!(
                "{} published = {} delivered ({}) + {} lost in {} gaps",
                all.delivered + all.lost,
                all.delivered,
                Bytes(all.bytes),
                all.lost,
                all.gaps
            );
            if all.upstream > 0 {
                // Writing to a String cannot fail.
                let _infallible = write!(text, "; {} lost before the ring", all.upstream);
            }
            match all.gone {
                0 => {}
                1 => text.push_str("; the source's device went away once"),
                n => {
                    let _infallible = write!(text, "; the source's device went away {n} times");
                }
            }
            if let Some(proof) = &self.proof {
                let _infallible = write!(text, "; {proof}");
            }
            text.push_str(more);
            self.words.say(text);
        }
        if !agrees {
            self.words.say(format_args!(
                "the account does not add up, which is a bug: counted {:?}, told {:?}, at seq {}",
                self.window,
                reader.account(),
                reader.read_cursor()
            ));
        }
        Ok(agrees && proved)
    }
}

/// Compares the numbers in the datagrams with what was told as lost.
#[derive(Default)]
struct Proof {
    verifier: Verifier,
    /// Told as lost since the last right datagram; `None`: at least that many, nobody knows how
    /// many.
    pending: Option<u64>,
    explained: u64,
    unexplained: u64,
    ok: u64,
    bad: u64,
    repeated: u64,
}

impl Proof {
    fn new() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    fn told(&mut self, gap: &Gap) {
        let exact = !matches!(gap.cause, Cause::Upstream { exact: false, .. } | Cause::SourceGone);
        self.pending = self.pending.filter(|_| exact).map(|n| n + gap.count);
    }

    /// Checks a datagram; `Some` says what is wrong.
    fn check(&mut self, bytes: &[u8], about: &About) -> Option<String> {
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
            format!(
                "seq {}: {missing} numbers are missing behind number {last}, {told} were told \
                as lost",
                about.seq
            )
        })
    }

    /// Numbers may begin anew.
    fn restarted(&mut self) {
        self.verifier = Verifier::default();
        self.pending = Some(0);
    }

    fn holds(&self) -> bool {
        self.bad == 0 && self.unexplained == 0 && self.repeated == 0
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.holds() { "verified" } else { "NOT verified" };
        let Self { ok, bad, explained, unexplained, repeated, .. } = self;
        write!(
            f,
            "{word}: {ok} right, {bad} wrong, {explained} missing as told, {unexplained} \
            unexplained, {repeated} repeated"
        )
    }
}

/// A restart with what it cost.
fn restart_words(restart: &Restart) -> String {
    let Restart { generation, first, adopted, lost, exact } = *restart;
    let cost = match (adopted, exact) {
        (false, _) => ", seqs begin anew".into(),
        (true, true) => format!(", {lost} datagrams lost by it"),
        (true, false) => format!(", at least {lost} datagrams lost by it"),
    };
    format!("the broker was restarted: generation {generation}, from seq {first}{cost}")
}

/// A loss with its count, place and cause.
fn gap_words(gap: &Gap) -> String {
    let Gap { first, count, .. } = *gap;
    match gap.cause {
        Cause::Lapped => {
            let bytes = gap.bytes.map(|b| format!(" ({})", Bytes(b))).unwrap_or_default();
            format!(
                "lost {count} datagrams [seq {first}..{}]{bytes}, reader was lapped",
                first + count - 1
            )
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
        Cause::SourceGone => {
            format!(
                "the source's device is gone; what follows, from seq {first} on, is from after its \
                return"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        proof.told(&Gap {
            cause: Cause::Upstream { layer: Layer::Kernel, exact: false },
            ..lapped(1)
        });
        assert_eq!(proof.check(&datagram(9), &ABOUT), None);
        assert!(proof.holds());
    }

    #[test]
    fn gaps_are_told_with_count_place_and_cause() {
        let gap = Gap { first: 100, bytes: Some(64 << 10), ..lapped(4005) };
        assert_eq!(
            gap_words(&gap),
            "lost 4005 datagrams [seq 100..4104] (64 KiB), reader was lapped"
        );
        let gap = Gap { cause: Cause::Upstream { layer: Layer::Device, exact: false }, ..gap };
        assert_eq!(gap_words(&gap), "lost at least 4005 datagrams before seq 100, in the device");
        let restart = Restart { generation: 2, first: 7, adopted: true, lost: 3, exact: true };
        let said = "the broker was restarted: generation 2, from seq 7, ";
        assert_eq!(restart_words(&restart), format!("{said}3 datagrams lost by it"));
        assert_eq!(
            restart_words(&Restart { exact: false, ..restart }),
            format!("{said}at least 3 datagrams lost by it")
        );
        assert_eq!(
            restart_words(&Restart { adopted: false, ..restart }),
            format!("{said}seqs begin anew")
        );
    }
}
