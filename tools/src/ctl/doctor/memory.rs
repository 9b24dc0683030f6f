//! Checks of the memory of rings: /dev/shm, limits of control groups, systemd-logind, huge pages.

use super::cgroup::limits;
use super::finding::{Found, fail, ok, warn};
use crate::machine::Machine;
use ringweir_cli::quantity::Bytes;

const SHM: &str = "/dev/shm";

pub(super) fn shared_memory(m: &Machine) -> Vec<Found> {
    let mounts = m.text("/proc/self/mounts").unwrap_or_default();
    // The last mount on a directory is the visible one.
    let mount = mounts
        .lines()
        .rev()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f.get(1) == Some(&SHM));
    let Some([_, _, kind, options, ..]) = mount.as_deref() else {
        let fix = format!("{}mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs {SHM}", m.sudo());
        return vec![fail(
            format!("{SHM} is not a separate file system: rings would be on a disk or not fit"),
            fix,
        )];
    };
    let mut found = Vec::new();
    if *kind != "tmpfs" && *kind != "ramfs" {
        let fix = format!("{}mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs {SHM}", m.sudo());
        found.push(fail(format!("{SHM} is {kind}, not tmpfs: rings would not be in memory"), fix));
    }
    if options.split(',').any(|o| o == "ro") {
        let fix = format!("{}mount -o remount,rw {SHM}", m.sudo());
        found.push(fail(format!("{SHM} is mounted read-only: ringd cannot make a ring"), fix));
    }
    let Ok(room) = rustix::fs::statvfs(m.at(SHM)) else {
        found.push(fail(format!("the free space in {SHM} is not known"), format!("ls -ld {SHM}")));
        return found;
    };
    let (free, all) = (room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize);
    if all > 0 && free < m.ring {
        // Twice, so that the ring of a restarted broker fits as well.
        let size = (all - free + 2 * m.ring).next_multiple_of(1 << 20);
        found.push(fail(
            format!(
                "{SHM} has {} free of {}, but the rings take {}: ringd refuses to start",
                Bytes(free),
                Bytes(all),
                Bytes(m.ring)
            ),
            format!("{}mount -o remount,size={size} {SHM}", m.sudo()),
        ));
    } else if found.is_empty() {
        let remark = if all == 64 << 20 {
            " (64 MiB is the default of containers; --shm-size changes it)"
        } else {
            ""
        };
        found.push(ok(format!(
            "{SHM} has {} free; the rings take {}{remark}",
            Bytes(free),
            Bytes(m.ring)
        )));
    }
    found
}

pub(super) fn memory_limit(m: &Machine) -> Vec<Found> {
    let mut tightest: Option<(u64, u64, String, bool)> = None;
    for limit in limits(m, "memory", "memory.limit_in_bytes", "memory.max") {
        // "max", or in version 1 a number larger than any memory.
        let Some(most) = limit.value.parse::<u64>().ok().filter(|n| *n < 1 << 60) else { continue };
        let used: u64 = ["memory.current", "memory.usage_in_bytes"]
            .iter()
            .find_map(|f| m.number(&format!("{}/{f}", limit.dir)))
            .unwrap_or(0);
        // The kernel frees inactive file pages before it kills a process.
        let stat = m.text(&format!("{}/memory.stat", limit.dir)).unwrap_or_default();
        let figure =
            |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
        let idle = figure("total_inactive_file ").or(figure("inactive_file ")).unwrap_or(0);
        let free = most.saturating_sub(used.saturating_sub(idle));
        if tightest.as_ref().is_none_or(|t| free < t.0) {
            tightest = Some((free, most, limit.path, limit.v2));
        }
    }
    match tightest {
        None => vec![ok("no control group limits memory")],
        Some((free, most, path, v2)) if free < m.ring => {
            let fix = if v2 { m.write_line("max", &path) } else { m.write_line("-1", &path) };
            vec![fail(
                format!(
                    "{path} allows {}, of which {} are free, but the rings take {}: the kernel \
                    would kill the broker",
                    Bytes(most),
                    Bytes(free),
                    Bytes(m.ring)
                ),
                fix,
            )]
        }
        Some((free, _, path, _)) => vec![ok(format!("{} are free within {path}", Bytes(free)))],
    }
}

