//! Quantities as people type them: the types, and how they are parsed.

use std::str::FromStr;
use std::time::Duration;

/// Why a quantity was refused. The message contains the value, the problem and the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{value}\" {problem}; accepted: {accepted}")]
pub struct QuantityError {
    /// What was expected: "size", "rate", "duration" or "extent".
    pub what: &'static str,
    /// The text that was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: Problem,
    /// The accepted forms, for people.
    pub accepted: &'static str,
}

/// What is wrong with a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is empty, or contains only blanks.
    #[error("is empty")]
    Empty,
    /// It does not begin with a decimal number without a sign.
    #[error("does not begin with a number")]
    NotANumber,
    /// There is no unit where one is needed.
    #[error("has no unit")]
    NoUnit,
    /// The unit is not one of the known ones.
    #[error("has the unknown unit \"{0}\"")]
    UnknownUnit(String),
    /// Zero, where zero makes no sense.
    #[error("is zero")]
    Zero,
    /// The value does not fit its type.
    #[error("is too large")]
    TooLarge,
}

const SIZES: &str = "a number of bytes with an optional unit B, kB, MB, GB, TB (powers of 1000) or \
    KiB, MiB, GiB, TiB \
                     (powers of 1024), such as 1500, 64kB or 4MiB";
const RATES: &str =
    "bytes (350MB/s, 64KiB/s), bits (1Mbit/s) or datagrams (976/s, 1k/s, 976dg/s) per second";
const DURATIONS: &str = "a number with a unit ns, us, ms, s, min or h, such as 100us, 1.5s or 2min";
const EXTENTS: &str = "a number of datagrams (16384), a size (64MiB) or a duration (3s)";

/// A typed number. Integers are kept as such, because an `f64` is exact only up to 2^53.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Number::Whole(n) => n as f64,
            Number::Real(x) => x,
        }
    }

    /// The number times `unit`, rounded to an integer; `None` if it exceeds a `u64`.
    fn times(self, unit: u64) -> Option<u64> {
        match self {
            Number::Whole(n) => n.checked_mul(unit),
            Number::Real(x) => {
                let product = (x * unit as f64).round();
                // 2^64 itself is representable as f64 and is the first value that does not fit.
                (product < u64::MAX as f64).then_some(product as u64)
            }
        }
    }
}

/// Splits `text` into its leading number and the unit after it, without blanks.
fn split(text: &str) -> Result<(Number, &str), Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end += 1 + digits(end + 1);
    }
    let mantissa = end;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let (number, unit) = text.split_at(end);
    let value = match number.parse::<u64>() {
        Ok(n) => Number::Whole(n),
        Err(_) if !number[..mantissa].bytes().any(|b| b.is_ascii_digit()) => {
            return Err(Problem::NotANumber);
        }
        Err(_) => Number::Real(number.parse().map_err(|_| Problem::NotANumber)?),
    };
    if value.real().is_infinite() {
        return Err(Problem::TooLarge);
    }
    Ok((value, unit.trim_start()))
}

/// The factor of an SI or binary prefix.
fn prefix(text: &str) -> Option<u64> {
    Some(match text {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    })
}

/// Builds the error of one kind of quantity.
fn refuse<'a>(
    what: &'static str,
    value: &'a str,
    accepted: &'static str,
) -> impl Fn(Problem) -> QuantityError + 'a {
    move |problem| QuantityError { what, value: value.to_owned(), problem, accepted }
}

/// A number of bytes; parses "1500", "64kB", "256KiB", "1.5GiB" (rounded to a whole byte), prints
/// "8 MiB".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refuse = refuse("size", text, SIZES);
        let (number, unit) = split(text).map_err(&refuse)?;
        let factor = prefix(unit.strip_suffix('B').unwrap_or(unit))
            .ok_or_else(|| refuse(Problem::UnknownUnit(unit.to_owned())))?;
        number.times(factor).map(Bytes).ok_or_else(|| refuse(Problem::TooLarge))
    }
}

