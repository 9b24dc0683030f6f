//! `ringcat --unix seqpacket:PATH`: a socket server; each client gets the stream, one datagram per
//! read.
//!
//! Contract: every client is a separate reader of the ring, served by a separate thread. A slow
//! client is lapped, gets the ring's exact account of its loss, and slows down neither other
//! clients nor the stream. A datagram is sent whole or not at all: if it is longer than a packet of
//! this socket can be, it is left out and counted. For each client `published = delivered + lost`
//! and `delivered = sent + too long + unsent when it left`. Each client takes a reader of the
//! stream and a thread, so users other than root and this process's own get [`PER_USER`] each, and
//! uids that may be one person [`PER_PERSON`] together.

use super::options::{Cli, SocketPath};
use crate::account::ReaderAccount;
use crate::messages::Messages;
use crate::sink::About;
use crate::stop::Stop;
use anyhow::Context;
use ringweir::{CopyError, End, Item, Options, Reader};
use ringweir_proto::os::{paths, socket, socket_file::SocketFile, users};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType, sockopt};
use std::io::{Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the stream is checked while no client is connected.
const LOOK: Duration = Duration::from_secs(1);

/// Most clients of one user, and of uids that may be one person (`os/users.rs`).
const PER_USER: usize = 32;
const PER_PERSON: usize = 64;

/// What the threads of clients report. They store with Release; partners: the Acquire loads in
/// `run`.
struct Shared {
    /// The stream has ended, so no more clients are accepted.
    ended: AtomicBool,
    adds_up: AtomicBool,
    clients: AtomicU64,
    /// The users of the clients.
    uids: Mutex<Vec<u32>>,
}

impl Shared {
    /// Adds a client of this user, if it may have one more.
    fn admit(&self, uid: u32) -> bool {
        let mut uids = self.uids.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count =
            |belongs: fn(u32, u32) -> bool| uids.iter().filter(|u| belongs(**u, uid)).count();
        let is_limited = uid != 0 && !users::is_me(uid);
        if is_limited
            && (count(|a, b| a == b) >= PER_USER || count(users::may_be_one_person) >= PER_PERSON)
        {
            return false;
        }
        uids.push(uid);
        true
    }

    fn leave(&self, uid: u32) {
        let mut uids = self.uids.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(at) = uids.iter().position(|u| *u == uid) {
            uids.swap_remove(at);
        }
    }
}

/// Serves until a signal comes, the stream ends or a limit of the command line is reached. Returns
/// whether all accounts add up.
pub(super) fn run(cli: &Cli, place: &SocketPath, stop: &Stop) -> anyhow::Result<bool> {
    // If the stream does not exist, this fails before a socket is made.
    ringweir::view::describe(&cli.stream)?;
    let listener = SocketFile::bind(&place.path, SocketType::SEQPACKET, place.mode)?;
    rustix::net::listen(&listener.fd, 128)
        .with_context(|| format!("listening at {}", place.path))?;
    let mut messages = Messages::new(format!("ringcat: {}", cli.stream), cli.quiet);
    if !cli.quiet {
        messages.print(format_args!(
            "clients may connect to {} (seqpacket, mode {:04o})",
            place.path, place.mode
        ));
    }
    let shared = Shared {
        ended: AtomicBool::new(false),
        adds_up: AtomicBool::new(true),
        clients: AtomicU64::new(0),
        uids: Mutex::default(),
    };
    let (mut left, leaves) = UnixStream::pair()?;
    left.set_nonblocking(true)?;
    let until = cli.timeout.map(|t| Instant::now() + t.0);
    let mut number = 0;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        loop {
            let clients = shared.clients.load(Ordering::Acquire);
            let over = until.is_some_and(|t| Instant::now() >= t);
            let once = cli.once && number > 0 && clients == 0;
            let gone = clients == 0 && !is_there(&cli.stream);
            if stop.came() || over || once || gone || shared.ended.load(Ordering::Acquire) {
                return Ok(());
            }
            let limit = until.map(|t| t.saturating_duration_since(Instant::now()));
            let look = (clients == 0).then_some(LOOK);
            let fds = [(listener.fd.as_fd(), PollFlags::IN), (left.as_fd(), PollFlags::IN)];
            stop.sleep(limit.into_iter().chain(look).min(), &fds)?;
            let mut drain = [0; 64];
            // This only wakes the loop up; it does not matter if there is nothing to read.
            let _woken = left.read(&mut drain);
            let fd = match socket::accept(&listener.fd) {
                Ok(fd) => fd,
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => continue,
                Err(e) => {
                    messages.print(format_args!("accepting a client: {e}"));
                    stop.pause(Duration::from_millis(100))?;
                    continue;
                }
            };
            let Ok(socket::Peer { uid, pid, .. }) = socket::peer(&fd) else { continue };
            if !shared.admit(uid) {
                messages.print_limited(|| {
                    format!(
                        "a client was disconnected (pid {pid}, uid {uid}): a user may have \
                        {PER_USER}, and a range of uids {PER_PERSON}"
                    )
                });
                continue;
            }
            number += 1;
            shared.clients.fetch_add(1, Ordering::AcqRel);
            let (shared, mut leaves) = (&shared, leaves.try_clone()?);
            let spawned = std::thread::Builder::new()
                .name(format!("client {number}"))
                .spawn_scoped(scope, move || {
                    match Client::serve(cli, number, fd, stop, until) {
                        Ok((adds_up, ended)) => {
                            shared.adds_up.fetch_and(adds_up, Ordering::AcqRel);
                            shared.ended.fetch_or(ended, Ordering::AcqRel);
                        }
                        Err(e) => {
                            Messages::new(
                                format!("ringcat: {}: client {number}", cli.stream),
                                false,
                            )
                            .print(format_args!("{e:#}"));
                            shared.adds_up.store(false, Ordering::Release);
                        }
                    }
                    shared.leave(uid);
                    shared.clients.fetch_sub(1, Ordering::AcqRel);
                    // If it is full, the other side wakes up anyway.
                    let _woken = leaves.write(b".");
                });
            if let Err(e) = spawned {
                shared.leave(uid);
                shared.clients.fetch_sub(1, Ordering::AcqRel);
                messages.print(format_args!(
                    "client {number}: disconnected, because no thread could be started: {e}"
                ));
            }
        }
    })?;
    Ok(shared.adds_up.load(Ordering::Acquire))
}

