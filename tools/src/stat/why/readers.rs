//! Findings about single readers: stopped, slow, lapped, holding the stream back, implausible.

use super::finding::{Between, Finding, IMPLAUSIBLE, Seen, finding};
use crate::output::printable;
use crate::stat::model::{Layer, Reader, ReaderState, Stream};
use crate::stat::text::percent;
use ringweir_cli::quantity::{Count, Rate, Span};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use std::time::Duration;

/// A reader that is behind by less of the ring, and loses nothing, limits nothing.
const BEHIND: f64 = 0.25;
/// A loss so long ago is still of interest for a reader that takes less than is published.
const RECENTLY: u64 = 10_000_000_000;
/// Less of the published rate than this share is less, and not the edge of the window.
const KEEPS_UP: f64 = 0.97;
/// Beyond this many seconds nobody is warned.
const FAR: f64 = 3600.0;

/// A reader that loses now, or will if it goes on so.
pub(super) fn limiting(
    between: &Between<'_>,
    reader: &Reader,
    earlier: &Reader,
    seen: &impl Seen,
) -> Option<Finding> {
    let pid = reader.get(ReaderFact::Pid);
    let who = format!("reader {} (pid {pid})", printable(&reader.figures.label));
    let per_second = between.per_second(earlier.lost(), reader.lost());
    let lapped_in = between.lapped_in(earlier, reader).filter(|s| *s < FAR);
    let lapped = reader.is_lapped();
    let taken =
        between.per_second(earlier.get(ReaderFact::Delivered), reader.get(ReaderFact::Delivered));
    let published = between.published();
    let age = between
        .now
        .get(StreamFact::SampledRealtime)
        .saturating_sub(reader.get(ReaderFact::LastGapRealtime));
    let behind = reader.lag_share >= BEHIND && lapped_in.is_some();
    let too_slow = taken < published * KEEPS_UP && (per_second > 0.0 || age < RECENTLY || behind);
    let stopped = matches!(reader.state, ReaderState::Stopped(_) | ReaderState::Gone);
    if reader.get(ReaderFact::Lossless) == 1 {
        return holding(between, reader, earlier);
    }
    if !(stopped || lapped || per_second > 0.0 || behind || too_slow) {
        return None;
    }
    let prospect = match (lapped, lapped_in) {
        (true, _) => {
            let since = Span(Duration::from_nanos(reader.get(ReaderFact::LagTime)));
            format!("LAPPED, {since} behind; it has lost {}", Count(reader.lost()))
        }
        (false, Some(s)) => format!(
            "{} behind, {} of the ring; at this rate it is lapped in {}",
            lag(reader),
            percent(reader.lag_share),
            Span(Duration::from_secs_f64(s)),
        ),
        (false, None) => {
            format!("{} behind, {} of the ring", lag(reader), percent(reader.lag_share))
        }
    };
    let losing = if per_second > 0.0 {
        format!(", now {} a second", Count(per_second.ceil() as u64))
    } else {
        String::new()
    };
    let (kind, what, advice) = match reader.state {
        ReaderState::Stopped(c) => (
            "stopped",
            format!("{who} is stopped ({c}): {prospect}{losing}"),
            format!("kill -CONT {pid} lets it go on; nobody else notices"),
        ),
        ReaderState::Gone => (
            "gone",
            format!("{who} is gone: {prospect}{losing}"),
            "its place is free once the broker runs again".into(),
        ),
        _ => {
            let (does, advice) = cause(seen.load(pid));
            let kind = if lapped || per_second > 0.0 { "lapped" } else { "slow" };
            let rates =
                format!("takes {} of {}", Rate::Datagrams(taken), Rate::Datagrams(published));
            (kind, format!("{who} {rates}{does}: {prospect}{losing}"), advice)
        }
    };
    let lapped_in_ns = if lapped { Some(0) } else { lapped_in.map(|s| (s * 1e9) as u64) };
    Some(Finding {
        label: Some(reader.figures.label.clone()),
        pid: Some(pid),
        index: Some(reader.get(ReaderFact::Index)),
        lapped_in_ns,
        ..finding(Layer::Reader, kind, reader.lost(), per_second, what, advice)
    })
}

