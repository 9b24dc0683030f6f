//! `ringfpga`: an FPGA with a FIFO that is a program, for tests and for trying ringweir without
//! hardware.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ringweir_cli::quantity::{Bytes, Rate, Span};
use ringweir_device_model::device::{Job, Signals};
use ringweir_device_model::faults::WORDS;
use ringweir_device_model::port::Place;
use ringweir_device_model::spec::DeviceTime;
use ringweir_device_model::{Order, Spec, run};
use ringweir_pattern::generate::{GenSpec, Sizes};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// A model of an FPGA with a memory-mapped FIFO, as kmod-shim/REGISTERS.md describes it.
///
/// Makes numbered, checksummed datagrams at a steady rate and puts them into its FIFO. Those that
/// find no room are lost and counted, as in hardware. At its end, and on request, it prints its
/// account as one line of JSON on standard output.
#[derive(Debug, Parser)]
#[command(name = "ringfpga", version, after_help = examples())]
struct Cli {
    /// Serve the device at this unix socket, for a broker (fifo:PATH) or by QEMU (ivshmem-doorbell)
    #[arg(long, value_name = "PATH", required_unless_present = "file", conflicts_with = "file")]
    socket: Option<PathBuf>,
    /// Serve the device as memory in this file, without interrupts
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Interrupt vectors of each side; the first is used
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    vectors: u16,
    /// Payload: bytes (125kB/s), bits (1Mbit/s) or datagrams (976/s) per second, of all channels
    /// together; max: no pause
    #[arg(long, default_value = "1Mbit/s")]
    rate: String,
    /// No rate: each as soon as the one before was taken, and a pause below TIME that sweeps evenly
    /// (keeps a processor busy)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["rate", "burst", "strict"])]
    chase: Option<String>,
    /// Bytes per datagram, from 24: one size (128) or a range of equally likely ones (64..1500)
    #[arg(long, default_value = "128")]
    size: String,
    /// Datagrams back to back; the pause behind them keeps the rate
    #[arg(long, default_value = "1")]
    burst: String,
    /// Size of each FIFO: a power of two, 1KiB to 1MiB
    #[arg(long, default_value = "2KiB")]
    fifo: String,
    /// FIFOs, 1 to 32: they take turns
    #[arg(long, default_value_t = 1)]
    channels: u32,
    /// Datagrams in all; without it, no end
    #[arg(long)]
    count: Option<u64>,
    /// Make datagrams for so long, from when it first runs
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<String>,
    /// Wait so long for the consumer at the end
    #[arg(long, value_name = "TIME", default_value = "5s")]
    drain_limit: String,
    /// Time in front of each datagram
    #[arg(long, value_enum, default_value_t, num_args = 0..=1, default_missing_value = "counter")]
    device_time: DeviceTime,
    /// Chooses another sequence of sizes within a range
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Value of its register device_id
    #[arg(long, default_value_t = 1)]
    device_id: u32,
    /// Start without a command from the consumer, for consumers that only read
    #[arg(long)]
    autostart: bool,
    /// Catch up at once after a late wake-up; a real device would not
    #[arg(long)]
    strict: bool,
    /// Inject a fault at this time after the start; repeatable
    #[arg(long, value_name = "WHAT@TIME")]
    misbehave: Vec<Order>,
}

fn examples() -> String {
    format!(
        "\
Examples:
  1 Mbit/s through 2 KiB of FIFO for 20 s, drained by a broker:
    ringfpga --socket /tmp/fpga.sock --for 20s &
    ringd run --name fpga0 --source fifo:/tmp/fpga.sock
  The same in a virtual machine:
    ringfpga --socket /tmp/fpga.sock &
    qemu-system-x86_64 … -chardev socket,path=/tmp/fpga.sock,id=iv -device \
    ivshmem-doorbell,chardev=iv,vectors=1
  A device without interrupts that is polled:
    ringfpga --file /dev/shm/fpga --device-time &
  One whose datagrams come just as the consumer goes to sleep:
    ringfpga --socket /tmp/fpga.sock --chase 2us --count 1000000
  One that is unplugged after two seconds and plugged in again a second later:
    ringfpga --socket /tmp/fpga.sock --misbehave disappear@2s --misbehave reappear@3s

Faults: {WORDS}.
A line with one of these words on standard input injects it at once; `account` there, or SIGUSR1,
prints the account.

Exit status: 0 the account closes; 1 it does not; 2 wrong usage, or the device failed."
    )
}