/// Whether the stream's socket still exists. A broker that ends removes it; one that dies leaves
/// it.
fn is_there(stream: &str) -> bool {
    match stream.contains('/') {
        true => std::path::Path::new(stream).exists(),
        false => paths::search_dirs().iter().any(|dir| paths::socket_path(dir, stream).exists()),
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    TooLong,
    /// The client has disconnected.
    Gone,
    /// A signal came, or the time is over.
    Stopped,
}

struct Client<'a> {
    cli: &'a Cli,
    fd: OwnedFd,
    stop: &'a Stop,
    until: Option<Instant>,
    account: ReaderAccount,
    sent: u64,
    too_long: u64,
    unsent: u64,
}

impl<'a> Client<'a> {
    /// Serves the client. Returns whether its account adds up, and whether the stream has ended.
    fn serve(
        cli: &'a Cli,
        number: u64,
        fd: OwnedFd,
        stop: &'a Stop,
        until: Option<Instant>,
    ) -> anyhow::Result<(bool, bool)> {
        let mut cut = cli.label.len().min(22);
        while !cli.label.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut options =
            Options::new(&format!("{}#{number}", &cli.label[..cut])).start(cli.from.0);
        if cli.lossless {
            options = options.lossless();
        }
        if cli.spin {
            options = options.always_spin();
        }
        let reader =
            options.attach(&cli.stream).context("disconnected, because it could not attach")?;
        let who = format!("ringcat: {}: client {number}", cli.stream);
        let account = ReaderAccount::new(who, cli.quiet, cli.verify, &reader);
        let client = Self { cli, fd, stop, until, account, sent: 0, too_long: 0, unsent: 0 };
        client.run(reader)
    }