/// A rate per second, finite and above zero when it was parsed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Payload bytes per second; parses "350MB/s", "64KiB/s", "1Mbit/s" (bits are divided by 8).
    Bytes(f64),
    /// Datagrams per second; parses "976/s", "1k/s", "1e6/s", "976 dg/s".
    Datagrams(f64),
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refuse = refuse("rate", text, RATES);
        let (number, unit) = split(text).map_err(&refuse)?;
        let unknown = || {
            refuse(if unit.is_empty() {
                Problem::NoUnit
            } else {
                Problem::UnknownUnit(unit.to_owned())
            })
        };
        let counted = unit.strip_suffix("/s").ok_or_else(unknown)?.trim_end();
        // The order is "bit", "B", nothing: a later form would take an earlier one for a part of
        // the prefix.
        let (rest, make): (&str, fn(f64) -> Rate) = if let Some(rest) = counted.strip_suffix("bit")
        {
            (rest, |x| Rate::Bytes(x / 8.0))
        } else if let Some(rest) = counted.strip_suffix('B') {
            (rest, Rate::Bytes)
        } else {
            (counted.strip_suffix("dg").unwrap_or(counted), Rate::Datagrams)
        };
        let value = number.real() * prefix(rest).ok_or_else(unknown)? as f64;
        if value == 0.0 {
            return Err(refuse(Problem::Zero));
        }
        if value.is_infinite() {
            return Err(refuse(Problem::TooLarge));
        }
        Ok(make(value))
    }
}

/// A length of time, at most `u64::MAX` ns (584 years) when it was parsed; parses "100us", "1.5s",
/// "2min", prints "16.4 ms" and "537 s".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// The length of a unit of time in ns.
fn time_unit(text: &str) -> Option<u64> {
    Some(match text {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refuse = refuse("duration", text, DURATIONS);
        let (number, unit) = split(text).map_err(&refuse)?;
        if unit.is_empty() {
            return Err(refuse(Problem::NoUnit));
        }
        let factor =
            time_unit(unit).ok_or_else(|| refuse(Problem::UnknownUnit(unit.to_owned())))?;
        let ns = number.times(factor).ok_or_else(|| refuse(Problem::TooLarge))?;
        Ok(Span(Duration::from_nanos(ns)))
    }
}

/// How much of a stream a ring holds, in the unit that the user chose; above zero when it was
/// parsed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extent {
    /// Payload bytes; parses any size with a unit or prefix, "64MiB".
    Bytes(u64),
    /// Datagrams; parses a bare number, "16384", or "16384 dg".
    Datagrams(u64),
    /// Seconds of the stream at its expected rate; parses any duration, "3s".
    Seconds(f64),
}

