//! Who has which device open.
//!
//! Contract: found by what the system tells about open files, never by opening the device: an
//! exclusive node that is opened for a look is taken from a broker that starts at this moment, and
//! a driver may do something when it is closed.

use super::node::Verdict;
use super::row::{Holder, State};
use crate::broker_query::Pending;
use crate::machine::Machine;
use ringweir::view::Viewer;
use ringweir_proto::stats::{Snapshot, StreamFact};
use rustix::fs::{AtFlags, CWD, Dev, FileType, StatxFlags, makedev, statx};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// Character devices that processes have open.
pub(super) struct Open {
    by: BTreeMap<Dev, Vec<Holder>>,
    /// Whether all processes let themselves be looked into.
    pub all_seen: bool,
}

/// What a broker says it drains.
pub(super) struct Claim {
    source: String,
    holder: Holder,
}

impl Open {
    pub fn scan(m: &Machine) -> Self {
        let pids = m.names("/proc").into_iter().filter_map(|name| name.parse::<u64>().ok());
        // Under hidepid= other users' processes do not show at all: then not even the first does.
        let mut open = Self { by: BTreeMap::new(), all_seen: m.exists("/proc/1") };
        for pid in pids {
            let dir = format!("/proc/{pid}/fd");
            match std::fs::read_dir(m.at(&dir)) {
                Ok(files) => {
                    for device in files.flatten().filter_map(|file| device_of(&file.path())) {
                        open.add(m, device, pid);
                    }
                }
                Err(e) => open.all_seen &= e.kind() != ErrorKind::PermissionDenied,
            }
        }
        open
    }

    fn add(&mut self, m: &Machine, device: Dev, pid: u64) {
        let holders = self.by.entry(device).or_default();
        if holders.iter().all(|h| h.pid != pid) {
            let command = m.text(&format!("/proc/{pid}/comm")).unwrap_or_else(|| "?".into());
            holders.push(Holder { pid, command, stream: None });
        }
    }

    /// Who has `device` open, with the streams that `claims` name for `source`.
    pub fn holders(&self, device: Dev, source: &str, claims: &[Claim]) -> Vec<Holder> {
        let mut holders = self.by.get(&device).cloned().unwrap_or_default();
        for holder in &mut holders {
            let claim =
                claims.iter().find(|c| c.holder.pid == holder.pid && drains(&c.source, source));
            holder.stream = claim.and_then(|c| c.holder.stream.clone());
        }
        holders
    }
}

/// The character device that a link of /proc/PID/fd stands for.
fn device_of(link: &Path) -> Option<Dev> {
    // Sockets, pipes and the like have no path; and nothing here may wait for a file server.
    std::fs::read_link(link).ok().filter(|to| to.is_absolute())?;
    let stat = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    let device = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice;
    device.then(|| makedev(stat.stx_rdev_major, stat.stx_rdev_minor))
}

/// Whether a broker's source is this one, options aside.
fn drains(theirs: &str, source: &str) -> bool {
    theirs.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}

/// What the brokers of this machine say they drain; those that do not answer say nothing.
pub(super) fn claims() -> Vec<Claim> {
    let ask = |name: &str| Ok(Viewer::attach(name)?.snapshot());
    let asked: Vec<_> = ringweir::view::streams()
        .into_iter()
        .map(|(name, _)| (Pending::ask(&name, ask), name))
        .collect();
    let answers =
        asked.into_iter().filter_map(|(pending, name)| Some((name, pending.wait().ok()??)));
    answers
        .filter(|(_, s)| s.get(StreamFact::Ended) == 0)
        .map(|(name, s)| claim(name, &s))
        .collect()
}

fn claim(name: String, snapshot: &Snapshot) -> Claim {
    let holder = Holder {
        pid: snapshot.get(StreamFact::BrokerPid),
        command: "ringd".into(),
        stream: Some(name),
    };
    Claim { source: snapshot.source.clone(), holder }
}

/// Brokers that say they drain `source`: for where open files cannot be seen.
pub(super) fn claimants(claims: &[Claim], source: &str) -> Vec<Holder> {
    claims.iter().filter(|c| drains(&c.source, source)).map(|c| c.holder.clone()).collect()
}

/// That these have it.
pub(super) fn drained(holders: &[Holder]) -> Verdict {
    let one = |h: &Holder| match &h.stream {
        Some(stream) => format!("{} {} (stream {stream})", h.pid, h.command),
        None => format!("{} {}", h.pid, h.command),
    };
    let all: Vec<_> = holders.iter().map(one).collect();
    (State::Busy, format!("busy: drained by {}", all.join(", ")), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn claim_of(name: &str, source: &str, pid: u64) -> Claim {
        let mut snapshot = Snapshot::new(name, source);
        snapshot.set(StreamFact::BrokerPid, pid);
        claim(name.into(), &snapshot)
    }

    #[test]
    fn a_device_this_process_has_open_is_found_and_one_it_has_not_is_not() {
        let machine = Machine::new(Path::new("/"), Some(0), 0, false);
        let me = u64::from(std::process::id());
        let full = std::fs::File::open("/dev/full").unwrap();
        let device = full.metadata().unwrap().rdev();
        let pids = || -> Vec<u64> {
            Open::scan(&machine).holders(device, "x", &[]).iter().map(|h| h.pid).collect()
        };
        assert!(pids().contains(&me));
        drop(full);
        assert!(!pids().contains(&me));
    }

    #[test]
    fn a_stream_is_named_for_its_own_source_and_process_only() {
        let by = Holder { pid: 7, command: "ringd".into(), stream: None };
        let open = Open { by: BTreeMap::from([(9, vec![by])]), all_seen: true };
        let stream = |claim| open.holders(9, "shim:/dev/ringshim1", &[claim])[0].stream.clone();
        assert_eq!(stream(claim_of("a", "shim:/dev/ringshim1", 7)).as_deref(), Some("a"));
        assert_eq!(stream(claim_of("a", "shim:/dev/ringshim1,poll=1ms", 7)).as_deref(), Some("a"));
        assert_eq!(stream(claim_of("a", "shim:/dev/ringshim12", 7)), None);
        assert_eq!(stream(claim_of("a", "shim:/dev/ringshim1", 8)), None);
        assert_eq!(
            claimants(&[claim_of("a", "shim:/dev/ringshim1", 8)], "shim:/dev/ringshim1")[0].pid,
            8
        );
        assert_eq!(
            claimants(&[claim_of("a", "shim:/dev/ringshim12", 8)], "shim:/dev/ringshim1"),
            []
        );
    }
}