impl Cli {
    fn job(&self) -> anyhow::Result<Job> {
        // The same words and errors as those of ringgen and of a `gen:` source.
        let mut spec = GenSpec::default();
        for (key, value) in [("rate", &self.rate), ("size", &self.size), ("burst", &self.burst)] {
            spec.set(key, value)?;
        }
        let (rate, sizes): (Option<Rate>, Sizes) =
            (spec.rate.filter(|_| self.chase.is_none()), spec.size);
        let fifo = self.fifo.parse::<Bytes>().map_err(|e| anyhow::anyhow!("--fifo: {e}"))?.0;
        let time = |option: &str, text: &str| match text.parse::<Span>() {
            Ok(span) => Ok(span.0),
            Err(e) => bail!("{option}: {e}"),
        };
        let place = match (&self.socket, &self.file) {
            (Some(path), _) => Place::Socket { path: path.clone(), vectors: self.vectors.into() },
            (_, Some(path)) => Place::File(path.clone()),
            (None, None) => bail!("say --socket or --file"),
        };
        let spec = Spec {
            device_id: self.device_id,
            rate,
            sizes,
            burst: spec.burst,
            fifo_bytes: u32::try_from(fifo).unwrap_or(u32::MAX),
            channels: self.channels,
            seed: self.seed,
            time: self.device_time,
            interrupts: matches!(place, Place::Socket { .. }),
            autostart: self.autostart,
        };
        spec.shape()?;
        ensure!(
            !self.strict || rate.is_some(),
            "--strict: with --rate max there is nothing to make up for"
        );
        Ok(Job {
            spec,
            place,
            strict: self.strict,
            chase: self.chase.as_deref().map(|text| time("--chase", text)).transpose()?,
            count: self.count,
            duration: self.duration.as_deref().map(|text| time("--for", text)).transpose()?,
            drain_limit: time("--drain-limit", &self.drain_limit)?,
            orders: self.misbehave.clone(),
        })
    }
}

fn signals() -> std::io::Result<Signals> {
    let (event, rings) = UnixStream::pair()?;
    let (stop, device_account) = (Arc::default(), Arc::default());
    for (signal, flag) in [(SIGINT, &stop), (SIGTERM, &stop), (SIGUSR1, &device_account)] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
        signal_hook::low_level::pipe::register(signal, rings.try_clone()?)?;
    }
    Ok(Signals { stop, device_account, event })
}

fn be_the_device(cli: &Cli) -> anyhow::Result<ExitCode> {
    let job = cli.job()?;
    let signals = signals().context("signal handlers")?;
    // Sleeps then end on time and not up to 50 us later. If the kernel refuses, the model is later,
    // and its account shows that.
    let _slack = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let device_account = run(&job, &signals, &mut std::io::stdout().lock())?;
    if let Err(wrong) = device_account.check() {
        eprintln!("ringfpga: {wrong}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    be_the_device(&Cli::parse()).unwrap_or_else(|error| {
        eprintln!("ringfpga: {error:#}");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let words = ["ringfpga"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words) {
            Ok(cli) => format!("{:#}", cli.job().expect_err(line)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn impossible_options_are_refused_by_name() {
        for (line, part) in [
            ("", "--socket"),
            ("--socket a --file b", "cannot be used with"),
            ("--file b --fifo 3KiB", "3072 bytes: must be a power of two"),
            ("--file b --fifo 2kilo", "--fifo: size \"2kilo\""),
            ("--file b --channels 33", "33 channels"),
            ("--file b --size 2040", "longest datagram of 2040"),
            ("--file b --size 8", "at least 24"),
            ("--file b --rate fast", "rate=fast"),
            ("--file b --for 20", "--for: duration \"20\" has no unit"),
            ("--file b --misbehave crash@1s", "there are producer-out-of-range"),
            ("--file b --chase 2", "--chase: duration \"2\" has no unit"),
            ("--file b --chase 2us --rate max", "cannot be used with"),
            ("--file b --strict --rate max", "nothing to make up for"),
        ] {
            let message = refused(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
