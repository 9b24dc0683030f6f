//! Answers to the requests that concern one stream and one connection.
//!
//! Contract: one request, one reply. Requests that concern other connections too are answered by
//! the control thread itself.

use super::connections::Role;
use super::limits::share_of_person;
use super::message::{refuse, refuse_logged, reply, shorten};
use super::sampler;
use crate::readers::registry::AttachError;
use crate::setup::access::Right;
use crate::stream::log::Refused;
use crate::stream::running::Stream;
use ringweir_proto::control::{
    AttachRequest, Attached, DecodeError, Description, LatencyReport, Mode, Reason, Reply, Request,
};
use ringweir_proto::latency::Histogram;
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::os::{socket, users};
use ringweir_proto::stats::PumpCounter;
use std::os::fd::{AsFd, OwnedFd};

/// Answers a request. Returns what the connection is from then on, or `None` to close it.
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
                Ok(peer) => refuse_logged(stream, fd, reason, (&peer).into(), e.to_string()),
                Err(_) => refuse(fd, reason, &e.to_string()),
            }
            return None;
        }
    };
    let right = if matches!(request, Request::Attach(_)) { Right::Attach } else { Right::View };
    let peer = admit(stream, fd, right)?;
    match request {
        Request::Attach(request) => attach(stream, fd, peer, &request),
        Request::View => {
            sampler::sample(stream);
            reply(fd, &Reply::Viewing, &[stream.stats_fd()]).then_some(Role::Viewer)
        }
        Request::Describe => {
            let config = stream.config();
            let description = Description {
                name: config.name.clone(),
                source: shorten(&config.source),
                summary: shorten(stream.summary()),
                broker_version: env!("CARGO_PKG_VERSION").into(),
                metadata: config.metadata().unwrap_or_default(),
            };
            // The reply stays readable after the connection is closed.
            reply(fd, &Reply::Described(description), &[]);
            None
        }
        Request::Latency { index } => {
            let report = stream
                .readers()
                .get(index)
                .map(|entry| report(entry.page().latency(), entry.attached));
            reply(fd, &Reply::Latency(report), &[]);
            None
        }
        Request::DrainGaps => {
            let drained =
                stream.memory().counter(PumpCounter::Drains) > 0 || stream.slack().is_some();
            let report = drained.then(|| report(stream.drain_gaps(), stream.started()));
            reply(fd, &Reply::Latency(report), &[]);
            None
        }
        Request::Detach(_) | Request::Reload => {
            unreachable!("answered by the control thread, which knows the other connections")
        }
    }
}

/// The contents of `block`, counted since `since`.
fn report(block: &LatencyBlock, since: u64) -> LatencyReport {
    let seen = Histogram::of(block);
    let (places, counts) = seen.occupied().unzip();
    let Histogram { sum_ns, max_ns, .. } = seen;
    LatencyReport { attached: since, sum_ns, max_ns, places, counts }
}

/// The peer, if it has that right. Otherwise it gets a refusal.
pub(super) fn admit(stream: &mut Stream, fd: &OwnedFd, right: Right) -> Option<socket::Peer> {
    let peer = match socket::peer(fd) {
        Ok(peer) => peer,
        Err(e) => {
            refuse(
                fd,
                Reason::NotAllowed,
                &format!("the kernel does not report your credentials: {e}"),
            );
            return None;
        }
    };
    if let Err(text) = stream.access().check(&peer, right) {
        refuse_logged(stream, fd, Reason::NotAllowed, (&peer).into(), text);
        return None;
    }
    Some(peer)
}

/// Whether user `uid`, who may have `most` readers, may have one more. The error is the text for
/// the peer.
fn check_readers(stream: &Stream, uid: u32, most: usize) -> Result<(), String> {
    let readers = stream.readers();
    if readers.count_of(|other| other == uid) >= most {
        return Err(format!(
            "uid {uid} has {most} readers, the most a user may have: end one, or start ringd with \
            a larger --readers-per-user"
        ));
    }
    let near = readers.count_of(|other| users::may_be_one_person(other, uid));
    if near >= share_of_person(readers.most() as usize).max(most) {
        return Err(format!(
            "{near} of {} readers are of uids around {uid}, which may be one person's (see \
            /etc/subuid): end one, or start ringd with a larger --readers-max",
            readers.most()
        ));
    }
    Ok(())
}

fn attach(
    stream: &mut Stream,
    fd: &OwnedFd,
    peer: socket::Peer,
    request: &AttachRequest,
) -> Option<Role> {
    if !stream.access().is_unlimited(peer.uid)
        && let Some(most) = stream.config().readers_per_user
        && let Err(text) = check_readers(stream, peer.uid, most as usize)
    {
        refuse_logged(stream, fd, Reason::Full, (&peer).into(), text);
        return None;
    }
    if request.mode != Mode::Lossy && stream.config().lossless.is_none() {
        let text = "this stream has no lossless readers: attach lossy, or start ringd with \
            --lossless and a budget such as 250ms";
        refuse_logged(stream, fd, Reason::NotAllowed, (&peer).into(), text.into());
        return None;
    }
    let (readers, refused) = (stream.readers(), Refused::from(&peer));
    let is_limited = !stream.access().is_unlimited(peer.uid);
    let (label, parks) = (request.clean_label(), request.parks);
    let entry = match readers.attach(peer, is_limited, label, parks, request.mode) {
        Ok(entry) => entry,
        Err(AttachError::Full) => {
            let text = format!(
                "all {} readers that may attach are attached: start ringd with a larger \
                --readers-max",
                readers.most()
            );
            refuse_logged(stream, fd, Reason::Full, refused, text);
            return None;
        }
        Err(e) => {
            refuse_logged(stream, fd, Reason::Resources, refused, e.to_string());
            return None;
        }
    };
    let attached = Attached {
        index: entry.index,
        block_offset: entry.page().block_offset(),
        generation: stream.memory().generation(),
    };
    let (ring, kit) = (stream.ring_fd(), &entry.kit);
    let fds = [ring.as_fd(), kit.page_fd.as_fd(), kit.watch.as_fd(), kit.sleep_request.fd()];
    if reply(fd, &Reply::Attached(attached), &fds) {
        return Some(Role::Reader(entry.index));
    }
    readers.detach(entry.index);
    None
}
