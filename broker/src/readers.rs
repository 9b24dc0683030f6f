//! The readers of one stream: who has which place, and who sleeps.
//!
//! Contract: the control thread attaches and detaches, the waker wakes, both at normal priority
//! under one lock; the pump never takes it. The pump learns of readers through its bounded queue
//! and holds its own references, which the control thread outlives (`retired`), so that the pump
//! never frees, unmaps or closes anything.

use crate::pump::{Command, PumpHandle};
use crate::sampler::Remembered;
use eventfd::{EfdFlags, EventFD};
use ringweir_proto::control::Mode;
use ringweir_proto::layout::DetachedBy;
use ringweir_proto::os::OsError;
use ringweir_proto::os::page::ReaderPage;
use ringweir_proto::os::socket::Peer;
use ringweir_proto::ring::{Resume, RingMemory, RingReader, Sleepers, WakeGate};
use ringweir_proto::sync::{AtomicU32, AtomicU64, Ordering};
use rustix::event::epoll;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// An eventfd of the broker. Never cloned: `EventFD::clone` loses close-on-exec.
pub struct Event(EventFD);

impl Event {
    /// A fresh one, non-blocking, close-on-exec.
    pub fn new() -> Result<Self, OsError> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let made = EventFD::new(0, flags)
            .map_err(OsError::io("eventfd (raise the limit of open files: ulimit -n)"))?;
        Ok(Self(made))
    }

    /// Rings. A full counter is as good as a ring, and nothing else can fail on an eventfd we own.
    pub fn ring(&self) {
        let _full = self.0.write(1);
    }

    /// Takes all rings so far.
    pub fn drain(&self) {
        let _none = self.0.read();
    }

    /// For poll, and for handing over.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as self, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// One attached reader.
pub struct ReaderEntry {
    /// Its place.
    pub index: u32,
    /// Who it is.
    pub peer: Peer,
    /// What it calls itself, cleaned.
    pub label: String,
    /// When it attached, ns since 1970.
    pub attached: u64,
    /// Its page.
    pub page: ReaderPage,
    /// Rung by the broker. Never handed out: a holder could make it blocking and full, and so stop
    /// the pump in its write. The reader gets an epoll fd that watches it, edge-triggered, so that
    /// nobody ever needs to read it.
    pub wake: Event,
    /// Rung by the reader, which may do anything to it: so it is watched, edge-triggered, and never
    /// read or written here.
    pub sleep_request: Event,
    /// Whether it may sleep.
    pub parks: bool,
    /// How it asked to be attached.
    pub mode: Mode,
    /// 1 while the stream waits for it. This and the next two are the pump's to say.
    pub lossless: AtomicU32,
    /// For how long it has held the stream back, ns.
    pub held_ns: AtomicU64,
    /// When it was demoted, ns since 1970; 0 = never.
    pub demoted_at: AtomicU64,
    /// The sampler's own.
    pub remembered: Remembered,
    /// 1 once the pump counts it among those that may sleep.
    known_to_pump: AtomicU32,
    /// How often the waker heard its sleep request.
    sleep_requests: AtomicU64,
    /// 1 once waking it was found to take the pump long.
    slow_to_wake: AtomicU32,
}

impl ReaderEntry {
    /// The pump: from now on every commit fences and looks at the gate.
    pub fn now_known(&self) {
        // P5: partner: the waker's load. All commits after this look at the gate; all before it are
        // visible to who sees it.
        self.known_to_pump.store(1, Ordering::Release);
    }

    /// The pump: waking it takes too long, so the waker is to do it. A reader may hang its wake fd
    /// into hundreds of epoll sets, all of which whoever wakes it walks.
    pub fn mark_slow_to_wake(&self) {
        self.slow_to_wake.store(1, Ordering::Relaxed);
    }

    /// Whether that was found.
    pub fn is_slow_to_wake(&self) -> bool {
        self.slow_to_wake.load(Ordering::Relaxed) != 0
    }

    /// How often it said that it goes to sleep.
    pub fn sleep_requests(&self) -> u64 {
        self.sleep_requests.load(Ordering::Relaxed)
    }
}

/// What only the reader gets of its place.
pub struct Handover {
    /// Its page.
    pub page: OwnedFd,
    /// Readable when its wake bell has been rung: an epoll fd.
    pub wake: OwnedFd,
}

