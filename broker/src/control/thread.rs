//! The loop of the control thread.
//!
//! Contract: one thread for all streams, at normal priority; it never blocks on a peer. A reader's
//! death closes its socket, so its index is free at once. A peer that sends nothing, nonsense or
//! too much is disconnected. During a reload no peer is answered while rings are made.

use super::answer::{admit, answer};
use super::connections::{Connection, Connections, Role, Room};
use super::limits::{ConnectRates, HANDSHAKE, UnreadAnswers};
use super::message::{refuse, refuse_logged, reply, shorten};
use super::reload::{Change, Reload};
use super::sampler;
use super::streams::Streams;
use crate::process::service_manager::ServiceManager;
use crate::process::signals::Signals;
use crate::setup::access::Right;
use crate::setup::config::{Linger, StreamConfig};
use crate::stream::log::Refused;
use crate::stream::running::{Started, Stream};
use anyhow::Context;
use ringweir_proto::control::{
    DetachRequest, Outcome, Reason, Reloaded, Reply, Request, StreamChange,
};
use ringweir_proto::layout::DetachedBy;
use ringweir_proto::os::fork::ClosedInChild;
use ringweir_proto::os::{OsError, event, socket};
use ringweir_proto::ring::Layer;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What to do if a stream that comes later needs a directory that was given up.
const LATER: &str = "if it needs a directory that was not in the file at the start, add it as \
    later = [\"/dev\"] and restart ringd";

/// How long a reload waits for the streams that it ends. What takes longer, such as a program that
/// is asked to end, ends later.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Why a peer is closed without an answer.
const UNREAD: &str = "its user left too many answers unread";

/// What an epoll key stands for; the number is a stream or a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Stop,
    Reload,
    Listener(usize),
    PumpEnded(usize),
    Connection(u64),
}

impl Key {
    fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Key::Stop => 0,
            Key::Reload => 1 << 2,
            Key::Listener(i) => 1 | (i as u64) << 2,
            Key::PumpEnded(i) => 2 | (i as u64) << 2,
            Key::Connection(n) => 3 | n << 2,
        })
    }

    fn unpack(data: EventData) -> Self {
        let n = data.u64() >> 2;
        match data.u64() & 3 {
            0 if n == 0 => Key::Stop,
            0 => Key::Reload,
            1 => Key::Listener(n as usize),
            2 => Key::PumpEnded(n as usize),
            _ => Key::Connection(n),
        }
    }
}

/// The control thread's state.
pub struct Control {
    epoll: OwnedFd,
    signals: Signals,
    manager: ServiceManager,
    reload: Option<Reload>,
    /// The file is read again once the events at hand are handled.
    reload_requested: bool,
    /// Peers that wait for the result of the reload.
    reload_waiters: Vec<OwnedFd>,
    streams: Streams,
    connections: Connections,
    rates: ConnectRates,
    unread: UnreadAnswers,
    /// Closed for a moment when the process is out of descriptors, so that a connection can be
    /// accepted and refused.
    reserve: Option<OwnedFd>,
    failed: bool,
}