    /// Serves it to its end. The reader detaches before the socket is closed: on kernels before
    /// Linux 6.16, what the client has sent may make that close take long.
    fn run(mut self, mut reader: Reader) -> anyhow::Result<(bool, bool)> {
        let ended = self.copy(&mut reader)?;
        let Self { sent, too_long, unsent, cli, stop, .. } = self;
        let mut more = format!("; {sent} sent");
        if too_long > 0 {
            more += &format!(
                ", {too_long} too long for a packet of this socket (sysctl net.core.wmem_max)"
            );
        }
        if unsent > 0 {
            more += ", 1 unsent when it left";
        }
        let wanted = cli.stats || cli.verify || too_long > 0 || stop.came();
        let adds_up = self.account.conclude(&mut reader, wanted, &more)?;
        let taken = self.account.all().delivered;
        if taken != sent + too_long + unsent {
            self.account.messages.print(format_args!(
                "the account does not add up, which is a bug: {taken} delivered{more}"
            ));
        }
        Ok((adds_up && taken == sent + too_long + unsent, ended))
    }

    fn over(&self) -> bool {
        self.stop.came() || self.until.is_some_and(|t| Instant::now() >= t)
    }

    fn left(&self) -> Option<Duration> {
        self.until.map(|t| t.saturating_duration_since(Instant::now()))
    }

    /// Sends until something ends it. Returns whether that was the end of the stream.
    fn copy(&mut self, reader: &mut Reader) -> anyhow::Result<bool> {
        let mut room = vec![0; reader.geometry().max_datagram() as usize];
        self.make_room(room.len());
        let mut date_offset = reader.publish_date(0);
        let mut taken = 0;
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) || self.over() {
                return Ok(false);
            }
            match reader.next()? {
                Item::Datagram(mut datagram) => {
                    let about = About::of(&datagram, date_offset);
                    match datagram.copy_to(&mut room) {
                        Ok(_) => {}
                        // The next item is a gap that begins with this datagram.
                        Err(CopyError::Torn(_)) => continue,
                        Err(e) => return Err(e.into()),
                    }
                    taken += 1;
                    self.account.datagram(&room[..about.len], &about);
                    match self.send(&room[..about.len])? {
                        Sent::Whole => self.sent += 1,
                        Sent::TooLong => {
                            self.too_long += 1;
                            self.account.messages.print_limited(|| {
                                format!(
                                    "seq {}: {} bytes are too long for a packet of this socket",
                                    about.seq, about.len
                                )
                            });
                        }
                        Sent::Gone | Sent::Stopped => {
                            self.unsent += 1;
                            return Ok(false);
                        }
                    }
                }
                Item::Gap(gap) => self.account.gap(&gap),
                Item::Demoted(demoted) => self.account.demoted(demoted),
                Item::Restarted(restart) => {
                    self.account.restarted(restart);
                    room.resize(reader.geometry().max_datagram() as usize, 0);
                    self.make_room(room.len());
                    date_offset = reader.publish_date(0);
                }
                Item::Ended(End::Detached(by)) => {
                    self.account
                        .messages
                        .print(format_args!("detached by pid {} (uid {})", by.pid, by.uid));
                    return Ok(false);
                }
                Item::Ended(_) => return Ok(true),
                Item::Empty => {
                    if hung_up(self.fd.as_fd()) {
                        return Ok(false);
                    }
                    self.stop.wait(reader, self.left(), self.cli.spin, Some(self.fd.as_fd()))?;
                }
            }
        }
    }

    /// Makes the socket accept packets of `len` bytes, if it is allowed to.
    fn make_room(&self, len: usize) {
        // The kernel uses a part of the buffer itself, and doubles the requested size.
        let enough = len + 4096;
        if sockopt::socket_send_buffer_size(&self.fd).is_ok_and(|has| has < enough) {
            let _refused = sockopt::set_socket_send_buffer_size_force(&self.fd, enough)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, enough));
        }
    }

    /// Sends one packet. Waits if the client is slow.
    fn send(&self, bytes: &[u8]) -> anyhow::Result<Sent> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(Sent::Whole),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) => return Ok(Sent::TooLong),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(Sent::Gone),
                Err(Errno::AGAIN) if self.over() => return Ok(Sent::Stopped),
                Err(Errno::AGAIN) => self.stop.wait_to_write(self.fd.as_fd(), self.left())?,
                Err(Errno::NOBUFS | Errno::NOMEM) => self.stop.pause(Duration::from_millis(1))?,
                Err(e) => return Err(std::io::Error::from(e)).context("sending"),
            }
        }
    }
}

/// Whether the other side of a connection is closed.
fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok() && !fds[0].revents().is_empty()
}
