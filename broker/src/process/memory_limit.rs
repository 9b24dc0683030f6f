//! Whether memory fits into the control groups of this process.
//!
//! Contract: memory that a group does not allow kills the process when it is touched, without a
//! word. So the groups are asked before a ring is made. Where there are none, or they say nothing,
//! everything fits. Version 2 and version 1 of the groups are known, where distributions mount
//! them.

use std::fs;
use std::path::Path;

/// One version of the groups.
struct Hierarchy {
    root: &'static str,
    limit: &'static str,
    /// Lines of `memory.stat` about memory that the kernel cannot take back.
    in_use: &'static [&'static str],
}

const V2: Hierarchy =
    Hierarchy { root: "/sys/fs/cgroup", limit: "memory.max", in_use: &["anon", "shmem", "kernel"] };
const V1: Hierarchy = Hierarchy {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    in_use: &["total_rss", "total_shmem"],
};

/// A limit that is in the way.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ring of {need} bytes does not fit: the control group {group} allows {limit} bytes of \
    memory ({file}), of which {used} are in use and cannot be reclaimed: raise the limit \
    (MemoryMax= in a unit) or make the ring smaller (--capacity, --depth)"
)]
pub struct TooSmall {
    need: u64,
    group: String,
    file: &'static str,
    limit: u64,
    used: u64,
}

/// Whether `need` more bytes fit into every group of this process.
///
/// # Errors
/// The group that is too small.
pub fn check(need: u64) -> Result<(), TooSmall> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for (hierarchy, group) in own.lines().filter_map(memory_group) {
        hierarchy.check(Path::new(hierarchy.root), group, need)?;
    }
    Ok(())
}

/// The group that a line of `/proc/self/cgroup` names, if it limits memory.
fn memory_group(line: &str) -> Option<(&'static Hierarchy, &str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?.strip_prefix('/')?);
    match controllers {
        "" => Some((&V2, group)),
        list if list.split(',').any(|c| c == "memory") => Some((&V1, group)),
        _ => None,
    }
}

impl Hierarchy {
    /// Asks the group and those that it is in. `root` stands for `self.root`.
    fn check(&self, root: &Path, group: &str, need: u64) -> Result<(), TooSmall> {
        let mut dir = root.join(group);
        loop {
            let limit = fs::read_to_string(dir.join(self.limit)).unwrap_or_default();
            if let Ok(limit) = limit.trim().parse() {
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                let used = self.in_use(&stat);
                if limit < used.saturating_add(need) {
                    let group = format!("/{}", dir.strip_prefix(root).unwrap_or(&dir).display());
                    return Err(TooSmall { need, group, file: self.limit, limit, used });
                }
            }
            if dir == root || !dir.pop() {
                return Ok(());
            }
        }
    }

    /// Bytes that the kernel cannot take back, from a `memory.stat`.
    fn in_use(&self, stat: &str) -> u64 {
        let figures = stat.lines().filter_map(|line| line.split_once(' '));
        figures
            .filter(|(key, _)| self.in_use.contains(key))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_up_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        let fits = |need| V2.check(root.path(), "outer/inner", need);
        assert_eq!(fits(u64::MAX), Ok(()), "no group says anything");
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(fits(u64::MAX), Ok(()));
        fs::write(inner.parent().unwrap().join("memory.max"), "1000\n").unwrap();
        fs::write(
            inner.parent().unwrap().join("memory.stat"),
            "anon 100\nfile 900\nkernel 50\nshmem 150\n",
        )
        .unwrap();
        assert_eq!(fits(700), Ok(()), "the page cache can be taken back");
        let refused = fits(701).unwrap_err().to_string();
        assert!(refused.contains("/outer allows 1000") && refused.contains("701"), "{refused}");
    }

    #[test]
    fn both_versions_of_the_groups_are_known() {
        let found = |line| memory_group(line).map(|(hierarchy, group)| (hierarchy.limit, group));
        assert_eq!(found("0::/a/b"), Some(("memory.max", "a/b")));
        assert_eq!(found("4:cpu,memory:/c:d"), Some(("memory.limit_in_bytes", "c:d")));
        assert_eq!(found("3:cpuset:/"), None);
    }
}
