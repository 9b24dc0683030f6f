//! Limits of the control groups (versions 1 and 2) of this process.
//!
//! Contract: its own group first, then its parents as far as they are visible.

use crate::machine::Machine;

/// A limit: its file and its value.
pub(super) struct Limit {
    /// Directory of the group.
    pub dir: String,
    /// The limit's file.
    pub path: String,
    /// Its content.
    pub value: String,
    /// Whether the group is of version 2.
    pub v2: bool,
}

/// The files `v1` or `v2` of `controller` in the groups of this process.
pub(super) fn limits(machine: &Machine, controller: &str, v1: &str, v2: &str) -> Vec<Limit> {
    let groups = machine.text("/proc/self/cgroup").unwrap_or_default();
    let mounts = machine.text("/proc/self/mounts").unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|c| c == controller) {
            continue;
        }
        let mounted = mounts.lines().find_map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            let fits = match f.get(2..4)? {
                ["cgroup2", _] => is_v2,
                ["cgroup", options] => !is_v2 && options.split(',').any(|o| o == controller),
                _ => false,
            };
            fits.then(|| f[1].to_owned())
        });
        let Some(top) = mounted else { continue };
        let file = if is_v2 { v2 } else { v1 };
        // In a container the path is that of the host and does not exist here: only the top does.
        let mut below = path.trim_end_matches('/');
        if below.contains("..") || !machine.exists(&format!("{top}{below}")) {
            below = "";
        }
        loop {
            let dir = format!("{top}{below}");
            let path = format!("{dir}/{file}");
            if let Some(value) = machine.text(&path) {
                found.push(Limit { dir, path, value, v2: is_v2 });
            }
            match below.rsplit_once('/') {
                Some((parent, _)) => below = parent,
                None => break,
            }
        }
    }
    found
}
