//! A device behind a real socket: it disconnects, is silent, or comes back. Its events are
//! blocking, as a careless server makes them.

#![allow(unsafe_code)]

use super::*;
use ringweir_device::ivshmem;
use ringweir_proto::os::socket::ANSWER;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::ptr::NonNull;
use std::time::Instant;
use tempfile::TempDir;

/// A server whose device, of one channel, already runs.
struct Server {
    window: DeviceMemory,
    feed: Feed,
    memory: OwnedFd,
    client: Option<UnixStream>,
}

impl Server {
    fn new(shape: &Shape) -> Self {
        let (memory, map) = ivshmem::memory(shape.window_bytes()).unwrap();
        let (start, len) = (NonNull::new(map.as_mut_ptr()).unwrap(), map.len());
        // SAFETY: `start` is a page boundary, where `len` zeroed bytes are newly mapped. The
        // mapping moves into the window as its backing, and nothing else uses it.
        let window = unsafe { DeviceMemory::format(start, len, shape, Box::new(map)) }.unwrap();
        window.registers().status.status.store(ringweir_device::IS_RUNNING, Ordering::Release);
        Self { window, feed: Feed::new(shape), memory, client: None }
    }

    fn accept(mut self, listener: &UnixListener) -> Self {
        let (client, _) = listener.accept().unwrap();
        let event = || [eventfd(0, EventfdFlags::CLOEXEC).unwrap()];
        ivshmem::welcome(&client, 1, &self.memory, &event(), &event()).unwrap();
        self.client = Some(client);
        self
    }

    fn store(&mut self, len: usize) -> bool {
        self.feed.store(self.window.fifo(0), &vec![7; len], 0)
    }
}

fn listen(path: &Path) -> UnixListener {
    // An error means that there was no file.
    let _gone = std::fs::remove_file(path);
    UnixListener::bind(path).unwrap()
}

/// A device behind a socket, opened and drained once.
fn opened(shape: Shape) -> (TempDir, Server, Device, Bench) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it");
    let listener = listen(&path);
    let server = std::thread::spawn(move || Server::new(&shape).accept(&listener));
    let location = Location { path: path.to_str().unwrap().into(), ..Location::default() };
    let mut device = Device::open(&super::super::fifo::FIFO, location, 512).unwrap();
    let mut bench = Bench::new(1 << 20, 512);
    let mut server = server.join().unwrap();
    server.store(40);
    assert_eq!(bench.run(&mut device).0.len(), 1);
    (directory, server, device, bench)
}

/// Rounds continue while there is no server, and while a server accepts connections but is silent.
/// Once it answers, its device is drained.
#[test]
fn silent_server_does_not_block() {
    let (directory, server, mut device, mut bench) = opened(SHAPE);
    let begun = Instant::now();
    drop(server);
    let rounds = |bench: &mut Bench, device: &mut Device| {
        for _ in 0..30 {
            bench.now += 100_000_000;
            bench.run(device);
        }
    };
    rounds(&mut bench, &mut device);
    let listener = listen(&directory.path().join("it"));
    rounds(&mut bench, &mut device);
    assert!(begun.elapsed() < ANSWER, "not one attempt was waited for");
    assert_eq!(bench.count(PumpCounter::SourceGone), 1);
    let mut server = Server::new(&SHAPE).accept(&listener);
    rounds(&mut bench, &mut device);
    server.store(8);
    bench.now += 100_000_000;
    assert_eq!(bench.run(&mut device).0.len(), 1);
    assert!(bench.notices().last().unwrap().contains("is back"));
}

/// A server that is silent for ten seconds of the stream's time is disconnected and asked again.
#[test]
fn a_server_that_stays_silent_is_asked_again() {
    let (directory, server, mut device, mut bench) = opened(SHAPE);
    drop(server);
    let listener = listen(&directory.path().join("it"));
    for _ in 0..130 {
        bench.now += 100_000_000;
        bench.run(&mut device);
    }
    let (first, _) = listener.accept().unwrap();
    first.set_read_timeout(Some(ANSWER)).unwrap();
    assert_eq!(std::io::Read::read(&mut &first, &mut [0; 8]).unwrap(), 0, "hung up");
    let _second = Server::new(&SHAPE).accept(&listener);
    bench.now += 100_000_000;
    bench.run(&mut device);
    assert!(bench.notices().last().unwrap().contains("is back"));
}

/// Without interrupts only a check can notice that the device has disconnected.
#[test]
fn polled_device_that_hangs_up_delivers_what_it_stored() {
    for features in [0, HAS_INTERRUPT] {
        let (_directory, mut server, mut device, mut bench) = opened(Shape { features, ..SHAPE });
        bench.now += 100_000_000;
        assert!(
            bench.run(&mut device).0.is_empty() && bench.gone.is_empty(),
            "it is there, and has nothing"
        );
        (0..3).for_each(|_| assert!(server.store(40)));
        drop(server);
        bench.now += 100_000_000;
        assert_eq!(bench.run(&mut device).0.len(), 3, "features {features}");
        bench.now += 100_000_000;
        bench.run(&mut device);
        assert_eq!(bench.count(PumpCounter::SourceGone), 1, "features {features}");
        // Control: a device that has cleared its magic number leaves nothing.
        let (_directory, mut server, mut device, mut bench) = opened(Shape { features, ..SHAPE });
        server.store(40);
        server.window.registers().identity.magic.store(u32::MAX, Ordering::Release);
        bench.now += 100_000_000;
        assert!(bench.run(&mut device).0.is_empty());
        assert_eq!(bench.count(PumpCounter::SourceGone), 1, "features {features}");
    }
}
