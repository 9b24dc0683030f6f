//! Checks of one running stream: its pump, the memory of its ring, and its readers.
//!
//! Contract: the broker is asked once; everything else comes from /proc and shared memory. Pids
//! come from the kernel and are used for display, not for trust.

use super::finding::{Found, fail, ok, warn};
use crate::broker_query::{self, Pending};
use crate::machine::Machine;
use crate::process::Process;
use anyhow::Context;
use ringweir::view::Viewer;
use ringweir_cli::quantity::{Bytes, Count};
use ringweir_proto::stats::{ReaderFact, Snapshot, StreamFact};
use std::time::{Duration, Instant};

/// What is visible of a stream.
pub(super) struct Seen {
    name: String,
    /// The broker's start message.
    summary: String,
    snapshot: Snapshot,
    pump: Option<Pump>,
    /// Minor and major page faults of the pump, and the time they were counted for.
    faults: Option<(u64, u64, Duration)>,
}

/// The thread that pumps.
struct Pump {
    pid: u64,
    tid: u64,
    policy: u64,
    priority: u64,
    minor: u64,
    major: u64,
}

impl Pump {
    fn find(pid: u64, stream: &str) -> Option<Self> {
        // Names of threads have 15 bytes.
        let name: String = format!("pump:{stream}").chars().take(15).collect();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let tid =
            tasks.filter_map(|t| t.file_name().to_str()?.parse::<u64>().ok()).find(|tid| {
                std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"))
                    .is_ok_and(|c| c.trim_end() == name)
            })?;
        Self::read(pid, tid)
    }

    fn read(pid: u64, tid: u64) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        // After the name, which may hold anything; the first is field 3 of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            tid,
            minor: field(10)?,
            major: field(12)?,
            priority: field(40)?,
            policy: field(41)?,
        })
    }
}

impl Seen {
    /// Observes stream `name`, and its pump for as long as `window`.
    pub fn new(name: &str, window: Duration) -> anyhow::Result<Self> {
        let snapshot = Pending::ask(name, |name| Ok(Viewer::attach(name)?.snapshot()))
            .wait()
            .map_err(broker_query::with_unreadable)?
            .context("its broker shows no figures yet: try again, or use --wait")?;
        let described = Pending::ask(name, ringweir::view::describe)
            .wait()
            .map_err(broker_query::with_unreadable)?;
        let pump = Pump::find(snapshot.get(StreamFact::BrokerPid), &snapshot.name);
        let began = Instant::now();
        let faults = pump.as_ref().and_then(|before| {
            std::thread::sleep(window);
            let after = Pump::read(before.pid, before.tid)?;
            Some((after.minor - before.minor, after.major - before.major, began.elapsed()))
        });
        Ok(Self { name: name.into(), summary: described.summary, snapshot, pump, faults })
    }

    /// Its name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The broker's start message.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Pid of its broker.
    pub fn broker(&self) -> u64 {
        self.snapshot.get(StreamFact::BrokerPid)
    }

    /// Why the pump is not visible.
    fn unseen(&self) -> Found {
        if self.snapshot.get(StreamFact::Ended) == 1 {
            return ok("the stream has ended, and its pump with it");
        }
        let pid = self.snapshot.get(StreamFact::BrokerPid);
        warn(
            format!(
                "the pump is not visible here (broker pid {pid} belongs to another user or \
                container)"
            ),
            format!("sudo ringctl doctor {}", self.name),
        )
    }
}

pub(super) fn class(seen: &Seen, m: &Machine) -> Vec<Found> {
    let Some(pump) = &seen.pump else { return vec![seen.unseen()] };
    vec![match pump.policy {
        1 => ok(format!("the pump (thread {}) runs at FIFO/{}", pump.tid, pump.priority)),
        2 => ok(format!("the pump (thread {}) runs at RR/{}", pump.tid, pump.priority)),
        6 => ok(format!("the pump (thread {}) runs at DEADLINE", pump.tid)),
        _ => warn(
            format!(
                "the pump (thread {}) has no real-time priority: a busy machine delays it",
                pump.tid
            ),
            format!("{}chrt -f -p 60 {}", m.sudo(), pump.tid),
        ),
    }]
}

pub(super) fn faults(seen: &Seen, m: &Machine) -> Vec<Found> {
    let Some((minor, major, span)) = seen.faults else { return vec![seen.unseen()] };
    let seconds = span.as_secs_f64();
    if minor + major == 0 {
        return vec![ok(format!("no page faults of the pump in {seconds:.1} s"))];
    }
    let text = format!(
        "the pump has {:.1} minor and {:.1} major page faults per second, but should have none: \
        its memory is not locked, or is being swapped out",
        minor as f64 / seconds,
        major as f64 / seconds
    );
    vec![warn(
        text,
        format!(
            "{}swapoff -a   # and restart ringd from a shell that may lock memory: ulimit -l \
            unlimited",
            m.sudo()
        ),
    )]
}

/// One mapping of a process in smaps; sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mapping {
    path: String,
    size: u64,
    rss: u64,
    swap: u64,
    locked: bool,
}

impl Mapping {
    /// The ring of `stream` among the mappings of a broker: an object in /dev/shm with its name, or
    /// one of our memfds that is large enough.
    fn of_ring(smaps: &str, stream: &str, capacity: u64) -> Option<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in smaps.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            if !key.ends_with(':') {
                all.push(Self { path: line.into(), ..Self::default() });
                continue;
            }
            let Some(mapping) = all.last_mut() else { continue };
            let bytes = || {
                value.trim().strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
                    << 10
            };
            match key {
                "Size:" => mapping.size = bytes(),
                "Rss:" => mapping.rss = bytes(),
                "Swap:" => mapping.swap = bytes(),
                // Not "Locked:", which is divided among all processes that map it.
                "VmFlags:" => mapping.locked = value.split(' ').any(|f| f == "lo"),
                _ => {}
            }
        }
        all.retain(|m| m.size >= capacity && m.path.contains("ringweir"));
        let named = all.iter().position(|m| m.path.ends_with(&format!(".{stream}"))).unwrap_or(0);
        all.into_iter().nth(named)
    }
}

