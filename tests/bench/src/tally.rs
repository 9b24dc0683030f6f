//! A reader's account: every datagram is verified, every number accounted for, and the measured
//! time is cut out of the run.
//!
//! Contract: the same for every contender. [`Tally::datagram`] or, where the bytes were summed in
//! place, [`Tally::right`] takes a datagram. A wrong byte, a repeated number or a gap that was not
//! reported is an error that fails the whole bench. Latency counts from the moment when a datagram
//! was *due*, not from when the publisher sent it: a publisher that is held up must not make its
//! late datagrams look quick (coordinated omission).

use super::job::{Go, Inject, Job, Report};
use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use ringweir_pattern::datagram::Header;
use ringweir_pattern::sum;
use ringweir_proto::os::clock;

/// How a transport loses datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// It reports each loss in order ([`Tally::lost`]); an unreported gap is an error.
    Reported,
    /// It must not lose any.
    None,
    /// It loses silently: missing numbers are counted.
    Silent,
}

/// Which datagram a planted fault hits.
const SPOILED: u64 = 3;

#[derive(Clone, Copy, Default)]
struct Mark {
    time: u64,
    delivered: u64,
    lost: u64,
}

/// The account of one reader.
pub struct Tally {
    go: Go,
    losses: Losses,
    size: usize,
    next: u64,
    delivered: u64,
    lost: u64,
    begin: Option<Mark>,
    end: Option<Mark>,
    looks_every: u32,
    looks_in: u32,
    /// First due time and ns between datagrams.
    schedule: Option<(u64, f64)>,
    latency: Histogram<u64>,
    inject: Option<Inject>,
    taken: u64,
    /// What the kernel counted as lost.
    pub kernel_lost: Option<u64>,
}

impl Tally {
    /// An account that begins at number 0.
    pub fn new(job: &Job, go: Go, losses: Losses) -> anyhow::Result<Self> {
        let looks_every = (32_768 / job.size as u32).clamp(1, 64);
        Ok(Self {
            go,
            losses,
            size: job.size,
            next: 0,
            delivered: 0,
            lost: 0,
            begin: None,
            end: None,
            looks_every: if job.rate.is_some() { 1 } else { looks_every },
            looks_in: 0,
            schedule: job.rate.map(|rate| (go.start, 1e9 / rate)),
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            inject: job.inject.filter(|_| job.reader == Some(0)),
            taken: 0,
            kernel_lost: None,
        })
    }

    /// Sets when the publisher's clock started, for a stream that itself says so.
    pub fn scheduled_from(&mut self, start: u64) {
        if let Some((from, _)) = &mut self.schedule {
            *from = start;
        }
    }

    /// The fault that is planted in the next datagram; counts that datagram.
    #[inline(always)]
    pub fn planted(&mut self) -> Option<Inject> {
        self.taken += 1;
        if self.taken == SPOILED { self.inject } else { None }
    }

    /// Takes one datagram, with its planted fault.
    #[inline]
    pub fn datagram(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(fault) = self.planted() {
            return self.spoil(fault, bytes);
        }
        self.right(&sum::check(bytes)?)
    }

    #[cold]
    fn spoil(&mut self, fault: Inject, bytes: &[u8]) -> anyhow::Result<()> {
        let mut copy = bytes.to_vec();
        let last = copy.len() - 1;
        match fault {
            Inject::Flip => copy[last] ^= 0x10,
            Inject::Drop => return Ok(()),
            Inject::Dup => self.right(&sum::check(&copy)?)?,
        }
        self.right(&sum::check(&copy)?)
    }

    /// Takes one datagram whose bytes are verified.
    #[inline(always)]
    pub fn right(&mut self, header: &Header) -> anyhow::Result<()> {
        if header.number != self.next || header.len as usize != self.size {
            self.hole(header)?;
        }
        self.next = header.number + 1;
        self.delivered += 1;
        if self.looks_in == 0 {
            let now = self.look();
            self.looks_in = self.looks_every;
            if let Some((start, step)) = self.schedule {
                self.late_by(now, start, step, header.number);
            }
        }
        self.looks_in -= 1;
        Ok(())
    }

    #[inline]
    fn late_by(&mut self, now: u64, start: u64, step: f64, number: u64) {
        if (self.go.begin..self.go.end).contains(&now) {
            let due = start + (number as f64 * step) as u64;
            self.latency.saturating_record(now.saturating_sub(due).max(1));
        }
    }

    #[cold]
    fn hole(&mut self, header: &Header) -> anyhow::Result<()> {
        let (number, next) = (header.number, self.next);
        ensure!(header.len as usize == self.size, "datagram {number} has {} bytes", header.len);
        ensure!(number >= next, "datagram {number} came again: {next} was next");
        ensure!(
            self.losses == Losses::Silent,
            "datagram {number} came where {next} was next, and no loss was reported"
        );
        self.lost += number - next;
        Ok(())
    }

    /// The transport reports that `count` datagrams from `first` on are lost.
    pub fn lost(&mut self, first: u64, count: u64) -> anyhow::Result<()> {
        ensure!(
            first == self.next && count > 0,
            "{count} from {first} reported as lost where {} was next",
            self.next
        );
        self.next += count;
        self.lost += count;
        Ok(())
    }

    /// Looks at the clock; call it when there is nothing to read, too.
    #[inline]
    pub fn look(&mut self) -> u64 {
        let now = clock::monotonic_ns();
        if now >= self.go.begin && self.end.is_none() {
            self.mark(now);
        }
        now
    }

    #[cold]
    fn new_mark(&self, time: u64) -> Mark {
        Mark { time, delivered: self.delivered, lost: self.lost }
    }

    #[inline]
    fn mark(&mut self, now: u64) {
        if self.begin.is_none() {
            self.begin = Some(self.new_mark(now));
        }
        if now >= self.go.end {
            self.end = Some(self.new_mark(now));
        }
    }

    /// Whether the measured time ended at least `ns` ago: no datagram will come any more.
    pub fn over_by(&mut self, ns: u64) -> bool {
        self.look() > self.go.end + ns
    }

    /// Closes the account.
    pub fn close(mut self) -> anyhow::Result<Report> {
        self.look();
        ensure!(
            self.inject.is_none() || self.taken >= SPOILED,
            "too few datagrams came to plant a fault"
        );
        let begin = self.begin.context("the stream ended before the measured time began")?;
        let end = self.end.unwrap_or(self.new_mark(clock::monotonic_ns()));
        if self.delivered + self.lost != self.next {
            bail!(
                "{} delivered and {} lost are not the {} that went by",
                self.delivered,
                self.lost,
                self.next
            );
        }
        Ok(Report {
            delivered: self.delivered,
            lost: self.lost,
            next: self.next,
            kernel_lost: self.kernel_lost,
            window_ns: end.time - begin.time,
            window_delivered: end.delivered - begin.delivered,
            window_lost: end.lost - begin.lost,
            latency: self
                .latency
                .iter_recorded()
                .map(|v| (v.value_iterated_to(), v.count_at_value()))
                .collect(),
            ..Report::default()
        })
    }
}
