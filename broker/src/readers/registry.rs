//! The registry of one stream's readers: which index belongs to which reader, and which readers
//! sleep.
//!
//! Contract: the control thread attaches and detaches, the waker wakes, both at normal priority
//! under one lock; the pump never takes it. The pump learns of readers through its bounded command
//! queue and holds its own references. The registry keeps a detached entry (`retired`) until the
//! pump has dropped its reference, so the pump never frees, unmaps or closes anything.

use super::commands::CommandSender;
use super::entry::ReaderEntry;
use super::kit::{Kit, Kits};
use super::wake_costs::WakeCosts;
use crate::wake::event::Event;
use crate::wake::slow_wake::{IN_A_ROW, SLOW_WAKE_NS, VERY_SLOW_WAKE_NS};
use ringweir_proto::control::Mode;
use ringweir_proto::layout::DetachedBy;
use ringweir_proto::os::socket::Peer;
use ringweir_proto::os::{OsError, clock, event};
use ringweir_proto::ring::{RingMemory, Sleepers, WakeGate, first_seq};
use ringweir_proto::sync::Ordering;
use rustix::event::epoll;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Everything that control thread and waker share about one stream's readers.
pub struct Readers {
    memory: Arc<RingMemory>,
    gate: Arc<WakeGate>,
    state: Mutex<State>,
    epoll: OwnedFd,
    waker_event: Arc<Event>,
    most: u32,
}

struct State {
    entries: Vec<Option<Arc<ReaderEntry>>>,
    /// Detached entries that the pump may still hold. Their indices are not free yet.
    retired: Vec<Arc<ReaderEntry>>,
    sleepers: Sleepers,
    commands: CommandSender,
    kits: Kits,
    costs: WakeCosts,
    /// Slow readers whose wake is due as soon as their user may have one, oldest first.
    postponed: VecDeque<u32>,
    ever: u64,
    woken: u64,
    lost_by_gone: u64,
}

/// Why a reader cannot attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no index free.
    #[error("all readers that may attach are attached")]
    Full,
    /// Too many users whose uids may be one person's have attached.
    #[error(
        "too many users of a range of uids, which may be one person's, were readers: only one more \
        per half minute may become one"
    )]
    TooManyUsers,
    /// A system call failed.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// The readers at one moment, and totals over all readers so far.
pub struct Census {
    /// Attached now.
    pub entries: Vec<Arc<ReaderEntry>>,
    /// Ever attached.
    pub ever: u64,
    /// Wakes by the waker.
    pub woken: u64,
    /// Datagrams that detached readers reported as lost, each clamped to what was published.
    pub lost_by_gone: u64,
}

impl State {
    /// Closes and unmaps what the pump has dropped.
    fn free_retired(&mut self) {
        // A pump that has ended uses no entry any more; what is left in its queue stays there.
        let pump_over = self.commands.pump_has_ended();
        let (free, used) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(|r| pump_over || Arc::strong_count(r) == 1);
        self.retired = used;
        for entry in free {
            if let Some(entry) = Arc::into_inner(entry)
                && entry.keeps_kit.load(Ordering::Relaxed) == 1
            {
                self.kits.keep(entry.peer.uid, entry.kit);
            }
        }
    }
}

