//! Starts a stream: lock, ring, socket, source, readers, threads.
//!
//! Contract: everything that can fail fails in [`StreamBuilder::start`], before any reader can
//! attach, and leaves nothing behind but the ring of an earlier broker: that may still have
//! readers, and the next broker adopts it.

use super::listener::Listener;
use super::log::StreamLog;
use super::pump_thread::{PumpThread, SignalEnd};
use super::ring::Ring;
use super::running::Stream;
use crate::intake::for_pump::PumpIntake;
use crate::intake::notice::{self, NoticeReceiver};
use crate::process::fd_store::{FdStore, StoredRing};
use crate::process::passed_sockets::PassedSockets;
use crate::process::privilege;
use crate::process::sandbox::{Needs, Sandbox};
use crate::process::sched::{self, Class};
use crate::pump::core::PumpCore;
use crate::pump::handle::PumpHandle;
use crate::pump::run::Pump;
use crate::pump::shared::SharedCore;
use crate::readers::commands;
use crate::readers::pump_list::PumpReaders;
use crate::readers::registry::Readers;
use crate::readers::waker::Waker;
use crate::setup::access::Access;
use crate::setup::config::StreamConfig;
use crate::setup::plan::Plan;
use crate::source::contract::{OpenFor, Source};
use crate::source::kinds;
use crate::wake::event::Event;
use anyhow::Context;
use ringweir_cli::quantity::Rate;
use ringweir_proto::layout::LatencyBlock;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::lock::StreamLock;
use ringweir_proto::os::object::{RingObject, RingSpec};
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::os::{clock, paths};
use ringweir_proto::ring::WakeGate;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What all streams of this process share when they start.
pub struct Host {
    run_dir: PathBuf,
    sandbox: Sandbox,
    passed: PassedSockets,
    store: FdStore,
    class: Class,
    protects_process: bool,
}

impl Host {
    /// A host that makes its sockets in `run_dir`, with no passed sockets and no store. Pumps get
    /// the class of the calling thread.
    pub fn new(run_dir: PathBuf, sandbox: Sandbox) -> Self {
        let (passed, store) = <(PassedSockets, FdStore)>::default();
        let class = Class::current();
        Self { run_dir, sandbox, passed, store, class, protects_process: true }
    }

    /// The same in somebody else's program: nothing is changed that concerns the whole process.
    pub fn in_program(run_dir: PathBuf) -> Self {
        Self { protects_process: false, ..Self::new(run_dir, Sandbox::Off) }
    }

    /// The same with sockets and a store of the service manager.
    pub fn with_service_manager(mut self, passed: PassedSockets, store: FdStore) -> Self {
        (self.passed, self.store) = (passed, store);
        self
    }

    /// Sets how threads of later streams are confined.
    pub fn set_sandbox(&mut self, sandbox: Sandbox) {
        self.sandbox = sandbox;
    }

    /// Whether streams that start now can start programs.
    pub fn may_start_programs(&self) -> bool {
        !matches!(&self.sandbox, Sandbox::Inherited(confined) if confined.is_asked())
    }

    /// Where the control sockets are.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The class of pump threads.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether rings are stored by the service manager.
    pub fn stores_rings(&self) -> bool {
        self.store.is_open()
    }

    /// Passed sockets that no stream has claimed.
    pub fn unclaimed_sockets(&self) -> Vec<String> {
        self.passed.unclaimed()
    }

    /// Removes stored rings that no stream has claimed, and returns their names.
    pub fn remove_unclaimed_rings(&mut self) -> Vec<String> {
        self.store.remove_unclaimed()
    }
}

/// A stream to be started.
pub struct StreamBuilder<'c, 'h> {
    config: &'c StreamConfig,
    host: &'h mut Host,
}

impl Stream {
    /// A stream with this configuration.
    pub fn builder<'c, 'h>(config: &'c StreamConfig, host: &'h mut Host) -> StreamBuilder<'c, 'h> {
        StreamBuilder { config, host }
    }
}

/// What a stream must know of its source before it starts.
#[derive(Default)]
struct SourceFacts {
    rate: Option<Rate>,
    position: Option<u32>,
    slack: Option<Duration>,
    described: String,
}

impl SourceFacts {
    fn of(source: &dyn Source) -> Self {
        let (rate, position) = (source.rate(), source.position());
        Self { rate, position, slack: source.slack(), described: source.describe() }
    }
}

