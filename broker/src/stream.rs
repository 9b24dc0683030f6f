//! One stream put together: lock, ring object, socket, source, pump, waker; and taken apart again.
//!
//! Contract: everything that can fail fails in [`Stream::start`], before anybody can attach, and
//! leaves nothing behind. Dropping a stream removes what it made: socket, ring object, lock file.

use crate::access::Access;
use crate::adopt;
use crate::back_pressure::BackPressure;
use crate::config::StreamConfig;
use crate::control::refusals::Refusals;
use crate::intake::Intake;
use crate::notice::{Notice, Notices, RateLimit};
use crate::plan::Plan;
use crate::privilege;
use crate::pump::{Pump, PumpHandle};
use crate::readers::{Event, Readers};
use crate::sandbox::{Confined, Needs, Sandbox};
use crate::sched::{self, Class};
use crate::service::Passed;
use crate::source::{self, OpenFor, SourceError};
use crate::store::{Store, StoredRing};
use anyhow::Context;
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::{self, RingObject, RingSpec};
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::os::{OsError, clock, paths, socket};
use ringweir_proto::ring::{Publisher, WakeGate};
use ringweir_proto::sync::{AtomicU32, Ordering};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What streams are started with.
pub struct Host {
    /// Where their sockets are.
    pub run_dir: PathBuf,
    /// How their threads are shut in.
    pub sandbox: Sandbox,
    /// Sockets that were opened for them.
    pub passed: Passed,
    /// Where their rings outlive this process.
    pub store: Store,
    /// What their pumps are to have.
    pub class: Class,
}

impl Host {
    /// With nothing passed, and the class of the calling thread.
    pub fn new(run_dir: PathBuf, sandbox: Sandbox) -> Self {
        let (passed, store) = <(Passed, Store)>::default();
        Self { run_dir, sandbox, passed, store, class: Class::current() }
    }
}

/// A running stream.
pub struct Stream {
    /// As configured.
    pub config: StreamConfig,
    /// Sizes.
    pub plan: Plan,
    /// One line on what was granted.
    pub summary: String,
    /// Who may attach.
    pub access: Access,
    /// Its readers.
    pub readers: Arc<Readers>,
    /// What the pump has to say.
    pub notices: rtrb::Consumer<Notice>,
    /// How much of it is said.
    pub rate_limit: RateLimit,
    /// When it began, ns since 1970.
    pub started: u64,
    /// Attaches refused.
    pub refused: u64,
    /// Who was refused and why, until it is logged.
    pub refusals: Refusals,
    /// Why its source failed, if it did.
    pub failure: Option<String>,
    /// The ring.
    pub object: RingObject,
    _stored: Option<StoredRing>,
    /// How long its device's FIFO takes to fill up, if it has one.
    pub slack: Option<Duration>,
    /// How long it had been filling when it was drained.
    pub drain_gaps: Arc<LatencyBlock>,
    /// What viewers map.
    pub stats: StatsArea,
    stats_fd: OwnedFd,
    pump: Arc<PumpHandle>,
    pump_ended: Arc<Event>,
    pump_thread: Option<PumpThread>,
    waker: Waker,
    // Dropped last of all, in this order: nobody can connect, then nobody else may begin.
    listener: Socket,
    _lock: StreamLock,
}

