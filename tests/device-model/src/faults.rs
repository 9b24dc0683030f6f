//! What the device does wrong on request: one word each, on the command line and on standard input.

use super::model::Spoil;
use ringweir_cli::quantity::Span;
use std::str::FromStr;
use std::time::Duration;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An index counter jumps four FIFOs ahead. Nothing goes in until the consumer has gone there.
    ProducerOutOfRange,
    /// It jumps off the 8-byte words as well, and by another four bytes back onto them once the
    /// consumer has gone there.
    ProducerUnaligned,
    /// The next entry, or the next one with room, cannot be read.
    Spoil(Spoil),
    /// This many numbers are skipped.
    SkipSequence(u32),
    /// It interrupts all the time for this long, whatever the mask says.
    InterruptStorm(Duration),
    /// It does not interrupt for this long.
    LostInterrupt(Duration),
    /// It does nothing at all for this long: makes no datagrams, obeys no register.
    Stall(Duration),
    /// It is unplugged: hangs up, forgets its memory.
    Disappear,
    /// It is plugged in again: new memory, everything from 0.
    Reappear,
}

/// All words, for messages.
pub const WORDS: &str = "producer-out-of-range, producer-unaligned, bad-mark, length-over, \
    skip-sequence[=N], interrupt-storm[=TIME], lost-interrupt[=TIME], stall[=TIME], disappear, \
    reappear";

impl Fault {
    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProducerOutOfRange => "producer-out-of-range",
            Self::ProducerUnaligned => "producer-unaligned",
            Self::Spoil(Spoil::Mark) => "bad-mark",
            Self::Spoil(Spoil::Length) => "length-over",
            Self::SkipSequence(_) => "skip-sequence",
            Self::InterruptStorm(_) => "interrupt-storm",
            Self::LostInterrupt(_) => "lost-interrupt",
            Self::Stall(_) => "stall",
            Self::Disappear => "disappear",
            Self::Reappear => "reappear",
        }
    }
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let time = |usual: u64| match value {
            None => Ok(Duration::from_millis(usual)),
            Some(value) => {
                value.parse::<Span>().map(|span| span.0).map_err(|e| format!("{name}: {e}"))
            }
        };
        let plain = |fault| match value {
            None => Ok(fault),
            Some(value) => Err(format!("{name}={value}: {name} takes no value")),
        };
        match name {
            "producer-out-of-range" => plain(Self::ProducerOutOfRange),
            "producer-unaligned" => plain(Self::ProducerUnaligned),
            "bad-mark" => plain(Self::Spoil(Spoil::Mark)),
            "length-over" => plain(Self::Spoil(Spoil::Length)),
            "disappear" => plain(Self::Disappear),
            "reappear" => plain(Self::Reappear),
            "skip-sequence" => match value.unwrap_or("1").parse() {
                Ok(count) if count > 0 => Ok(Self::SkipSequence(count)),
                _ => Err(format!("{text}: a whole number of datagrams from 1 is needed")),
            },
            "interrupt-storm" => time(100).map(Self::InterruptStorm),
            "lost-interrupt" => time(100).map(Self::LostInterrupt),
            "stall" => time(1000).map(Self::Stall),
            _ => Err(format!("{text:?} is nothing it can do wrong; there are {WORDS}")),
        }
    }
}

/// A fault to inject, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The fault.
    pub what: Fault,
    /// Time after the device first ran.
    pub after: Duration,
}

impl FromStr for Order {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((what, after)) = text.split_once('@') else {
            return Err(format!("{text:?} does not say when: add @TIME, such as {text}@2s"));
        };
        let after = after.parse::<Span>().map_err(|e| format!("{text}: {e}"))?.0;
        Ok(Self { what: what.parse()?, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood_and_named() {
        for word in WORDS.split(", ").map(|w| w.split('[').next().unwrap()) {
            assert_eq!(word.parse::<Fault>().unwrap().name(), word);
        }
        assert_eq!("skip-sequence=7".parse(), Ok(Fault::SkipSequence(7)));
        let order = "interrupt-storm=50ms@1.5s".parse::<Order>().unwrap();
        let expected = Fault::InterruptStorm(Duration::from_millis(50));
        assert_eq!((order.what, order.after), (expected, Duration::from_millis(1500)));
    }

    #[test]
    fn unknown_words_are_refused_by_name() {
        for (text, part) in [
            ("bad-mask@1s", "there are producer-out-of-range"),
            ("bad-mark", "add @TIME"),
            ("bad-mark=1@1s", "takes no value"),
            ("stall=1@1s", "no unit"),
            ("stall@1", "no unit"),
            ("skip-sequence=0@1s", "from 1"),
        ] {
            let error = text.parse::<Order>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
