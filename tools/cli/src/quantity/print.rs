//! Quantities as people read them: three significant digits, and the unit that makes them readable.

use super::parse::{Bytes, Extent, Rate, Span};
use std::fmt;
use std::time::Duration;

/// A count for people: "976", "1.2 M".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Count(pub u64);

/// `value` with three significant digits, trailing zeros dropped; whole digits are never dropped.
fn three_digits(value: f64) -> String {
    // Chosen by the rounded value: 9.996 has three digits as "10", not four as "10.00".
    let text = match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => return format!("{v:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `value` in the largest of `units` in which it prints as one or more. The units come with their
/// factors, in ascending order.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // Three digits of 0.9995 or more round to 1: "1 MB", where the smaller unit would give "1000
    // kB".
    let fits = |unit: &&(f64, &str)| value / unit.0 >= 0.9995;
    let (factor, unit) = *units.iter().rev().find(fits).unwrap_or(&units[0]);
    let number = three_digits(value / factor);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KI: f64 = 1024.0;
        let units = [
            (1.0, "B"),
            (KI, "KiB"),
            (KI * KI, "MiB"),
            (KI * KI * KI, "GiB"),
            (KI * KI * KI * KI, "TiB"),
        ];
        f.pad(&scaled(self.0 as f64, &units))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Rate::Bytes(x) => {
                scaled(x, &[(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")])
            }
            Rate::Datagrams(x) => {
                scaled(x, &[(1.0, "dg/s"), (1e3, "kdg/s"), (1e6, "Mdg/s"), (1e9, "Gdg/s")])
            }
        };
        f.pad(&text)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Seconds up to two hours: depths and lags are easier to compare in one unit than in
        // minutes and seconds.
        let units = [(1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s")];
        let ns = self.0.as_nanos() as f64;
        f.pad(&if ns < 7.2e12 { scaled(ns, &units) } else { scaled(ns, &[(3.6e12, "h")]) })
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Extent::Bytes(n) => Bytes(n).fmt(f),
            Extent::Datagrams(n) => f.pad(&format!("{n} dg")),
            Extent::Seconds(s) => {
                Span(Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)).fmt(f)
            }
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0 as f64, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_keeps_three_digits_and_steps_up_at_the_edge() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(8 << 20).to_string(), "8 MiB");
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes((1 << 20) - 1).to_string(), "1 MiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777216 TiB");
        assert_eq!(Rate::Bytes(125e3).to_string(), "125 kB/s");
        assert_eq!(Rate::Bytes(999_600.0).to_string(), "1 MB/s");
        assert_eq!(Rate::Datagrams(976.0).to_string(), "976 dg/s");
        assert_eq!(Rate::Datagrams(0.25).to_string(), "0.25 dg/s");
        assert_eq!(Count(999).to_string(), "999");
        assert_eq!(Count(1_200_000).to_string(), "1.2 M");
        assert_eq!(Count(9_999).to_string(), "10 k");
        assert_eq!(Span(Duration::from_micros(16_400)).to_string(), "16.4 ms");
        assert_eq!(Span(Duration::from_secs(537)).to_string(), "537 s");
        assert_eq!(Span(Duration::from_secs(9000)).to_string(), "2.5 h");
        assert_eq!(Extent::Datagrams(16384).to_string(), "16384 dg");
        assert_eq!(Extent::Seconds(3.0).to_string(), "3 s");
        assert_eq!(format!("{:>9}|{:<8}|", Bytes(8 << 20), Count(7)), "    8 MiB|7       |");
    }

    #[test]
    fn printed_values_parse_again() {
        for n in [1, 1536, 256 << 10, 3 << 29, 7 << 40] {
            assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
        for rate in [Rate::Bytes(350e6), Rate::Datagrams(1.25e6), Rate::Datagrams(976.0)] {
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for extent in [Extent::Bytes(64 << 20), Extent::Datagrams(16384), Extent::Seconds(0.5)] {
            assert_eq!(extent.to_string().parse(), Ok(extent));
        }
    }
}
