//! `ringstat --why`: what limits a stream, who is furthest behind and for how long that goes well,
//! and what to do about it.
//!
//! Contract: judged from two looks a while apart, so that what was lost long ago and what is being
//! lost now are kept apart; pure, what is seen of processes comes in by [`Seen`]. A finding says
//! what is, with its figures, and one line of advice. A stream is limited if anything is lost now,
//! or will be if things go on as they do.

use super::columns::{percent, printable};
use super::model::{Health, Layer, Loss, Reader, ReaderState, Stream};
use super::table;
use crate::process::Process;
use ringweir_cli::quantity::{Bytes, Count, Rate, Span};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};
use serde::Serialize;
use std::time::Duration;

/// Time between the two looks.
pub const WINDOW: Duration = Duration::from_secs(1);

/// A reader that is behind by less of the ring, and loses nothing, limits nothing.
const BEHIND: f64 = 0.25;
/// A loss so long ago is still of interest for a reader that takes less than is published.
const RECENTLY: u64 = 10_000_000_000;
/// Less of the published rate than this share is less, and not the edge of the window.
const KEEPS_UP: f64 = 0.97;
/// Beyond this many seconds nobody is warned.
const FAR: f64 = 3600.0;

/// Kind of the finding that a reader lies: it harms nobody, but whoever looks for what is wrong
/// wants to know.
const IMPLAUSIBLE: &str = "implausible";

/// What is seen of processes in between.
pub trait Seen {
    /// Share of one processor that a process used, if it can be seen.
    fn load(&self, pid: u64) -> Option<f64>;
    /// Whether the pump has a real-time class, if it can be seen.
    fn pump_is_realtime(&self) -> Option<bool>;
}

/// Something that limits a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Layer it belongs to.
    layer: &'static str,
    /// For programs: broker_stopped, broker_busy, broker_gone, losing, stopped, gone, lapped, slow,
    /// holding, implausible.
    kind: &'static str,
    /// The reader, if it is one.
    label: Option<String>,
    pid: Option<u64>,
    index: Option<u64>,
    /// Lost by it since it attached, or since the stream began.
    lost: u64,
    /// Being lost now.
    lost_per_second: f64,
    /// When it will be lapped if things go on as they do; 0: it is.
    lapped_in_ns: Option<u64>,
    /// In words.
    what: String,
    /// What to do.
    advice: String,
}

/// The reader furthest behind.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Furthest {
    label: String,
    pid: u64,
    index: u64,
    lag: u64,
    lag_ns: u64,
    lag_pct: f64,
}

/// The verdict on a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    stream: String,
    generation: u64,
    /// Whether anything limits it.
    pub limited: bool,
    window_ns: u64,
    findings: Vec<Finding>,
    furthest: Option<Furthest>,
    #[serde(skip)]
    head: String,
    #[serde(skip)]
    flow: String,
    #[serde(skip)]
    ring: String,
    #[serde(skip)]
    earlier: Vec<String>,
}

/// Keys of the JSON, and what they say.
pub const JSON_WORDS: &[(&str, &str)] = &[
    ("limited", "whether anything is being lost, or will be if things go on so"),
    ("window_ns", "time between the two looks it is judged by"),
    ("findings[].layer", "device, kernel, broker or reader; label, pid and index then say which"),
    (
        "findings[].kind",
        "broker_stopped, broker_busy, broker_gone, losing; of a reader: stopped, gone, lapped, \
        slow, holding, implausible (which limits nothing)",
    ),
    ("findings[].lost", "lost by it so far; lost_per_second: now"),
    (
        "findings[].lapped_in_ns",
        "time until it is lapped if things go on so; 0: it is; null: not in sight",
    ),
    ("findings[].what, advice", "the same in words, and what to do"),
    ("furthest", "the reader that is furthest behind, in trouble or not"),
];

/// Two looks at one life of a stream.
struct Between<'a> {
    before: &'a Stream,
    now: &'a Stream,
    /// Seconds; never 0.
    seconds: f64,
}

