//! Findings about the broker, and about the layers before the ring.

use super::finding::{Between, Finding, PAUSE, SKIPPED, Seen, finding};
use crate::process::Process;
use crate::stat::model::{Health, Layer, Stream};
use ringweir_cli::quantity::{Bytes, Rate, Span};
use ringweir_proto::stats::{PumpCounter, StreamFact};
use std::time::Duration;

/// A pause that is worth a word.
const PAUSE_NS: u64 = 1_000_000_000;

pub(super) fn broker(now: &Stream) -> Option<Finding> {
    let pid = now.get(StreamFact::BrokerPid);
    let age = Span(now.age);
    let (what, advice) = match now.health {
        Health::Fresh | Health::Ended => return None,
        Health::Stale(Process::Stopped(c)) => (
            format!(
                "the broker (pid {pid}) is stopped ({c}): nothing has been published for {age}"
            ),
            format!("kill -CONT {pid} resumes it"),
        ),
        Health::Stale(_) => (
            format!(
                "the broker (pid {pid}) has not updated its figures for {age}: the following is old"
            ),
            "find out what keeps the machine or ringd's control thread busy".into(),
        ),
        Health::BrokerGone => (
            format!("the broker (pid {pid}) has been gone for {age}: nothing is published"),
            "start ringd again; the readers re-attach by themselves".into(),
        ),
    };
    Some(Finding {
        pid: Some(pid),
        ..finding(Layer::Broker, now.health.key(), 0, 0.0, what, advice)
    })
}

/// A recording that is played with its pauses, in one of them.
pub(super) fn pausing(now: &Stream) -> Option<Finding> {
    let due = now.snapshot.pump(PumpCounter::SourceDue);
    let left = due.checked_sub(now.get(StreamFact::SampledAt)).filter(|left| *left > PAUSE_NS)?;
    if now.health != Health::Fresh {
        return None;
    }
    let left = Span(Duration::from_nanos(left));
    let what = format!("the recording pauses: its next datagram is due in {left}");
    let advice = "pace=max in --source plays it without pauses, max-pause=TIME limits them".into();
    Some(finding(Layer::Broker, PAUSE, 0, 0.0, what, advice))
}

/// A stream of another stream that takes only a part of it.
pub(super) fn skipping(now: &Stream) -> Option<Finding> {
    let skipped = now.snapshot.pump(PumpCounter::Skipped);
    let what = format!(
        "{skipped} datagrams of the other stream were left out on purpose; they are no losses"
    );
    let advice = "channel=, every= and rate= in --source say which are taken".into();
    (skipped > 0).then(|| finding(Layer::Broker, SKIPPED, 0, 0.0, what, advice))
}

/// A layer before the ring that loses datagrams now, for all readers.
pub(super) fn losing(between: &Between<'_>, layer: Layer, seen: &impl Seen) -> Option<Finding> {
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
                "datagrams longer than --max-datagram {most}, or malformed: raise it, or see the \
                log of ringd"
            )
        }
        (Layer::Device, _) => "the buffer of the device fills up before the pump drains it".into(),
        (_, "udp") => {
            "enlarge the socket buffer: rcvbuf=SIZE in --source (and sysctl net.core.rmem_max)"
                .into()
        }
        (_, "ring") => {
            "the other stream is faster than this copy: take less of it (channel=, every=, rate= \
            in --source), or enlarge its --depth"
                .into()
        }
        (_, "packet") => "enlarge the packet ring: block=SIZE, blocks=N in --source".into(),
        _ => "the buffer of the kernel fills up before the pump drains it".into(),
    };
    let advice = match (layer, seen.pump_is_realtime()) {
        (Layer::Broker, _) | (_, Some(true) | None) => buffer,
        (_, Some(false)) => {
            format!(
                "{buffer}; and start ringd with `chrt -f 60`: its pump has no real-time priority"
            )
        }
    };
    let lost = stream.loss.get(layer);
    let who = match (layer, source) {
        (Layer::Kernel, "ring") => "this copy of another stream is lapped there, and".into(),
        _ => format!("the {}", layer.key()),
    };
    let what = format!(
        "{who} loses {} ({lost} so far), before the ring, so for all readers",
        Rate::Datagrams(per_second),
    );
    Some(finding(layer, "losing", lost, per_second, what, advice))
}
