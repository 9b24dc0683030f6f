//! A broker that is hostile to those who ask it: it lies, it is silent, and it cuts off what they
//! look at.
//!
//! Contract: it listens at a socket of its own until it is dropped, on a thread of the test.

use crate::hostile::NAMES;
use ringweir_proto::control::{Description, Reason, Reply, Request};
use ringweir_proto::os::made_file::MadeFile;
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::os::{paths, socket};
use ringweir_proto::stats::{ReaderFact, ReaderFigures, Snapshot, StatsWriter, StreamFact};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// What it answers to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It refuses, with a text that takes over a terminal.
    Refuses,
    /// It shows figures full of such texts, under the name of another stream.
    Shows,
    /// It shows figures, and is silent about everything else.
    ShowsOnly,
    /// Its area can be cut off: it does so at once.
    CutsOff,
    /// The same, when it is asked the next time.
    CutsOffLater,
}

/// Connections that it keeps open.
const HELD: usize = 256;

/// A hostile broker.
pub struct HostileBroker {
    asked: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
    path: PathBuf,
    file: MadeFile,
    thread: Option<JoinHandle<()>>,
}

impl HostileBroker {
    /// Listens as stream `name`; has these manners in turn, one for each request.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(run_dir: &Path, name: &str, manners: &[Manner]) -> Self {
        let path = paths::socket_path(run_dir, name);
        let (listener, file) = socket::listen(&path, 0o666, None).expect("its socket");
        rustix::io::ioctl_fionbio(&listener, false).expect("blocking");
        let (asked, stops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ends, manners) = (asked.clone(), stops.clone(), manners.to_vec());
        let thread = std::thread::spawn(move || {
            let (_area, area_fd) = area();
            let (mut held, mut to_cut) = (VecDeque::new(), Vec::new());
            loop {
                // Not inherited by processes that the test starts meanwhile.
                let flags = rustix::net::SocketFlags::CLOEXEC;
                let fd = rustix::net::accept_with(&listener, flags).expect("accept");
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                to_cut.drain(..).for_each(cut);
                // A client may hang up at once.
                let Ok(request) = socket::receive(&fd) else { continue };
                let manner = manners[counter.fetch_add(1, Ordering::SeqCst) % manners.len()];
                if let Ok(request) = Request::decode(&request.bytes) {
                    to_cut.extend(answer(&fd, &request, manner, &area_fd));
                }
                held.push_back(fd);
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        });
        Self { asked, stops, path, file, thread: Some(thread) }
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for HostileBroker {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        // So that it looks.
        let _connected = socket::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        self.file.remove();
    }
}

fn cut(file: OwnedFd) {
    rustix::fs::ftruncate(file, 0).expect("cut");
}

/// Answers; returns what is to be cut off later.
fn answer(fd: &OwnedFd, request: &Request, manner: Manner, area: &OwnedFd) -> Option<OwnedFd> {
    // The other end may be gone.
    let send = |reply: &Reply, fds: &[BorrowedFd<'_>]| {
        let _gone = socket::send(fd, &reply.encode(), fds);
    };
    let say = |reply: &Reply| send(reply, &[]);
    let words = || NAMES.concat();
    match (manner, request) {
        (Manner::Refuses, _) => say(&Reply::refuse(Reason::Resources, words())),
        (Manner::CutsOff | Manner::CutsOffLater, Request::View) => {
            let file = rustix::fs::memfd_create("area", rustix::fs::MemfdFlags::CLOEXEC);
            let file = file.expect("memfd");
            let mut bytes = vec![0; 1 << 20];
            let got = rustix::io::pread(area, &mut bytes, 0).expect("read");
            rustix::io::write(&file, &bytes[..got]).expect("write");
            send(&Reply::Viewing, &[file.as_fd()]);
            if manner == Manner::CutsOffLater {
                return Some(file);
            }
            cut(file);
        }
        (_, Request::View) => send(&Reply::Viewing, &[area.as_fd()]),
        (Manner::Shows, Request::Describe) => say(&Reply::Described(Description {
            name: words(),
            source: words(),
            summary: words(),
            broker_version: words(),
            metadata: vec![(words(), words())],
        })),
        (Manner::Shows, _) => say(&Reply::refuse(Reason::NoSuchReader, words())),
        (Manner::ShowsOnly | Manner::CutsOff | Manner::CutsOffLater, _) => {}
    }
    None
}

/// Figures of a stream that calls itself "honest", with two readers of one index.
fn area() -> (StatsArea, OwnedFd) {
    let words = NAMES.concat();
    let (area, fd) = StatsArea::create(4).expect("an area");
    let mut snapshot = Snapshot::new("honest", &words);
    snapshot.note = words.clone();
    snapshot.set(StreamFact::Generation, 1);
    snapshot.set(StreamFact::Readers, 2);
    for _ in 0..2 {
        let mut reader = ReaderFigures::new(&words);
        reader.set(ReaderFact::Pid, std::process::id().into());
        snapshot.readers.push(reader);
    }
    StatsWriter::new(area.words(), 4).publish(&snapshot);
    (area, fd)
}
