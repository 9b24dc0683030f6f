//! A stream for tests and documentation of readers: a minimal broker in a thread of the same
//! process.
//!
//! Contract: it speaks the control protocol and publishes into a real ring. It wakes readers only
//! after each publish and at the end, has no lossless budget, and exists as long as its [`Stream`].
//! Its faults (it stops answering, hangs up, comes back with a fresh ring) happen only when the
//! test asks for them.

#![allow(unsafe_code)]

use ringweir_proto::control::{Attached, Description, Reason, Reply, Request};
use ringweir_proto::layout::Geometry;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::{clock, event, paths, socket};
use ringweir_proto::ring::{Meta, Publisher};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

const READERS: usize = 16;

/// A stream, which exists until this is dropped.
pub struct Stream {
    broker: Arc<Mutex<Broker>>,
    stop: Arc<AtomicBool>,
    /// Nothing is answered while this is set.
    stopped: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
    name: String,
}

struct Reader {
    _page: ReaderPage,
    connection: OwnedFd,
    wake: OwnedFd,
    _events: [OwnedFd; 2],
}

struct Broker {
    name: String,
    ring: RingObject,
    publisher: Publisher,
    readers: [Option<Reader>; READERS],
    generation: u64,
}

impl Broker {
    fn new(name: &str, generation: u64, metadata: &[(String, String)]) -> Self {
        let spec = RingSpec {
            name,
            geometry: Geometry::new(256, 64 << 10, 2048).expect("a sound geometry"),
            generation,
            metadata,
            memory: Memory::Memfd,
            huge_pages: false,
        };
        let object = format!("/ringweir-testing.{}", std::process::id());
        let (ring, writable) = RingObject::create(&object, &spec).expect("a ring");
        let publisher = Publisher::new(writable);
        Self { name: name.into(), ring, publisher, readers: Default::default(), generation }
    }

    fn answer(&mut self, connection: OwnedFd) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ready = poll(&mut [PollFd::new(&connection, PollFlags::IN)], Some(&second));
        let Ok(request) = socket::receive_bytes(&connection) else { return };
        let Ok(request) = Request::decode(&request) else { return };
        let reply = |reply: &Reply, fds: &[_]| {
            let _gone = socket::send(&connection, &reply.encode(), fds);
        };
        match request {
            Request::Attach(_) => {
                self.forget_dead();
                let Some(index) = self.readers.iter().position(Option::is_none) else {
                    return reply(&Reply::refuse(Reason::Full, "all indices are taken"), &[]);
                };
                let (page, page_fd) = ReaderPage::create(index as u32).expect("a page");
                let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
                let (wake, sleep) = (event().expect("an event"), event().expect("an event"));
                let events = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
                let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
                epoll::add(&events, &wake, epoll::EventData::new_u64(0), edge).expect("epoll");
                let block_offset = page.block_offset();
                let (index32, generation) = (index as u32, self.generation);
                let attached = Attached { index: index32, block_offset, generation };
                let ring = self.ring.read_only();
                let fds = [ring.as_fd(), page_fd.as_fd(), events.as_fd(), sleep.as_fd()];
                reply(&Reply::Attached(attached), &fds);
                let _events = [events, sleep];
                self.readers[index] = Some(Reader { _page: page, connection, wake, _events });
            }
            Request::Describe => {
                let described = Description {
                    name: self.name.clone(),
                    source: "testing".into(),
                    summary: "a stream inside a test".into(),
                    broker_version: env!("CARGO_PKG_VERSION").into(),
                    metadata: Vec::new(),
                };
                reply(&Reply::Described(described), &[]);
            }
            _ => reply(&Reply::refuse(Reason::Malformed, "a stream for tests does not"), &[]),
        }
    }

    /// Frees the indices of readers that have hung up.
    fn forget_dead(&mut self) {
        for slot in &mut self.readers {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let hung_up = slot.as_ref().is_some_and(|reader| {
                poll(&mut [PollFd::new(&reader.connection, PollFlags::IN)], Some(&now)) == Ok(1)
            });
            if hung_up {
                *slot = None;
            }
        }
    }

    fn wake(&self) {
        for reader in self.readers.iter().flatten() {
            let _full = event::ring(&reader.wake);
        }
    }
}

impl Stream {
    /// Starts the stream `name`, and makes this process look for streams in its run directory.
    ///
    /// # Panics
    /// If it cannot be started. Call it before the process has other threads: it sets an
    /// environment variable.
    pub fn start(name: &str) -> Self {
        Self::with_metadata(name, &[])
    }

    /// The same with metadata.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with_metadata(name: &str, metadata: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (listener, _file) = socket::listen(&paths::socket_path(dir.path(), name), 0o600, None)
            .expect("a control socket");
        // SAFETY: by the contract of `start` the caller has no other threads yet that read the
        // environment.
        unsafe { std::env::set_var(paths::RUN_DIR_ENV, dir.path()) };
        let broker = Arc::new(Mutex::new(Broker::new(name, 1, &owned(metadata))));
        let (stop, stopped) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (served, ends, silent) = (broker.clone(), stop.clone(), stopped.clone());
        let server = std::thread::spawn(move || {
            let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            while !ends.load(Ordering::Relaxed) {
                let _ready = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&pause));
                if silent.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                } else if let Ok(connection) = socket::accept(&listener) {
                    served.lock().expect("the broker").answer(connection);
                }
            }
        });
        Self { broker, stop, stopped, server: Some(server), dir, name: name.into() }
    }

    fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().expect("the broker")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        paths::socket_path(self.dir.path(), &self.name)
    }

    /// Publishes one datagram, of at most 2048 bytes.
    ///
    /// # Panics
    /// If it is longer.
    pub fn publish(&self, bytes: &[u8]) {
        let mut broker = self.broker();
        let publish_time = clock::monotonic_ns();
        let meta = Meta { original_len: 0, channel: 0, source_time: 0, publish_time };
        broker.publisher.publish(bytes, meta).expect("it fits");
        broker.wake();
    }

    /// Ends the stream.
    pub fn end(&self) {
        let mut broker = self.broker();
        broker.publisher.end();
        broker.wake();
    }

    /// Number of attached readers.
    pub fn readers(&self) -> usize {
        let mut broker = self.broker();
        broker.forget_dead();
        broker.readers.iter().flatten().count()
    }

    /// Stops answering, like a broker after SIGSTOP: the kernel queues the connections.
    pub fn stop_answering(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Waits until a request in progress has been answered.
        drop(self.broker());
    }

    /// Answers again: queued requests and new ones.
    pub fn resume_answering(&self) {
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// Hangs up on its readers, as if the broker had died, and comes back at once with a fresh
    /// ring.
    pub fn restart(&self, metadata: &[(&str, &str)]) {
        let mut broker = self.broker();
        let generation = broker.generation + 1;
        *broker = Broker::new(&self.name, generation, &owned(metadata));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _panicked = server.join();
        }
    }
}

fn owned(metadata: &[(&str, &str)]) -> Vec<(String, String)> {
    metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}
