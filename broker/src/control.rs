//! The control thread: lets readers in, notices when they go, shows statistics, logs, and ends the
//! broker.
//!
//! Contract: one thread for all streams, at normal priority; it never blocks on a peer. A reader's
//! death is the hang-up of its socket, so its place is free at once. A peer that says nothing,
//! nonsense or too much is hung up on.

use crate::access::Right;
use crate::config::Linger;
use crate::sampler;
use crate::service::Manager;
use crate::signals::Signals;
use crate::stream::Stream;
use ringweir_proto::control::{DetachRequest, Reason, Reply, Request};
use ringweir_proto::layout::DetachedBy;
use ringweir_proto::os::{OsError, event, socket};
use ringweir_proto::ring::Layer;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

mod answer;
pub mod limits;
pub mod refusals;
pub mod reload;

use answer::{admit, answer};
use limits::{HANDSHAKE, Rates};
use refusals::{Refused, who};
use reload::Reload;

/// What an epoll key stands for; the number is a stream or a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Signal,
    Reload,
    Listener(usize),
    PumpEnded(usize),
    Connection(u64),
}

impl Key {
    fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Key::Signal => 0,
            Key::Reload => 1 << 2,
            Key::Listener(i) => 1 | (i as u64) << 2,
            Key::PumpEnded(i) => 2 | (i as u64) << 2,
            Key::Connection(n) => 3 | n << 2,
        })
    }

    fn unpack(data: EventData) -> Self {
        let n = data.u64() >> 2;
        match data.u64() & 3 {
            0 if n == 0 => Key::Signal,
            0 => Key::Reload,
            1 => Key::Listener(n as usize),
            2 => Key::PumpEnded(n as usize),
            _ => Key::Connection(n),
        }
    }
}

struct Connection {
    fd: OwnedFd,
    stream: usize,
    who: Refused,
    what: Role,
}

enum Role {
    /// Has not said what it wants; hung up on at this moment.
    Handshaking(Instant),
    Reader(u32),
    Viewer,
}

/// The control thread's world.
pub struct Control {
    epoll: OwnedFd,
    signals: Signals,
    manager: Manager,
    reload: Option<Reload>,
    /// The file is to be read again, once the events at hand are dealt with.
    asked: bool,
    /// Those who want to hear what that changed.
    asking: Vec<OwnedFd>,
    /// `None` once a stream is over.
    streams: Vec<Option<Stream>>,
    /// When a stream that has ended goes.
    leave_at: Vec<Option<Instant>>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    rates: Rates,
    /// Given up for a moment when the process is out of fds, so that a connection can be accepted
    /// and refused.
    reserve: Option<OwnedFd>,
    failed: bool,
}

