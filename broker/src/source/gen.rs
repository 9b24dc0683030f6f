//! `gen:` — numbered, checksummed datagrams, generated straight into ring memory: load for tests
//! without a device.
//!
//! Contract: the datagrams are those of [`ringweir_pattern::crc`], so `ringcat --verify` can check
//! every byte of them. With `check=sum` they are those of [`ringweir_pattern::sum`], which cost no
//! more than a copy. `rate` limits them (bytes or datagrams per second). A late wake-up is made up
//! for at once, up to the rate limiter's backlog of one second; the excess is reported as a fault.
//! `rate=max` fills every round and never idles.

use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use crate::intake::for_sources::{Arrival, Intake};
use ringweir_cli::quantity::{Rate, Span};
use ringweir_pattern::generate::{GenSpec, Generator};
use ringweir_pattern::rate_limiter::RateLimiter;
use ringweir_proto::os::clock;
use std::time::Duration;

pub const KIND: SourceKind = SourceKind {
    name: "gen",
    usage: "gen:[rate=RATE|max][,size=N|A..B][,burst=N][,channels=N][,count=N]\
        [,seed=N][,check=crc|sum]",
    about: "numbered, checksummed test datagrams made by the broker itself",
    open,
};

struct Gen {
    spec: GenSpec,
    generator: Generator,
    limiter: RateLimiter,
    /// The part of [`RateLimiter::forgiven_ns`] that was reported.
    forgiven_reported: u64,
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let spec: GenSpec = argument.parse().map_err(SourceError::new)?;
    if spec.size.max() > stream.max_datagram {
        return Err(SourceError(format!(
            "size={} is longer than the stream's largest datagram, {} bytes",
            spec.size, stream.max_datagram
        )));
    }
    Ok(Box::new(Gen {
        generator: Generator::new(&spec),
        limiter: spec.limiter(),
        spec,
        forgiven_reported: 0,
    }))
}

impl Source for Gen {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let now = intake.now();
        let mut took = None;
        while intake.has_room() {
            let Some(len) = self.generator.next_len() else {
                return Ok(if took.is_some() { Fill::Took } else { Fill::Ended });
            };
            if !self.limiter.due(now) {
                return Ok(Fill::Idle);
            }
            // Read the date once per round, and only if a datagram is due: a source that spins then
            // reads only one clock.
            let source_time = *took.get_or_insert_with(clock::realtime_ns);
            let forgiven = self.limiter.forgiven_ns();
            if forgiven > self.forgiven_reported {
                let late = Span(Duration::from_nanos(forgiven - self.forgiven_reported));
                self.forgiven_reported = forgiven;
                intake.fault(format_args!("gen: held up, {late} of its rate given up"));
            }
            let mut claim = intake.claim(len).map_err(SourceError::new)?;
            let Some(made) = self.generator.fill_next(&mut claim.bytes()) else {
                return Ok(Fill::Ended);
            };
            intake.commit(0, len, Arrival { channel: made.channel, source_time, original_len: 0 });
            self.limiter.spend(len);
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: None, until: Some(self.limiter.ready_at()) }
    }

    fn rate(&self) -> Option<Rate> {
        self.spec.rate
    }

    fn describe(&self) -> String {
        let GenSpec { rate, size, channels, .. } = self.spec;
        let rate = rate.map_or("unpaced".into(), |rate| rate.to_string());
        let channels =
            if channels > 1 { format!(" on {channels} channels") } else { String::new() };
        format!("{rate}, datagrams of {size} bytes{channels}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_bench::Bench;
    use super::*;
    use ringweir_pattern::verify::Verifier;
    use ringweir_proto::stats::PumpCounter;

    const SECOND: u64 = 1_000_000_000;

    fn gen_source(argument: &str) -> Box<dyn Source> {
        open(argument, &OpenFor { max_datagram: 2048 }).unwrap()
    }

    #[test]
    fn unpaced_makes_every_datagram_of_its_count_and_ends() {
        let mut bench = Bench::new(1 << 20, 2048);
        let mut source = gen_source("rate=max,size=24..2048,channels=3,count=1000");
        let mut verifier = Verifier::default();
        let (got, fill) = bench.run(&mut *source);
        for (number, datagram) in got.iter().enumerate() {
            let header = verifier.accept(&datagram.bytes).unwrap();
            assert_eq!((header.number, datagram.channel), (number as u64, (number % 3) as u16));
            assert!(datagram.source_time > 0);
        }
        assert_eq!((fill, got.len()), (Fill::Ended, 1000));
        assert!(verifier.is_clean());
        assert_eq!(bench.count(PumpCounter::Published), 1000);
    }

    #[test]
    fn a_late_wake_up_is_made_up_for() {
        let mut bench = Bench::new(1 << 20, 2048);
        let mut source = gen_source("rate=1000/s,burst=10");
        bench.now = 5 * SECOND;
        assert_eq!(bench.run(&mut *source).0.len(), 10);
        assert_eq!(source.wait_for().until, Some(5 * SECOND + 10_000_000));
        bench.now += SECOND / 2;
        assert_eq!(bench.run(&mut *source).0.len(), 500);
        assert!(bench.notices().is_empty());
        bench.now += 60 * SECOND;
        let (got, fill) = bench.run(&mut *source);
        assert_eq!((got.len(), fill), (1010, Fill::Idle));
        assert_eq!(bench.notices(), ["gen: held up, 59 s of its rate given up"]);
        assert_eq!(bench.count(PumpCounter::SourceFaults), 1);
    }

    #[test]
    fn impossible_options_are_refused_by_name() {
        let refused =
            |argument| open(argument, &OpenFor { max_datagram: 1000 }).err().unwrap().to_string();
        assert_eq!(
            refused("size=64..1500"),
            "size=64..1500 is longer than the stream's largest datagram, 1000 bytes"
        );
        assert!(refused("speed=3").contains("speed=3"));
    }

    #[test]
    fn program_reports_what_it_generates() {
        assert_eq!(
            gen_source("rate=350MB/s,size=2KiB").describe(),
            "350 MB/s, datagrams of 2048 bytes"
        );
        assert_eq!(
            gen_source("rate=max,channels=8").describe(),
            "unpaced, datagrams of 256 bytes on 8 channels"
        );
        assert_eq!(gen_source("").rate(), Some(Rate::Datagrams(1000.0)));
    }
}
