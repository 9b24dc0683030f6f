//! A listening socket and its senders.
//!
//! Contract: a round serves the ready senders in turn, one batch each, so that none delays the
//! others. A sender that was not reached comes first in the next round. Every datagram has a
//! timestamp, which distinguishes an empty datagram from the end of a connection. The list of
//! senders is allocated at the start: if there are too many senders, the new one is disconnected
//! and reported as a fault. If the process runs out of file descriptors, accepting pauses for a
//! while; connected senders are still served.

use super::prepare::{CONTROL_LEN, prepare, to_remove};
use super::spec::Spec;
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use crate::source::batch::{Batch, BatchError};
use crate::source::contract::{Fill, OpenFor, Source, SourceError, WaitFor};
use ringweir_proto::os::socket_file::SocketFile;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Ready senders found by one call.
const READY: usize = 64;
/// Most connections accepted in a row.
const ACCEPTS: u32 = 8;
/// How long accepting pauses when it fails.
const PAUSE_NS: u64 = 100_000_000;
/// Stands for the listener among the indices of senders.
const LISTENER: u64 = u64::MAX;

struct Sender {
    fd: OwnedFd,
    channel: u16,
}

pub(super) struct Seqpacket {
    listener: SocketFile,
    epoll: OwnedFd,
    senders: Box<[Option<Sender>]>,
    /// Free indices. Invariant: its capacity is enough for all of them.
    free: Vec<u32>,
    /// Connections ever accepted.
    connections: u64,
    batch: Batch,
    /// The senders that were ready at the last call, and how many of them were served.
    ready: [u64; READY],
    found: usize,
    served: usize,
    /// When to accept again, CLOCK_MONOTONIC ns. `None`: now.
    accept_at: Option<u64>,
    description: String,
}

impl Seqpacket {
    pub(super) fn open(spec: &Spec<'_>, stream: &OpenFor) -> Result<Self, SourceError> {
        let listener = SocketFile::bind(spec.path, SocketType::SEQPACKET, spec.mode)
            .map_err(SourceError::new)?;
        let trusted = prepare(listener.fd.as_fd())?.describe();
        let failed = |step: &'static str| move |e: Errno| SourceError(format!("{step}: {e}"));
        rustix::net::listen(&listener.fd, 128).map_err(failed("listen"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        epoll::add(
            &epoll,
            &listener.fd,
            epoll::EventData::new_u64(LISTENER),
            epoll::EventFlags::IN,
        )
        .map_err(failed("epoll_ctl"))?;
        Ok(Self {
            epoll,
            senders: (0..spec.senders).map(|_| None).collect(),
            free: (0..spec.senders).rev().collect(),
            connections: 0,
            batch: Batch::new(stream.max_datagram, CONTROL_LEN),
            ready: [0; READY],
            found: 0,
            served: 0,
            accept_at: None,
            description: format!(
                "seqpacket {} mode {:04o}, up to {} senders, each a channel; they wait if the pump \
                does not keep up{trusted}",
                spec.path, spec.mode, spec.senders
            ),
            listener,
        })
    }

    fn accept(&mut self, intake: &mut Intake) {
        for _ in 0..ACCEPTS {
            let fd = match rustix::net::accept_with(
                &self.listener.fd,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(fd) => fd,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(e) => {
                    intake.fault(format_args!(
                        "unix: accepting a sender: {e}; next attempt in 100 ms"
                    ));
                    self.accept_at = Some(intake.now() + PAUSE_NS);
                    self.watch_listener(epoll::EventFlags::empty());
                    return;
                }
            };
            let Some(index) = self.free.pop() else {
                intake.fault(format_args!(
                    "unix: {} senders are connected, the most allowed (senders=); another one was \
                    disconnected",
                    self.senders.len()
                ));
                continue;
            };
            let data = epoll::EventData::new_u64(index.into());
            let added = prepare(fd.as_fd()).and_then(|_| {
                epoll::add(&self.epoll, &fd, data, epoll::EventFlags::IN).map_err(SourceError::new)
            });
            if let Err(e) = added {
                intake.fault(format_args!("unix: a sender was disconnected: {e}"));
                self.free.push(index);
                continue;
            }
            let channel = (self.connections % 65_535 + 1) as u16;
            self.connections += 1;
            self.senders[index as usize] = Some(Sender { fd, channel });
        }
    }

    fn watch_listener(&self, what: epoll::EventFlags) {
        // Cannot fail: the listener was added at the start and is open.
        let _infallible = epoll::modify(
            &self.epoll,
            &self.listener.fd,
            epoll::EventData::new_u64(LISTENER),
            what,
        );
    }

    /// One batch of one sender.
    fn serve(&mut self, intake: &mut Intake, index: usize) -> Result<(), SourceError> {
        let Some(Some(Sender { fd, channel })) = self.senders.get(index) else { return Ok(()) };
        let mut ended = false;
        let received = self.batch.receive(fd.as_fd(), intake, |_, control, len| {
            ended |= len == 0 && control.time_ns == 0;
            (!ended).then_some(Arrival {
                channel: *channel,
                source_time: control.time_ns,
                original_len: 0,
            })
        });
        match received {
            Ok(_) | Err(BatchError::Receive(Errno::AGAIN | Errno::CONNRESET)) => {}
            Err(e) => {
                // A fault of one sender; its remaining datagrams come in its next turn.
                e.outcome("unix", intake)?;
            }
        }
        if ended {
            self.senders[index] = None;
            self.free.push(index as u32);
        }
        Ok(())
    }
}

impl Source for Seqpacket {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        if self.accept_at.is_some_and(|until| intake.now() >= until) {
            self.accept_at = None;
            self.watch_listener(epoll::EventFlags::IN);
        }
        while intake.has_room() {
            if self.served == self.found {
                (self.served, self.found) = (0, 0);
                let (mut room, at_once) =
                    ([MaybeUninit::uninit(); READY], Timespec { tv_sec: 0, tv_nsec: 0 });
                let (events, _) = match epoll::wait(&self.epoll, &mut room, Some(&at_once)) {
                    Ok(found) => found,
                    Err(Errno::INTR) => return Ok(Fill::Took),
                    Err(e) => return Err(SourceError(format!("unix: epoll_wait: {e}"))),
                };
                if events.is_empty() {
                    return Ok(Fill::Idle);
                }
                for (index, event) in self.ready.iter_mut().zip(&*events) {
                    *index = event.data.u64();
                }
                self.found = events.len();
            }
            let index = self.ready[self.served];
            self.served += 1;
            match index {
                LISTENER => self.accept(intake),
                index => self.serve(intake, index as usize)?,
            }
        }
        Ok(Fill::Took)
    }

    fn needs(&self) -> Needs {
        to_remove(&self.listener)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.epoll.as_fd()), until: self.accept_at }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