/// Wakes a reader, or postpones that if its wakes are slow. Returns whether it was woken.
fn wake_or_postpone(
    entry: &ReaderEntry,
    costs: &mut WakeCosts,
    postponed: &mut VecDeque<u32>,
) -> bool {
    if entry.is_slow_to_wake() {
        if !postponed.contains(&entry.index) {
            postponed.push_back(entry.index);
        }
        return false;
    }
    // A wake that seems long may only have been interrupted, so the next one is measured in
    // processor time, whose clock costs more.
    let in_a_row = entry.long_wakes.load(Ordering::Relaxed);
    let clock = if in_a_row == 0 { clock::monotonic_ns } else { clock::thread_cpu_ns };
    let before = clock();
    entry.kit.wake.signal();
    let cost = clock() - before;
    if cost < SLOW_WAKE_NS {
        if in_a_row > 0 {
            entry.long_wakes.store(0, Ordering::Relaxed);
        }
        return true;
    }
    entry.long_wakes.store(in_a_row + 1, Ordering::Relaxed);
    if in_a_row >= IN_A_ROW || in_a_row > 0 && cost >= VERY_SLOW_WAKE_NS {
        entry.mark_slow_to_wake();
        if costs.charge(entry.peer.uid, cost, clock::monotonic_ns()) {
            tracing::warn!(
                "{}: a wake takes {} us: the readers of this user are woken last, and only now and \
                then",
                entry.describe(),
                cost / 1000
            );
        }
    }
    true
}

/// Epoll key of the waker's own event; readers have their index.
const WAKER_KEY: u64 = u64::MAX;

/// What the waker waits for.
pub(super) enum WakerEvent {
    /// The pump has signalled the waker's event.
    Pump,
    /// The reader with this index has requested to sleep.
    SleepRequest(u32),
}