/// A stream without its pump.
struct Prepared {
    summary: Summary,
    nominal_rate: u64,
    access: Access,
    readers: Arc<Readers>,
    notices: NoticeReceiver,
    slack: Option<Duration>,
    drain_gaps: Arc<LatencyBlock>,
    stats: StatsArea,
    stats_fd: OwnedFd,
    waker: Waker,
    object: RingObject,
    stored: Option<StoredRing>,
    is_adopted: bool,
    listener: Listener,
    lock: StreamLock,
}

impl StreamBuilder<'_, '_> {
    /// Starts the stream with the source that its configuration names. Its threads confine
    /// themselves.
    pub fn start(self) -> anyhow::Result<Stream> {
        self.config.check()?;
        let lock = StreamLock::take(&self.host.run_dir, &self.config.name)?;
        let source = open_source(self.config)?;
        self.start_locked(lock, source)
    }

    /// Starts the stream with this source. Its threads confine themselves.
    pub fn start_with(self, source: Box<dyn Source>) -> anyhow::Result<Stream> {
        self.config.check()?;
        let lock = StreamLock::take(&self.host.run_dir, &self.config.name)?;
        self.start_locked(lock, source)
    }

    fn start_locked(self, lock: StreamLock, mut source: Box<dyn Source>) -> anyhow::Result<Stream> {
        let Self { config, host } = self;
        source.set_socket(&paths::socket_path(&host.run_dir, &config.name))?;
        let (prepared, core) = prepare(config, host, lock, SourceFacts::of(&*source))?;
        let (needs, handle) = (source.needs(), core.handle.clone());
        let (sandbox, class) = (host.sandbox.clone(), host.class);
        let confine = move || {
            class.take();
            (Class::current(), sandbox.enter(&needs))
        };
        let pump = Pump::new(core, source).spin(config.spin);
        let name = thread_name("pump", &config.name);
        let (pump, class, confined) = PumpThread::start(name, pump, handle, config.cpu, confine)?;
        if config.spin
            && let Some(warning) = sched::spin_warning(class)
        {
            tracing::warn!("{}: {warning}", config.name);
        }
        Ok(prepared.stream(config, pump, None, class, &confined.to_string()))
    }

    /// Starts the stream without a source: the caller does the pump's work with the second part,
    /// and then drops the third one.
    pub fn start_pushed(self) -> anyhow::Result<(Stream, Arc<SharedCore>, SignalEnd)> {
        let Self { config, host } = self;
        config.check()?;
        let lock = StreamLock::take(&host.run_dir, &config.name)?;
        let (prepared, core) = prepare(config, host, lock, SourceFacts::default())?;
        let (pump, signal_end) = PumpThread::elsewhere(core.handle.clone())?;
        let core = Arc::new(SharedCore::new(core));
        let pushed = Some(core.clone());
        let stream = prepared.stream(config, pump, pushed, Class::current(), "published in place");
        Ok((stream, core, signal_end))
    }
}

/// Everything that can fail.
fn prepare(
    config: &StreamConfig,
    host: &mut Host,
    lock: StreamLock,
    facts: SourceFacts,
) -> anyhow::Result<(Prepared, PumpCore)> {
    let (name, gid) = (&config.name, config.gid()?);
    let plan = Plan::new(config, facts.rate)?;
    if let Some(advice) = plan.advice() {
        tracing::warn!("{name}: {advice}");
    }
    let mut ring = open_ring(config, &plan, facts.position, &lock, host)?;
    let is_adopted = ring.is_adopted();
    ring.object.stay(is_adopted);
    let (stats, stats_fd) = StatsArea::create(config.readers_max)?;

    let (gate, waker_event) = (Arc::new(WakeGate::default()), Arc::new(Event::new()?));
    let pump_event = Arc::new(Event::new()?);
    let (commands, command_receiver) = commands::queue(config.readers_max, pump_event.clone());
    let memory = ring.object.memory().clone();
    let readers =
        Readers::new(memory, gate.clone(), config.readers_max, commands, waker_event.clone())?;
    let readers = Arc::new(readers);
    let path = paths::socket_path(&host.run_dir, name);
    let listener = match host.passed.claim(name, &path) {
        Some(fd) => Listener::passed(fd, path),
        None => Listener::create(path, config.mode()?, gid)?,
    };

    let summary = Summary::begin(config, &plan, &ring, &facts.described, &listener);
    let (notice_sender, notices) = notice::queue();
    let intake = PumpIntake::new(ring.publisher, notice_sender);
    let drain_gaps = intake.drain_gaps().clone();
    let pump_readers =
        PumpReaders::new(gate, command_receiver, config.readers_max, waker_event.clone());
    let handle = Arc::new(PumpHandle::new(pump_event, config.wait_readers > 0));
    let mut core = PumpCore::new(intake, pump_readers, handle);
    if let Some(budget) = config.lossless {
        core = core.lossless(budget.0, config.readers_max);
    }

    let sandbox = host.sandbox.clone();
    let waker = Waker::start(thread_name("wake", name), &readers, waker_event, move || {
        sched::become_ordinary();
        sandbox.enter(&Needs::default());
    })
    .context("cannot start the waker thread")?;
    for declined in ring.object.declined() {
        tracing::warn!("{name}: --hugepages: {declined}");
    }
    let prepared = Prepared {
        summary,
        nominal_rate: plan.nominal_rate(),
        access: config.access(gid),
        readers,
        notices,
        slack: facts.slack,
        drain_gaps,
        stats,
        stats_fd,
        waker,
        object: ring.object,
        stored: ring.stored,
        is_adopted,
        listener,
        lock,
    };
    Ok((prepared, core))
}

