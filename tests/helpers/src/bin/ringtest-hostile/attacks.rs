//! The attacks of a hostile reader, each for a slice of time: everything that its page, its fds and
//! the control socket allow, and attempts at what they do not.
//!
//! Contract: each returns its number of attempts. It is an error only if the kernel allowed what it
//! must refuse, or if the broker gave this user more than its share.

use crate::attachment::{Attachment, ask};
use crate::child;
use clap::ValueEnum;
use ringweir_harness::hostile;
use ringweir_helpers::pry;
use ringweir_proto::control::{AttachRequest, Mode, Request};
use ringweir_proto::layout::{PAGE, READER_OBJECT};
use ringweir_proto::os::{event, socket};
use ringweir_proto::sync::Ordering;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Resource, getrlimit};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// All attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Attack {
    /// Random cursors and counts into its page
    Cursors,
    /// A cursor ahead of the stream
    Future,
    /// Random bytes all over its page
    Scribble,
    /// Random bytes all over its latencies
    Latency,
    /// Punch holes into its page, so that it has to be faulted in again
    Holes,
    /// Write the sleep request as fast as possible, with all kinds of seqs
    SleepRequest,
    /// Watch the wake fd with hundreds of epoll sets, and go to sleep
    Watchers,
    /// Fill the sleep request, change the flags of everything
    Fill,
    /// Hold every lock of the ring that a reader can take
    Lock,
    /// Try to write, shorten, seal, lease, reopen everything
    Pry,
    /// Read nothing
    Mute,
    /// Connect and close, send half a message, or nothing
    Handshake,
    /// Send a thousand fds
    Fds,
    /// Send requests without a pause
    Flood,
    /// Send messages on the connection of an attached reader
    Talk,
    /// Send sockets whose close takes 10 s
    Linger,
    /// Poll the wake fd with thousands of entries, and go to sleep
    Poll,
    /// Attach, keep page and events, and go
    Hoard,
    /// Leave answers unread
    Unread,
    /// Attach with names that take over a terminal
    Names,
    /// Fork, and leave the attachment to the child
    Fork,
}

/// Silent connections that stay open.
const SILENT: usize = 40;
/// Rings that stay open.
const LOCKED: usize = 4;
/// Most fds in a message (the kernel's limit).
const FDS: usize = 253;
/// Sets that watch one fd.
const WATCHERS: usize = 480;
/// Entries of a poll; fewer if fewer files may be open.
const ENTRIES: usize = 20_000;
/// Descriptors of former attachments that are kept.
const HOARDED: usize = 300;
/// Most pages that one broker may make for this user: as many as there are readers at a time. While
/// the pump is busy it still holds those that have just gone, so up to all that there may be.
const PAGES: usize = 128;
/// Unread answers that are kept: not so many that this user gets none any more.
const UNREAD: usize = 30;
/// Readers with bad names.
const NAMED: usize = 3;
/// Children at a time.
const CHILDREN: usize = 8;

pub struct Attacker<'a> {
    pub path: &'a Path,
    pub random: fastrand::Rng,
    /// Whether the answers to [`pry`] must be those for a user other than the broker's.
    pub judges: bool,
    pub silent: VecDeque<OwnedFd>,
    /// Rings whose locks are held.
    pub locked: Vec<OwnedFd>,
    pub kept: Kept,
}

/// What else stays open, or is counted, between attacks.
#[derive(Default)]
pub struct Kept {
    hoarded: VecDeque<OwnedFd>,
    /// The pages that one broker made, by inode; and the inode and generation of its ring.
    pages: ((u64, u64), BTreeSet<u64>),
    unread: VecDeque<OwnedFd>,
    named: VecDeque<Attachment>,
    /// The other ends of sockets that linger.
    ends: VecDeque<TcpStream>,
    children: usize,
}

/// Keeps it, and lets go of the oldest if there are too many.
fn keep<T>(all: &mut VecDeque<T>, one: T, most: usize) {
    all.push_back(one);
    if all.len() > most {
        all.pop_front();
    }
}

