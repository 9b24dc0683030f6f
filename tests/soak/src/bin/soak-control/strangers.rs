//! Attacks by other users, who make the broker keep, wait, pay and show as far as they can.
//!
//! Contract: each attack is counted by its name and by what became of it. The pages that the broker
//! made for those who attached are counted too: they are as many as readers that there may be, not
//! as readers that there were. Without root there is no other user, and nothing is attacked.

use crate::conversation::{Client, Outcomes, list};
use crate::stream::{ALLOWED, GROUP, READERS_MAX, UNREADING};
use anyhow::ensure;
use fastrand::Rng;
use ringweir_harness::hostile;
use ringweir_harness::user::becoming_of;
use ringweir_proto::control::{AttachRequest, Mode, Reply, Request};
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::{event, object, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeSet, VecDeque};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One who may not.
const STRANGER: u32 = 4713;
/// The number that stands for all who are not mapped in a user namespace.
const OVERFLOW: u32 = 65534;
/// The first of one person's further uids, which may attach by their group.
const FURTHER: u32 = 100_000;
const NO_GROUP: u32 = 4719;

/// Descriptors and connections that stay open: pages of former readers, unread answers, silent
/// connections, readers with bad names.
const KEPT: usize = 1000;
const UNREAD: usize = 300;
const SILENT: usize = 40;
const NAMED: usize = 2;
/// How often each attack is made at least.
const LEAST: u32 = 5;
/// Entries with which a wake is made slow.
const ENTRIES: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attack {
    /// Send a descriptor whose close takes 10 s.
    Lingering,
    /// Leave answers unread.
    Unread,
    /// Attach, keep the page and the events, and go.
    Hoard,
    /// Poll one's own wake with thousands of entries.
    SlowWakes,
    /// Attach with a name that takes over a terminal.
    Escapes,
    /// Connect and be silent.
    Silent,
    /// Converse as the others do.
    Converse,
}

pub struct Strangers<'p> {
    path: &'p Path,
    random: Rng,
    /// What is attacked.
    choice: Vec<Attack>,
    no_limit: bool,
    kept: VecDeque<OwnedFd>,
    unread: VecDeque<OwnedFd>,
    silent: VecDeque<OwnedFd>,
    named: VecDeque<OwnedFd>,
    /// The other ends of sockets that linger.
    others: VecDeque<TcpStream>,
    /// Inodes of all pages.
    pages: BTreeSet<u64>,
    attached: u64,
    outcomes: Outcomes,
}