/// Everything that control thread and waker share about one stream's readers.
pub struct Readers {
    memory: Arc<RingMemory>,
    gate: Arc<WakeGate>,
    state: Mutex<State>,
    epoll: OwnedFd,
    most: u32,
}

struct State {
    entries: Vec<Option<Arc<ReaderEntry>>>,
    /// Detached, but the pump may still hold them; their places are not free yet.
    retired: Vec<Arc<ReaderEntry>>,
    sleepers: Sleepers,
    commands: rtrb::Producer<Command>,
    ever: u64,
    woken: u64,
    lost_by_gone: u64,
}

/// The readers of one moment, and what adds up over all there ever were.
pub struct Census {
    /// Attached now.
    pub entries: Vec<Arc<ReaderEntry>>,
    /// Ever attached.
    pub ever: u64,
    /// Woken by the waker.
    pub woken: u64,
    /// Datagrams that those who are gone said they were lapped over, each clamped to what was
    /// published.
    pub lost_by_gone: u64,
}

impl State {
    /// Closes and unmaps what the pump has let go of.
    fn free_retired(&mut self) {
        // A pump that has ended uses nobody's bell any more; what is left in its queue stays there.
        let pump_over = self.commands.is_abandoned();
        self.retired.retain(|r| !pump_over && Arc::strong_count(r) > 1);
    }
}

/// Key of the waker's own bell in its epoll set; readers have their index.
const EVENT_KEY: u64 = u64::MAX;

