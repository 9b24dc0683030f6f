//! A listening socket and its senders.
//!
//! Contract: a round serves the ready senders in turn, one batch each, so that none keeps the
//! others waiting; who is not reached goes first in the next round. An end of file is told from an
//! empty datagram by the time that every datagram bears. Places for senders are made at the start:
//! one too many is hung up on and told as a fault. Without file descriptors the listener rests for
//! a while; those who are connected go on.

use super::{CONTROL_LEN, Spec, prepare, to_remove};
use crate::intake::{Arrival, Intake};
use crate::sandbox::Needs;
use crate::source::batch::{Batch, BatchError};
use crate::source::{Fill, OpenFor, Source, SourceError, WaitFor};
use ringweir_proto::os::socket_file::SocketFile;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Senders found ready by one question to the kernel.
const READY: usize = 64;
/// Connections taken in a row.
const ACCEPTS: u32 = 8;
/// How long the listener rests when nothing can be accepted.
const REST_NS: u64 = 100_000_000;
/// Stands for the listener among the places of senders.
const LISTENER: u64 = u64::MAX;

struct Sender {
    fd: OwnedFd,
    channel: u16,
}

pub(super) struct Seqpacket {
    listener: SocketFile,
    epoll: OwnedFd,
    senders: Box<[Option<Sender>]>,
    /// Places that are free. Invariant: has room for all of them.
    free: Vec<u32>,
    /// Connections so far.
    connections: u64,
    batch: Batch,
    /// Who was ready when the kernel was asked last, and how many of them have had their turn.
    ready: [u64; READY],
    found: usize,
    served: usize,
    /// When to listen again, CLOCK_MONOTONIC ns; `None`: we do.
    rests: Option<u64>,
    description: String,
}

impl Seqpacket {
    pub(super) fn open(spec: &Spec<'_>, stream: &OpenFor) -> Result<Self, SourceError> {
        let listener = SocketFile::bind(spec.path, SocketType::SEQPACKET, spec.mode)
            .map_err(SourceError::new)?;
        let trusting = prepare(listener.fd.as_fd())?.words();
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
            rests: None,
            description: format!(
                "seqpacket {} mode {:04o}, up to {} senders, each a channel; they wait if the pump \
                does not keep up{trusting}",
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
                        "unix: accepting a sender: {e}; tried again in 100 ms"
                    ));
                    self.rests = Some(intake.now() + REST_NS);
                    self.listen_for(epoll::EventFlags::empty());
                    return;
                }
            };
            let Some(place) = self.free.pop() else {
                intake.fault(format_args!(
                    "unix: all {} senders are there (senders=); another was hung up on",
                    self.senders.len()
                ));
                continue;
            };
            let data = epoll::EventData::new_u64(place.into());
            let added = prepare(fd.as_fd()).and_then(|_| {
                epoll::add(&self.epoll, &fd, data, epoll::EventFlags::IN).map_err(SourceError::new)
            });
            if let Err(e) = added {
                intake.fault(format_args!("unix: a sender was hung up on: {e}"));
                self.free.push(place);
                continue;
            }
            let channel = (self.connections % 65_535 + 1) as u16;
            self.connections += 1;
            self.senders[place as usize] = Some(Sender { fd, channel });
        }
    }

    fn listen_for(&self, what: epoll::EventFlags) {
        // The listener was added at the start and is open: this cannot fail.
        let _infallible = epoll::modify(
            &self.epoll,
            &self.listener.fd,
            epoll::EventData::new_u64(LISTENER),
            what,
        );
    }

    /// One batch of one sender.
    fn serve(&mut self, intake: &mut Intake, place: usize) -> Result<(), SourceError> {
        let Some(Some(Sender { fd, channel })) = self.senders.get(place) else { return Ok(()) };
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
                // A fault of one sender; what it still has comes in its next turn.
                e.outcome("unix", intake)?;
            }
        }
        if ended {
            self.senders[place] = None;
            self.free.push(place as u32);
        }
        Ok(())
    }
}

impl Source for Seqpacket {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        if self.rests.is_some_and(|until| intake.now() >= until) {
            self.rests = None;
            self.listen_for(epoll::EventFlags::IN);
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
                for (place, event) in self.ready.iter_mut().zip(&*events) {
                    *place = event.data.u64();
                }
                self.found = events.len();
            }
            let place = self.ready[self.served];
            self.served += 1;
            match place {
                LISTENER => self.accept(intake),
                place => self.serve(intake, place as usize)?,
            }
        }
        Ok(Fill::Took)
    }

    fn needs(&self) -> Needs {
        to_remove(&self.listener)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.epoll.as_fd()), until: self.rests }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