impl Between<'_> {
    fn per_second(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds
    }

    fn lost(&self, layer: Layer) -> f64 {
        self.per_second(self.before.loss.get(layer), self.now.loss.get(layer))
    }

    fn published(&self) -> f64 {
        self.per_second(
            self.before.snapshot.pump(PumpCounter::Published),
            self.now.snapshot.pump(PumpCounter::Published),
        )
    }

    fn earlier(&self, reader: &Reader) -> Option<&Reader> {
        let same = |r: &&Reader| {
            [ReaderFact::Index, ReaderFact::Pid, ReaderFact::AttachedRealtime]
                .iter()
                .all(|f| r.get(*f) == reader.get(*f))
        };
        self.before.readers.iter().find(same)
    }

    /// Seconds until the publisher passes a reader that goes on as between the two looks. A
    /// sixteenth of the ring is claimed ahead, so it is not history.
    fn lapped_in(&self, earlier: &Reader, reader: &Reader) -> Option<f64> {
        let left = |fact, ring| {
            let (before, now) = (earlier.get(fact), reader.get(fact));
            let growth = (now as f64 - before as f64) / self.seconds;
            let room = self.now.get(ring) as f64 * 15.0 / 16.0 - now as f64;
            (growth > 0.0).then(|| room.max(0.0) / growth)
        };
        let (slots, bytes) = (
            left(ReaderFact::Lag, StreamFact::Depth),
            left(ReaderFact::LagBytes, StreamFact::Capacity),
        );
        slots.into_iter().chain(bytes).reduce(f64::min)
    }
}

/// Judges a stream by two looks.
pub fn judge(before: Option<&Stream>, now: &Stream, seen: &impl Seen) -> Verdict {
    let window =
        |b: &Stream| now.get(StreamFact::SampledAt).saturating_sub(b.get(StreamFact::SampledAt));
    let same = |b: &&Stream| {
        now.get(StreamFact::StartedRealtime) == b.get(StreamFact::StartedRealtime) && window(b) > 0
    };
    let before = before.filter(same);
    let window_ns = before.map_or(0, window);
    let mut findings: Vec<Finding> = broker(now).into_iter().collect();
    if let Some(before) = before {
        let between = Between { before, now, seconds: window_ns as f64 / 1e9 };
        findings.extend(
            [Layer::Device, Layer::Kernel, Layer::Broker]
                .iter()
                .filter_map(|l| losing(&between, *l, seen)),
        );
        // Nobody is lapped any more in a stream that has ended.
        let judged = now.readers.iter().filter(|_| now.health != Health::Ended);
        let mut readers: Vec<Finding> = judged
            .filter(|r| r.implausible().is_none())
            .filter_map(|r| limiting(&between, r, between.earlier(r)?, seen))
            .collect();
        readers.sort_by(|a, b| {
            let soon = |f: &Finding| f.lapped_in_ns.unwrap_or(u64::MAX);
            b.lost_per_second.total_cmp(&a.lost_per_second).then(soon(a).cmp(&soon(b)))
        });
        findings.extend(readers);
    }
    findings.extend(now.readers.iter().filter_map(|r| lying(&now.snapshot.name, r)));
    let ring = match now.get(StreamFact::History) {
        0 => String::new(),
        ns => format!(" of {} in the ring", Span(Duration::from_nanos(ns))),
    };
    Verdict {
        stream: now.snapshot.name.clone(),
        generation: now.get(StreamFact::Generation),
        limited: findings.iter().any(|f| f.kind != IMPLAUSIBLE),
        window_ns,
        furthest: furthest(now),
        head: table::name(now),
        flow: super::columns::rates(now.rates),
        ring,
        earlier: [
            earlier(before.map(|b| b.loss), now.loss, Duration::from_nanos(window_ns)),
            demoted(now),
        ]
        .concat(),
        findings,
    }
}

fn furthest(stream: &Stream) -> Option<Furthest> {
    let reader = stream.readers.iter().filter(|r| r.implausible().is_none()).max_by(|a, b| {
        a.lag_share
            .total_cmp(&b.lag_share)
            .then(a.get(ReaderFact::Lag).cmp(&b.get(ReaderFact::Lag)))
    })?;
    Some(Furthest {
        label: reader.figures.label.clone(),
        pid: reader.get(ReaderFact::Pid),
        index: reader.get(ReaderFact::Index),
        lag: reader.get(ReaderFact::Lag),
        lag_ns: reader.get(ReaderFact::LagTime),
        lag_pct: (reader.lag_share * 1e5).round() / 1e3,
    })
}