impl Control {
    /// Takes over running streams, once nothing can fail any more.
    pub fn new(
        streams: Started,
        signals: Signals,
        manager: ServiceManager,
        reload: Option<Reload>,
    ) -> anyhow::Result<Self> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        watch(&epoll, signals.stop_fd(), Key::Stop)?;
        if let Some(signal) = signals.reload_fd() {
            watch(&epoll, signal, Key::Reload)?;
        }
        let mut control = Self {
            epoll,
            signals,
            manager,
            reload,
            reload_requested: false,
            reload_waiters: Vec::new(),
            streams: Streams::default(),
            connections: Connections::default(),
            rates: ConnectRates::default(),
            unread: UnreadAnswers::default(),
            reserve: reserve(),
            failed: false,
        };
        control.rates.set_streams(streams.iter().len());
        for (index, stream) in streams.iter().enumerate() {
            control.watch_stream(index, stream)?;
        }
        streams.take().into_iter().for_each(|stream| control.streams.add(stream));
        Ok(control)
    }

    /// Watches the stream that gets this index.
    fn watch_stream(&self, index: usize, stream: &Stream) -> Result<(), OsError> {
        watch(&self.epoll, stream.listener(), Key::Listener(index))?;
        watch(&self.epoll, stream.pump_ended(), Key::PumpEnded(index))
    }

    /// Runs until a stop signal comes or every stream has ended. Returns true if no source failed.
    pub fn run(mut self) -> anyhow::Result<bool> {
        let mut events = Vec::with_capacity(256);
        let mut sample_at = Instant::now();
        self.manager.notify_ready(&self.streams.status());
        while self.streams.iter().next().is_some() {
            let limit = event::timespec(sample_at.saturating_duration_since(Instant::now()));
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&limit),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(OsError { what: "epoll_wait".into(), errno: e }.into()),
            }
            for event in &events {
                match Key::unpack(event.data) {
                    Key::Stop => return Ok(self.stop()),
                    Key::Reload => self.reload_requested = true,
                    Key::Listener(i) => self.accept(i),
                    Key::PumpEnded(i) => self.pump_ended(i),
                    Key::Connection(n) => self.receive(n),
                }
            }
            // Only after the events, because a reload may reuse the index of a stream that an event
            // names.
            if std::mem::take(&mut self.reload_requested) {
                self.reload();
            }
            if Instant::now() >= sample_at {
                sample_at = Instant::now() + sampler::PERIOD;
                self.tick();
            }
        }
        Ok(!self.failed)
    }

    /// Several times per second: statistics, logs, late handshakes, streams to remove.
    fn tick(&mut self) {
        let now = Instant::now();
        for stream in self.streams.iter_mut() {
            stream.see_to_readers();
            sampler::sample(stream);
            stream.log().log_notices(now);
            stream.log().log_refusals(now);
        }
        for n in self.connections.late(now) {
            match self.connections.get_mut(n) {
                Some(Connection { fd, role: Role::Answered(until), .. })
                    if socket::has_unread(&*fd) =>
                {
                    *until = now + HANDSHAKE;
                    continue;
                }
                Some(Connection { role: Role::Handshaking(_), .. }) => {
                    self.log_misuse(n, "it connected and sent no request");
                }
                _ => {}
            }
            self.disconnect(n);
        }
        self.rates.tidy(now);
        self.unread.tidy(now);
        self.manager.notify_watchdog(now);
        for i in self.streams.due(now) {
            self.remove(i);
        }
    }

    fn stop(mut self) -> bool {
        self.manager.notify_stopping();
        // All pumps first, so that streams end together.
        self.streams.iter().for_each(|s| s.pump().stop());
        for i in self.streams.indices() {
            self.pump_ended(i);
            self.remove(i);
        }
        !self.failed
    }

    /// The source has ended, failed, or was stopped. Readers see the end in the ring.
    fn pump_ended(&mut self, i: usize) {
        let Some(stream) = self.streams.get_mut(i).filter(|s| !s.has_ended()) else { return };
        stream.join_pump();
        stream.log().log_notices(Instant::now());
        sampler::sample(stream);
        stream.log().log_hidden();
        let name = stream.name();
        if let Some(failure) = stream.failure() {
            tracing::error!("{name}: source {:?} failed: {failure}", stream.config().source);
            self.failed = true;
        }
        let memory = stream.memory();
        let lost = |layer: Layer| memory.counter(layer.counter());
        tracing::info!(
            "{name} ended: {} datagrams published; lost before the ring: device {}, kernel {}, \
            broker {}",
            memory.write_cursor(),
            lost(Layer::Device),
            lost(Layer::Kernel),
            lost(Layer::Broker),
        );
        // The event stays signalled: without this the loop would spin while the stream lingers.
        let _gone = epoll::delete(&self.epoll, stream.pump_ended());
        let linger = stream.config().linger;
        match linger {
            _ if self.streams.is_leaving(i) => self.remove(i),
            Linger::No => self.remove(i),
            Linger::For(span) => self.streams.remove_at(i, Some(Instant::now() + span.0)),
            Linger::Forever => {}
        }
    }

    fn remove(&mut self, i: usize) {
        self.streams.remove(i);
        self.connections.remove_stream(i);
    }

    fn accept(&mut self, i: usize) {
        let Some(stream) = self.streams.get_mut(i) else { return };
        let accepted = ClosedInChild::make(|| socket::accept(stream.listener()));
        let (fd, in_child) = match accepted {
            Ok(accepted) => accepted,
            Err(Errno::MFILE | Errno::NFILE) => {
                // If the connection stayed in the queue, this loop would wake up forever.
                self.reserve = None;
                if let Ok(fd) = socket::accept(stream.listener()) {
                    let text = "the broker is out of file descriptors: raise LimitNOFILE= or \
                        ulimit -n for ringd";
                    refuse(&fd, Reason::Resources, text);
                    tracing::warn!(
                        "{}: a connection was refused: out of file descriptors",
                        stream.name()
                    );
                }
                self.reserve = reserve();
                return;
            }
            // The peer has disconnected again, or the error is temporary: the next event shows
            // which.
            Err(_) => return,
        };
        let (now, Ok(peer)) = (Instant::now(), socket::peer(&fd)) else {
            let text = "the kernel does not report your credentials";
            return refuse(&fd, Reason::NotAllowed, text);
        };
        let (uid, refused) = (peer.uid, Refused::from(&peer));
        let is_limited = !stream.access().is_unlimited(uid);
        if is_limited && !self.unread.may_answer(uid, now) {
            return stream.log().refused(refused, UNREAD.into());
        }
        // At once, so that a peer without rights takes no more than its answer.
        if admit(stream, &fd, Right::View).is_none() {
            return self.wait_until_read(Connection::answered((fd, in_child), i, refused, now));
        }
        if is_limited && let Err(text) = self.rates.admit(uid, now) {
            refuse_logged(stream, &fd, Reason::Resources, refused, text);
            return self.wait_until_read(Connection::answered((fd, in_child), i, refused, now));
        }
        match self.connections.room_for(uid) {
            Room::Free => {}
            Room::Instead(oldest) => {
                // Its request may be there, with the event still to come.
                self.receive(oldest);
                let is_silent = |c: &Connection| matches!(c.role, Role::Handshaking(_));
                if self.connections.get(oldest).is_some_and(is_silent) {
                    self.log_misuse(oldest, "it connected many times and sent no request");
                    self.disconnect(oldest);
                }
            }
            Room::None => {
                refuse(&fd, Reason::Resources, "too many connections: try again");
                return self.wait_until_read(Connection::answered((fd, in_child), i, refused, now));
            }
        }
        let n = self.connections.next_number();
        if epoll::add(&self.epoll, &fd, Key::Connection(n).pack(), EventFlags::IN).is_err() {
            refuse(&fd, Reason::Resources, "the broker cannot watch another connection");
            return self.count_unread(&fd, uid);
        }
        let role = Role::Handshaking(now + HANDSHAKE);
        self.connections.add(Connection::new((fd, in_child), i, refused, role));
        // A client sends its request at once. Taking it now keeps the number of handshakes small
        // while a tool asks many streams.
        self.receive(n);
    }

    /// Keeps a new connection, which was answered for the last time, until that is read.
    fn wait_until_read(&mut self, connection: Connection) {
        let uid = connection.peer.uid;
        let key = Key::Connection(self.connections.next_number());
        if self.make_room_for_answered(uid)
            && epoll::add(&self.epoll, &connection.fd, key.pack(), EventFlags::empty()).is_ok()
        {
            return self.connections.add(connection);
        }
        self.count_unread(&connection.fd, uid);
    }

    fn make_room_for_answered(&mut self, uid: u32) -> bool {
        match self.connections.room_for_answered(uid) {
            Room::Free => true,
            Room::Instead(oldest) => {
                self.disconnect(oldest);
                true
            }
            Room::None => false,
        }
    }

    /// Counts the answer to `uid` in a connection that is about to be closed, if it is not read.
    fn count_unread(&mut self, fd: &OwnedFd, uid: u32) {
        if socket::has_unread(fd) {
            self.unread.count(uid, Instant::now());
        }
    }

    /// Counts connection `n` among the refused, and remembers for the log what it did.
    fn log_misuse(&mut self, n: u64, what: &str) {
        let Some(connection) = self.connections.get(n) else { return };
        if let Some(stream) = self.streams.get_mut(connection.stream) {
            stream.log().refused(connection.peer, what.into());
        }
    }

    /// Connection `n` was answered for the last time. It stays until its peer has read that.
    fn finish(&mut self, n: u64) {
        let Some(Connection { peer, stream, .. }) = self.connections.get(n) else { return };
        let (uid, stream) = (peer.uid, self.streams.get(*stream));
        if stream.is_some_and(|s| !s.access().is_unlimited(uid))
            && self.make_room_for_answered(uid)
            && let Some(Connection { fd, role, .. }) = self.connections.get_mut(n)
            && epoll::modify(&self.epoll, fd, Key::Connection(n).pack(), EventFlags::empty())
                .is_ok()
        {
            *role = Role::Answered(Instant::now() + HANDSHAKE);
            return;
        }
        self.disconnect(n);
    }

    fn disconnect(&mut self, n: u64) {
        let Some(connection) = self.connections.remove(n) else { return };
        self.count_unread(&connection.fd, connection.peer.uid);
        if let Role::Reader(index) = connection.role
            && let Some(stream) = self.streams.get(connection.stream)
        {
            stream.readers().detach(index);
        }
    }

    /// Connection `n` has sent something, or its peer has closed it.
    fn receive(&mut self, n: u64) {
        let Some(connection) = self.connections.get(n) else { return };
        let handshaking = matches!(connection.role, Role::Handshaking(_));
        if matches!(connection.role, Role::Answered(_)) {
            // Nothing but its end is watched.
            return self.disconnect(n);
        }
        let bytes = match socket::receive_bytes(&connection.fd) {
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(e) => {
                if e == Errno::MSGSIZE {
                    let text = "a request is one short message without file descriptors";
                    if handshaking {
                        refuse(&connection.fd, Reason::Malformed, text);
                    }
                    self.log_misuse(n, text);
                    if handshaking {
                        return self.finish(n);
                    }
                }
                return self.disconnect(n);
            }
        };
        if bytes.is_empty() {
            return self.disconnect(n);
        }
        if !handshaking {
            self.log_misuse(n, "it sent data after its request, which no ringweir client does");
            return self.disconnect(n);
        }
        match Request::decode(&bytes) {
            Ok(Request::Detach(which)) => {
                self.detach(n, which);
                self.finish(n);
            }
            Ok(Request::Reload) => self.request_reload(n),
            request => self.answer(n, request),
        }
    }

    fn answer(&mut self, n: u64, request: Result<Request, ringweir_proto::control::DecodeError>) {
        let Some(Connection { fd, stream, peer, .. }) = self.connections.get(n) else { return };
        let streams = self.streams.iter().count();
        let Some(stream) = self.streams.get_mut(*stream) else { return };
        let is_unlimited = stream.access().is_unlimited(peer.uid);
        if request == Ok(Request::View)
            && let Err(text) = self.connections.check_viewers(peer.uid, is_unlimited, streams)
        {
            refuse(fd, Reason::Resources, &text);
            return self.finish(n);
        }
        let Some(role) = answer(stream, fd, request) else { return self.finish(n) };
        let wanted = stream.config().wait_readers;
        if wanted > 0 && stream.readers().count() >= wanted as usize {
            stream.pump().begin();
        }
        if let Some(connection) = self.connections.get_mut(n) {
            connection.role = role;
        }
    }

    /// Connection `n` asks to detach a reader of its stream.
    fn detach(&mut self, n: u64, which: DetachRequest) {
        let Some(asking) = self.connections.get(n) else { return };
        let Some(stream) = self.streams.get_mut(asking.stream) else { return };
        let Some(peer) = admit(stream, &asking.fd, Right::Administer) else { return };
        let is_there = stream.readers().holds(which.index, which.attached_realtime);
        let reader = self.connections.of_reader(asking.stream, which.index);
        let Some(reader) = reader.filter(|_| is_there) else {
            let text = format!("reader {} is not attached any more: see ringstat", which.index);
            return refuse(&asking.fd, Reason::NoSuchReader, &text);
        };
        tracing::info!(
            "{}: reader {} is detached by pid {}, uid {}",
            stream.name(),
            which.index,
            peer.pid,
            peer.uid
        );
        // The mark comes first: closing the socket wakes the reader.
        let by = DetachedBy { pid: peer.pid, uid: peer.uid };
        stream.readers().mark_detached(which.index, by);
        self.disconnect(reader);
        if let Some(asking) = self.connections.get(n) {
            reply(&asking.fd, &Reply::Detached, &[]);
        }
    }

    /// Connection `n` asks to reload the configuration file. It gets its reply after the reload,
    /// though its own stream may have ended by then.
    fn request_reload(&mut self, n: u64) {
        let Some(asking) = self.connections.get(n) else { return };
        let Some(stream) = self.streams.get_mut(asking.stream) else { return };
        let Some(peer) = admit(stream, &asking.fd, Right::Reload) else {
            return self.finish(n);
        };
        if self.reload.is_none() {
            let text = "its broker was started without --config: there is no file to reload";
            refuse(&asking.fd, Reason::File, text);
            return self.disconnect(n);
        }
        tracing::info!("reload: requested by pid {}, uid {}", peer.pid, peer.uid);
        self.reload_requested = true;
        self.reload_waiters.extend(self.connections.remove(n).map(|connection| connection.fd));
    }

    /// Reads the configuration file again, applies the changes, and replies to the waiting peers.
    fn reload(&mut self) {
        self.signals.clear_reload();
        self.manager.notify_reloading();
        let answer = match self.changes() {
            Ok(changes) => {
                // All pumps first, so that streams end together.
                for change in &changes {
                    if let Change::End(name) = change
                        && let Some(stream) = self.streams.named(name)
                    {
                        stream.pump().stop();
                    }
                }
                let until = Instant::now() + END_WITHIN;
                Reply::Reloaded(Reloaded::of(
                    changes.into_iter().map(|change| self.apply(change, until)).collect(),
                ))
            }
            Err(e) => {
                let text = format!("{e:#}; nothing was changed");
                tracing::error!("{text}");
                Reply::refuse(Reason::File, shorten(&text))
            }
        };
        self.rates.set_streams(self.streams.iter().count());
        self.manager.notify_ready(&self.streams.status());
        for waiter in self.reload_waiters.drain(..) {
            reply(&waiter, &answer, &[]);
        }
    }

    fn changes(&self) -> anyhow::Result<Vec<Change>> {
        let running: Vec<_> = self.streams.staying().map(Stream::config).collect();
        self.reload.as_ref().map_or(Ok(Vec::new()), |reload| reload.changes(&running))
    }

    /// Makes one change. `until`: how long to wait for streams that were stopped.
    fn apply(&mut self, change: Change, until: Instant) -> StreamChange {
        let (stream, outcome, text) = match change {
            Change::End(name) => {
                tracing::info!("{name}: ends, because it is no longer in the file");
                let has_ended = self.end(&name, until);
                let text = if has_ended { "" } else { "once its source has ended" };
                (name, Outcome::Ended, text.into())
            }
            Change::Begin(config) => match self.begin(&config) {
                Ok(()) => (config.name, Outcome::Begun, String::new()),
                Err(e) => {
                    let (name, text) = (&config.name, format!("{e:#}"));
                    tracing::error!(
                        "stream {name:?}: {text}; the other streams continue ({LATER})"
                    );
                    (config.name, Outcome::Failed, text)
                }
            },
            Change::Differs(name) => {
                let text = "its changes need a restart";
                tracing::warn!("{name}: stays as it is: {text}");
                (name, Outcome::Stays, text.into())
            }
        };
        StreamChange { stream, outcome, text: shorten(&text) }
    }

    /// Removes a stopped stream, now or once its pump has ended. Returns whether it is removed.
    fn end(&mut self, name: &str, until: Instant) -> bool {
        let Some(i) = self.streams.index_of(name) else { return true };
        let has_ended = self.streams.get(i).is_none_or(|s| s.has_ended() || s.ends_until(until));
        if has_ended {
            self.pump_ended(i);
            self.remove(i);
        } else {
            self.streams.leave(i);
        }
        has_ended
    }

    fn begin(&mut self, config: &StreamConfig) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.streams.index_of(&config.name).is_none(),
            "the stream of this name that an earlier reload ended is still there, because its \
            source takes time to end: reload again in a moment"
        );
        let reload = self.reload.as_mut().context("there is no file")?;
        reload.permits(config)?;
        let stream = Stream::builder(config, reload.host()).start()?;
        tracing::info!("{}", stream.summary());
        self.watch_stream(self.streams.next_index(), &stream)?;
        self.streams.add(stream);
        Ok(())
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, key: Key) -> Result<(), OsError> {
    epoll::add(epoll, fd, key.pack(), EventFlags::IN).map_err(OsError::at("epoll_ctl"))
}

fn reserve() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