pub(super) fn resident(seen: &Seen, m: &Machine) -> Vec<Found> {
    let Some(pump) = &seen.pump else { return vec![seen.unseen()] };
    let Ok(smaps) = std::fs::read_to_string(format!("/proc/{}/smaps", pump.pid)) else {
        let text = format!("this user may not see the memory of the broker (pid {})", pump.pid);
        return vec![warn(text, format!("sudo ringctl doctor {}", seen.name))];
    };
    let capacity = seen.snapshot.get(StreamFact::Capacity);
    let Some(Mapping { size, rss, swap, locked, .. }) =
        Mapping::of_ring(&smaps, &seen.snapshot.name, capacity)
    else {
        let text = format!("the ring was not found in the memory of the broker (pid {})", pump.pid);
        return vec![fail(text, format!("ringctl show {}", seen.name))];
    };
    let restart = "ulimit -l unlimited   # then start ringd again from this shell; for a service: \
        LimitMEMLOCK=infinity";
    let mut found = Vec::new();
    if swap > 0 {
        found.push(warn(
            format!("{} of the ring are swapped out", Bytes(swap)),
            format!("{}swapoff -a", m.sudo()),
        ));
    }
    if rss + swap < size {
        found.push(warn(
            format!("only {} of the ring's {} are in memory", Bytes(rss), Bytes(size)),
            restart,
        ));
    }
    if !locked {
        found.push(warn(
            format!("the ring ({}) is not locked: it can be swapped out", Bytes(size)),
            restart,
        ));
    }
    if found.is_empty() {
        found.push(ok(format!("the whole ring, {}, is in memory and locked", Bytes(size))));
    }
    found
}

pub(super) fn readers(seen: &Seen, _: &Machine) -> Vec<Found> {
    let depth = seen.snapshot.get(StreamFact::Depth).max(1);
    let mut found = Vec::new();
    for reader in &seen.snapshot.readers {
        let (lag, pid) = (reader.get(ReaderFact::Lag), reader.get(ReaderFact::Pid));
        let lapped = reader.get(ReaderFact::Lapped) == 1;
        if !lapped && lag < depth / 2 {
            continue;
        }
        let what = if lapped { "is lapped" } else { "is slow" };
        let index = reader.get(ReaderFact::Index);
        let text = format!(
            "reader {} (pid {pid}) {what}: {} datagrams behind, of {} in the ring; it has lost {} \
            so far",
            reader.label,
            Count(lag),
            Count(depth),
            Count(reader.get(ReaderFact::Lost))
        );
        let fix = match Process::look(pid) {
            Process::Stopped(_) => format!("kill -CONT {pid}"),
            _ => {
                format!(
                    "ringctl detach {} index:{index}   # or a larger ring: ringd --depth {}",
                    seen.name,
                    depth * 2
                )
            }
        };
        found.push(warn(text, fix));
    }
    if found.is_empty() {
        found.push(ok(format!(
            "{} readers, none behind by more than half a ring",
            seen.snapshot.readers.len()
        )));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    /// A test cannot cause page faults in another process, so the judgement is tested alone.
    #[test]
    fn page_faults_of_the_pump_are_a_warning() {
        let machine = Machine::new(std::path::Path::new("/"), None, 1, false);
        let seen = |minor, major| Seen {
            name: "daq0".into(),
            summary: String::new(),
            snapshot: Snapshot::new("daq0", "gen:"),
            pump: None,
            faults: Some((minor, major, Duration::from_secs(2))),
        };
        assert_eq!(faults(&seen(0, 0), &machine)[0].0, State::Ok);
        for (minor, major, says) in [(3, 0, "1.5 minor"), (0, 1, "0.5 major")] {
            let (state, text, fix) = &faults(&seen(minor, major), &machine)[0];
            assert!(*state == State::Warn && text.contains(says) && fix.is_some(), "{text}");
        }
        // What is not visible is never called ok.
        assert_eq!(faults(&Seen { faults: None, ..seen(0, 0) }, &machine)[0].0, State::Warn);
    }

    #[test]
    fn the_ring_is_found_among_the_mappings() {
        let one = |path: &str, kb: u64, flags: &str| {
            format!(
                "7f00-7f01 rw-s 00000000 00:19 7    {path}\nSize: {kb} kB\nKernelPageSize: 4 \
                kB\nRss: {kb} kB\n\
                 Swap: 0 kB\nLocked: {} kB\nVmFlags: rd wr sh {flags}\n",
                kb / 2
            )
        };
        let smaps = one("/usr/lib/libc.so", 9000, "mr")
            + &one("/dev/shm/ringweir.0.00c0ffee.other", 900, "lo sd")
            + &one("/dev/shm/ringweir.0.00c0ffee.daq0", 800, "sd lo")
            + &one("/memfd:ringweir-reader (deleted)", 4, "");
        let ring = Mapping::of_ring(&smaps, "daq0", 500 << 10).unwrap();
        assert_eq!((ring.size, ring.rss, ring.locked), (800 << 10, 800 << 10, true));
        assert_eq!(Mapping::of_ring(&smaps, "daq0", 1 << 20), None, "not large enough for a ring");
        let loose =
            Mapping::of_ring(&one("/dev/shm/ringweir.0.00c0ffee.a", 800, "sd"), "a", 1).unwrap();
        assert!(!loose.locked);
    }
}