impl<'p> Strangers<'p> {
    pub fn new(
        path: &'p Path,
        seed: u64,
        choice: Vec<Attack>,
        no_limit: bool,
    ) -> anyhow::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        let mut choice = choice;
        if !choice.is_empty() && !rustix::process::geteuid().is_root() {
            eprintln!("soak-control: SKIPPED attacks of other users: needs root, to become them");
            choice.clear();
        }
        let (probe, _other) = std::os::unix::net::UnixStream::pair()?;
        // Before that a sender can delay a broker, which is known.
        if choice.contains(&Attack::Lingering) && !socket::refuse_descriptors(&probe) {
            eprintln!("soak-control: SKIPPED descriptors that linger: needs Linux 6.16");
            choice.retain(|attack| *attack != Attack::Lingering);
        }
        Ok(Self {
            path,
            random: Rng::with_seed(seed ^ 1),
            choice,
            no_limit,
            kept: VecDeque::new(),
            unread: VecDeque::new(),
            silent: VecDeque::new(),
            named: VecDeque::new(),
            others: VecDeque::new(),
            pages: BTreeSet::new(),
            attached: 0,
            outcomes: Outcomes::new(),
        })
    }

    /// Makes all attacks in a random order, again and again, until `is_over` and each was made at
    /// least [`LEAST`] times.
    pub fn attack(&mut self, is_over: impl Fn() -> bool) -> anyhow::Result<()> {
        let mut rounds = 0;
        while !self.choice.is_empty() && (rounds < LEAST || !is_over()) {
            let mut order = self.choice.clone();
            self.random.shuffle(&mut order);
            for what in order {
                self.one(what)?;
                std::thread::sleep(Duration::from_millis(5));
            }
            rounds += 1;
        }
        Ok(())
    }

    /// Makes each attack once. They are not counted.
    pub fn attack_once_each(&mut self) -> anyhow::Result<()> {
        self.choice.clone().into_iter().try_for_each(|what| self.one(what))?;
        self.outcomes.clear();
        Ok(())
    }

    fn one(&mut self, what: Attack) -> anyhow::Result<()> {
        let further = FURTHER + self.random.u32(..5);
        let (uid, gid) = match (what, self.random.u8(..4)) {
            _ if self.no_limit => (0, 0),
            (Attack::Unread, 0 | 1) => (UNREADING, NO_GROUP),
            (Attack::Unread | Attack::Converse, 2) => (STRANGER, NO_GROUP),
            (Attack::Unread | Attack::Converse, _) => (OVERFLOW, NO_GROUP),
            (_, 0) => (further, GROUP),
            _ => (ALLOWED, NO_GROUP),
        };
        becoming_of(uid, gid, || self.commit(what))
    }

    fn commit(&mut self, what: Attack) -> anyhow::Result<()> {
        match what {
            Attack::Lingering => self.lingering()?,
            Attack::Unread => {
                for _ in 0..10 {
                    let connection = socket::connect(self.path)?;
                    let request = [Request::Latency { index: 1 << 20 }, Request::Describe];
                    let request = &request[self.random.usize(..2)];
                    let sent = socket::send(&connection, &request.encode(), &[]).is_ok();
                    self.count("unread", if sent { "asked" } else { "hung up" });
                    keep(&mut self.unread, connection, UNREAD);
                }
            }
            Attack::Hoard => {
                for _ in 0..20 {
                    self.hoard()?;
                }
            }
            Attack::SlowWakes => self.slow_wakes()?,
            Attack::Escapes => {
                let words = hostile::NAMES[self.random.usize(..hostile::NAMES.len())];
                let held = self.attach(words)?;
                let outcome = if held.is_some() { "attached" } else { "refused" };
                self.count("escapes in names", outcome);
                if let Some((connection, ..)) = held {
                    keep(&mut self.named, connection, NAMED);
                }
            }
            Attack::Silent => {
                for _ in 0..5 {
                    let connection = socket::connect(self.path)?;
                    keep(&mut self.silent, connection, SILENT);
                    self.count("silent", "connected");
                }
            }
            Attack::Converse => {
                let mut client = Client::new(self.path, self.random.u64(..));
                client.converse(20, &AtomicU64::new(0), &AtomicBool::new(false))?;
                for (outcome, count) in client.outcomes {
                    *self.outcomes.entry(format!("conversation: {outcome}")).or_default() += count;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, attack: &str, outcome: &str) {
        *self.outcomes.entry(format!("{attack}: {outcome}")).or_default() += 1;
    }

    /// A TCP socket with unsent data and SO_LINGER: its last close takes as long.
    fn lingering(&mut self) -> anyhow::Result<()> {
        let (lingers, other) = hostile::lingering()?;
        let connection = socket::connect(self.path)?;
        let sent = socket::send(&connection, &Request::View.encode(), &[lingers.as_fd()]);
        let outcome = match sent {
            Ok(()) => "taken",
            Err(Errno::PERM) => "refused by the kernel",
            Err(_) => "hung up",
        };
        ensure!(outcome != "taken", "the broker's socket takes descriptors");
        self.count("lingering descriptors", outcome);
        // It must not take our own time, nor end while another could still have it.
        hostile::linger_no_more(&lingers)?;
        keep(&mut self.others, other, 4);
        Ok(())
    }

    /// Attaches without the client library: the connection, the place of the reader's block in its
    /// page; and ring, page, wake and sleep request. `None`: refused.
    fn attach(&mut self, label: &str) -> anyhow::Result<Option<(OwnedFd, u32, [OwnedFd; 4])>> {
        let connection = socket::connect(self.path)?;
        let request = AttachRequest { label: label.into(), mode: Mode::Lossy, parks: true };
        if socket::send(&connection, &Request::Attach(request).encode(), &[]).is_err() {
            return Ok(None);
        }
        let answer = match socket::receive(&connection) {
            Ok(answer) if !answer.bytes.is_empty() => answer,
            Ok(_) | Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => anyhow::bail!("no answer to a request to attach: {e}"),
        };
        let (Reply::Attached(attached), Ok(fds)) =
            (Reply::decode(&answer.bytes)?, <[OwnedFd; 4]>::try_from(answer.fds))
        else {
            return Ok(None);
        };
        self.attached += 1;
        self.pages.insert(rustix::fs::fstat(&fds[1])?.st_ino);
        Ok(Some((connection, attached.block_offset, fds)))
    }

    fn hoard(&mut self) -> anyhow::Result<()> {
        let Some((connection, _, [_ring, page, wake, sleep_request])) = self.attach("hoard")?
        else {
            self.count("pages kept", "refused");
            return Ok(());
        };
        let mut word = [1; 8];
        rustix::io::pread(&page, &mut word, 0)?;
        ensure!(word == [0; 8], "a page of an earlier reader is not empty: {word:?}");
        rustix::io::pwrite(&page, &[1; 8], 0)?;
        drop(connection);
        for fd in [page, wake, sleep_request] {
            keep(&mut self.kept, fd, KEPT);
        }
        self.count("pages kept", "attached");
        // The pump still knows it for a moment.
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }

    fn slow_wakes(&mut self) -> anyhow::Result<()> {
        let Some((_connection, offset, [ring, page, wake, sleep_request])) = self.attach("slow")?
        else {
            self.count("slow wakes", "refused");
            return Ok(());
        };
        let page = ReaderPage::attach(&page, offset)?;
        let seen = object::attach(&ring, false)?;
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
        let mut entries = vec![PollFd::new(&wake, PollFlags::IN); ENTRIES.min(most)];
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            page.block().seen_seq.store(seen.memory.write_cursor(), Ordering::Relaxed);
            let _full = event::ring(&sleep_request);
            let brief = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let woken = poll(&mut entries, Some(&brief)).is_ok_and(|n| n > 0);
            let _taken = event::take(&wake);
            self.count("slow wakes", if woken { "woken" } else { "not woken" });
        }
        Ok(())
    }

    /// Lets go of everything.
    pub fn release(&mut self) {
        self.kept.clear();
        self.unread.clear();
        self.silent.clear();
        self.named.clear();
        self.others.clear();
    }

    /// The broker made no more pages than it may: one for each reader that there may be; and twice
    /// as many and two a minute for a range of uids, each of which can cost another user its own.
    pub fn check(&self, took: Duration) -> anyhow::Result<()> {
        let ranges = 2 * READERS_MAX as u64 + took.as_secs() / 30 + 1;
        let most = READERS_MAX as u64 + 2 * ranges;
        let pages = self.pages.len() as u64;
        ensure!(
            pages <= most,
            "the broker made {pages} pages for {} readers of other users: more than {most}",
            self.attached
        );
        Ok(())
    }

    /// What was attacked, and what became of it.
    pub fn figures(&self) -> String {
        if self.choice.is_empty() {
            return "none".into();
        }
        format!(
            "{}; {} pages for {} readers of theirs",
            list(&self.outcomes),
            self.pages.len(),
            self.attached
        )
    }
}

/// Keeps it, and lets go of the oldest if there are too many.
fn keep<T>(all: &mut VecDeque<T>, one: T, most: usize) {
    all.push_back(one);
    if all.len() > most {
        all.pop_front();
    }
}
