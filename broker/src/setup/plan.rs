//! From the configured extents (3 s, 64 MiB, 16384 datagrams) to the geometry of a ring, and back
//! to text.
//!
//! Contract: a ring holds at least the configured history. The start message shows what it holds in
//! all units. By default a ring fits into the last-level cache.

use super::config::StreamConfig;
use crate::source::kinds;
use ringweir_cli::quantity::{Bytes, Count, Extent, Rate, Span};
use ringweir_proto::layout::{DATAGRAM_MAX, DEPTH_MAX, Geometry, PAGE, align8};
use ringweir_proto::os::backing::HUGE_PAGE;
use std::time::Duration;

const DEFAULT_DATAGRAM: u64 = 1 << 10;
const DEFAULT_CAPACITY: u64 = 8 << 20;
const DEFAULT_DEPTH: u64 = 16 << 10;
/// Slots of a ring that take more than this are worth a word, if their number is a guess.
const MANY_SLOTS: u64 = 32 << 20;

/// The sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its sizes.
    pub geometry: Geometry,
    rate: Option<Rate>,
    datagram: u64,
    /// The usual size of a datagram is a guess, though much larger ones are expected.
    is_guess: bool,
}

impl Plan {
    /// The ring for `config`. `source_rate` is the rate of the source, if it knows one.
    pub fn new(config: &StreamConfig, source_rate: Option<Rate>) -> anyhow::Result<Self> {
        let usual = || kinds::usual_longest(&config.source);
        let max_datagram = config.max_datagram.map_or_else(usual, |b| b.0);
        anyhow::ensure!(
            (1..=DATAGRAM_MAX).contains(&max_datagram),
            "--max-datagram {}: must be 1 to {}",
            Bytes(max_datagram),
            Bytes(DATAGRAM_MAX)
        );
        let datagram =
            config.datagram_size.map_or(DEFAULT_DATAGRAM, |b| b.0).clamp(1, max_datagram);
        let rate = config.rate.or(source_rate);
        let measure = Measure { rate, datagram };
        // The claim ahead takes a sixteenth of the ring: the rest must hold the history.
        let with_claim = |n: f64| (n * 16.0 / 15.0).ceil();
        let slots_of = |e: Extent| anyhow::Ok(with_claim(measure.datagrams(e)?));
        let bytes_of = |e: Extent| anyhow::Ok(with_claim(measure.bytes(e)?));
        let depth = match (config.depth, config.capacity) {
            (Some(extent), _) | (None, Some(extent)) => slots_of(extent)?,
            (None, None) => DEFAULT_DEPTH as f64,
        };
        let capacity = match (config.capacity, config.depth) {
            // A size in bytes is the room itself, not the history in it.
            (Some(Extent::Bytes(b)), _) | (None, Some(Extent::Bytes(b))) => b as f64,
            (Some(extent), _) | (None, Some(extent)) => bytes_of(extent)?,
            (None, None) => DEFAULT_CAPACITY as f64,
        };
        anyhow::ensure!(
            depth <= DEPTH_MAX as f64,
            "a ring of {depth:.0} slots: at most {DEPTH_MAX} are possible; reduce --depth, or give \
            the usual --datagram-size ({} now)",
            Bytes(datagram)
        );
        anyhow::ensure!(
            capacity <= (1u64 << 40) as f64,
            "a ring of {} is more than 1 TiB",
            Bytes(capacity as u64)
        );
        let depth = (depth as u64).clamp(64, DEPTH_MAX).next_power_of_two();
        // At least four of the largest datagrams: one being written and one being read leave room
        // for history.
        let capacity =
            (capacity as u64).max(4 * align8(max_datagram)).next_multiple_of(PAGE as u64);
        let mut geometry = Geometry::new(depth, capacity, max_datagram)?;
        if config.hugepages {
            let whole = geometry.footprint().next_multiple_of(HUGE_PAGE);
            geometry =
                Geometry::new(depth, capacity + (whole - geometry.footprint()), max_datagram)?;
        }
        let is_guess = config.datagram_size.is_none()
            && config.max_datagram.is_some_and(|most| most.0 >= 16 * datagram);
        Ok(Self { geometry, rate, datagram, is_guess })
    }

    /// What to say if many more slots than are needed may have been made.
    pub fn advice(&self) -> Option<String> {
        let slots = self.geometry.footprint() - self.geometry.capacity();
        (self.is_guess && slots >= MANY_SLOTS).then(|| {
            format!(
                "{} slots take {}, because datagrams are taken to have {}: if they are larger (up \
                to {} are allowed), give --datagram-size",
                Count(self.geometry.depth()),
                Bytes(slots),
                Bytes(self.datagram),
                Bytes(self.geometry.max_datagram()),
            )
        })
    }

