//! The value of `--lossless`: how much delay each lossless reader may cause.

use ringweir_cli::quantity::{Bytes, Span};
use ringweir_proto::ring::Budget;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// `TIME`, or `BYTES,TIME`; the time may be `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LosslessBudget(pub Budget);

impl FromStr for LosslessBudget {
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
                "a budget of no time: leave out --lossless to attach lossy readers only".into()
            );
        }
        Ok(Self(Budget { bytes, time_ns }))
    }
}

/// For the start message.
impl fmt::Display for LosslessBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Budget { bytes, time_ns } = self.0;
        match time_ns {
            u64::MAX => f.write_str("without limit")?,
            _ => write!(f, "for {}", Span(Duration::from_nanos(time_ns)))?,
        }
        if bytes == u64::MAX { Ok(()) } else { write!(f, " once it is {} behind", Bytes(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_parse_and_print() {
        let parse = |text: &str| {
            text.parse::<LosslessBudget>().map(|b| (b.0.bytes, b.0.time_ns, b.to_string()))
        };
        assert_eq!(parse("250ms"), Ok((u64::MAX, 250_000_000, "for 250 ms".into())));
        assert_eq!(
            parse("64MiB,2s"),
            Ok((64 << 20, 2_000_000_000, "for 2 s once it is 64 MiB behind".into()))
        );
        assert_eq!(parse("forever"), Ok((u64::MAX, u64::MAX, "without limit".into())));
        for bad in ["", "0s", "64MiB", "250ms,64MiB", "1MiB,", "-1s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