impl Readers {
    /// A registry for at most `most` readers; `waker_event` is what the pump signals the waker
    /// with.
    pub fn new(
        memory: Arc<RingMemory>,
        gate: Arc<WakeGate>,
        most: u32,
        commands: CommandSender,
        waker_event: Arc<Event>,
    ) -> Result<Self, OsError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(OsError::at("epoll_create"))?;
        let key = epoll::EventData::new_u64(WAKER_KEY);
        epoll::add(&epoll, waker_event.fd(), key, epoll::EventFlags::IN)
            .map_err(OsError::at("epoll_ctl"))?;
        let state = State {
            entries: (0..most).map(|_| None).collect(),
            retired: Vec::new(),
            sleepers: Sleepers::new(most),
            commands,
            kits: Kits::default(),
            costs: WakeCosts::default(),
            postponed: VecDeque::new(),
            ever: 0,
            woken: 0,
            lost_by_gone: 0,
        };
        Ok(Self { memory, gate, state: Mutex::new(state), epoll, waker_event, most })
    }

    /// How many readers there may be.
    pub fn most(&self) -> u32 {
        self.most
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent whenever the lock is free, also after a panic of another thread.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives a reader an index. `is_limited`: its user may not have more than its share.
    pub fn attach(
        &self,
        peer: Peer,
        is_limited: bool,
        label: String,
        may_sleep: bool,
        mode: Mode,
    ) -> Result<Arc<ReaderEntry>, AttachError> {
        let mut state = self.lock();
        state.free_retired();
        let State { entries, retired, commands, kits, costs, .. } = &mut *state;
        // A stream that lingers has no pump any more: nothing empties the queue, and no command is
        // needed.
        let pump_over = commands.pump_has_ended();
        let free = entries
            .iter()
            .zip(0u32..)
            .find(|(e, i)| e.is_none() && !retired.iter().any(|r| r.index == *i));
        let Some((_, index)) = free else { return Err(AttachError::Full) };
        if !pump_over && commands.is_full() {
            return Err(AttachError::Full);
        }
        let kit = if is_limited {
            let used = entries.iter().flatten().count() + retired.len();
            kits.get(peer.uid, index, used, self.most as usize)?.ok_or(AttachError::TooManyUsers)?
        } else {
            Kit::new(index)?
        };
        let entry = ReaderEntry::new(index, peer, label, may_sleep, mode, (kit, is_limited));
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let key = epoll::EventData::new_u64(index.into());
        if let Err(e) = epoll::add(&self.epoll, entry.kit.sleep_request.fd(), key, edge) {
            if is_limited {
                kits.keep(entry.peer.uid, entry.kit);
            }
            return Err(OsError { what: "epoll_ctl".into(), errno: e }.into());
        }
        if costs.is_known(entry.peer.uid, clock::monotonic_ns()) {
            entry.mark_slow_to_wake();
        }
        let entry = Arc::new(entry);
        if let (true, Mode::Lossless { start }) = (pump_over, mode) {
            // Nothing will be overwritten any more, and there is no pump to grant anything.
            // Release: partner: the Acquire load of `granted` in `gate::granted`.
            let begin = first_seq(&self.memory, start);
            entry.page().block().granted.store(begin + 1, Ordering::Release);
        }
        if !pump_over {
            let pushed = commands.attach(entry.clone());
            debug_assert!(pushed, "room was checked under the lock");
        }
        entries[index as usize] = Some(entry.clone());
        state.ever += 1;
        Ok(entry)
    }

    /// Whether index `index` still belongs to the reader that attached at that moment.
    pub fn holds(&self, index: u32, attached: u64) -> bool {
        let state = self.lock();
        state
            .entries
            .get(index as usize)
            .and_then(Option::as_ref)
            .is_some_and(|e| e.attached == attached)
    }

    /// Writes into the page of reader `index` that `by` detaches it. Its socket is closed after
    /// this.
    pub fn mark_detached(&self, index: u32, by: DetachedBy) {
        if let Some(Some(entry)) = self.lock().entries.get(index as usize) {
            entry.page().block().detached_by.store(by.pack(), Ordering::Relaxed);
            // The reader may continue writing its page until it notices.
            entry.keeps_kit.store(0, Ordering::Relaxed);
        }
    }

    /// Frees the index of a reader, whatever the reader is doing.
    pub fn detach(&self, index: u32) {
        let mut state = self.lock();
        let Some(entry) = state.entries[index as usize].take() else { return };
        // A closed descriptor leaves its epoll sets by itself, but the reader's process may keep
        // this one open.
        let _gone = epoll::delete(&self.epoll, entry.kit.sleep_request.fd());
        self.with_wakes(&mut state, |sleepers, gate, wake| sleepers.remove(gate, index, wake));
        if !state.postponed.is_empty() {
            // Only the waker sees to these, and it may be asleep.
            self.waker_event.signal();
        }
        // The counts of an implausible reader are not used.
        if entry.observed.implausible() == 0 {
            let lost =
                entry.page().block().lost.load(Ordering::Relaxed).min(self.memory.write_cursor());
            state.lost_by_gone = state.lost_by_gone.saturating_add(lost);
        }
        state.retired.push(entry);
        state.commands.detach(index);
    }

    /// Runs `act` on the sleepers and wakes every reader it names.
    fn with_wakes(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut Sleepers, &WakeGate, &mut dyn FnMut(u32)),
    ) {
        let State { entries, sleepers, costs, postponed, woken, .. } = state;
        act(sleepers, &self.gate, &mut |index| {
            if let Some(entry) = &entries[index as usize] {
                *woken += u64::from(wake_or_postpone(entry, costs, postponed));
            }
        });
    }

    /// The readers now.
    pub fn census(&self) -> Census {
        let mut state = self.lock();
        state.free_retired();
        let entries = state.entries.iter().flatten().cloned().collect();
        Census { entries, ever: state.ever, woken: state.woken, lost_by_gone: state.lost_by_gone }
    }

    /// The reader with this index.
    pub fn get(&self, index: u32) -> Option<Arc<ReaderEntry>> {
        self.lock().entries.get(index as usize)?.clone()
    }

    /// How many readers the users have for whom `belongs`.
    pub fn count_of(&self, belongs: impl Fn(u32) -> bool) -> usize {
        self.lock().entries.iter().flatten().filter(|entry| belongs(entry.peer.uid)).count()
    }

    /// How many readers are attached.
    pub fn count(&self) -> usize {
        self.lock().entries.iter().flatten().count()
    }

    /// The waker: waits for its event or for sleep requests, at most for `limit`, and puts what
    /// came into `found`.
    pub(super) fn wait(
        &self,
        events: &mut Vec<epoll::Event>,
        found: &mut Vec<WakerEvent>,
        limit: Option<Duration>,
    ) -> Result<(), rustix::io::Errno> {
        events.clear();
        found.clear();
        let limit = limit.map(event::timespec);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        found.extend(events.iter().map(|event| match event.data.u64() {
            WAKER_KEY => WakerEvent::Pump,
            index => WakerEvent::SleepRequest(index as u32),
        }));
        Ok(())
    }

    /// The waker: the pump saw several sleepers, or one it does not wake itself.
    pub(super) fn wake_sleepers(&self) {
        self.with_wakes(&mut self.lock(), |sleepers, gate, wake| sleepers.settle(gate, wake));
    }

    /// The waker, when nothing else is to do: wakes one slow reader if its user may have a slow
    /// wake now. Returns when to call this again; `None`: no slow reader waits for its wake.
    pub(super) fn wake_postponed(&self) -> Option<Duration> {
        let mut state = self.lock();
        let State { entries, costs, postponed, .. } = &mut *state;
        postponed.retain(|index| entries[*index as usize].is_some());
        let due = |index: &u32| {
            entries[*index as usize].as_ref().map_or(0, |e| costs.not_before(e.peer.uid))
        };
        let (at, first) = postponed.iter().enumerate().min_by_key(|(_, index)| due(index))?;
        let (when, entry) = (due(first), entries[*first as usize].clone()?);
        let pause = Duration::from_nanos(when.saturating_sub(clock::monotonic_ns()));
        if !pause.is_zero() {
            return Some(pause);
        }
        postponed.remove(at);
        drop(state);
        // Without the lock, for which the control thread may be waiting.
        let before = clock::thread_cpu_ns();
        entry.kit.wake.signal();
        let cost = clock::thread_cpu_ns() - before;
        let mut state = self.lock();
        state.costs.charge(entry.peer.uid, cost, clock::monotonic_ns());
        state.woken += 1;
        (!state.postponed.is_empty()).then_some(Duration::ZERO)
    }

    /// The waker: reader `index` wants to sleep. It is entered among the sleepers, or woken at once
    /// if there is something to read.
    pub(super) fn sleep_request(&self, index: u32) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get(index as usize).and_then(Clone::clone) else { return };
        entry.count_sleep_request();
        // A reader that the pump does not count yet must not sleep: it is woken and requests again.
        if !entry.may_sleep || !entry.is_known_to_pump() {
            let State { costs, postponed, .. } = &mut *state;
            wake_or_postpone(&entry, costs, postponed);
            return;
        }
        let block = entry.page().block();
        let (seen, source) =
            (block.seen_seq.load(Ordering::Relaxed), block.seen_source.load(Ordering::Relaxed));
        let memory = &self.memory;
        state.sleepers.set_slow_to_wake(index, entry.is_slow_to_wake());
        let news = || {
            memory.write_cursor() != seen || memory.source_word() != source || memory.has_ended()
        };
        self.with_wakes(&mut state, |sleepers, gate, wake| sleepers.enter(gate, index, news, wake));
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands::{self, CommandReceiver};
    use super::*;
    use ringweir_proto::layout::Geometry;
    use ringweir_proto::ring::WritableRing;
    use std::sync::mpsc;

    fn registry(most: u32) -> (Readers, CommandReceiver) {
        let ring = WritableRing::on_heap(Geometry::new(64, 1 << 16, 1024).unwrap());
        let memory = ring.memory().clone();
        let (commands, receiver) = commands::queue(most, Arc::new(Event::new().unwrap()));
        let event = Arc::new(Event::new().unwrap());
        let gate = Arc::new(WakeGate::default());
        (Readers::new(memory, gate, most, commands, event).unwrap(), receiver)
    }

    fn attach(readers: &Readers) -> Option<Arc<ReaderEntry>> {
        let peer = Peer { pid: 1, uid: 7, gid: 7, groups: Vec::new() };
        match readers.attach(peer, true, "r".into(), true, Mode::Lossy) {
            Err(AttachError::Full) => None,
            other => Some(other.unwrap()),
        }
    }

    #[test]
    fn a_lingering_stream_reuses_its_indices() {
        for ends_after in [0, 3] {
            let (readers, queue) = registry(4);
            let mut queue = Some(queue);
            for i in 0..100 {
                if i == ends_after {
                    queue = None;
                }
                let entry = attach(&readers).unwrap_or_else(|| panic!("no index left after {i}"));
                readers.detach(entry.index);
            }
            assert!(queue.is_none());
            readers.census();
            assert!(readers.lock().retired.is_empty(), "detached readers keep nothing open");
        }
    }

    #[test]
    fn an_index_is_not_reused_while_the_pump_may_know_its_reader() {
        let (readers, mut queue) = registry(1);
        let entry = attach(&readers).unwrap();
        readers.detach(entry.index);
        drop(entry);
        assert!(attach(&readers).is_none());
        while queue.pop().is_ok() {}
        assert!(attach(&readers).is_some());
    }

    /// A slow reader's wake is not lost, whichever thread postpones it: the waker is notified, and
    /// wakes it when its user may have it. Control: another reader is woken at once.
    #[test]
    fn a_postponed_wake_comes() {
        let (readers, _queue) = registry(3);
        let [quick, slow, leaves] = [(); 3].map(|()| attach(&readers).unwrap());
        slow.mark_slow_to_wake();
        for entry in [&quick, &slow, &leaves] {
            entry.set_known_to_pump();
            readers.sleep_request(entry.index);
        }
        let woken = |entry: &ReaderEntry| event::take(&entry.kit.watch).unwrap();
        assert!(![&quick, &slow, &leaves].map(|entry| woken(entry)).contains(&true));
        // The pump publishes, and before the waker settles that, the control thread does.
        assert_eq!(readers.gate.after_commit(), ringweir_proto::ring::Wake::Several);
        readers.detach(leaves.index);
        assert_eq!((woken(&quick), woken(&slow)), (true, false));
        let event = [rustix::event::PollFd::from_borrowed_fd(
            readers.waker_event.fd(),
            rustix::event::PollFlags::IN,
        )];
        let at_once = event::timespec(Duration::ZERO);
        assert_eq!(
            rustix::event::poll(&mut { event }, Some(&at_once)),
            Ok(1),
            "the waker is notified"
        );
        assert_eq!(readers.wake_postponed(), None);
        assert!(woken(&slow));
    }

    /// File status flags belong to the open file, not to the descriptor. So a reader can make its
    /// descriptors blocking, but that must not make the broker block.
    #[test]
    fn nothing_a_reader_does_to_its_descriptors_blocks_the_broker() {
        let (readers, _queue) = registry(1);
        let entry = attach(&readers).unwrap();
        let watch = entry.kit.watch.try_clone().unwrap();
        let sleep_request = rustix::io::dup(entry.kit.sleep_request.fd()).unwrap();
        rustix::fs::fcntl_setfl(&sleep_request, rustix::fs::OFlags::empty()).unwrap();
        rustix::fs::fcntl_setfl(&watch, rustix::fs::OFlags::empty()).unwrap();
        assert!(
            rustix::io::write(&watch, &(u64::MAX - 1).to_ne_bytes()).is_err(),
            "the reader cannot fill the wake event"
        );
        entry.set_known_to_pump();
        let (send, received) = mpsc::channel();
        let same = entry.clone();
        std::thread::spawn(move || {
            // As if the reader had signalled and then taken the signal back.
            readers.sleep_request(0);
            same.kit.wake.signal();
            send.send(()).unwrap();
        });
        received.recv_timeout(Duration::from_secs(10)).expect("blocked");
        assert_eq!(event::take(&watch), Ok(true));
        assert_eq!(event::take(&watch), Ok(false));
        entry.kit.wake.signal();
        assert_eq!(
            event::take(&watch),
            Ok(true),
            "every signal is an edge, though nothing reads the event"
        );
    }
}