impl Attacker<'_> {
    pub fn commit(
        &mut self,
        what: Attack,
        attachment: &Attachment,
        slice: Duration,
    ) -> anyhow::Result<u64> {
        let until = Instant::now() + slice;
        let mut count = 0;
        if matches!(what, Attack::SleepRequest | Attack::Watchers | Attack::Poll) {
            attachment.drain_event();
        }
        let sets = if what == Attack::Watchers { watchers(attachment) } else { Vec::new() };
        while Instant::now() < until && !attachment.lost() {
            // Many at a time: otherwise, most of the time would go into looking at the clock and
            // the socket.
            let times = if matches!(what, Attack::Cursors | Attack::Future | Attack::SleepRequest) {
                64
            } else {
                1
            };
            for _ in 0..times {
                self.once(what, attachment)?;
                count += 1;
            }
        }
        drop(sets);
        Ok(count)
    }

    fn once(&mut self, what: Attack, attachment: &Attachment) -> anyhow::Result<()> {
        let block = attachment.page.block();
        match what {
            Attack::Cursors => {
                let below = attachment.written() + 1;
                let words =
                    [&block.read_seq, &block.start_seq, &block.delivered, &block.lost, &block.gaps];
                words
                    .iter()
                    .for_each(|word| word.store(self.random.u64(..below), Ordering::Relaxed));
                block.bytes_lost.store(self.random.u64(..), Ordering::Relaxed);
                block.waiting.store(self.random.u64(..3), Ordering::Relaxed);
            }
            Attack::Future => {
                let ahead = [1000, 1 << 20, 1 << 40, u64::MAX];
                let ahead = ahead[self.random.usize(..ahead.len())];
                block.read_seq.store(attachment.written().saturating_add(ahead), Ordering::Relaxed);
            }
            Attack::Scribble => self.scribble(attachment, 0..PAGE),
            Attack::Latency => self.scribble(attachment, PAGE..READER_OBJECT),
            Attack::Holes => {
                let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _done =
                    rustix::fs::fallocate(&attachment.page_fd, holes, 0, READER_OBJECT as u64);
            }
            // Asleep whenever it can be, so that every datagram wakes it.
            Attack::Watchers => {
                block.seen_seq.store(attachment.written(), Ordering::Relaxed);
                block.seen_source.store(attachment.seen.memory.source_word(), Ordering::Relaxed);
                let _full = event::ring(&attachment.sleep_request);
                let _rung = event::wait(
                    attachment.wake.as_fd(),
                    attachment.wake.as_fd(),
                    Some(Duration::from_millis(5)),
                );
                let _taken = event::take(&attachment.wake);
            }
            Attack::SleepRequest => {
                let seen = [
                    attachment.written(),
                    attachment.written().wrapping_sub(1),
                    0,
                    u64::MAX,
                    self.random.u64(..),
                ];
                // Mostly the first one, which makes it count as asleep.
                let seen = seen[self.random.usize(..20).saturating_sub(15)];
                block.seen_seq.store(seen, Ordering::Relaxed);
                block.seen_source.store(self.random.u64(..2), Ordering::Relaxed);
                block.waiting.store(self.random.u64(..2), Ordering::Relaxed);
                let _full = event::ring(&attachment.sleep_request);
                let _rung = event::take(&attachment.wake);
            }
            Attack::Fill => self.fill(attachment),
            Attack::Lock => {
                // Some are kept open, so that the locks outlive the attachment.
                if self.locked.len() < LOCKED
                    && let Ok(ring) = rustix::io::fcntl_dupfd_cloexec(&attachment.ring, 3)
                {
                    self.locked.push(ring);
                }
                self.locked.iter().chain([&attachment.ring]).for_each(pry::take_locks);
                std::thread::sleep(Duration::from_millis(1));
            }
            Attack::Pry => {
                let mut tried = pry::try_attachment(attachment.fds());
                if let Ok((_connection, _watching, fds)) = ask(self.path, &Request::View)
                    && let Some(stats) = fds.first()
                {
                    tried.extend(pry::try_statistics(stats));
                }
                let wrong = if self.judges { pry::unexpected(&tried) } else { Vec::new() };
                anyhow::ensure!(
                    wrong.is_empty(),
                    "the kernel's answers are not what they should be: {}",
                    wrong.join("; ")
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            Attack::Mute => std::thread::sleep(Duration::from_millis(10)),
            Attack::Handshake => self.handshake(),
            Attack::Fds => self.fds(attachment),
            Attack::Flood => self.flood(),
            Attack::Talk => {
                let bytes = self.request();
                let _hung_up = socket::send(&attachment.connection, &bytes, &[]);
            }
            Attack::Linger => self.linger(attachment),
            Attack::Poll => poll_wake(attachment),
            Attack::Hoard => self.hoard()?,
            Attack::Unread => self.unread(),
            Attack::Names => {
                let name = hostile::NAMES[self.random.usize(..hostile::NAMES.len())];
                match Attachment::new(self.path, name) {
                    Ok(named) => keep(&mut self.kept.named, named, NAMED),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            Attack::Fork => self.fork(),
        }
        Ok(())
    }

    fn scribble(&mut self, attachment: &Attachment, range: std::ops::Range<usize>) {
        let mut bytes = [0; 64];
        self.random.fill(&mut bytes);
        let at = self.random.usize(range.start..=range.end - bytes.len());
        let _written = rustix::io::pwrite(&attachment.page_fd, &bytes, at as u64);
    }

    /// Fills the events as far as possible, and sets each fd to blocking or not at random.
    fn fill(&mut self, attachment: &Attachment) {
        let _never_blocks = rustix::fs::fcntl_setfl(&attachment.sleep_request, OFlags::NONBLOCK);
        for event in [&attachment.sleep_request, &attachment.wake] {
            let _full = rustix::io::write(event, &(u64::MAX - 1).to_ne_bytes());
        }
        for fd in attachment.fds() {
            let flags = [
                OFlags::empty(),
                OFlags::NONBLOCK,
                OFlags::APPEND,
                OFlags::NONBLOCK | OFlags::NOATIME,
            ];
            let _refused = rustix::fs::fcntl_setfl(fd, flags[self.random.usize(..flags.len())]);
        }
    }

    /// A random request, not always a valid one.
    fn request(&mut self) -> Vec<u8> {
        let index = self.random.u32(..70);
        let attach = AttachRequest {
            label: "\x1b[2Jhostile".into(),
            mode: Mode::Lossy,
            parks: self.random.bool(),
        };
        let requests = [
            Request::Describe,
            Request::View,
            Request::DrainGaps,
            Request::Latency { index },
            Request::Attach(attach),
        ];
        let mut bytes = requests[self.random.usize(..requests.len())].encode();
        match self.random.u8(..8) {
            0 => bytes.truncate(self.random.usize(..bytes.len())),
            1 => bytes.resize(self.random.usize(1..6000), 0xff),
            2 => {
                let at = self.random.usize(..bytes.len());
                bytes[at] ^= 1 << self.random.u8(..8);
            }
            _ => {}
        }
        bytes
    }

    fn handshake(&mut self) {
        let Ok(connection) = socket::connect(self.path) else {
            return std::thread::sleep(Duration::from_millis(5));
        };
        let bytes = Request::View.encode();
        match self.random.u8(..6) {
            0 => {}
            1 => drop(socket::send(&connection, &bytes[..5], &[])),
            2 => drop(socket::send(&connection, &[], &[])),
            // Asks for an attachment and hangs up before the reply.
            3 => {
                let request =
                    AttachRequest { label: "gone".into(), mode: Mode::Lossy, parks: true };
                let _sent = socket::send(&connection, &Request::Attach(request).encode(), &[]);
            }
            4 => {
                let _sent = socket::send(&connection, &bytes[..5], &[]);
                self.silent.push_back(connection);
            }
            _ => self.silent.push_back(connection),
        }
        if self.silent.len() > SILENT {
            self.silent.pop_front();
        }
    }

    /// Sends a thousand fds in four messages, over a new connection or sometimes over that of its
    /// attachment.
    fn fds(&mut self, attachment: &Attachment) {
        let Ok(null) = File::open("/dev/null") else { return };
        let fds = [null.as_fd(); FDS];
        let fresh = socket::connect(self.path);
        let to: BorrowedFd<'_> = match &fresh {
            Ok(fresh) if self.random.u8(..10) > 0 => fresh.as_fd(),
            _ => attachment.connection.as_fd(),
        };
        for _ in 0..4 {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
                let bytes = Request::View.encode();
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                let _hung_up =
                    rustix::net::sendmsg(to, &[IoSlice::new(&bytes)], &mut ancillary, flags);
            }
        }
    }

    /// Sends a socket that lingers, over a new connection or that of its attachment.
    fn linger(&mut self, attachment: &Attachment) {
        let (fresh, sockets) = (socket::connect(self.path), hostile::lingering());
        let (Ok(fresh), Ok((lingers, end))) = (&fresh, sockets) else {
            return std::thread::sleep(Duration::from_millis(5));
        };
        let to = if self.random.bool() { fresh } else { &attachment.connection };
        let sent = socket::send(to, &Request::View.encode(), &[lingers.as_fd()]);
        if sent.is_err() {
            // Nobody else has it, and our own close must be quick.
            let _quick = hostile::linger_no_more(&lingers);
        }
        keep(&mut self.kept.ends, end, 4);
    }

    /// Attaches, keeps what it was given, and goes.
    fn hoard(&mut self) -> anyhow::Result<()> {
        let Ok(given) = Attachment::new(self.path, "hoard") else {
            std::thread::sleep(Duration::from_millis(5));
            return Ok(());
        };
        let generation = (rustix::fs::fstat(&given.ring)?.st_ino, given.seen.memory.generation());
        if self.kept.pages.0 != generation {
            self.kept.pages = (generation, BTreeSet::new());
        }
        let pages = &mut self.kept.pages.1;
        pages.insert(rustix::fs::fstat(&given.page_fd)?.st_ino);
        anyhow::ensure!(
            !self.judges || pages.len() <= PAGES,
            "the broker made {} pages for the readers of one user, a few at a time",
            pages.len()
        );
        for fd in [given.page_fd, given.wake, given.sleep_request] {
            keep(&mut self.kept.hoarded, fd, HOARDED);
        }
        // The pump still knows it for a moment.
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }

    /// Asks what is answered or refused, and reads nothing.
    fn unread(&mut self) {
        let Ok(connection) = socket::connect(self.path) else {
            return std::thread::sleep(Duration::from_millis(5));
        };
        let requests = [Request::Describe, Request::Latency { index: 1 << 20 }, Request::Reload];
        let request = &requests[self.random.usize(..requests.len())];
        let _hung_up = socket::send(&connection, &request.encode(), &[]);
        keep(&mut self.kept.unread, connection, UNREAD);
        std::thread::sleep(Duration::from_millis(5));
    }

    /// Attaches and leaves that to a child.
    fn fork(&mut self) {
        self.kept.children -= child::reap().min(self.kept.children);
        if self.kept.children < CHILDREN
            && let Ok(given) = Attachment::new(self.path, "fork")
        {
            let moments = self.random.u64(..200);
            self.kept.children += usize::from(child::fork(&given, moments));
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends requests, and reads a reply now and then.
    fn flood(&mut self) {
        let Ok(connection) = socket::connect(self.path) else {
            return std::thread::sleep(Duration::from_millis(5));
        };
        let bytes = self.request();
        let _hung_up = socket::send(&connection, &bytes, &[]);
        if self.random.u8(..4) == 0 {
            let _answer = socket::receive(&connection);
        }
    }
}

/// Goes to sleep with a poll of thousands of entries, so that a wake walks all of them.
fn poll_wake(attachment: &Attachment) {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
    let mut entries = vec![PollFd::new(&attachment.wake, PollFlags::IN); ENTRIES.min(most)];
    let block = attachment.page.block();
    block.seen_seq.store(attachment.written(), Ordering::Relaxed);
    block.seen_source.store(attachment.seen.memory.source_word(), Ordering::Relaxed);
    let _full = event::ring(&attachment.sleep_request);
    let _rung = poll(&mut entries, Some(&event::timespec(Duration::from_millis(20))));
    let _taken = event::take(&attachment.wake);
}

fn watchers(attachment: &Attachment) -> Vec<OwnedFd> {
    let watch = |_| {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).ok()?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, &attachment.wake, epoll::EventData::new_u64(0), edge).ok()?;
        Some(set)
    };
    (0..WATCHERS).map_while(watch).collect()
}