/// Layers that have lost something, but nothing now.
fn earlier(before: Option<Loss>, now: Loss, window: Duration) -> Vec<String> {
    let over = |l: &&Layer| now.get(**l) > 0 && before.is_none_or(|b| b.get(**l) == now.get(**l));
    let said = |l: &Layer| {
        format!("{} lost {} earlier, nothing in the last {}", l.key(), now.get(*l), Span(window))
    };
    Layer::ALL.iter().filter(over).map(said).collect()
}

fn broker(now: &Stream) -> Option<Finding> {
    let pid = now.get(StreamFact::BrokerPid);
    let age = Span(now.age);
    let (what, advice) = match now.health {
        Health::Fresh | Health::Ended => return None,
        Health::Stale(Process::Stopped(c)) => (
            format!(
                "the broker (pid {pid}) is stopped ({c}): nothing has been published for {age}"
            ),
            format!("kill -CONT {pid} lets it go on"),
        ),
        Health::Stale(_) => (
            format!(
                "the broker (pid {pid}) has not renewed its figures for {age}: what follows is old"
            ),
            "see what keeps the machine or ringd's control thread busy".into(),
        ),
        Health::BrokerGone => (
            format!("the broker (pid {pid}) is gone for {age}: nothing is published"),
            "start ringd again; readers attach to it by themselves".into(),
        ),
    };
    Some(Finding {
        pid: Some(pid),
        ..finding(Layer::Broker, now.health.key(), 0, 0.0, what, advice)
    })
}

fn finding(
    layer: Layer,
    kind: &'static str,
    lost: u64,
    per_second: f64,
    what: String,
    advice: String,
) -> Finding {
    Finding {
        layer: layer.key(),
        kind,
        label: None,
        pid: None,
        index: None,
        lost,
        lost_per_second: (per_second * 1000.0).round() / 1000.0,
        lapped_in_ns: None,
        what,
        advice,
    }
}

/// A layer before the ring that loses now: for all readers alike.
fn losing(between: &Between<'_>, layer: Layer, seen: &impl Seen) -> Option<Finding> {
    let per_second = between.lost(layer);
    if per_second <= 0.0 {
        return None;
    }
    let stream = between.now;
    let source = stream.snapshot.source.split(':').next().unwrap_or("");
    let buffer = match (layer, source) {
        (Layer::Broker, _) => {
            let most = Bytes(stream.get(StreamFact::MaxDatagram));
            format!(
                "longer than --max-datagram {most}, or malformed: raise it, or look at what ringd \
                says on stderr"
            )
        }
        (Layer::Device, _) => "the device's buffer fills before the pump empties it".into(),
        (_, "udp") => {
            "give the socket more room: rcvbuf=SIZE in --source (and sysctl net.core.rmem_max)"
                .into()
        }
        (_, "packet") => "give the packet ring more room: block=SIZE, blocks=N in --source".into(),
        _ => "the kernel's buffer fills before the pump empties it".into(),
    };
    let advice = match (layer, seen.pump_is_realtime()) {
        (Layer::Broker, _) | (_, Some(true) | None) => buffer,
        (_, Some(false)) => {
            format!("{buffer}; and start ringd by `chrt -f 60`: its pump has no real-time priority")
        }
    };
    let lost = stream.loss.get(layer);
    let what = format!(
        "the {} loses {} ({lost} so far), before the ring and so for all readers",
        layer.key(),
        Rate::Datagrams(per_second),
    );
    Some(finding(layer, "losing", lost, per_second, what, advice))
}

/// A reader that loses now, or will if it goes on so.
fn limiting(
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
fn demoted(now: &Stream) -> Vec<String> {
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
fn lying(stream: &str, reader: &Reader) -> Option<Finding> {
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

impl Verdict {
    /// For people: what limits, each with its advice; or that nothing does.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if self.findings.is_empty() {
            out += &format!("{}  nothing limits it: {}", self.head, self.flow);
            match &self.furthest {
                None => out += "; no readers\n",
                Some(f) if f.lag == 0 => out += "; no reader is behind\n",
                Some(f) => {
                    let (who, time) = (printable(&f.label), Span(Duration::from_nanos(f.lag_ns)));
                    out += &format!(
                        "; furthest behind is {who} (pid {}), {} dg / {time}{}\n",
                        f.pid, f.lag, self.ring
                    );
                }
            }
        } else {
            out += &format!("{}  {}\n", self.head, self.flow);
        }
        for finding in &self.findings {
            out += &format!("  {}\n    -> {}\n", finding.what, finding.advice);
        }
        for over in &self.earlier {
            out += &format!("  {over}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests;
