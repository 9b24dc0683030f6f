//! Which process has which device open.
//!
//! Contract: found in /proc, never by opening the device: opening an exclusive node would lock out
//! a broker that starts at this moment, and a driver may react when it is closed.

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
    /// Whether the open files of all processes are visible.
    pub all_seen: bool,
}

/// The source that a broker says it drains.
pub(super) struct Claim {
    source: String,
    holder: Holder,
}

impl Open {
    pub fn scan(m: &Machine) -> Self {
        let pids = m.names("/proc").into_iter().filter_map(|name| name.parse::<u64>().ok());
        // With hidepid= the processes of other users are not visible, not even the first one.
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

    /// The processes that have `device` open, with the streams that `claims` name for `source`.
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

/// The character device behind a link of /proc/PID/fd.
fn device_of(link: &Path) -> Option<Dev> {
    // Sockets, pipes and the like have no path. The flags avoid waiting for a file server.
    std::fs::read_link(link).ok().filter(|to| to.is_absolute())?;
    let stat = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    let device = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice;
    device.then(|| makedev(stat.stx_rdev_major, stat.stx_rdev_minor))
}

/// Whether the source of a broker is this one, apart from options.
fn drains(theirs: &str, source: &str) -> bool {
    theirs.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}

/// The sources that the brokers of this machine say they drain, without brokers that do not answer.
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

/// Brokers that say they drain `source`, for the case that open files are not visible.
pub(super) fn claimants(claims: &[Claim], source: &str) -> Vec<Holder> {
    claims.iter().filter(|c| drains(&c.source, source)).map(|c| c.holder.clone()).collect()
}

/// The verdict on a device that these processes have open.
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
    fn a_device_is_found_only_while_it_is_open() {
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
    fn a_stream_is_named_only_for_its_own_source_and_process() {
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