impl Control {
    /// Takes over running streams.
    pub fn new(
        streams: Vec<Stream>,
        signals: Signals,
        manager: Manager,
        reload: Option<Reload>,
    ) -> anyhow::Result<Self> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        let add = |fd: BorrowedFd<'_>, key: Key| {
            epoll::add(&epoll, fd, key.pack(), EventFlags::IN).map_err(OsError::at("epoll_ctl"))
        };
        add(signals.end(), Key::Signal)?;
        if let Some(signal) = signals.reload() {
            add(signal, Key::Reload)?;
        }
        let mut control = Self {
            epoll,
            signals,
            manager,
            reload,
            asked: false,
            asking: Vec::new(),
            streams: Vec::new(),
            leave_at: Vec::new(),
            connections: HashMap::new(),
            next_connection: 0,
            rates: Rates::default(),
            reserve: reserve(),
            failed: false,
        };
        for stream in streams {
            control.add(stream)?;
        }
        Ok(control)
    }

    /// Takes over one more.
    fn add(&mut self, stream: Stream) -> Result<(), OsError> {
        let free = self.streams.iter().position(Option::is_none);
        let i = free.unwrap_or(self.streams.len());
        for (fd, key) in
            [(stream.listener(), Key::Listener(i)), (stream.pump_ended(), Key::PumpEnded(i))]
        {
            epoll::add(&self.epoll, fd, key.pack(), EventFlags::IN)
                .map_err(OsError::at("epoll_ctl"))?;
        }
        if free.is_none() {
            self.streams.push(None);
            self.leave_at.push(None);
        }
        (self.streams[i], self.leave_at[i]) = (Some(stream), None);
        Ok(())
    }

    /// How many streams there are, for the service manager.
    fn status(&self) -> String {
        let names: Vec<_> = self.streams.iter().flatten().map(|s| s.config.name.as_str()).collect();
        let shown = names[..names.len().min(8)].join(" ");
        format!("{} streams: {shown}{}", names.len(), if names.len() > 8 { " …" } else { "" })
    }

    /// Runs until told to stop or until every stream is over. True: no source failed.
    pub fn run(mut self) -> anyhow::Result<bool> {
        let mut events = Vec::with_capacity(256);
        let mut sample_at = Instant::now();
        self.manager.ready(&self.status());
        while self.streams.iter().any(Option::is_some) {
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
                    Key::Signal => return Ok(self.stop()),
                    Key::Reload => self.asked = true,
                    Key::Listener(i) => self.accept(i),
                    Key::PumpEnded(i) => self.pump_ended(i),
                    Key::Connection(n) => self.hear(n),
                }
            }
            // Now that no event at hand means a stream that was in the same place before.
            if std::mem::take(&mut self.asked) {
                self.reload();
            }
            if Instant::now() >= sample_at {
                sample_at = Instant::now() + sampler::PERIOD;
                self.tick();
            }
        }
        Ok(!self.failed)
    }

    /// Several times a second: statistics, logs, those who say nothing, those whose time is over.
    fn tick(&mut self) {
        let now = Instant::now();
        for stream in self.streams.iter_mut().flatten() {
            sampler::sample(stream);
            say_notices(stream, now);
            refusals::say(stream, now);
        }
        let late = |c: &Connection| matches!(c.what, Role::Handshaking(until) if now >= until);
        let late: Vec<u64> =
            self.connections.iter().filter(|(_, c)| late(c)).map(|(n, _)| *n).collect();
        for n in late {
            self.complain(n, "it connected and said nothing");
            self.hang_up(n);
        }
        self.rates.tidy(now);
        self.manager.alive(now);
        for i in 0..self.streams.len() {
            if self.leave_at[i].is_some_and(|t| now >= t) {
                self.remove(i);
            }
        }
    }

    fn stop(mut self) -> bool {
        self.manager.say("STOPPING=1");
        // All pumps first, so that streams end together.
        self.streams.iter().flatten().for_each(|s| s.pump().stop());
        for i in 0..self.streams.len() {
            self.pump_ended(i);
            self.remove(i);
        }
        !self.failed
    }

    /// The source is exhausted, failed, or was stopped: readers have been told by the ring.
    fn pump_ended(&mut self, i: usize) {
        let Some(stream) = self.streams[i].as_mut().filter(|s| !s.has_ended()) else { return };
        stream.join_pump();
        say_notices(stream, Instant::now());
        sampler::sample(stream);
        let name = &stream.config.name;
        let unsaid = stream.rate_limit.rest();
        if unsaid > 0 {
            tracing::warn!("{name}: {unsaid} more notices were not shown");
        }
        if let Some(failure) = &stream.failure {
            tracing::error!("{name}: source {:?} failed: {failure}", stream.config.source);
            self.failed = true;
        }
        let memory = stream.object.memory();
        let lost = |layer: Layer| memory.counter(layer.counter());
        tracing::info!(
            "{name} ended: {} datagrams published; lost before the ring: device {}, kernel {}, \
            broker {}",
            memory.write_cursor(),
            lost(Layer::Device),
            lost(Layer::Kernel),
            lost(Layer::Broker),
        );
        // The bell stays rung: without this the loop would spin while the stream lingers.
        let _gone = epoll::delete(&self.epoll, stream.pump_ended());
        self.leave_at[i] = match stream.config.linger {
            Linger::No => Some(Instant::now()),
            Linger::For(span) => Some(Instant::now() + span.0),
            Linger::Forever => None,
        };
        if stream.config.linger == Linger::No {
            self.remove(i);
        }
    }

    fn remove(&mut self, i: usize) {
        self.leave_at[i] = None;
        self.streams[i] = None;
        self.connections.retain(|_, c| c.stream != i);
    }

    fn accept(&mut self, i: usize) {
        let Some(stream) = &mut self.streams[i] else { return };
        let fd = match socket::accept(stream.listener()) {
            Ok(fd) => fd,
            Err(Errno::MFILE | Errno::NFILE) => {
                // Left in the queue the connection would wake this loop for ever.
                self.reserve = None;
                if let Ok(fd) = socket::accept(stream.listener()) {
                    let text = "the broker is out of file descriptors: raise LimitNOFILE= or \
                        ulimit \
                        -n for ringd";
                    refuse(&fd, Reason::Resources, text);
                    tracing::warn!(
                        "{}: a connection was refused: out of file descriptors",
                        stream.config.name
                    );
                }
                self.reserve = reserve();
                return;
            }
            // The peer has gone again, or something passing: the next event tells.
            Err(_) => return,
        };
        // At once, so that nobody who may not attach takes up room.
        let Some(peer) = admit(stream, &fd, Right::Watch) else { return };
        let now = Instant::now();
        if !stream.access.is_master(peer.uid)
            && let Err(text) = self.rates.admit(peer.uid, now)
        {
            stream.refuse(&fd, Reason::Resources, who(&peer), text);
            return;
        }
        if !self.make_room(peer.uid) {
            refuse(&fd, Reason::Resources, "too many connections at a time: try again");
            return;
        }
        let n = self.next_connection;
        if epoll::add(&self.epoll, &fd, Key::Connection(n).pack(), EventFlags::IN).is_err() {
            refuse(&fd, Reason::Resources, "the broker cannot watch another connection");
            return;
        }
        self.next_connection += 1;
        let what = Role::Handshaking(now + HANDSHAKE);
        self.connections.insert(n, Connection { fd, stream: i, who: who(&peer), what });
    }

    /// Counts connection `n` among the refused and keeps for the log who it is and what it did.
    fn complain(&mut self, n: u64, what: &str) {
        let Some(connection) = self.connections.get(&n) else { return };
        if let Some(stream) = &mut self.streams[connection.stream] {
            stream.note_refusal(connection.who, what.into());
        }
    }

    fn hang_up(&mut self, n: u64) {
        let Some(connection) = self.connections.remove(&n) else { return };
        if let Role::Reader(index) = connection.what
            && let Some(stream) = &self.streams[connection.stream]
        {
            stream.readers.detach(index, stream.pump());
        }
    }

    fn hear(&mut self, n: u64) {
        let Some(connection) = self.connections.get_mut(&n) else { return };
        let handshaking = matches!(connection.what, Role::Handshaking(_));
        let of = connection.stream;
        let bytes = match socket::receive_bytes(&connection.fd) {
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(e) => {
                if e == Errno::MSGSIZE {
                    let text = "a request is one short message and brings no file descriptors";
                    if handshaking {
                        refuse(&connection.fd, Reason::Malformed, text);
                    }
                    self.complain(n, text);
                }
                return self.hang_up(n);
            }
        };
        if bytes.is_empty() {
            return self.hang_up(n);
        }
        if !handshaking {
            self.complain(n, "it talks after it was let in, which no client of ours does");
            return self.hang_up(n);
        }
        let Some(stream) = self.streams[of].as_mut() else { return };
        let request = Request::decode(&bytes);
        if let Ok(Request::Detach(which)) = request {
            self.detach(n, which);
            return self.hang_up(n);
        }
        if let Ok(Request::Reload) = request {
            return self.ask_to_reload(n);
        }
        let uid = self.connections[&n].who.uid;
        let is_master = stream.access.is_master(uid);
        if request == Ok(Request::Watch)
            && let Err(text) = self.check_viewers(uid, is_master)
        {
            refuse(&self.connections[&n].fd, Reason::Resources, &text);
            return self.hang_up(n);
        }
        let Some(connection) = self.connections.get_mut(&n) else { return };
        let Some(stream) = self.streams[connection.stream].as_mut() else { return };
        match answer(stream, &connection.fd, request) {
            Some(role) => {
                connection.what = role;
                let wanted = stream.config.wait_readers;
                if wanted > 0 && stream.readers.count() >= wanted as usize {
                    stream.pump().release();
                }
            }
            None => self.hang_up(n),
        }
    }

    /// Connection `n` asks that a reader of its stream go.
    fn detach(&mut self, n: u64, which: DetachRequest) {
        let asking = &self.connections[&n];
        let Some(stream) = self.streams[asking.stream].as_mut() else { return };
        let Some(peer) = admit(stream, &asking.fd, Right::Administer) else { return };
        let holds = |c: &Connection| {
            c.stream == asking.stream && matches!(c.what, Role::Reader(i) if i == which.index)
        };
        let there = stream.readers.holds(which.index, which.attached_realtime);
        let Some(reader) =
            self.connections.iter().find(|(_, c)| there && holds(c)).map(|(r, _)| *r)
        else {
            let text =
                format!("reader {} is not attached any more: look with ringstat", which.index);
            return refuse(&asking.fd, Reason::NoSuchReader, &text);
        };
        tracing::info!(
            "{}: reader {} is detached by pid {}, uid {}",
            stream.config.name,
            which.index,
            peer.pid,
            peer.uid
        );
        // First the word, then the hang-up, which wakes whoever sleeps.
        stream.readers.tell_detached(which.index, DetachedBy { pid: peer.pid, uid: peer.uid });
        self.hang_up(reader);
        reply(&self.connections[&n].fd, &Reply::Detached, &[]);
    }
}

/// What the pump has to say, thinned.
fn say_notices(stream: &mut Stream, now: Instant) {
    while let Ok(notice) = stream.notices.pop() {
        if let Some(notice) = stream.rate_limit.notice(notice, now) {
            tracing::warn!("{}: {notice}", stream.config.name);
        }
    }
}

fn refuse(fd: &OwnedFd, reason: Reason, text: &str) {
    reply(fd, &Reply::refuse(reason, text), &[]);
}

/// False if the peer cannot take it: it has gone, or does not read.
fn reply(fd: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) -> bool {
    socket::send(fd, &reply.encode(), fds).is_ok()
}

fn reserve() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
