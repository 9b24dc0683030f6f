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
use ringweir_proto::stats::{Snapshot, StreamFact};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often to look for streams that ended or started.
const LOOK_FOR: Duration = Duration::from_secs(1);

struct Viewed {
    viewer: Viewer,
    newest: Snapshot,
    /// The previous snapshot, for rates.
    before: Option<Snapshot>,
}

impl Viewed {
    fn new(name: &str, viewer: Viewer) -> anyhow::Result<Self> {
        let newest = viewer
            .snapshot()
            .ok_or_else(|| anyhow!("stream {name:?}: its broker shows no figures yet"))?;
        Ok(Self { viewer, newest, before: None })
    }

    fn look(&mut self) -> Stream {
        // Checked before the figures are read, so that the last figures of a broker that hung up
        // are seen.
        let hung_up = self.viewer.hung_up();
        if let Some(seen) = self.viewer.snapshot()
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

/// The streams that are viewed.
pub struct Fleet {
    /// The stream that was named; `None`: all streams.
    only: Option<String>,
    viewed: Vec<(String, Viewed)>,
    asked: HashMap<String, Pending<Viewer>>,
    /// Streams that exist and could not be attached to, with the reason.
    silent: BTreeMap<String, String>,
    looked_for: Instant,
}

impl Fleet {
    /// Attaches to `only`, or to all streams that answer; [`Fleet::problems`] lists the others.
    ///
    /// # Errors
    /// If there is no stream to view.
    pub fn attach(only: Option<&str>) -> anyhow::Result<Self> {
        let fleet = Self::open(only);
        match (fleet.viewed.is_empty(), fleet.silent.is_empty()) {
            (false, _) => Ok(fleet),
            (true, true) => Err(broker_query::nothing_runs()),
            (true, false) => Err(anyhow!("{}", fleet.problems().join("\n"))),
        }
    }

    /// The same, but it is no error if there is no stream: streams may start later.
    pub fn open(only: Option<&str>) -> Self {
        let names = names(only);
        let asked: Vec<_> = names.iter().map(|name| Pending::ask(name, Viewer::attach)).collect();
        let mut fleet = Self {
            only: only.map(Into::into),
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
        self.viewed.iter_mut().map(|(_, w)| w.look()).collect()
    }

    fn look_for_more(&mut self) {
        for name in names(self.only.as_deref()) {
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

/// The stream that was named, or all streams.
fn names(only: Option<&str>) -> Vec<String> {
    match only {
        Some(name) => vec![name.into()],
        None => ringweir::view::streams().into_iter().map(|(name, _)| name).collect(),
    }
}
