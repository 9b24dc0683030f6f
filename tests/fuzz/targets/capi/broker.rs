//! A minimal broker in a thread. It serves one connection at a time, under a lock, so the holder of
//! the lock knows that the broker is idle.

use ringweir_proto::control::{Attached, Description, LatencyReport, Reason, Reply, Request};
use ringweir_proto::latency::Histogram;
use ringweir_proto::layout::{DetachedBy, Geometry};
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::os::page::{ReaderPage, StatsArea};
use ringweir_proto::os::{paths, socket};
use ringweir_proto::ring::{Layer, Meta, Publisher, WritableRing};
use ringweir_proto::stats::{ReaderFact, ReaderFigures, Snapshot, StatsWriter, StreamFact};
use ringweir_proto::sync::Ordering;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub const STREAM: &str = "fuzz";
const READERS: u32 = 4;

/// How it answers the next request. It answers later ones correctly again.
#[derive(Clone, Copy)]
pub enum Answer {
    Right,
    Refuses(u8),
    HangsUp,
    Garbled,
    NoFds,
    OffTopic,
}

impl From<u8> for Answer {
    fn from(byte: u8) -> Self {
        match byte % 16 {
            0..=3 => Answer::Right,
            4..=9 => Answer::Refuses(byte % 16 - 4),
            10 | 11 => Answer::HangsUp,
            12 | 13 => Answer::Garbled,
            14 => Answer::NoFds,
            _ => Answer::OffTopic,
        }
    }
}

struct Attachment {
    page: ReaderPage,
    _connection: OwnedFd,
    attached: u64,
    _events: [OwnedFd; 3],
}

struct State {
    ring: RingObject,
    publisher: Publisher,
    readers: [Option<Attachment>; READERS as usize],
    watchers: Vec<OwnedFd>,
    answer: Answer,
    generation: u64,
    attached: u64,
    ended: bool,
}

pub struct Broker {
    state: Arc<Mutex<State>>,
    pub socket: PathBuf,
}

/// Its run directory, which is removed when the process ends.
fn run_dir() -> &'static PathBuf {
    unsafe extern "C" {
        safe fn atexit(act: extern "C" fn()) -> i32;
    }
    extern "C" fn tidy() {
        let _gone = std::fs::remove_dir_all(run_dir());
    }
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("ringweir-fuzz.{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a run directory");
        atexit(tidy);
        dir
    })
}

fn ring(generation: u64) -> (RingObject, WritableRing) {
    let geometry = Geometry::new(16, 4096, 256).expect("sound");
    let metadata =
        [("channels".to_string(), "8".to_string()), ("generation".into(), generation.to_string())];
    let memory = Memory::Memfd;
    let spec = RingSpec {
        name: STREAM,
        geometry,
        generation,
        metadata: &metadata,
        memory,
        huge_pages: false,
    };
    RingObject::create(&format!("/ringweir-fuzz.{}", std::process::id()), &spec).expect("a ring")
}

impl State {
    fn restarted(generation: u64) -> Self {
        let (ring, writable) = ring(generation);
        let publisher = Publisher::new(writable);
        let readers = Default::default();
        Self {
            ring,
            publisher,
            readers,
            watchers: Vec::new(),
            answer: Answer::Right,
            generation,
            attached: 0,
            ended: false,
        }
    }