impl Prepared {
    fn stream(
        mut self,
        config: &StreamConfig,
        pump: PumpThread,
        pushed: Option<Arc<SharedCore>>,
        class: Class,
        confinement: &str,
    ) -> Stream {
        self.object.stay(false);
        Stream {
            config: config.clone(),
            summary: self.summary.end(class, confinement),
            nominal_rate: self.nominal_rate,
            access: self.access,
            readers: self.readers,
            log: StreamLog::new(config.name.clone(), self.notices),
            started: clock::realtime_ns(),
            started_at: clock::monotonic_ns(),
            failure: None,
            slack: self.slack,
            drain_gaps: self.drain_gaps,
            stats: self.stats,
            stats_fd: self.stats_fd,
            pump,
            pushed,
            _waker: self.waker,
            object: self.object,
            _stored: self.stored,
            is_adopted: self.is_adopted,
            listener: self.listener,
            lock: self.lock,
        }
    }
}

fn open_source(config: &StreamConfig) -> anyhow::Result<Box<dyn Source>> {
    // The largest datagram does not depend on the rate, which only the source may know.
    let geometry = Plan::new(config, Some(Rate::Bytes(1.0)))?.geometry;
    let max_datagram = geometry.max_datagram() as usize;
    Ok(kinds::open(&config.source, &OpenFor { max_datagram })?)
}

fn open_ring(
    config: &StreamConfig,
    plan: &Plan,
    position: Option<u32>,
    lock: &StreamLock,
    host: &mut Host,
) -> anyhow::Result<Ring> {
    if config.memory == Memory::Memfd && host.protects_process {
        privilege::forbid_inspection()?;
    }
    let stored = config.memory == Memory::Memfd && host.store.is_open();
    let metadata = config.metadata()?;
    let spec = RingSpec {
        name: &config.name,
        geometry: plan.geometry,
        generation: 0,
        metadata: &metadata,
        memory: if stored { Memory::StoredMemfd } else { config.memory },
        huge_pages: config.hugepages,
    };
    let object_name = paths::object_name(&host.run_dir, &config.name);
    Ring::adopt_or_create(&object_name, spec, position, lock, &mut host.store)
}

/// The start message. Class and confinement are added last.
struct Summary {
    before_class: String,
    after_class: String,
    after_confinement: String,
}

impl Summary {
    fn begin(
        config: &StreamConfig,
        plan: &Plan,
        ring: &Ring,
        described: &str,
        listener: &Listener,
    ) -> Self {
        let separator = if described.is_empty() { "" } else { "; " };
        let waits = config.lossless.map_or(String::new(), |budget| {
            format!("; the stream waits for each lossless reader {budget}")
        });
        Self {
            before_class: format!(
                "{} gen {}{}, {plan}, {} in {}{}, sched ",
                config.name,
                ring.generation,
                ring.describe_adoption(),
                config.memory,
                ring.object.pages(),
                ring.describe_storage(),
            ),
            after_class: format!(", {}, prefault ok; ", sched::describe_lock(ring.object.locked())),
            after_confinement: format!(
                "{waits}{separator}{described}; {}",
                listener.path().display()
            ),
        }
    }

    fn end(self, class: Class, confinement: &str) -> String {
        let Self { before_class, after_class, after_confinement } = self;
        format!("{before_class}{class}{after_class}{confinement}{after_confinement}")
    }
}

/// A thread's name; it has at most 15 bytes.
fn thread_name(role: &str, name: &str) -> String {
    format!("{role}:{name}").chars().take(15).collect()
}
