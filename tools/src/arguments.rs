//! Option values that several tools share.
//!
//! Contract: an error names what is accepted; clap adds the option and the value.

use ringweir::Start;
use ringweir_cli::quantity::Span;
use std::str::FromStr;
use std::time::Duration;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct From(pub(crate) Start);

impl FromStr for From {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self(Start::Oldest)),
            "latest" | "newest" | "now" => Ok(Self(Start::Latest)),
            seq => match seq.parse() {
                Ok(seq) => Ok(Self(Start::Seq(seq))),
                Err(_) => Err("use oldest, latest or the seq of a datagram, such as 1000".into()),
            },
        }
    }
}

/// A duration; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            format!("{text}s")
        } else {
            text.into()
        };
        text.parse::<Span>().map(|span| Self(span.0)).map_err(|e| e.to_string())
    }
}