struct Waker {
    event: Arc<Event>,
    stop: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts a stream. Its threads shut themselves in.
    pub fn start(config: &StreamConfig, host: &mut Host) -> anyhow::Result<Self> {
        let (run_dir, sandbox, class) = (&host.run_dir.clone(), host.sandbox.clone(), host.class);
        config.check()?;
        let name = &config.name;
        let metadata = config.metadata()?;
        let gid = config.gid()?;
        let lock = StreamLock::take(run_dir, name)?;

        let max_datagram = Plan::new(config, Some(ringweir_cli::quantity::Rate::Bytes(1.0)))?
            .geometry
            .max_datagram();
        let source =
            source::open(&config.source, &OpenFor { max_datagram: max_datagram as usize })?;
        let plan = Plan::new(config, source.rate())?;

        let object_name = paths::object_name(run_dir, name);
        let mut spec = RingSpec {
            name,
            geometry: plan.geometry,
            generation: object::leftover_generation(&object_name)
                .max(lock.last_generation())
                .wrapping_add(1)
                .max(1),
            metadata: &metadata,
            memory: if config.memory == Memory::Memfd && host.store.is_open() {
                Memory::StoredMemfd
            } else {
                config.memory
            },
            huge_pages: config.hugepages,
        };
        if config.memory == Memory::Memfd {
            privilege::forbid_inspection()?;
        }
        let adopted = adopt::adopt(&object_name, &spec, source.position(), &lock, &mut host.store)?;
        let (mut object, publisher, adopted) = match adopted {
            Some((object, publisher, restarted)) => {
                spec.generation = restarted.generation;
                (object, publisher, Some(restarted))
            }
            None => {
                lock.remember(spec.generation)?;
                let object = RingObject::create(&object_name, &spec)?;
                let publisher = Publisher::new(object.memory().clone());
                (object, publisher, None)
            }
        };
        let stored = match spec.memory {
            Memory::StoredMemfd => host.store.keep(name, object.take_for_store())?,
            Memory::Shm | Memory::Memfd => None,
        };
        let (stats, stats_fd) = StatsArea::create(config.readers_max)?;

        let gate = Arc::new(WakeGate::default());
        let waker_event = Arc::new(Event::new()?);
        let pump = Arc::new(PumpHandle::new(Event::new()?, config.wait_readers > 0));
        let pump_ended = Arc::new(Event::new()?);
        let (commands, command_queue) = rtrb::RingBuffer::new(config.readers_max as usize * 4 + 16);
        let memory = object.memory().clone();
        let readers = Arc::new(Readers::new(
            memory.clone(),
            gate.clone(),
            config.readers_max,
            commands,
            &waker_event,
        )?);
        let (notice_queue, notices) = Notices::queue();

        let path = paths::socket_path(run_dir, name);
        let listener = match host.passed.claim(name, &path) {
            Some(fd) => Socket { fd, path, ours: false },
            None => Socket::listen(path, config.mode()?, gid)?,
        };
        let (described, slack, needs) = (source.describe(), source.slack(), source.needs());
        let intake = Intake::new(publisher, notice_queue);
        let drain_gaps = intake.drain_gaps().clone();
        let pumping = Pump::new(
            intake,
            source,
            BackPressure::new(config.lossless, config.readers_max),
            gate,
            command_queue,
            config.readers_max,
            waker_event.clone(),
            pump.clone(),
            config.spin,
        );
        let waker = Waker::start(name, &readers, waker_event, sandbox.clone())?;
        let confine = move || {
            class.take();
            (Class::current(), sandbox.enter(&needs))
        };
        let (pump_thread, class, confined) =
            start_pump(name, pumping, config.cpu, confine, pump_ended.clone())?;
        let waits = config
            .lossless
            .map_or(String::new(), |a| format!("; each lossless reader may hold it back {a}"));
        let summary = format!(
            "{name} gen {}{}, {plan}, {} in {}{}, sched {class}, {}, prefault ok; \
            {confined}{waits}{}{described}; {}",
            spec.generation,
            adopt::words(adopted),
            config.memory,
            object.pages(),
            stored_words(stored.as_ref(), &object),
            sched::lock_words(object.locked()),
            if described.is_empty() { "" } else { "; " },
            listener.path.display(),
        );
        for declined in object.declined() {
            tracing::warn!("{name}: --hugepages: {declined}");
        }
        if config.spin
            && let Some(warning) = sched::spin_warning(class)
        {
            tracing::warn!("{name}: {warning}");
        }
        Ok(Self {
            config: config.clone(),
            plan,
            summary,
            access: config.access(gid),
            readers,
            notices,
            rate_limit: RateLimit::new(Instant::now()),
            started: clock::realtime_ns(),
            refused: 0,
            refusals: Refusals::default(),
            failure: None,
            object,
            _stored: stored,
            slack,
            drain_gaps,
            stats,
            stats_fd,
            pump,
            pump_ended,
            pump_thread: Some(pump_thread),
            waker,
            listener,
            _lock: lock,
        })
    }

