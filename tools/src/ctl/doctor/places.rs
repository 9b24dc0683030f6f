//! Checks of the run directories: whether a broker can make its socket, whether this user may
//! attach, and whether dead brokers left anything.

use super::finding::{Found, State, fail, ok, warn};
use crate::broker_query::{self, Pending};
use crate::ctl::gc::{Action, Sweep};
use crate::machine::Machine;
use crate::process::Process;
use ringweir::Error;
use ringweir::Reason;
use ringweir_proto::os::paths;
use rustix::fs::Access;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) fn run_directory(m: &Machine) -> Vec<Found> {
    let dirs = paths::search_dirs();
    let may = |dir: &Path| {
        rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok() && dir.is_dir()
    };
    for dir in &dirs {
        if may(dir) {
            return vec![ok(format!(
                "a broker of uid {} makes its sockets in {}",
                m.uid,
                dir.display()
            ))];
        }
        if !dir.exists() && dir.parent().is_some_and(may) {
            return vec![ok(format!("{} does not exist yet; ringd can make it", dir.display()))];
        }
    }
    let Some(dir) = dirs.last() else { return Vec::new() };
    let shown = dir.display();
    let (what, fix) = match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => (
            format!("cannot be written by uid {}", m.uid),
            format!("{}chown {} {shown}", m.sudo(), m.uid),
        ),
        Ok(_) => ("is not a directory".into(), format!("{}rm {shown}", m.sudo())),
        Err(_) => (
            "does not exist and cannot be made".into(),
            format!("{}install -d -o {} {shown}", m.sudo(), m.uid),
        ),
    };
    vec![fail(format!("{shown} {what}: ringd has no directory for its sockets"), fix)]
}

pub(super) fn leftovers(m: &Machine) -> Vec<Found> {
    let found = Sweep { dry: true, uid: Some(m.uid), dirs: paths::search_dirs() }.run();
    let dead: Vec<_> = found.iter().filter(|f| f.action == Action::WouldRemove).collect();
    let Some(first) = dead.first() else { return vec![ok("dead brokers left nothing behind")] };
    vec![warn(
        format!("dead brokers left {} files, such as {}", dead.len(), first.path.display()),
        "ringctl gc",
    )]
}

pub(super) fn sockets(m: &Machine) -> Vec<Found> {
    let streams = ringweir::view::streams();
    let asked: Vec<_> = streams
        .into_iter()
        .map(|(name, path)| {
            let pending = Pending::ask(&name, ringweir::view::describe);
            (name, path, pending)
        })
        .collect();
    let mut found = Vec::new();
    let mut fit = 0;
    for (name, path, pending) in asked {
        let Err(e) = pending.wait() else {
            fit += 1;
            continue;
        };
        found.push(match e.downcast_ref() {
            // Reported under leftovers.
            Some(Error::NotRunning { .. }) => continue,
            Some(Error::NoAccess { .. }) => warn(
                format!("uid {} may not connect to stream {name:?} at {}", m.uid, path.display()),
                let_in(m, &path),
            ),
            Some(Error::Refused { reason: Reason::NotAllowed, .. }) => {
                warn(format!("{e:#}"), format!("ringd run --name {name} --allow-uid {} …", m.uid))
            }
            _ => silent(&name, &path, format!("{e:#}")),
        });
    }
    if found.is_empty() {
        let text = if fit == 0 {
            "no stream is running".into()
        } else {
            format!("this user may attach to all {fit} streams")
        };
        found.push(ok(text));
    }
    found
}

/// The command that lets this user connect to a socket: it joins the socket's group, if there is
/// one.
fn let_in(m: &Machine, path: &Path) -> String {
    let meta = std::fs::metadata(path).ok().filter(|s| s.mode() & 0o020 != 0 && s.gid() != 0);
    let group = meta.and_then(|s| Some(m.called("/etc/group", s.gid())?.0));
    match group {
        Some(group) => format!("sudo usermod -aG {group} \"$(id -un)\" && newgrp {group}"),
        None => format!(
            "ringd run --group \"$(id -gn)\" …   # or: sudo setfacl -m u:{}:rw {}",
            m.uid,
            path.display()
        ),
    }
}

fn silent(name: &str, path: &Path, text: String) -> Found {
    let fix = match broker_query::pid_behind(path).map(|pid| (pid, Process::look(pid.into()))) {
        Some((pid, Process::Stopped(_))) => format!("kill -CONT {pid}"),
        Some((pid, _)) => format!("kill {pid}; ringctl gc   # then start {name} again"),
        None => "ringctl gc".into(),
    };
    (State::Fail, text, Some(fix))
}