impl Readers {
    /// Places for `most` readers.
    pub fn new(
        memory: Arc<RingMemory>,
        gate: Arc<WakeGate>,
        most: u32,
        commands: rtrb::Producer<Command>,
        event: &Event,
    ) -> Result<Self, OsError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        epoll::add(&epoll, event.fd(), epoll::EventData::new_u64(EVENT_KEY), epoll::EventFlags::IN)
            .map_err(OsError::at("epoll_ctl"))?;
        let state = State {
            entries: (0..most).map(|_| None).collect(),
            retired: Vec::new(),
            sleepers: Sleepers::new(most),
            commands,
            ever: 0,
            woken: 0,
            lost_by_gone: 0,
        };
        Ok(Self { memory, gate, state: Mutex::new(state), epoll, most })
    }

    /// Places there are.
    pub fn most(&self) -> u32 {
        self.most
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic in another thread does not make a list of readers wrong.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives a reader a place; `None` if there is none.
    pub fn attach(
        &self,
        peer: Peer,
        label: String,
        parks: bool,
        mode: Mode,
        pump: &PumpHandle,
    ) -> Result<Option<(Arc<ReaderEntry>, Handover)>, OsError> {
        let mut state = self.lock();
        state.free_retired();
        let State { entries, retired, commands, .. } = &mut *state;
        // A stream that lingers has no pump any more: nobody would empty the queue, and nobody has
        // to know.
        let pump_over = commands.is_abandoned();
        let free = entries
            .iter()
            .zip(0u32..)
            .find(|(e, i)| e.is_none() && !retired.iter().any(|r| r.index == *i));
        let Some((_, index)) = free else { return Ok(None) };
        if !pump_over && commands.is_full() {
            return Ok(None);
        }
        let (page, page_fd) = ReaderPage::create(index)?;
        let entry = Arc::new(ReaderEntry {
            index,
            peer,
            label,
            attached: ringweir_proto::os::clock::realtime_ns(),
            page,
            wake: Event::new()?,
            sleep_request: Event::new()?,
            parks,
            mode,
            lossless: AtomicU32::new(0),
            held_ns: AtomicU64::new(0),
            demoted_at: AtomicU64::new(0),
            remembered: Remembered::default(),
            known_to_pump: AtomicU32::new(0),
            sleep_requests: AtomicU64::new(0),
            slow_to_wake: AtomicU32::new(0),
        });
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let wake =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        epoll::add(&wake, entry.wake.fd(), epoll::EventData::new_u64(0), edge)
            .map_err(OsError::at("epoll_ctl"))?;
        let key = epoll::EventData::new_u64(index.into());
        epoll::add(&self.epoll, entry.sleep_request.fd(), key, edge)
            .map_err(OsError::at("epoll_ctl"))?;
        if let (true, Mode::Lossless { start }) = (pump_over, mode) {
            // Nothing will be overwritten any more, and there is nobody to grant anything.
            let begin = RingReader::new(self.memory.clone(), start, Resume::Oldest).read_cursor();
            entry.page.block().granted.store(begin + 1, Ordering::Release);
        }
        if !pump_over {
            let pushed = commands.push(Command::Attach(entry.clone()));
            debug_assert!(pushed.is_ok(), "room was checked under the lock");
        }
        entries[index as usize] = Some(entry.clone());
        state.ever += 1;
        pump.kick();
        Ok(Some((entry, Handover { page: page_fd, wake })))
    }

    /// Whether the reader that attached to place `index` at that moment still has it.
    pub fn holds(&self, index: u32, attached: u64) -> bool {
        let state = self.lock();
        state
            .entries
            .get(index as usize)
            .and_then(Option::as_ref)
            .is_some_and(|e| e.attached == attached)
    }

    /// Tells reader `index` in its page that `by` takes its place back; its socket is to be hung up
    /// after this.
    pub fn tell_detached(&self, index: u32, by: DetachedBy) {
        if let Some(Some(entry)) = self.lock().entries.get(index as usize) {
            entry.page.block().detached_by.store(by.pack(), Ordering::Relaxed);
        }
    }

    /// Takes the place of reader `index` back, whatever the reader was doing.
    pub fn detach(&self, index: u32, pump: &PumpHandle) {
        let mut state = self.lock();
        let Some(entry) = state.entries[index as usize].take() else { return };
        // An fd that is closed leaves an epoll set by itself, but this one may live on in the
        // reader's process.
        let _gone = epoll::delete(&self.epoll, entry.sleep_request.fd());
        self.with_wakes(&mut state, |sleepers, gate, wake| sleepers.remove(gate, index, wake));
        // Of one whose word is worth nothing nobody knows what it lost.
        if entry.remembered.implausible() == 0 {
            let lost =
                entry.page.block().lost.load(Ordering::Relaxed).min(self.memory.write_cursor());
            state.lost_by_gone = state.lost_by_gone.saturating_add(lost);
        }
        state.retired.push(entry);
        let mut command = Command::Detach(index);
        // The pump empties its queue each round. One that has ended holds no readers any more.
        while !state.commands.is_abandoned()
            && let Err(rtrb::PushError::Full(back)) = state.commands.push(command)
        {
            command = back;
            pump.kick();
            std::thread::yield_now();
        }
        pump.kick();
    }

    /// Runs `act` on the sleepers and rings for everyone it names.
    fn with_wakes(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut Sleepers, &WakeGate, &mut dyn FnMut(u32)),
    ) {
        let State { entries, sleepers, woken, .. } = state;
        act(sleepers, &self.gate, &mut |index| {
            if let Some(entry) = &entries[index as usize] {
                entry.wake.ring();
                *woken += 1;
            }
        });
    }

    /// Who is there.
    pub fn census(&self) -> Census {
        let mut state = self.lock();
        state.free_retired();
        let entries = state.entries.iter().flatten().cloned().collect();
        Census { entries, ever: state.ever, woken: state.woken, lost_by_gone: state.lost_by_gone }
    }

    /// The reader in a place.
    pub fn get(&self, index: u32) -> Option<Arc<ReaderEntry>> {
        self.lock().entries.get(index as usize)?.clone()
    }

    /// Readers of one user attached now.
    pub fn count_of(&self, uid: u32) -> usize {
        self.lock().entries.iter().flatten().filter(|entry| entry.peer.uid == uid).count()
    }

    /// Readers attached now.
    pub fn count(&self) -> usize {
        self.lock().entries.iter().flatten().count()
    }

    /// The waker thread: enters dozing readers, and wakes sleepers when the pump rings. Returns
    /// when `stop` is set and the bell rings.
    pub fn run_waker(&self, event: &Event, stop: &AtomicU32) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        while stop.load(Ordering::Acquire) == 0 {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    tracing::error!("waker: epoll_wait: {e}");
                    return;
                }
            }
            let mut state = self.lock();
            for ready in &events {
                match ready.data.u64() {
                    EVENT_KEY => {
                        event.drain();
                        self.with_wakes(&mut state, |sleepers, gate, wake| {
                            sleepers.settle(gate, wake)
                        });
                    }
                    index => self.sleep_requests(&mut state, index as u32),
                }
            }
        }
    }

    fn sleep_requests(&self, state: &mut State, index: u32) {
        let Some(entry) = state.entries.get(index as usize).and_then(Clone::clone) else { return };
        entry.sleep_requests.fetch_add(1, Ordering::Relaxed);
        // P5: partner: `now_known`. A reader the pump does not count yet must not sleep: it is
        // woken and sleep requests again.
        if !entry.parks || entry.known_to_pump.load(Ordering::Acquire) == 0 {
            entry.wake.ring();
            return;
        }
        let block = entry.page.block();
        let (seen, source) =
            (block.seen_seq.load(Ordering::Relaxed), block.seen_source.load(Ordering::Relaxed));
        let memory = &self.memory;
        state.sleepers.set_slow_to_wake(index, entry.is_slow_to_wake());
        let news = || {
            memory.write_cursor() != seen || memory.source_word() != source || memory.has_ended()
        };
        self.with_wakes(state, |sleepers, gate, wake| sleepers.enter(gate, index, news, wake));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_proto::layout::Geometry;
    use ringweir_proto::os::event;
    use std::sync::mpsc;
    use std::time::Duration;

    fn some(most: u32) -> (Readers, rtrb::Consumer<Command>, PumpHandle) {
        let memory = Arc::new(RingMemory::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap()));
        let (commands, queue) = rtrb::RingBuffer::new(most as usize * 4 + 16);
        let event = Event::new().unwrap();
        let readers =
            Readers::new(memory, Arc::new(WakeGate::default()), most, commands, &event).unwrap();
        (readers, queue, PumpHandle::new(Event::new().unwrap(), false))
    }

    fn attach(readers: &Readers, pump: &PumpHandle) -> Option<(Arc<ReaderEntry>, Handover)> {
        let peer = Peer { pid: 1, uid: 0, gid: 0, groups: Vec::new() };
        readers.attach(peer, "r".into(), true, Mode::Lossy, pump).unwrap()
    }

    #[test]
    fn a_stream_that_lingers_gives_its_places_again_and_again() {
        for ends_after in [0, 3] {
            let (readers, queue, pump) = some(4);
            let mut queue = Some(queue);
            for i in 0..100 {
                if i == ends_after {
                    queue = None;
                }
                let (entry, _) =
                    attach(&readers, &pump).unwrap_or_else(|| panic!("no place left after {i}"));
                readers.detach(entry.index, &pump);
            }
            assert!(queue.is_none());
            readers.census();
            assert!(readers.lock().retired.is_empty(), "detached readers keep nothing open");
        }
    }

    #[test]
    fn a_place_is_not_given_again_while_the_pump_may_know_its_reader() {
        let (readers, mut queue, pump) = some(1);
        let (entry, _) = attach(&readers, &pump).unwrap();
        readers.detach(entry.index, &pump);
        drop(entry);
        assert!(attach(&readers, &pump).is_none());
        while queue.pop().is_ok() {}
        assert!(attach(&readers, &pump).is_some());
    }

    /// Flags belong to the open file, not to the descriptor: a reader that makes what it was handed
    /// blocking must not be able to stop whoever rings or listens.
    #[test]
    fn nothing_a_reader_does_to_its_fds_blocks_the_broker() {
        let (readers, _queue, pump) = some(1);
        let (entry, theirs) = attach(&readers, &pump).unwrap();
        let sleep_request = rustix::io::dup(entry.sleep_request.fd()).unwrap();
        rustix::fs::fcntl_setfl(&sleep_request, rustix::fs::OFlags::empty()).unwrap();
        rustix::fs::fcntl_setfl(&theirs.wake, rustix::fs::OFlags::empty()).unwrap();
        assert!(
            rustix::io::write(&theirs.wake, &(u64::MAX - 1).to_ne_bytes()).is_err(),
            "the wake bell cannot be filled"
        );
        entry.now_known();
        let (tell, told) = mpsc::channel();
        let rings = entry.clone();
        std::thread::spawn(move || {
            // As if the reader had rung and then taken its ring back.
            readers.sleep_requests(&mut readers.lock(), 0);
            rings.wake.ring();
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(10)).expect("blocked");
        assert_eq!(event::take(&theirs.wake), Ok(true));
        assert_eq!(event::take(&theirs.wake), Ok(false));
        entry.wake.ring();
        assert_eq!(
            event::take(&theirs.wake),
            Ok(true),
            "every ring is an edge, though nobody reads the bell"
        );
    }
}