/// A lossless reader that the stream had to wait for.
fn holding(between: &Between<'_>, reader: &Reader, earlier: &Reader) -> Option<Finding> {
    let (pid, all) = (reader.get(ReaderFact::Pid), reader.get(ReaderFact::Held));
    let held = all.saturating_sub(earlier.get(ReaderFact::Held));
    if held == 0 {
        return None;
    }
    let time = |ns| Span(Duration::from_nanos(ns));
    let window = between
        .now
        .get(StreamFact::SampledAt)
        .saturating_sub(between.before.get(StreamFact::SampledAt));
    let what = format!(
        "reader {} (pid {pid}) is lossless and {}: the stream waited for it for {} of {} ({} in \
        all)",
        printable(&reader.figures.label),
        reader.state,
        time(held),
        time(window),
        time(all),
    );
    let advice = match reader.state {
        ReaderState::Stopped(_) => format!(
            "kill -CONT {pid} lets it go on; if not, it is demoted \
            when its budget is used up"
        ),
        _ => "what the source loses meanwhile is lost to all: make it faster, the ring deeper \
            (--depth), or let it be lossy"
            .into(),
    };
    Some(Finding {
        label: Some(reader.figures.label.clone()),
        pid: Some(pid),
        index: Some(reader.get(ReaderFact::Index)),
        ..finding(Layer::Reader, "holding", reader.lost(), 0.0, what, advice)
    })
}

/// Readers that were lossless once, those that are gone included.
pub(super) fn demoted(now: &Stream) -> Vec<String> {
    let here = now.readers.iter().filter(|r| r.get(ReaderFact::DemotedRealtime) != 0);
    let said = |r: &Reader| {
        let ago =
            now.get(StreamFact::SampledRealtime).saturating_sub(r.get(ReaderFact::DemotedRealtime));
        format!(
            "reader {} (pid {}) was demoted {} ago: as a lossless reader it had held the stream \
            back for {}",
            printable(&r.figures.label),
            r.get(ReaderFact::Pid),
            Span(Duration::from_nanos(ago)),
            Span(Duration::from_nanos(r.get(ReaderFact::Held))),
        )
    };
    let mut all: Vec<String> = here.map(said).collect();
    let gone = now.snapshot.pump(PumpCounter::Demotions).saturating_sub(all.len() as u64);
    if gone > 0 {
        all.push(format!("{gone} lossless readers that are gone were demoted before"));
    }
    all
}

/// A reader whose page says what cannot be.
pub(super) fn lying(stream: &str, reader: &Reader) -> Option<Finding> {
    let what = reader.implausible()?;
    let (pid, index) = (reader.get(ReaderFact::Pid), reader.get(ReaderFact::Index));
    let who = format!(
        "reader {} (pid {pid}, uid {})",
        printable(&reader.figures.label),
        reader.get(ReaderFact::Uid)
    );
    let what = format!(
        "{who} writes into its page what cannot be: {what}; none of its figures is to be believed"
    );
    let advice = format!("nobody else notices; ringctl detach {stream} pid:{pid} sends it away");
    Some(Finding {
        label: Some(reader.figures.label.clone()),
        pid: Some(pid),
        index: Some(index),
        ..finding(Layer::Reader, IMPLAUSIBLE, 0, 0.0, what, advice)
    })
}

/// Why a reader that runs is slow, by the processor time it uses.
fn cause(load: Option<f64>) -> (String, String) {
    match load {
        Some(load) if load >= 0.7 => (
            format!(" and computes ({} of a processor)", percent(load)),
            "it needs more processor than one thread has: do less per datagram, or share the work \
            among readers"
                .into(),
        ),
        Some(load) => (
            format!(" and waits for something else (uses {} of a processor)", percent(load)),
            "see what it waits for: a disk, a pipe, another process, its turn on a busy \
            processor"
                .into(),
        ),
        None => (
            String::new(),
            "a deeper ring (--depth) bridges pauses, but not a reader that is too \
                slow for good"
                .into(),
        ),
    }
}

fn lag(reader: &Reader) -> String {
    let time = Span(Duration::from_nanos(reader.get(ReaderFact::LagTime)));
    format!("{} dg / {time}", reader.get(ReaderFact::Lag))
}
