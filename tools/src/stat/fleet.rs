//! The streams that are watched: attaching to each once, and looking at shared memory from then on.
//!
//! Contract: a look makes no request; a broker that is busy, stopped or dead changes nothing but
//! the age of the figures. Only a stream whose broker has hung up is asked for again, in the
//! background, since that is another broker.

use super::model::{FRESH, Outside, Stream};
use crate::broker_query::{self, Pending};
use crate::process::Process;
use anyhow::anyhow;
use ringweir::view::Viewer;
use ringweir_proto::os::clock;
use ringweir_proto::stats::{Snapshot, StreamFact};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often streams that went, or came, are looked for.
const LOOK_FOR: Duration = Duration::from_secs(1);

struct Watched {
    watch: Viewer,
    newest: Snapshot,
    /// The one before, for rates.
    before: Option<Snapshot>,
}

impl Watched {
    fn new(name: &str, watch: Viewer) -> anyhow::Result<Self> {
        let newest = watch
            .snapshot()
            .ok_or_else(|| anyhow!("stream {name:?}: its broker shows no figures yet"))?;
        Ok(Self { watch, newest, before: None })
    }

    fn look(&mut self) -> Stream {
        // Before the figures: what is written before a hang-up is then seen with it.
        let hung_up = self.watch.hung_up();
        if let Some(seen) = self.watch.snapshot()
            && seen.get(StreamFact::SampledAt) != self.newest.get(StreamFact::SampledAt)
        {
            self.before = Some(std::mem::replace(&mut self.newest, seen));
        }
        let now = clock::monotonic_ns();
        let old =
            now.saturating_sub(self.newest.get(StreamFact::SampledAt)) > FRESH.as_nanos() as u64;
        let broker = if old {
            Process::look(self.newest.get(StreamFact::BrokerPid))
        } else {
            Process::Unseen
        };
        Stream::new(
            &self.newest,
            self.before.as_ref(),
            &Outside { now, hung_up, broker },
            Process::look,
        )
    }
}

/// Streams that are watched.
pub struct Fleet {
    /// The one that was asked for; `None`: all there are.
    only: Option<String>,
    watched: Vec<(String, Watched)>,
    asked: HashMap<String, Pending<Viewer>>,
    /// Streams that are there and could not be attached to, with the reason.
    silent: BTreeMap<String, String>,
    looked_for: Instant,
}

impl Fleet {
    /// Attaches to `only`, or to all streams that answer; [`Fleet::problems`] tells of those that
    /// do not.
    ///
    /// # Errors
    /// If there is nothing to watch.
    pub fn attach(only: Option<&str>) -> anyhow::Result<Self> {
        let fleet = Self::open(only);
        match (fleet.watched.is_empty(), fleet.silent.is_empty()) {
            (false, _) => Ok(fleet),
            (true, true) => Err(broker_query::nothing_runs()),
            (true, false) => Err(anyhow!("{}", fleet.problems().join("\n"))),
        }
    }

    /// The same, content with nothing: streams may come later.
    pub fn open(only: Option<&str>) -> Self {
        let names = names(only);
        let asked: Vec<_> = names.iter().map(|name| Pending::ask(name, Viewer::attach)).collect();
        let mut fleet = Self {
            only: only.map(Into::into),
            watched: Vec::new(),
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

    /// What the streams of a look are attached to by, in its order: names, or the path that was
    /// asked for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.watched.iter().map(|(name, _)| name.as_str())
    }

    /// Lets go of streams that have ended or whose broker is gone, unless their socket is still
    /// there.
    pub fn forget_gone(&mut self) {
        let there = ringweir::view::streams();
        let is_there = |name: &str| {
            there.iter().any(|(n, _)| n == name) || (name.contains('/') && Path::new(name).exists())
        };
        self.watched.retain(|(name, w)| !w.watch.hung_up() || is_there(name));
    }

    /// Why streams that are there are not watched.
    pub fn problems(&self) -> Vec<String> {
        self.silent.values().cloned().collect()
    }

    /// Waits for figures that are newer by `window` at least, so that there are rates; half as long
    /// again at most.
    pub fn measure(&mut self, window: Duration) {
        let began = Instant::now();
        let window = window.as_nanos() as u64;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let moved = |w: &Watched| {
                let now = w.watch.snapshot().map_or(0, |s| s.get(StreamFact::SampledAt));
                now.saturating_sub(w.newest.get(StreamFact::SampledAt)) >= window
                    || w.watch.hung_up()
            };
            if began.elapsed().as_nanos() as u64 > window * 3 / 2
                || self.watched.iter().all(|(_, w)| moved(w))
            {
                return;
            }
        }
    }

    /// How they are now, by name.
    pub fn look(&mut self) -> Vec<Stream> {
        if self.looked_for.elapsed() >= LOOK_FOR {
            self.looked_for = Instant::now();
            self.look_for_more();
        }
        self.take_answers();
        self.watched.iter_mut().map(|(_, w)| w.look()).collect()
    }

    fn look_for_more(&mut self) {
        for name in names(self.only.as_deref()) {
            let generations = self.watched.iter().any(|(n, w)| *n == name && !w.watch.hung_up());
            if !generations && !self.asked.contains_key(&name) {
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
        let known = self.watched.iter_mut().find(|(n, _)| *n == name);
        match (answer.and_then(|watch| Watched::new(&name, watch)), known) {
            (Ok(watched), Some((_, place))) => *place = watched,
            (Ok(watched), None) => {
                self.silent.remove(&name);
                self.watched.push((name, watched));
                self.watched.sort_by(|a, b| a.0.cmp(&b.0));
            }
            // Its last figures are shown and say it; it is asked for again a second later.
            (Err(_), Some(_)) => {}
            (Err(e), None) => {
                self.silent.insert(name, format!("{:#}", broker_query::with_unreadable(e)));
            }
        }
    }
}

/// The one that was asked for, or all there are.
fn names(only: Option<&str>) -> Vec<String> {
    match only {
        Some(name) => vec![name.into()],
        None => ringweir::view::streams().into_iter().map(|(name, _)| name).collect(),
    }
}
