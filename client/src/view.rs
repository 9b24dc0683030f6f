//! Looking at streams without reading them: a list of the streams, their descriptions, their
//! statistics, and the latencies of their readers.
//!
//! A [`Viewer`] asks the broker once. After that it reads shared memory, so it works while the
//! broker is busy, stopped or dead.

use crate::Error;
use crate::connect::{Connection, Waits};
use ringweir_proto::control::{LatencyReport, Reply, Request};
use ringweir_proto::latency;
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::os::paths;
use ringweir_proto::stats::StatsView;
use std::path::PathBuf;

pub use ringweir_proto::control::Description;
pub use ringweir_proto::latency::Histogram;

/// The figures that a [`Viewer`] gives for a stream and for each of its readers.
pub mod stats {
    pub use ringweir_proto::stats::{
        Kind, PumpCounter, ReaderFact, ReaderFigures, Snapshot, StreamFact,
    };
}

use stats::Snapshot;

/// Lists the streams whose sockets are in the run directories, with name and socket path. Does not
/// check whether their brokers are running.
pub fn streams() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for dir in paths::search_dirs() {
        for name in paths::streams_in(&dir) {
            // The first directory wins, as for attach.
            if !found.iter().any(|(known, _)| *known == name) {
                let path = paths::socket_path(&dir, &name);
                found.push((name, path));
            }
        }
    }
    found
}

/// The stream's configuration in words.
///
/// # Errors
/// As [`crate::Options::attach`].
pub fn describe(name: &str) -> Result<Description, Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    match connection.ask(&Request::Describe, 0)?.0 {
        Reply::Described(description) => Ok(description),
        other => Err(connection.unexpected(&other)),
    }
}

/// A view of one stream's statistics. It works while the broker is busy, stopped or dead.
#[derive(Debug)]
pub struct Viewer {
    connection: Connection,
    area: StatsArea,
}

impl Viewer {
    /// Asks the broker of `name` for its statistics area, once.
    ///
    /// # Errors
    /// As [`crate::Options::attach`].
    pub fn attach(name: &str) -> Result<Self, Error> {
        let connection = Connection::open(name, Waits::Yes)?;
        let (reply, fds) = connection.ask(&Request::View, 1)?;
        let Reply::Viewing = reply else { return Err(connection.unexpected(&reply)) };
        let area = StatsArea::attach(&fds[0])?;
        StatsView::new(area.words())
            .map_err(|e| Error::Unexpected { name: name.into(), what: e.to_string() })?;
        Ok(Self { connection, area })
    }

    /// The newest snapshot; `None` if no consistent one could be read. Makes no system call.
    pub fn snapshot(&self) -> Option<Snapshot> {
        StatsView::new(self.area.words()).ok()?.read()
    }

    /// Whether the broker has hung up: it ended or died, and the figures will not change any more.
    pub fn hung_up(&self) -> bool {
        self.connection.hung_up()
    }
}

/// Publish → read latencies of one reader, as it sampled them since it attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Its reader index ([`stats::ReaderFact::Index`]).
    pub index: u32,
    /// When it attached, ns since 1970. Index and time together identify the reader.
    pub attached: u64,
    /// The samples.
    pub histogram: Histogram,
}

/// A bucket of a [`Histogram`]: samples of at least `from_ns` and less than `to_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// The shortest time in it, ns.
    pub from_ns: u64,
    /// The shortest time above it, ns: at most an eighth above `from_ns`, or 1 above it;
    /// [`u64::MAX`] for the last bucket.
    pub to_ns: u64,
    /// Samples in it, never 0.
    pub count: u64,
}

/// The buckets of a histogram that are not empty, in rising order.
pub fn buckets(histogram: &Histogram) -> impl Iterator<Item = Bucket> {
    histogram.occupied().map(|(place, count)| {
        let place = usize::from(place);
        let from_ns = place.checked_sub(1).map_or(0, latency::above);
        Bucket { from_ns, to_ns: latency::above(place), count }
    })
}

/// Asks the broker of `name` for the drain gaps since the stream began: how long the device's FIFO
/// had been filling each time it was drained. `None` if the source has no FIFO.
///
/// # Errors
/// As [`crate::Options::attach`].
pub fn drain_gaps(name: &str) -> Result<Option<Histogram>, Error> {
    let connection = Connection::open(name, Waits::Yes)?;
    match connection.ask(&Request::DrainGaps, 0)?.0 {
        Reply::Latency(report) => Ok(report.map(histogram)),
        other => Err(connection.unexpected(&other)),
    }
}

fn histogram(report: LatencyReport) -> Histogram {
    let LatencyReport { sum_ns, max_ns, places, counts, .. } = report;
    Histogram::from_occupied(places.into_iter().zip(counts), sum_ns, max_ns)
}

/// Asks the broker of `name` for the latencies of the readers with these `indices`. Readers that
/// are not attached any more are left out.
///
/// # Errors
/// As [`crate::Options::attach`].
pub fn latencies(name: &str, indices: &[u32]) -> Result<Vec<Latency>, Error> {
    let mut found = Vec::new();
    for &index in indices {
        let connection = Connection::open(name, Waits::Yes)?;
        match connection.ask(&Request::Latency { index }, 0)?.0 {
            Reply::Latency(Some(report)) => {
                found.push(Latency {
                    index,
                    attached: report.attached,
                    histogram: histogram(report),
                });
            }
            Reply::Latency(None) => {}
            other => return Err(connection.unexpected(&other)),
        }
    }
    Ok(found)
}
