//! The streams that are viewed: attaches to each once, and then only reads shared memory.
//!
//! Contract: a sample makes no request; if a broker is busy, stopped or dead, the figures just get
//! older. Only a stream whose broker has closed the connection is looked for again, in the
//! background, because its next broker is another one.

use super::model::{FRESH, Outside, Stream};
use crate::broker_query::{self, Pending};
use crate::process::Process;
use anyhow::anyhow;
use ringweir::view::Viewer;
use ringweir_proto::os::clock;
use ringweir_proto::stats::{ReaderFact, ReaderFigures, Snapshot, StreamFact};
use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often to look for streams that ended or started.
const LOOK_FOR: Duration = Duration::from_secs(1);

/// How long newer figures are waited for: three periods of the broker's sampler.
const NEXT_FIGURES: Duration = Duration::from_millis(300);

struct Viewed {
    viewer: Viewer,
    newest: Snapshot,
    /// The previous snapshot, for rates.
    before: Option<Snapshot>,
    /// Readers that were found dead: process, and when it attached.
    dead: HashSet<(u64, u64)>,
}

impl Viewed {
    fn new(name: &str, viewer: Viewer) -> anyhow::Result<Self> {
        let newest = viewer
            .snapshot()
            .ok_or_else(|| anyhow!("stream {name:?}: its broker shows no figures yet"))?;
        Ok(Self { viewer, newest: addressed(name, newest), before: None, dead: HashSet::new() })
    }

    /// Takes a newer snapshot, if there is one.
    fn update(&mut self, name: &str) {
        if let Some(seen) = self.viewer.snapshot().map(|seen| addressed(name, seen))
            && seen.get(StreamFact::SampledAt) != self.newest.get(StreamFact::SampledAt)
        {
            self.before = Some(std::mem::replace(&mut self.newest, seen));
        }
    }

    /// Whether a reader is dead that was not before.
    fn has_newly_dead(&mut self) -> bool {
        let who = |r: &ReaderFigures| (r.get(ReaderFact::Pid), r.get(ReaderFact::AttachedRealtime));
        let readers: Vec<_> = self.newest.readers.iter().map(who).collect();
        self.dead.retain(|reader| readers.contains(reader));
        let mut newly = false;
        for reader in readers.into_iter().filter(|(pid, _)| Process::look(*pid) == Process::Gone) {
            newly |= self.dead.insert(reader);
        }
        newly
    }

    fn look(&mut self, name: &str) -> Stream {
        // Checked before the figures are read, so that the last figures of a broker that hung up
        // are seen.
        let hung_up = self.viewer.hung_up();
        self.update(name);
        if !hung_up && self.has_newly_dead() {
            // Perhaps the figures are only older than its death: a broker removes a reader that has
            // disconnected at once.
            let (died, began) = (clock::monotonic_ns(), Instant::now());
            let before = self.before.clone();
            while self.newest.get(StreamFact::SampledAt) <= died && began.elapsed() < NEXT_FIGURES {
                std::thread::sleep(Duration::from_millis(10));
                self.update(name);
            }
            self.before = before;
        }
        let now = clock::monotonic_ns();
        let old =
            now.saturating_sub(self.newest.get(StreamFact::SampledAt)) > FRESH.as_nanos() as u64;
        let broker = if old {
            Process::look(self.newest.get(StreamFact::BrokerPid))
        } else {
            Process::Unseen
        };
        // A pid that does not exist here may be one of another pid namespace.
        let broker_pid = self.newest.get(StreamFact::BrokerPid);
        let same_pids =
            LazyCell::new(|| old || hung_up || Process::is_broker(broker_pid, &self.newest.name));
        let process = |pid| match Process::look(pid) {
            Process::Gone if !*same_pids => Process::Unseen,
            seen => seen,
        };
        let outside = Outside { now, hung_up, broker };
        Stream::new(&self.newest, self.before.as_ref(), &outside, process)
    }
}

/// The snapshot under the name that the stream has in the run directory. What its broker calls it
/// is only believed where a path was given: otherwise one broker could show its figures under the
/// name of another.
fn addressed(name: &str, mut snapshot: Snapshot) -> Snapshot {
    if !name.contains('/') {
        snapshot.name = name.into();
    }
    snapshot
}

/// The streams that are viewed.
pub struct Fleet {
    /// The streams that were named; empty: all streams.
    only: Vec<String>,
    viewed: Vec<(String, Viewed)>,
    asked: HashMap<String, Pending<Viewer>>,
    /// Streams that exist and could not be attached to, with the reason.
    silent: BTreeMap<String, String>,
    looked_for: Instant,
}

