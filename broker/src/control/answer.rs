//! What a peer is answered: who may ask, and what it gets.
//!
//! Contract: one question, one answer, decided by one stream alone; what concerns other connections
//! as well is `Control`'s.

use super::refusals::who;
use super::{Role, refuse, reply};
use crate::access::Right;
use crate::sampler;
use crate::stream::Stream;
use ringweir_proto::control::{
    AttachRequest, Attached, DecodeError, Description, LatencyReport, Mode, Reason, Reply, Request,
};
use ringweir_proto::latency::Histogram;
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::os::socket;
use ringweir_proto::stats::PumpCounter;
use std::os::fd::{AsFd, OwnedFd};

/// Answers a peer's one question; what it is from then on, `None` to hang up.
pub(super) fn answer(
    stream: &mut Stream,
    fd: &OwnedFd,
    request: Result<Request, DecodeError>,
) -> Option<Role> {
    let request = match request {
        Ok(request) => request,
        Err(e) => {
            let reason = if matches!(e, DecodeError::Version { .. }) {
                Reason::Version
            } else {
                Reason::Malformed
            };
            match socket::peer(fd) {
                Ok(peer) => stream.refuse(fd, reason, who(&peer), e.to_string()),
                Err(_) => refuse(fd, reason, &e.to_string()),
            }
            return None;
        }
    };
    let right = if matches!(request, Request::Attach(_)) { Right::Attach } else { Right::Watch };
    let peer = admit(stream, fd, right)?;
    match request {
        Request::Attach(request) => attach(stream, fd, peer, &request),
        Request::Watch => {
            sampler::sample(stream);
            reply(fd, &Reply::Watching, &[stream.stats_fd()]).then_some(Role::Viewer)
        }
        Request::Describe => {
            let config = &stream.config;
            let description = Description {
                name: config.name.clone(),
                source: shorten(&config.source),
                summary: shorten(&stream.summary),
                broker_version: env!("CARGO_PKG_VERSION").into(),
                metadata: config.metadata().unwrap_or_default(),
            };
            // That was all it wanted: its answer waits for it though we hang up.
            reply(fd, &Reply::Described(description), &[]);
            None
        }
        Request::Latency { index } => {
            let report =
                stream.readers.get(index).map(|entry| report(entry.page.latency(), entry.attached));
            reply(fd, &Reply::Latency(report), &[]);
            None
        }
        Request::DrainGaps => {
            let drained =
                stream.object.memory().counter(PumpCounter::Drains) > 0 || stream.slack.is_some();
            let report = drained.then(|| report(&stream.drain_gaps, stream.started));
            reply(fd, &Reply::Latency(report), &[]);
            None
        }
        Request::Detach(_) | Request::Reload => {
            unreachable!("answered by Control, which knows the other connections")
        }
    }
}

/// What stands in `block`, counted since `since`.
fn report(block: &LatencyBlock, since: u64) -> LatencyReport {
    let seen = Histogram::of(block);
    let (places, counts) = seen.occupied().unzip();
    let Histogram { sum_ns, max_ns, .. } = seen;
    LatencyReport { attached: since, sum_ns, max_ns, places, counts }
}

/// Who it is, if it has that right; else it has been told.
pub(super) fn admit(stream: &mut Stream, fd: &OwnedFd, right: Right) -> Option<socket::Peer> {
    let peer = match socket::peer(fd) {
        Ok(peer) => peer,
        Err(e) => {
            refuse(fd, Reason::NotAllowed, &format!("the kernel does not say who you are: {e}"));
            return None;
        }
    };
    if let Err(text) = stream.access.check(&peer, right) {
        stream.refuse(fd, Reason::NotAllowed, who(&peer), text);
        return None;
    }
    Some(peer)
}

fn attach(
    stream: &mut Stream,
    fd: &OwnedFd,
    peer: socket::Peer,
    request: &AttachRequest,
) -> Option<Role> {
    let most = stream.config.readers_per_user.unwrap_or(u32::MAX) as usize;
    if !stream.access.is_master(peer.uid) && stream.readers.count_of(peer.uid) >= most {
        let text = format!(
            "uid {} has the {most} readers a user may have: end one, or start ringd with more \
            --readers-per-user",
            peer.uid
        );
        stream.refuse(fd, Reason::Full, who(&peer), text);
        return None;
    }
    if request.mode != Mode::Lossy && stream.config.lossless.is_none() {
        let text = "this stream waits for no reader: attach lossy, or start ringd with --lossless \
            and a budget such as 250ms";
        stream.refuse(fd, Reason::NotAllowed, who(&peer), text.into());
        return None;
    }
    let (readers, asking) = (&stream.readers, who(&peer));
    match readers.attach(peer, request.clean_label(), request.parks, request.mode, stream.pump()) {
        Ok(Some((entry, theirs))) => {
            let attached = Attached {
                index: entry.index,
                block_offset: entry.page.block_offset(),
                generation: stream.object.memory().generation(),
            };
            let ring = stream.object.read_only();
            let fds =
                [ring.as_fd(), theirs.page.as_fd(), theirs.wake.as_fd(), entry.sleep_request.fd()];
            if reply(fd, &Reply::Attached(attached), &fds) {
                return Some(Role::Reader(entry.index));
            }
            readers.detach(entry.index, stream.pump());
        }
        Ok(None) => {
            let text = format!(
                "all {} places for readers are taken: start ringd with more --readers-max",
                readers.most()
            );
            stream.refuse(fd, Reason::Full, asking, text);
        }
        Err(e) => stream.refuse(fd, Reason::Resources, asking, e.to_string()),
    }
    None
}

/// So that a reply stays within a message, whatever was configured.
pub(super) fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(text.len().min(700))].into()
}
