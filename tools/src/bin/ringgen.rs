//! `ringgen`: writes test datagrams to standard output at a given rate.
//!
//! Contract: the output is whole datagrams only, even if it is interrupted once, unless it takes
//! nothing any more. If the reader of the output goes away, ringgen ends quietly. All datagrams
//! that are due are made in one buffer and written at once; before every pause everything is
//! written.

// Both fail if nobody can be written to; see `ringweir_cli::stderr` and `stdout`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use ringweir_cli::quantity::{Count, Span};
use ringweir_cli::stderr;
use ringweir_pattern::generate::{GenSpec, Generator};
use ringweir_pattern::rate_limiter::RateLimiter;
use ringweir_tools::output::{Output, Written};
use ringweir_tools::stop::Stop;
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};
use std::io::{self, ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes that are written at once, even without a pause; also the size requested for a pipe.
const BATCH: usize = 256 << 10;

/// Writes CRC-checked test datagrams to standard output at a steady rate.
/// Every datagram carries its number, channel, length and a checksum, and a body computed from the
/// number, so that `ringcat --verify` can check every byte and every loss.
#[derive(Debug, Parser)]
#[command(name = "ringgen", version, after_help = EXAMPLES)]
struct Options {
    /// Bytes (350MB/s), bits (1Mbit/s) or datagrams (976/s) per second; max: without a limit
    #[arg(long, default_value = "1000/s")]
    rate: String,
    /// Bytes per datagram, at least 24: one size (256KiB) or a range of equally likely sizes
    /// (64..1500)
    #[arg(long, default_value = "256")]
    size: String,
    /// Number of channels; the datagrams take turns
    #[arg(long, default_value = "1")]
    channels: String,
    /// Datagrams in total; without it, no end
    #[arg(long)]
    count: Option<String>,
    /// Datagrams written at once; the pause after them keeps the rate
    #[arg(long, default_value = "1")]
    burst: String,
    /// Selects another sequence of sizes within the range
    #[arg(long, default_value = "0")]
    seed: String,
    /// How datagrams are separated in the output
    #[arg(long, value_enum, default_value_t = Framing::Len32le)]
    framing: Framing,
    /// Write to a terminal anyway
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  A 350 MB/s digitiser of 8 channels as the source of a stream:
    ringgen --rate 350MB/s --size 256KiB --channels 8 | ringd run --name daq0 --source stdin:len32le
  A 1 Mbit/s serial line that delivers 128 bytes at a time:
    ringgen --rate 1Mbit/s --size 128 --framing fixed | ringd run --name fpga0 --source \
    stdin:fixed:128
  A million datagrams of mixed sizes, without a rate limit, into a file:
    ringgen --rate max --size 64..1500 --count 1000000 > mixed.len32le

Exit status: 0 ended well, also if the reader of the output went away; 2 wrong usage, or the output
cannot be written.";

/// How datagrams are separated in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Framing {
    /// Each after its length, 32 bits little-endian
    Len32le,
    /// Each after its length, 16 bits big-endian; sizes up to 65535
    Len16be,
    /// Nothing between them, all of one size
    Fixed,
    /// Nothing between them, of any size: only their own headers separate them
    None,
}

impl Framing {
    /// Refuses sizes that this framing cannot represent.
    fn check(self, spec: &GenSpec) -> anyhow::Result<()> {
        let size = spec.size;
        match self {
            Framing::Len16be => ensure!(
                size.max() <= usize::from(u16::MAX),
                "--size {size}: --framing len16be carries at most 65535 bytes"
            ),
            Framing::Fixed => {
                ensure!(
                    size.min() == size.max(),
                    "--size {size}: --framing fixed needs one size, not a range"
                )
            }
            Framing::Len32le | Framing::None => {}
        }
        Ok(())
    }

    /// Appends what comes before a datagram of `len` bytes; [`check`](Self::check) ensures that it
    /// fits.
    fn prefix(self, out: &mut Vec<u8>, len: usize) {
        match self {
            Framing::Len32le => out.extend_from_slice(&(len as u32).to_le_bytes()),
            Framing::Len16be => out.extend_from_slice(&(len as u16).to_be_bytes()),
            Framing::Fixed | Framing::None => {}
        }
    }
}

impl Options {
    /// The spec, with the same keys and errors as a `gen:` source.
    fn spec(&self) -> anyhow::Result<GenSpec> {
        let mut spec = GenSpec::default();
        let keys = [
            ("rate", Some(&self.rate)),
            ("size", Some(&self.size)),
            ("channels", Some(&self.channels)),
            ("count", self.count.as_ref()),
            ("burst", Some(&self.burst)),
            ("seed", Some(&self.seed)),
        ];
        for (key, value) in keys {
            if let Some(value) = value {
                spec.set(key, value)?;
            }
        }
        self.framing.check(&spec)?;
        Ok(spec)
    }
}

/// The clock of the output loop.
trait Clock {
    /// Monotonic time in ns.
    fn now_ns(&mut self) -> u64;
    /// Sleeps for `ns`, or less.
    fn pause(&mut self, ns: u64);
}

/// The machine's clock.
struct Machine(Instant);

impl Clock for Machine {
    fn now_ns(&mut self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn pause(&mut self, ns: u64) {
        let time = Duration::from_nanos(ns);
        let Ok(time) = Timespec::try_from(time) else {
            return;
        };
        // Not the sleep of std: that continues after a signal, but an interrupt must be noticed at
        // once.
        match nanosleep(&time) {
            NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) => {}
            NanosleepRelativeResult::Err(_) => std::thread::yield_now(),
        }
    }
}

/// Writes the datagrams of `generator` until there are no more or `stop` is true. Then writes what
/// is still in the buffer.
fn generate(
    generator: &mut Generator,
    limiter: &mut RateLimiter,
    framing: Framing,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
    clock: &mut impl Clock,
    stop: impl Fn() -> bool,
) -> io::Result<()> {
    let mut batch: Vec<u8> = Vec::with_capacity(2 * BATCH);
    let mut now = clock.now_ns();
    while let Some(len) = generator.next_len() {
        if stop() {
            break;
        }
        // The clock is read only if nothing was due at its last reading.
        if !limiter.due(now) {
            now = clock.now_ns();
            if !limiter.due(now) {
                out(&batch)?;
                batch.clear();
                now = clock.now_ns();
                if let Some(ns) = limiter.ready_at().checked_sub(now).filter(|&ns| ns > 0) {
                    clock.pause(ns);
                }
                continue;
            }
        }
        framing.prefix(&mut batch, len);
        let start = batch.len();
        batch.resize(start + len, 0);
        generator.fill_next(&mut batch[start..]);
        limiter.spend(len);
        if batch.len() >= BATCH {
            out(&batch)?;
            batch.clear();
            // The write may have waited for the reader.
            now = clock.now_ns();
        }
    }
    out(&batch)
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let spec = options.spec()?;
    let stdout = io::stdout();
    if stdout.is_terminal() && !options.force {
        bail!(
            "refusing to write datagrams to a terminal: pipe them into `ringd run --source \
            stdin:len32le`, or add --force"
        );
    }
    let mut output = Output::stdout().context("standard output")?;
    // A larger pipe saves context switches; it does not matter if this fails.
    let _ = rustix::pipe::fcntl_setpipe_size(output.file(), BATCH);

    // The first signal ends the output after a whole datagram, unless the output takes nothing.
    let stop = Stop::on_signals()?;
    let (mut gone, mut stuck) = (false, false);
    let out = |bytes: &[u8]| match output.write(bytes, &mut 0, &stop, None)? {
        Written::All => Ok(()),
        Written::Gone => {
            gone = true;
            Err(ErrorKind::BrokenPipe.into())
        }
        Written::Stuck => {
            stuck = true;
            Err(ErrorKind::TimedOut.into())
        }
    };

    let mut generator = Generator::new(&spec);
    let mut limiter = spec.limiter();
    let mut clock = Machine(Instant::now());
    let came = || stop.came();
    let made = generate(&mut generator, &mut limiter, options.framing, out, &mut clock, came);
    match made {
        _ if gone => return Ok(ExitCode::SUCCESS),
        _ if stuck => stderr::line("standard output takes nothing: it ends within a datagram"),
        made => made.context("cannot write to standard output")?,
    }
    if limiter.forgiven_ns() > 0 {
        let behind = Span(Duration::from_nanos(limiter.forgiven_ns()));
        stderr::line(format_args!(
            "the rate could not be held: {behind} of {} were given up, {} datagrams written",
            Span(clock.0.elapsed()),
            Count(generator.made())
        ));
    }
    match stop.signal() {
        None => Ok(ExitCode::SUCCESS),
        // Ends the process as the signal would have done, so that a loop in a shell ends as well.
        Some(signal) => {
            stderr::flush(Duration::from_secs(1));
            signal_hook::low_level::emulate_default_handler(signal)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn main() -> ExitCode {
    ringweir_cli::run(program)
}

fn program() -> ExitCode {
    stderr::start("ringgen", || ());
    ringweir_cli::manual::answer(<Options as clap::CommandFactory>::command, &[]);
    run(&ringweir_cli::arguments::parse()).unwrap_or_else(|error| {
        stderr::line(format_args!("{error:#}"));
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_pattern::verify::Verifier;
    use std::cell::Cell;

    fn options(line: &str) -> Options {
        Options::try_parse_from(line.split_whitespace()).unwrap()
    }

    /// A clock that advances only in pauses, and counts them.
    #[derive(Default)]
    struct Still {
        ns: u64,
        pauses: u64,
    }

    impl Clock for Still {
        fn now_ns(&mut self) -> u64 {
            self.ns
        }

        fn pause(&mut self, ns: u64) {
            self.ns += ns;
            self.pauses += 1;
        }
    }

    /// Runs a command line to its end. Returns the output, and the clock at the end.
    fn output(line: &str) -> (Vec<u8>, Still) {
        let options = options(line);
        let spec = options.spec().unwrap();
        let (mut out, mut clock) = (Vec::new(), Still::default());
        let (mut generator, mut limiter) = (Generator::new(&spec), spec.limiter());
        let put = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        generate(&mut generator, &mut limiter, options.framing, put, &mut clock, || false).unwrap();
        (out, clock)
    }

    #[test]
    fn length_prefixed_output_verifies() {
        for (framing, width) in [("len16be", 2), ("len32le", 4)] {
            let line =
                format!("ringgen --size 24..1500 --count 2000 --rate max --framing {framing}");
            let (out, _) = output(&line);
            let (mut rest, mut verifier) = (&out[..], Verifier::default());
            while !rest.is_empty() {
                let len = match width {
                    2 => usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                    _ => u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize,
                };
                verifier.accept(&rest[width..width + len]).unwrap();
                rest = &rest[width + len..];
            }
            assert!(verifier.is_clean());
            assert_eq!((verifier.ok, verifier.last), (2000, Some(1999)));
        }
    }

    #[test]
    fn unframed_output_is_the_datagrams_alone() {
        for framing in ["fixed", "none"] {
            let (out, _) = output(&format!("ringgen --size 100 --count 50 --framing {framing}"));
            let mut verifier = Verifier::default();
            assert!(out.chunks(100).all(|datagram| verifier.accept(datagram).is_ok()));
            assert_eq!((verifier.ok, verifier.is_clean()), (50, true));
        }
    }

    #[test]
    fn the_rate_is_kept_and_a_burst_is_one_pause() {
        let (_, clock) = output("ringgen --rate 1000/s --count 101");
        assert_eq!((clock.ns, clock.pauses), (100_000_000, 100));
        let (_, clock) = output("ringgen --rate 1000/s --count 101 --burst 10");
        assert_eq!((clock.ns, clock.pauses), (100_000_000, 10));
        let (_, clock) = output("ringgen --rate max --count 5000");
        assert_eq!((clock.ns, clock.pauses), (0, 0));
    }

    #[test]
    fn everything_is_written_before_a_pause() {
        /// Records how much was written at each pause.
        struct Watch<'a>(&'a Cell<usize>, Vec<usize>, u64);
        impl Clock for Watch<'_> {
            fn now_ns(&mut self) -> u64 {
                self.2
            }
            fn pause(&mut self, ns: u64) {
                self.2 += ns;
                self.1.push(self.0.get());
            }
        }
        let spec = options("ringgen --size 96 --count 4 --rate 10/s").spec().unwrap();
        let written = Cell::new(0);
        let mut clock = Watch(&written, Vec::new(), 0);
        let (mut generator, mut limiter) = (Generator::new(&spec), spec.limiter());
        let out = |bytes: &[u8]| {
            written.set(written.get() + bytes.len());
            Ok(())
        };
        generate(&mut generator, &mut limiter, Framing::Len32le, out, &mut clock, || false)
            .unwrap();
        assert_eq!((clock.1, written.get()), (vec![100, 200, 300], 400));
    }

    #[test]
    fn a_stop_ends_after_a_whole_datagram() {
        let spec = options("ringgen --size 1000 --rate max").spec().unwrap();
        let looks = Cell::new(0);
        let stop = || looks.replace(looks.get() + 1) == 3;
        let mut out = Vec::new();
        let (mut generator, mut limiter) = (Generator::new(&spec), spec.limiter());
        let clock = &mut Still::default();
        let put = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        generate(&mut generator, &mut limiter, Framing::None, put, clock, stop).unwrap();
        assert_eq!(out.len(), 3000);
    }

    #[test]
    fn contradicting_options_are_refused_by_name() {
        for (line, part) in [
            (
                "ringgen --size 64..128 --framing fixed",
                "--size 64..128: --framing fixed needs one size",
            ),
            ("ringgen --size 65536 --framing len16be", "at most 65535 bytes"),
            ("ringgen --size 8", "size=8: a test datagram has at least 24 bytes"),
            ("ringgen --rate 0/s", "rate=0/s"),
            ("ringgen --channels 0", "channels=0"),
        ] {
            let message = options(line).spec().expect_err(line).to_string();
            assert!(message.contains(part), "{line}: {message}");
        }
        assert!(Options::try_parse_from(["ringgen", "--framing", "lines"]).is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