impl Fleet {
    /// Attaches to the streams named in `only`, or, if it is empty, to all streams that answer;
    /// [`Fleet::problems`] lists the others.
    ///
    /// # Errors
    /// If there is no stream to view.
    pub fn attach(only: &[String]) -> anyhow::Result<Self> {
        let fleet = Self::open(only);
        match (fleet.viewed.is_empty(), fleet.silent.is_empty()) {
            (false, _) => Ok(fleet),
            (true, true) => Err(broker_query::nothing_runs()),
            (true, false) => Err(anyhow!("{}", fleet.problems().join("\n"))),
        }
    }

    /// The same, but it is no error if there is no stream: streams may start later.
    pub fn open(only: &[String]) -> Self {
        let names = names(only);
        let asked: Vec<_> = names.iter().map(|name| Pending::ask(name, Viewer::attach)).collect();
        let mut fleet = Self {
            only: only.to_vec(),
            viewed: Vec::new(),
            asked: HashMap::new(),
            silent: BTreeMap::new(),
            looked_for: Instant::now(),
        };
        for (name, pending) in names.into_iter().zip(asked) {
            let answer = pending.wait();
            fleet.take(name, answer);
        }
        fleet
    }

    /// The names by which the streams of a sample were attached, or the path that was given; in the
    /// sample's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.viewed.iter().map(|(name, _)| name.as_str())
    }

    /// Drops streams that have ended or whose broker is gone, unless their socket still exists.
    pub fn forget_gone(&mut self) {
        let there = ringweir::view::streams();
        let is_there = |name: &str| {
            there.iter().any(|(n, _)| n == name) || (name.contains('/') && Path::new(name).exists())
        };
        self.viewed.retain(|(name, w)| !w.viewer.hung_up() || is_there(name));
    }

    /// Why streams that exist are not viewed.
    pub fn problems(&self) -> Vec<String> {
        self.silent.values().cloned().collect()
    }

    /// Waits until the figures are newer by at least `window`, so that there are rates; for at most
    /// 1.5 times that long.
    pub fn measure(&mut self, window: Duration) {
        let began = Instant::now();
        let window = window.as_nanos() as u64;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let moved = |w: &Viewed| {
                let now = w.viewer.snapshot().map_or(0, |s| s.get(StreamFact::SampledAt));
                now.saturating_sub(w.newest.get(StreamFact::SampledAt)) >= window
                    || w.viewer.hung_up()
            };
            if began.elapsed().as_nanos() as u64 > window * 3 / 2
                || self.viewed.iter().all(|(_, w)| moved(w))
            {
                return;
            }
        }
    }

    /// The current figures of the streams, sorted by name.
    pub fn look(&mut self) -> Vec<Stream> {
        if self.looked_for.elapsed() >= LOOK_FOR {
            self.looked_for = Instant::now();
            self.look_for_more();
        }
        self.take_answers();
        let mut streams: Vec<Stream> =
            self.viewed.iter_mut().map(|(name, w)| w.look(name)).collect();
        // Two streams of different directories may have one name: then their paths are shown.
        let mut times: HashMap<String, u32> = HashMap::new();
        streams.iter().for_each(|s| *times.entry(s.snapshot.name.clone()).or_default() += 1);
        for (stream, (name, _)) in streams.iter_mut().zip(&self.viewed) {
            if times[&stream.snapshot.name] > 1 {
                stream.snapshot.name.clone_from(name);
            }
        }
        streams
    }

    fn look_for_more(&mut self) {
        for name in names(&self.only) {
            let connected = self.viewed.iter().any(|(n, w)| *n == name && !w.viewer.hung_up());
            if !connected && !self.asked.contains_key(&name) {
                self.asked.insert(name.clone(), Pending::ask(&name, Viewer::attach));
            }
        }
    }

    fn take_answers(&mut self) {
        let answers: Vec<_> = self
            .asked
            .iter()
            .filter_map(|(name, pending)| Some((name.clone(), pending.poll()?)))
            .collect();
        for (name, answer) in answers {
            self.asked.remove(&name);
            self.take(name, answer);
        }
    }

    fn take(&mut self, name: String, answer: anyhow::Result<Viewer>) {
        let known = self.viewed.iter_mut().find(|(n, _)| *n == name);
        match (answer.and_then(|viewer| Viewed::new(&name, viewer)), known) {
            (Ok(viewed), Some((_, place))) => *place = viewed,
            (Ok(viewed), None) => {
                self.silent.remove(&name);
                self.viewed.push((name, viewed));
                self.viewed.sort_by(|a, b| a.0.cmp(&b.0));
            }
            // Its last figures are shown, with their age; it is looked for again a second later.
            (Err(_), Some(_)) => {}
            (Err(e), None) => {
                self.silent.insert(name, format!("{:#}", broker_query::with_unreadable(e)));
            }
        }
    }
}

/// The streams that were named, each once, or all streams.
fn names(only: &[String]) -> Vec<String> {
    if only.is_empty() {
        return ringweir::view::streams().into_iter().map(|(name, _)| name).collect();
    }
    let mut names: Vec<String> = Vec::new();
    for name in only {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
