//! The account of a tool that reads a stream: what was delivered and lost, and the messages about
//! it.
//!
//! Contract: counts by itself and not by the library, so that the two can be compared.

use crate::messages::Messages;
use crate::proof::Proof;
use crate::seq_window::SeqWindow;
use crate::sink::About;
use ringweir::{Cause, Demoted, Gap, Reader, Restart};
use ringweir_cli::quantity::{Bytes, Span};
use std::fmt::Write as _;
use std::time::Duration;

/// Exit status of a reader that `ringctl detach` detached: what arrived is right, but incomplete.
pub const DETACHED: u8 = 3;

/// The account of one reading end over all generations.
pub(crate) struct ReaderAccount {
    pub(crate) messages: Messages,
    window: SeqWindow,
    /// The sum of all rings before this one, and how many there were.
    earlier: SeqWindow,
    earlier_rings: u64,
    /// Seq at which it began, in the first ring.
    since: u64,
    proof: Option<Proof>,
    /// Datagrams among those delivered that were not wanted.
    pub(crate) left_out: u64,
}

impl ReaderAccount {
    /// Starts at the position of `reader`. `who` begins every message; `verify` checks the numbers
    /// in the datagrams.
    pub(crate) fn new(who: String, quiet: bool, verify: bool, reader: &Reader) -> Self {
        Self {
            messages: Messages::new(who, quiet),
            window: SeqWindow::starting_at(reader.account().start),
            earlier: SeqWindow::default(),
            earlier_rings: 0,
            since: reader.account().start,
            proof: verify.then(Proof::new),
            left_out: 0,
        }
    }

    /// Counts a datagram that was read.
    pub(crate) fn datagram(&mut self, bytes: &[u8], about: &About) {
        self.window.delivered += 1;
        self.window.bytes += about.len as u64;
        if let Some(proof) = &mut self.proof
            && let Some(fault) = proof.check(bytes, about)
        {
            self.messages.print_limited(|| fault);
        }
    }

    /// Counts and reports a loss.
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
            proof.reported(gap);
        }
        self.messages.print_limited(|| gap_words(gap));
    }

    /// Notes that the broker was restarted: the account continues, or starts again with a new ring.
    pub(crate) fn restarted(&mut self, restart: Restart) {
        self.messages.print_limited(|| restart_words(&restart));
        if restart.adopted {
            self.window.upstream += restart.lost;
        } else {
            self.earlier = self.all();
            self.earlier_rings += 1;
            self.window = SeqWindow::starting_at(restart.first);
        }
        if let Some(proof) = &mut self.proof {
            proof.restarted(&restart);
        }
    }

    /// Reports that the reader was lossless and has been demoted.
    pub(crate) fn demoted(&mut self, demoted: Demoted) {
        let held = Span(Duration::from_nanos(demoted.held_ns));
        self.messages.print_limited(|| {
            format!("demoted: the stream waited {held} for this reader and does not wait any more")
        });
    }

    /// The sum over all generations.
    pub(crate) fn all(&self) -> SeqWindow {
        let SeqWindow { delivered, bytes, lost, gaps, upstream, gone, .. } = self.earlier;
        SeqWindow {
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

    /// Prints the summary, followed by `more`, if it is `wanted` or something was lost. Returns
    /// whether the account adds up.
    pub(crate) fn conclude(
        &mut self,
        reader: &mut Reader,
        wanted: bool,
        more: &str,
    ) -> anyhow::Result<bool> {
        // Every datagram held has been counted, so this cannot find a gap. It updates the library's
        // account.
        if let Some(gap) = reader.release()? {
            self.gap(&gap);
        }
        self.messages.sum_up();
        let all = self.all();
        let agrees = self.window.agrees(reader.account(), reader.read_cursor());
        let proved = self.proof.as_ref().is_none_or(Proof::holds);
        if (wanted || self.has_losses() || all.gone > 0) && !self.messages.quiet {
            let rings = match self.earlier_rings {
                0 => String::new(),
                earlier => format!(", in {} rings", earlier + 1),
            };
            // Readers that began at different moments have different sums.
            let mut text = format!(
                "since seq {}{rings}: {} published = {} delivered ({}) + {} lost in {} gaps",
                self.since,
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
            if self.left_out > 0 {
                let _infallible = write!(text, "; {} of other channels", self.left_out);
            }
            if let Some(proof) = &self.proof {
                let _infallible = write!(text, "; {proof}");
            }
            text.push_str(more);
            self.messages.print(text);
        }
        if !agrees {
            self.messages.print(format_args!(
                "the account does not add up, which is a bug: counted {:?}, the library {:?}, at \
                seq {}",
                self.window,
                reader.account(),
                reader.read_cursor()
            ));
        }
        Ok(agrees && proved)
    }
}

/// A restart with what it cost.
fn restart_words(restart: &Restart) -> String {
    let Restart { generation, first, adopted, lost, exact } = *restart;
    let cost = match (adopted, exact) {
        (false, _) => ", seqs start again".into(),
        (true, true) => format!(", {lost} datagrams lost by it"),
        (true, false) => format!(", at least {lost} datagrams lost by it"),
    };
    format!("the broker was restarted: generation {generation}, from seq {first}{cost}")
}

/// A loss with its count, position and cause, and with its bytes where they are known.
fn gap_words(gap: &Gap) -> String {
    match gap.bytes {
        Some(bytes) => format!("{gap} ({})", Bytes(bytes)),
        None => gap.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir::Layer;

    fn lapped(count: u64) -> Gap {
        Gap { first: 0, count, bytes: None, time: 0, cause: Cause::Lapped }
    }

    #[test]
    fn gaps_are_reported_with_count_position_and_cause() {
        let gap = Gap { first: 100, bytes: Some(64 << 10), ..lapped(4005) };
        assert_eq!(
            gap_words(&gap),
            "lost 4005 datagrams [seq 100..4104], reader was lapped (64 KiB)"
        );
        let cause = Cause::Upstream { layer: Layer::Device, exact: false };
        let gap = Gap { cause, bytes: None, ..gap };
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
            format!("{said}seqs start again")
        );
    }
}
