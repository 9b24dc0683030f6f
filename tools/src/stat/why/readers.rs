//! Findings about single readers: stopped, slow, lapped, holding the stream back, implausible.

use super::finding::{Between, Finding, IMPLAUSIBLE, Seen, finding};
use crate::stat::model::{Layer, Reader, ReaderState, Stream};
use crate::stat::text::percent;
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::{Count, Rate, Span};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use std::time::Duration;

/// A reader that loses nothing, and is behind by a smaller share of the ring, does not limit the
/// stream.
const BEHIND: f64 = 0.25;
/// A loss in the last ten seconds (in ns) counts for a reader that takes less than is published.
const RECENTLY: u64 = 10_000_000_000;
/// A reader is slow if it takes less than this share of the published rate. A smaller difference
/// comes from the limits of the window.
const KEEPS_UP: f64 = 0.97;
/// No warning if a reader is lapped in more than this many seconds.
const FAR: f64 = 3600.0;

/// A reader that is losing datagrams, or will if nothing changes.
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
            format!("kill -CONT {pid} resumes it; other readers are not affected"),
        ),
        ReaderState::Gone => (
            "gone",
            format!("{who} is gone: {prospect}{losing}"),
            "its index becomes free when the broker runs again and no process that it forked holds \
                its connection; ringctl detach frees it now"
                .into(),
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

/// A lossless reader that the stream waits for.
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
            "kill -CONT {pid} resumes it; otherwise it is demoted when its budget is used up"
        ),
        _ => {
            "what the source loses meanwhile is lost for all readers: make this reader faster, the \
            ring deeper (--depth), or attach it without lossless"
                .into()
        }
    };
    Some(Finding {
        label: Some(reader.figures.label.clone()),
        pid: Some(pid),
        index: Some(reader.get(ReaderFact::Index)),
        ..finding(Layer::Reader, "holding", reader.lost(), 0.0, what, advice)
    })
}

/// Readers that were demoted, including those that have left.
pub(super) fn demoted(now: &Stream) -> Vec<String> {
    let here = now.readers.iter().filter(|r| r.get(ReaderFact::DemotedRealtime) != 0);
    let said = |r: &Reader| {
        let ago =
            now.get(StreamFact::SampledRealtime).saturating_sub(r.get(ReaderFact::DemotedRealtime));
        format!(
            "reader {} (pid {}) was demoted {} ago: as a lossless reader it had made the stream \
            wait for {}",
            printable(&r.figures.label),
            r.get(ReaderFact::Pid),
            Span(Duration::from_nanos(ago)),
            Span(Duration::from_nanos(r.get(ReaderFact::Held))),
        )
    };
    let mut all: Vec<String> = here.map(said).collect();
    let gone = now.snapshot.pump(PumpCounter::Demotions).saturating_sub(all.len() as u64);
    if gone > 0 {
        all.push(format!("{gone} lossless readers were demoted and have left"));
    }
    all
}

/// A reader whose page holds impossible values.
pub(super) fn implausible(stream: &str, reader: &Reader) -> Option<Finding> {
    let what = reader.implausible()?;
    let (pid, index) = (reader.get(ReaderFact::Pid), reader.get(ReaderFact::Index));
    let who = format!(
        "reader {} (pid {pid}, uid {})",
        printable(&reader.figures.label),
        reader.get(ReaderFact::Uid)
    );
    let what = format!(
        "{who} has impossible values in its reader page: {what}; none of its figures can be trusted"
    );
    let advice =
        format!("other readers are not affected; ringctl detach {stream} pid:{pid} detaches it");
    Some(Finding {
        label: Some(reader.figures.label.clone()),
        pid: Some(pid),
        index: Some(index),
        ..finding(Layer::Reader, IMPLAUSIBLE, 0, 0.0, what, advice)
    })
}

/// Why a running reader is slow, judged by the processor time it uses.
fn cause(load: Option<f64>) -> (String, String) {
    match load {
        Some(load) if load >= 0.7 => (
            format!(" and is busy ({} of a processor)", percent(load)),
            "it needs more than one processor: do less per datagram, or share the work among \
            several readers"
                .into(),
        ),
        Some(load) => (
            format!(" and waits for something else (uses {} of a processor)", percent(load)),
            "find out what it waits for: a disk, a pipe, another process, a busy processor".into(),
        ),
        None => (
            String::new(),
            "a deeper ring (--depth) helps with pauses, but not with a reader that is always too \
            slow"
                .into(),
        ),
    }
}

fn lag(reader: &Reader) -> String {
    let time = Span(Duration::from_nanos(reader.get(ReaderFact::LagTime)));
    format!("{} dg / {time}", reader.get(ReaderFact::Lag))
}