    fn serve(&mut self, connection: OwnedFd) {
        let mut readable = [PollFd::new(&connection, PollFlags::IN)];
        let _ready = poll(&mut readable, None);
        let Ok(request) = socket::receive_bytes(&connection) else { return };
        let Ok(request) = Request::decode(&request) else { return };
        let say = |reply: &Reply, fds: &[_]| {
            let _gone = socket::send(&connection, &reply.encode(), fds);
        };
        match std::mem::replace(&mut self.answer, Answer::Right) {
            Answer::Right => {}
            Answer::Refuses(n) => {
                use Reason::*;
                let reason = [NotAllowed, Full, Malformed, Version, Resources, NoSuchReader]
                    [usize::from(n) % 6];
                return say(&Reply::refuse(reason, "as asked \0 and \u{fffd}"), &[]);
            }
            Answer::HangsUp => return,
            Answer::Garbled => {
                let _gone = socket::send(&connection, b"RW\x02\0garbled", &[]);
                return;
            }
            Answer::NoFds => return say(&Reply::Viewing, &[]),
            Answer::OffTopic => return say(&Reply::Detached, &[]),
        }
        match request {
            Request::Attach(_) => {
                let Some(index) = self.readers.iter().position(Option::is_none) else {
                    return say(&Reply::refuse(Reason::Full, "all indexes are taken"), &[]);
                };
                let (page, page_fd) = ReaderPage::create(index as u32).expect("a page");
                let event = || {
                    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event")
                };
                let (wake, sleep_request) = (event(), event());
                let events = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
                let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
                epoll::add(&events, &wake, epoll::EventData::new_u64(0), edge).expect("epoll");
                let block_offset = page.block_offset();
                let attached =
                    Attached { index: index as u32, block_offset, generation: self.generation };
                let ring = self.ring.read_only();
                say(
                    &Reply::Attached(attached),
                    &[ring.as_fd(), page_fd.as_fd(), events.as_fd(), sleep_request.as_fd()],
                );
                self.attached += 1;
                let _events = [wake, sleep_request, events];
                self.readers[index] = Some(Attachment {
                    page,
                    _connection: connection,
                    attached: self.attached,
                    _events,
                });
            }
            Request::View => {
                let (area, fd) = StatsArea::create(READERS).expect("an area");
                StatsWriter::new(area.words(), READERS).publish(&self.figures());
                say(&Reply::Viewing, &[fd.as_fd()]);
                self.watchers.push(connection);
            }
            Request::Describe => {
                let metadata = vec![("channels".into(), "8".into())];
                let [name, source, summary, broker_version] =
                    [STREAM, "gen:", "as asked \0", "0"].map(String::from);
                let said = Description { name, source, summary, broker_version, metadata };
                say(&Reply::Described(said), &[]);
            }
            Request::DrainGaps => say(&Reply::Latency(None), &[]),
            Request::Reload => say(&Reply::refuse(Reason::File, "there is no file"), &[]),
            Request::Latency { index } => {
                let reader = self.readers.get(index as usize).and_then(Option::as_ref);
                let report = reader.map(|reader| {
                    let Histogram { sum_ns, max_ns, .. } = Histogram::default();
                    let (places, counts) = ((index as u16..index as u16 * 90 + 5).step_by(3))
                        .map(|p| (p, u64::MAX >> (p % 64)))
                        .unzip();
                    LatencyReport { attached: reader.attached, sum_ns, max_ns, places, counts }
                });
                say(&Reply::Latency(report), &[]);
            }
            Request::Detach(which) => {
                let reader = self.readers.get_mut(which.index as usize);
                let Some(reader) = reader
                    .filter(|p| p.as_ref().is_some_and(|p| p.attached == which.attached_realtime))
                else {
                    return say(&Reply::refuse(Reason::NoSuchReader, "no such reader"), &[]);
                };
                let gone = reader.take().expect("it is there");
                gone.page
                    .block()
                    .detached_by
                    .store(DetachedBy { pid: 7, uid: 9 }.pack(), Ordering::Relaxed);
                say(&Reply::Detached, &[]);
            }
        }
    }

    fn figures(&self) -> Snapshot {
        let mut snapshot = Snapshot::new(STREAM, "gen:");
        snapshot.set(StreamFact::Depth, 16);
        snapshot.take_pump(self.ring.memory());
        for (index, reader) in self.readers.iter().enumerate() {
            let Some(reader) = reader else { continue };
            let mut figures = ReaderFigures::new("a reader");
            figures.set(ReaderFact::Index, index as u64);
            figures.set(ReaderFact::AttachedRealtime, reader.attached);
            snapshot.readers.push(figures);
        }
        snapshot
    }
}

impl Broker {
    pub fn start() -> Self {
        // SAFETY: no other thread exists yet, so none reads the environment.
        unsafe { std::env::set_var(paths::RUN_DIR_ENV, run_dir()) };
        let socket = paths::socket_path(run_dir(), STREAM);
        let (listener, _file) = socket::listen(&socket, 0o600, None).expect("a socket");
        let state = Arc::new(Mutex::new(State::restarted(1)));
        let served = state.clone();
        std::thread::spawn(move || {
            loop {
                let _ready = poll(&mut [PollFd::new(&listener, PollFlags::IN)], None);
                let mut state = served.lock().expect("state");
                if let Ok(connection) = socket::accept(&listener) {
                    state.serve(connection);
                }
            }
        });
        Self { state, socket }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }

    /// Publishes `count` datagrams of all lengths, which may be more than a lap.
    pub fn publish(&self, count: u64, seed: u8) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        for n in 0..count {
            let len = (n as usize * 37 + usize::from(seed)) % 257;
            if n == 3 && seed.is_multiple_of(8) {
                state.publisher.lost_upstream(Layer::Kernel, seed.into(), seed & 16 == 0);
            }
            let meta = Meta {
                original_len: 300 * u32::from(seed & 1),
                channel: seed.into(),
                source_time: n,
                publish_time: n,
            };
            state.publisher.publish(&[seed; 256][..len], meta).expect("fits");
        }
    }

    pub fn answer_next(&self, answer: Answer) {
        self.state().answer = answer;
    }

    pub fn end(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.ended, true) {
            state.publisher.end();
        }
    }

    /// Hangs up on its readers and viewers, as if it had died, and is back at once with the same
    /// ring.
    pub fn hang_up(&self) {
        let mut state = self.state();
        state.readers = Default::default();
        state.watchers.clear();
    }

    /// Dies, and comes back with the next generation.
    pub fn restart(&self) {
        let mut state = self.state();
        *state = State::restarted(state.generation + 1);
    }

    /// Restores the state of the start.
    pub fn clean(&self) {
        // Once this request is answered, no earlier one is left in the socket's queue.
        self.answer_next(Answer::Right);
        let _answer = ringweir::view::describe(STREAM).expect("a description");
        *self.state() = State::restarted(1);
    }

    /// Index and attach time of some reader.
    pub fn some_reader(&self, n: u8) -> Option<(u32, u64)> {
        let state = self.state();
        let index = usize::from(n) % state.readers.len();
        state.readers[index].as_ref().map(|reader| (index as u32, reader.attached))
    }
}