    /// Bytes per second it is sized for, 0 if no rate is known.
    pub fn nominal_rate(&self) -> u64 {
        match self.rate {
            Some(Rate::Bytes(b)) => b as u64,
            Some(Rate::Datagrams(d)) => (d * self.datagram as f64) as u64,
            None => 0,
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (depth, capacity) = (self.geometry.depth(), self.geometry.capacity());
        write!(f, "{} / {} slots", Bytes(capacity), Count(depth))?;
        if let Some(rate) = self.rate {
            let by_bytes = capacity as f64 / self.nominal_rate().max(1) as f64;
            let by_slots = match rate {
                Rate::Datagrams(d) => depth as f64 / d,
                Rate::Bytes(b) => depth as f64 * self.datagram as f64 / b,
            };
            let seconds = by_bytes.min(by_slots) * 15.0 / 16.0;
            write!(f, " = {} at {rate}", Span(Duration::from_secs_f64(seconds.min(1e9))))?;
        }
        write!(f, ", datagrams up to {}", Bytes(self.geometry.max_datagram()))
    }
}

/// Converts units.
struct Measure {
    rate: Option<Rate>,
    datagram: u64,
}

impl Measure {
    fn rate(&self, seconds: f64) -> anyhow::Result<Rate> {
        self.rate.ok_or_else(|| {
            anyhow::anyhow!(
                "a ring of {}: a time needs a rate; add --rate, such as --rate 125kB/s or --rate \
                976/s",
                Span(Duration::from_secs_f64(seconds))
            )
        })
    }

    fn datagrams(&self, extent: Extent) -> anyhow::Result<f64> {
        Ok(match extent {
            Extent::Datagrams(n) => n as f64,
            Extent::Bytes(b) => b as f64 / self.datagram as f64,
            Extent::Seconds(s) => match self.rate(s)? {
                Rate::Datagrams(d) => s * d,
                Rate::Bytes(b) => s * b / self.datagram as f64,
            },
        })
    }

    fn bytes(&self, extent: Extent) -> anyhow::Result<f64> {
        Ok(match extent {
            Extent::Bytes(b) => b as f64,
            Extent::Seconds(s) if matches!(self.rate, Some(Rate::Bytes(_))) => {
                let Some(Rate::Bytes(b)) = self.rate else { unreachable!("matched") };
                s * b
            }
            other => self.datagrams(other)? * align8(self.datagram) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        stream: StreamConfig,
    }

    fn plan(args: &str) -> anyhow::Result<Plan> {
        let line = "ringd --name x --source gen: ".to_string() + args;
        Plan::new(&Cli::parse_from(line.split_whitespace()).stream, None)
    }

    fn sizes(args: &str) -> (u64, u64) {
        let g = plan(args).unwrap().geometry;
        (g.depth(), g.capacity())
    }

    #[test]
    fn ring_holds_what_was_asked_for_in_any_unit() {
        assert_eq!(sizes(""), (16384, 8 << 20));
        // 1000 of 1 KiB and a sixteenth for claims, in whole pages.
        assert_eq!(sizes("--depth 1000"), (2048, 1093632));
        assert_eq!(sizes("--capacity 64MiB"), (131072, 64 << 20));
        assert_eq!(sizes("--depth 16384 --capacity 1MiB"), (32768, 1 << 20));
        // 3 s at 350 MB/s in 256 KiB datagrams: 4006 of them, 1.05 GB.
        let (depth, capacity) =
            sizes("--depth 3s --rate 350MB/s --datagram-size 256KiB --max-datagram 256KiB");
        assert_eq!(depth, 8192);
        assert!(capacity * 15 / 16 >= 1_045_000_000 && capacity < 1_200_000_000, "{capacity}");
        let (depth, _) = sizes("--depth 10s --rate 976/s");
        assert!(depth * 15 / 16 >= 9760);
        // In huge pages the whole object is a multiple of them.
        let huge = plan("--depth 1000 --hugepages").unwrap().geometry;
        assert!(huge.footprint().is_multiple_of(2 << 20) && huge.capacity() >= 1093632, "{huge:?}");
        // The largest datagram always fits.
        assert_eq!(sizes("--capacity 4KiB --max-datagram 16MiB").1, 64 << 20);
    }

    /// Controls: with the size given, with small datagrams, and in a small ring there is nothing to
    /// say.
    #[test]
    fn many_slots_for_large_datagrams_are_pointed_out() {
        let advice = |args: &str| plan(args).unwrap().advice();
        let large = "--depth 3s --rate 350MB/s --max-datagram 256KiB";
        let said = advice(large).unwrap();
        assert!(said.contains("1 KiB") && said.ends_with("give --datagram-size"), "{said}");
        assert_eq!(advice(&format!("{large} --datagram-size 256KiB")), None);
        assert_eq!(advice("--depth 3s --rate 350MB/s"), None);
        assert_eq!(advice("--depth 1MiB --max-datagram 256KiB"), None);
    }

    #[test]
    fn a_plan_is_shown_in_every_unit() {
        let shown = plan("--depth 3s --rate 1MB/s").unwrap().to_string();
        assert!(
            shown.contains("slots") && shown.contains("at 1 MB/s") && shown.contains("MiB"),
            "{shown}"
        );
    }

    #[test]
    fn seconds_without_a_rate_and_impossible_sizes_are_refused() {
        for (args, says) in [
            ("--depth 3s", "--rate"),
            ("--max-datagram 17MiB", "17 MiB"),
            ("--max-datagram 0", "--max-datagram 0 B"),
            ("--depth 1TiB --datagram-size 1", "--datagram-size"),
            ("--capacity 2TiB --depth 64", "1 TiB"),
        ] {
            let error = plan(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}