/// Whether logind removes rings, and the file that says so. The last setting counts. Drop-ins are
/// read in the order of their names, whatever their directory.
fn removes_ipc(m: &Machine) -> (bool, String) {
    let mut setting = (true, "its default".to_owned());
    let mut take = |path: &str| {
        let mut section = String::new();
        for line in m.text(path).unwrap_or_default().lines().map(str::trim) {
            if line.starts_with('[') {
                section = line.into();
            }
            let value =
                line.strip_prefix("RemoveIPC").and_then(|l| l.trim_start().strip_prefix('='));
            if let Some(value) = value.filter(|_| section == "[Login]") {
                setting = (
                    ["1", "yes", "y", "true", "t", "on"]
                        .contains(&value.trim().to_lowercase().as_str()),
                    path.into(),
                );
            }
        }
    };
    let roots = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];
    if let Some(main) = roots.iter().map(|r| format!("{r}/logind.conf")).find(|p| m.exists(p)) {
        take(&main);
    }
    let mut drops: Vec<(String, &str)> = Vec::new();
    for root in roots {
        for name in
            m.names(&format!("{root}/logind.conf.d")).into_iter().filter(|n| n.ends_with(".conf"))
        {
            // The same name in an earlier directory hides it.
            if !drops.iter().any(|(n, _)| *n == name) {
                drops.push((name, root));
            }
        }
    }
    drops.sort();
    drops.iter().for_each(|(name, root)| take(&format!("{root}/logind.conf.d/{name}")));
    setting
}

pub(super) fn remove_ipc(m: &Machine) -> Vec<Found> {
    if m.uid < 1000 {
        return vec![ok(format!(
            "systemd-logind leaves the rings of system users alone (uid {})",
            m.uid
        ))];
    }
    if !m.exists("/run/systemd/seats") {
        return vec![ok("systemd-logind does not run here")];
    }
    let (removes, by) = removes_ipc(m);
    if !removes {
        return vec![ok(format!("RemoveIPC=no ({by}): rings stay when uid {} logs out", m.uid))];
    }
    let dir = "/etc/systemd/logind.conf.d";
    vec![warn(
        format!(
            "RemoveIPC=yes ({by}): when uid {} logs out, logind removes its rings from {SHM}",
            m.uid
        ),
        format!(
            "sudo mkdir -p {dir} && printf '[Login]\\nRemoveIPC=no\\n' | sudo tee \
            {dir}/zz-ringweir.conf && \
             sudo systemctl restart systemd-logind"
        ),
    )]
}

pub(super) fn huge_pages(m: &Machine) -> Vec<Found> {
    let info = m.text("/proc/meminfo").unwrap_or_default();
    let figure = |key: &str| -> Option<u64> {
        info.lines().find_map(|l| {
            l.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok()
        })
    };
    let (size, free) =
        (figure("Hugepagesize").unwrap_or(0) << 10, figure("HugePages_Free").unwrap_or(0));
    let reserved = figure("HugePages_Rsvd").unwrap_or(0);
    let free = free.saturating_sub(reserved);
    let shmem = m.text("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let shmem = shmem.split(['[', ']']).nth(1).unwrap_or("not known").to_owned();
    if size == 0 {
        let text = "this kernel does not support huge pages";
        return vec![if m.hugepages { fail(text, "ringctl doctor") } else { ok(text) }];
    }
    let need = m.ring.div_ceil(size);
    if !m.hugepages || free >= need {
        return vec![ok(format!(
            "{free} huge pages of {} are free; with --hugepages the rings take {need}; transparent \
            huge pages for shared memory: {shmem}",
            Bytes(size)
        ))];
    }
    let all = figure("HugePages_Total").unwrap_or(0) + need - free;
    vec![warn(
        format!(
            "only {free} huge pages of {} are free, but the rings take {need}: ringd --hugepages \
            falls back to small pages",
            Bytes(size)
        ),
        format!("{}sysctl -w vm.nr_hugepages={all}", m.sudo()),
    )]
}