impl FromStr for Extent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refuse = refuse("extent", text, EXTENTS);
        let (number, unit) = split(text).map_err(&refuse)?;
        let whole = |factor| match number.times(factor) {
            None => Err(refuse(Problem::TooLarge)),
            Some(0) => Err(refuse(Problem::Zero)),
            Some(n) => Ok(n),
        };
        if unit.is_empty() || unit == "dg" {
            return whole(1).map(Extent::Datagrams);
        }
        if let Some(factor) = time_unit(unit) {
            return whole(factor).map(|ns| Extent::Seconds(ns as f64 / 1e9));
        }
        let factor = prefix(unit.strip_suffix('B').unwrap_or(unit))
            .ok_or_else(|| refuse(Problem::UnknownUnit(unit.to_owned())))?;
        whole(factor).map(Extent::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, Problem> {
        text.parse::<Bytes>().map(|b| b.0).map_err(|e| e.problem)
    }

    #[test]
    fn sizes_parse_exactly() {
        for (text, value) in [
            ("0", 0),
            ("1500", 1500),
            ("1500B", 1500),
            ("64kB", 64_000),
            ("64K", 64_000),
            ("256KiB", 256 << 10),
            ("4Mi", 4 << 20),
            (" 8 MiB ", 8 << 20),
            ("1.5GiB", 3 << 29),
            ("1e3", 1000),
            ("2TiB", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn sizes_refuse_other_units() {
        assert_eq!(bytes(""), Err(Problem::Empty));
        assert_eq!(bytes("MiB"), Err(Problem::NotANumber));
        assert_eq!(bytes("."), Err(Problem::NotANumber));
        assert_eq!(bytes("-1"), Err(Problem::NotANumber));
        assert_eq!(bytes("inf"), Err(Problem::NotANumber));
        assert_eq!(bytes("64mb"), Err(Problem::UnknownUnit("mb".into())));
        assert_eq!(bytes("64Mbit"), Err(Problem::UnknownUnit("Mbit".into())));
        assert_eq!(bytes("1,5kB"), Err(Problem::UnknownUnit(",5kB".into())));
        assert_eq!(bytes("1e"), Err(Problem::UnknownUnit("e".into())));
        assert_eq!(bytes("18446744073709551616"), Err(Problem::TooLarge));
        assert_eq!(bytes("18014398509481984KiB"), Err(Problem::TooLarge));
        assert_eq!(bytes("1e400"), Err(Problem::TooLarge));
    }

    #[test]
    fn errors_say_value_problem_and_remedy() {
        let text = "64mb".parse::<Bytes>().unwrap_err().to_string();
        assert!(
            text.starts_with("size \"64mb\" has the unknown unit \"mb\"; accepted: "),
            "{text}"
        );
        assert!(text.contains("MiB"), "{text}");
        let text = "350MB".parse::<Rate>().unwrap_err().to_string();
        assert!(text.contains("\"350MB\"") && text.contains("350MB/s"), "{text}");
    }

    #[test]
    fn rates_parse_in_bytes_bits_and_datagrams() {
        for (text, rate) in [
            ("350MB/s", Rate::Bytes(350e6)),
            ("125kB/s", Rate::Bytes(125e3)),
            ("64KiB/s", Rate::Bytes(65536.0)),
            ("1Mbit/s", Rate::Bytes(125e3)),
            ("976/s", Rate::Datagrams(976.0)),
            ("1k/s", Rate::Datagrams(1e3)),
            ("1e6/s", Rate::Datagrams(1e6)),
            ("0.5/s", Rate::Datagrams(0.5)),
            ("976 dg/s", Rate::Datagrams(976.0)),
            ("1.2 Mdg/s", Rate::Datagrams(1.2e6)),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
    }

    #[test]
    fn rates_refuse_zero_and_missing_per_second() {
        let problem = |text: &str| text.parse::<Rate>().unwrap_err().problem;
        assert_eq!(problem("0/s"), Problem::Zero);
        assert_eq!(problem("0.0MB/s"), Problem::Zero);
        assert_eq!(problem("1000"), Problem::NoUnit);
        assert_eq!(problem("350MB"), Problem::UnknownUnit("MB".into()));
        assert_eq!(problem("350mB/s"), Problem::UnknownUnit("mB/s".into()));
        assert_eq!(problem("-3/s"), Problem::NotANumber);
        assert_eq!(problem("1e308TB/s"), Problem::TooLarge);
    }

    #[test]
    fn durations_parse() {
        let ns = |text: &str| text.parse::<Span>().map(|s| s.0.as_nanos()).map_err(|e| e.problem);
        assert_eq!(ns("3s"), Ok(3_000_000_000));
        assert_eq!(ns("500ms"), Ok(500_000_000));
        assert_eq!(ns("1.5s"), Ok(1_500_000_000));
        assert_eq!(ns("100us"), Ok(100_000));
        assert_eq!(ns("100 µs"), Ok(100_000));
        assert_eq!(ns("2min"), Ok(120_000_000_000));
        assert_eq!(ns("0s"), Ok(0));
        assert_eq!(ns("3"), Err(Problem::NoUnit));
        assert_eq!(ns("3 m"), Err(Problem::UnknownUnit("m".into())));
        assert_eq!(ns("99999999999h"), Err(Problem::TooLarge));
    }

    #[test]
    fn extents_are_bytes_datagrams_or_time() {
        assert_eq!("64MiB".parse(), Ok(Extent::Bytes(64 << 20)));
        assert_eq!("16384".parse(), Ok(Extent::Datagrams(16384)));
        assert_eq!("3s".parse(), Ok(Extent::Seconds(3.0)));
        assert_eq!("500ms".parse(), Ok(Extent::Seconds(0.5)));
        let problem = |text: &str| text.parse::<Extent>().unwrap_err().problem;
        assert_eq!(problem("0"), Problem::Zero);
        assert_eq!(problem("0s"), Problem::Zero);
        assert_eq!(problem("3MB/s"), Problem::UnknownUnit("MB/s".into()));
        assert_eq!(problem("deep"), Problem::NotANumber);
    }
}