    /// Where readers connect.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.fd.as_fd()
    }

    /// Readable once the pump has ended.
    pub fn pump_ended(&self) -> BorrowedFd<'_> {
        self.pump_ended.fd()
    }

    /// What viewers are handed.
    pub fn stats_fd(&self) -> BorrowedFd<'_> {
        self.stats_fd.as_fd()
    }

    /// What the control thread tells the pump through.
    pub fn pump(&self) -> &PumpHandle {
        &self.pump
    }

    /// Waits for the pump, which has ended or was told to, and keeps what it died of.
    pub fn join_pump(&mut self) {
        if let Some(thread) = self.pump_thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => self.failure = Some(e.to_string()),
                Err(_panic) => {
                    self.failure = Some("the pump thread panicked: this is a bug in ringd".into())
                }
            }
        }
    }

    /// Whether the pump has been waited for.
    pub fn has_ended(&self) -> bool {
        self.pump_thread.is_none()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.pump.stop();
        self.join_pump();
        self.waker.stop.store(1, Ordering::Release);
        self.waker.event.ring();
        if let Some(thread) = self.waker.thread.take() {
            // A waker that panicked has said so on stderr; the stream is over either way.
            let _over = thread.join();
        }
    }
}

impl Waker {
    fn start(
        name: &str,
        readers: &Arc<Readers>,
        event: Arc<Event>,
        sandbox: Sandbox,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicU32::new(0));
        let (readers, its_event, its_stop) = (readers.clone(), event.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(thread_name("wake", name)).spawn(move || {
            sched::become_ordinary();
            sandbox.enter(&Needs::default());
            readers.run_waker(&its_event, &its_stop);
        });
        Ok(Self { event, stop, thread: Some(thread.context("cannot start the waker thread")?) })
    }
}

type PumpThread = JoinHandle<Result<(), SourceError>>;

/// Starts the pump; also the class its thread got, and how it was shut in.
fn start_pump(
    name: &str,
    pump: Pump,
    cpu: Option<usize>,
    confine: impl FnOnce() -> (Class, Confined) + Send + 'static,
    ended: Arc<Event>,
) -> anyhow::Result<(PumpThread, Class, Confined)> {
    /// Rings even if the pump panics, so that the control thread always learns of its end.
    struct Ring(Arc<Event>);
    impl Drop for Ring {
        fn drop(&mut self) {
            self.0.ring();
        }
    }
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(thread_name("pump", name))
        .spawn(move || {
            let _ring = Ring(ended);
            let prepared = sched::prepare_pump_thread(cpu).map(|()| confine());
            let go_on = prepared.is_ok();
            // The starter waits for this word, so it can be sent.
            let _received = tell.send(prepared);
            if go_on { pump.run() } else { Ok(()) }
        })
        .context("cannot start the pump thread")?;
    let (class, confined) = told.recv().context("the pump thread died at its start")??;
    Ok((thread, class, confined))
}

/// For the start message, behind the memory.
fn stored_words(stored: Option<&StoredRing>, object: &RingObject) -> String {
    match (stored, object.immutable()) {
        (None, _) => String::new(),
        (Some(_), Ok(())) => " (kept by the service manager)".into(),
        (Some(_), Err(e)) => format!(" (kept by the service manager, not immutable: {e})"),
    }
}

/// Thread names have 15 bytes.
fn thread_name(role: &str, name: &str) -> String {
    format!("{role}:{name}").chars().take(15).collect()
}

/// The control socket; removed when dropped.
struct Socket {
    fd: OwnedFd,
    path: PathBuf,
    /// Made here; else it stays when we go.
    ours: bool,
}

impl Socket {
    fn listen(path: PathBuf, mode: u32, gid: Option<u32>) -> anyhow::Result<Self> {
        // The stream's lock is held: a socket that is still there belongs to a broker that died.
        match rustix::fs::lstat(&path) {
            Ok(stat)
                if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::Socket =>
            {
                rustix::fs::unlink(&path)
                    .map_err(OsError::at(format_args!("cannot remove stale {}", path.display())))?;
            }
            Ok(_) => {
                anyhow::bail!("{} is in the way and is not a socket: remove it", path.display())
            }
            Err(_) => {}
        }
        let fd = socket::listen(&path, mode, gid).inspect_err(|_| {
            // Bound but not usable: leave nothing behind.
            let _gone = rustix::fs::unlink(&path);
        })?;
        Ok(Self { fd, path, ours: true })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.ours {
            let _gone = rustix::fs::unlink(&self.path);
        }
    }
}
