//! The argument of `unix:`.

use crate::source::contract::SourceError;
use crate::source::options::options_and_path;

/// The part after `unix:`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec<'a> {
    pub(super) seqpacket: bool,
    pub(super) mode: u32,
    /// Senders that may be connected at once (seqpacket).
    pub(super) senders: u32,
    pub(super) path: &'a str,
}

impl<'a> Spec<'a> {
    pub(super) fn parse(argument: &'a str) -> Result<Self, SourceError> {
        let (options, path) = options_and_path(argument)?;
        let mut spec = Self { seqpacket: false, mode: 0o600, senders: 256, path };
        let (mut asked_dgram, mut asked_senders) = (false, false);
        for option in options {
            match option.split_once('=').unwrap_or((option, "")) {
                ("dgram", "") => asked_dgram = true,
                ("seqpacket", "") => spec.seqpacket = true,
                ("mode", mode) => {
                    spec.mode =
                        u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o777).ok_or_else(
                            || SourceError(format!("mode={mode}: not an octal mode such as 0660")),
                        )?;
                }
                ("senders", n) => {
                    asked_senders = true;
                    spec.senders =
                        n.parse().ok().filter(|n| (1..=16_384).contains(n)).ok_or_else(|| {
                            SourceError(format!("senders={n}: not a number from 1 to 16384"))
                        })?;
                }
                _ => {
                    return Err(SourceError(format!(
                        "unknown option {option:?}; there are dgram, seqpacket, mode= and senders="
                    )));
                }
            }
        }
        if asked_dgram && spec.seqpacket {
            return Err(SourceError::new("a socket is either dgram or seqpacket"));
        }
        if asked_senders && !spec.seqpacket {
            return Err(SourceError::new(
                "senders= is for seqpacket: a dgram socket has no connections",
            ));
        }
        Ok(spec)
    }
}
