//! `ringsend`: sends one stream's datagrams to a UDP address, unicast or multicast.
//!
//! Contract: one datagram of the stream becomes one UDP datagram, sent whole or not at all. A
//! datagram that is not sent is counted and reported; with `--header seq` it is reported to the
//! receiver as well. At the end `taken = sent + too long + failed`, and in the ring `published =
//! taken + lost`. UDP may still lose datagrams in the network: with the header the receiver sees
//! every missing seq, and why it is missing.

mod batch;
mod header;
mod options;
mod target;

use crate::account::{DETACHED, ReaderAccount};
use crate::arguments::Time;
use crate::sink::About;
use crate::stop::Stop;
use anyhow::Context;
use batch::{Batch, Tally};
use clap::CommandFactory;
use header::Why;
use options::{Cli, Header};
use ringweir::{Cause, CopyError, End, Gap, Item, Options, Reader};
use ringweir_cli::stderr;
use ringweir_pattern::rate_limiter::RateLimiter;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::Connection;

/// The program.
pub fn main() -> ExitCode {
    stderr::start("ringsend", || ());
    ringweir_cli::manual::answer(Cli::command, &[]);
    let cli: Cli = ringweir_cli::arguments::parse();
    match run(&cli) {
        Ok(status) => status,
        Err(error) => {
            stderr::line(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The summary as JSON.
#[derive(Serialize)]
struct Account<'a> {
    stream: &'a str,
    to: String,
    /// `taken + lost`.
    published: u64,
    /// `sent + too_long + failed`.
    taken: u64,
    taken_bytes: u64,
    lost: u64,
    gaps: u64,
    upstream_lost: u64,
    #[serde(flatten)]
    tally: Tally,
}

/// The exit status says whether the account adds up.
fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    cli.wait.until_answered(&cli.stream, cli.quiet)?;
    let stop = Stop::on_signals()?;
    let mut options = Options::new(&cli.label).start(cli.from.0);
    if cli.lossless {
        options = options.lossless();
    }
    if cli.spin {
        options = options.always_spin();
    }
    let mut reader = options.attach(&cli.stream)?;
    let connection = Connection::open(&cli.to).with_context(|| format!("--to {}", cli.to))?;
    let account =
        ReaderAccount::new(format!("ringsend: {}", cli.stream), cli.quiet, false, &reader);
    let batch = Batch::new(connection, cli.header == Header::Seq, reader.generation());
    let mut sending = Sending {
        cli,
        stop: &stop,
        account,
        batch,
        date_offset: reader.publish_date(0),
        detached: false,
    };
    let timed_out = sending.run(&mut reader)?;
    sending.batch.flush(&stop, &mut sending.account.messages)?;

    let tally = sending.batch.tally;
    let all = sending.account.all();
    let more = format!("; {tally}");
    let wanted = cli.stats || tally.too_long + tally.failed + tally.refused > 0 || stop.came();
    let mut adds_up = sending.account.conclude(&mut reader, wanted && !cli.json, &more)?;
    if all.delivered != tally.sent + tally.too_long + tally.failed {
        sending.account.messages.print(format_args!(
            "the account does not add up, which is a bug: {} taken{more}",
            all.delivered
        ));
        adds_up = false;
    }
    if cli.json {
        let account = Account {
            stream: &cli.stream,
            to: cli.to.to_string(),
            published: all.delivered + all.lost,
            taken: all.delivered,
            taken_bytes: all.bytes,
            lost: all.lost,
            gaps: all.gaps,
            upstream_lost: all.upstream,
            tally,
        };
        ringweir_cli::stdout::put(&format!("{}\n", serde_json::to_string(&account)?))?;
    }
    if timed_out && let Some(count) = cli.count {
        sending
            .account
            .messages
            .print(format_args!("--timeout: {} of {count} datagrams arrived", all.delivered));
        return Ok(ExitCode::FAILURE);
    }
    Ok(match adds_up {
        false => ExitCode::FAILURE,
        true if sending.detached => ExitCode::from(DETACHED),
        true => ExitCode::SUCCESS,
    })
}

/// Moves datagrams from the ring to the socket.
struct Sending<'a> {
    cli: &'a Cli,
    stop: &'a Stop,
    account: ReaderAccount,
    batch: Batch,
    date_offset: u64,
    detached: bool,
}

impl Sending<'_> {
    /// Sends everything but the last batch until something ends it. Returns whether that was
    /// `--timeout`.
    fn run(&mut self, reader: &mut Reader) -> anyhow::Result<bool> {
        let (began, fresh) = (Instant::now(), || RateLimiter::new(self.cli.rate, 1));
        let mut limiter = fresh();
        let (mut taken, mut last_datagram, mut idle) = (0, began, false);
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) || self.stop.came() {
                return Ok(false);
            }
            if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                return Ok(true);
            }
            if self.cli.rate.is_some() {
                let now = began.elapsed().as_nanos() as u64;
                if !limiter.due(now) {
                    self.batch.flush(self.stop, &mut self.account.messages)?;
                    let pause = Duration::from_nanos(
                        limiter.ready_at().saturating_sub(began.elapsed().as_nanos() as u64),
                    );
                    let left = self.cli.timeout.map(|t| t.0.saturating_sub(began.elapsed()));
                    self.stop.pause(left.into_iter().fold(pause, Duration::min))?;
                    continue;
                }
            }
            match reader.next()? {
                Item::Datagram(mut datagram) => {
                    idle = false;
                    let about = About::of(&datagram, self.date_offset);
                    let whole = match self.batch.room(about.len) {
                        Some(room) => datagram.copy_to(room).map(|_| true),
                        // The payload is not used, only checked to be still valid.
                        None => datagram.view(|_| false).map_err(CopyError::from),
                    };
                    match whole {
                        Ok(fits) => {
                            taken += 1;
                            self.account.datagram(&[], &about);
                            limiter.spend(about.len);
                            if fits {
                                self.batch.push(&about);
                            } else {
                                self.batch.too_long(&about, &mut self.account.messages);
                            }
                        }
                        // The next item is a gap that begins with this datagram.
                        Err(CopyError::Torn(_)) => {}
                        Err(e) => return Err(e.into()),
                    }
                    if self.batch.is_full() {
                        self.batch.flush(self.stop, &mut self.account.messages)?;
                        // The clock may have been set.
                        self.date_offset = reader.publish_date(0);
                    }
                }
                Item::Gap(gap) => {
                    self.account.gap(&gap);
                    self.pass_on(&gap);
                }
                Item::Demoted(demoted) => self.account.demoted(demoted),
                Item::Restarted(restart) => {
                    self.batch.flush(self.stop, &mut self.account.messages)?;
                    self.account.restarted(restart);
                    self.batch.generation(restart.generation);
                    self.date_offset = reader.publish_date(0);
                }
                Item::Ended(end) => {
                    if let End::Detached(by) = end {
                        self.account
                            .messages
                            .print(format_args!("detached by pid {} (uid {})", by.pid, by.uid));
                        self.detached = true;
                    }
                    return Ok(false);
                }
                Item::Empty => {
                    self.batch.flush(self.stop, &mut self.account.messages)?;
                    self.date_offset = reader.publish_date(0);
                    let now = Instant::now();
                    if !std::mem::replace(&mut idle, true) {
                        last_datagram = now;
                    }
                    let left = |limit: Option<Time>, since: Instant| {
                        limit.map(|t| t.0.saturating_sub(now.duration_since(since)))
                    };
                    let until_idle = left(self.cli.until_idle, last_datagram);
                    if until_idle.is_some_and(|t| t.is_zero()) {
                        return Ok(false);
                    }
                    let limit = until_idle.into_iter().chain(left(self.cli.timeout, began)).min();
                    self.stop.wait(reader, limit, self.cli.spin, None)?;
                    // The rate is a limit: a pause of the stream is not made up for.
                    if began.elapsed().as_nanos() as u64 > limiter.ready_at() {
                        limiter = RateLimiter::new(self.cli.rate, 1);
                    }
                }
            }
        }
    }

    /// Records a loss for the receiver.
    fn pass_on(&mut self, gap: &Gap) {
        let why = match gap.cause {
            Cause::Lapped => Why::Lapped,
            Cause::Upstream { layer, exact } => Why::Upstream { layer, exact },
            Cause::SourceGone => Why::SourceGone,
        };
        self.batch.record(gap.first, gap.count, why);
    }
}
