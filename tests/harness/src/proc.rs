//! Figures of a process from /proc.

use std::time::{Duration, Instant};

fn status(pid: u32, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Voluntary and involuntary context switches.
pub fn context_switches(pid: u32) -> (u64, u64) {
    let get = |key| status(pid, key).expect("a living process");
    (get("voluntary_ctxt_switches"), get("nonvoluntary_ctxt_switches"))
}

/// Processor time of all its threads, in ns (from the scheduler, not in ticks).
pub fn cpu_ns(pid: u32) -> u64 {
    let threads =
        std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten();
    let used = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    threads.map(used).sum()
}

/// Processor time of its thread whose name begins with `name`; `None` if there is none.
pub fn thread_cpu_ns(pid: u32, name: &str) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let of = |file: &str, thread: &std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join(file)).ok()
    };
    let thread =
        threads.into_iter().find(|t| of("comm", t).is_some_and(|comm| comm.starts_with(name)))?;
    of("schedstat", &thread)?.split_whitespace().next()?.parse().ok()
}

/// Resident memory, in bytes.
pub fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS").expect("a living process") << 10
}

/// Its state: R, S, T …
pub fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Number of open fds.
pub fn open_fds(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// How many fds it has once it has opened all it needs. A broker answers before that: a count taken
/// at once is too low, and a leak is then seen where there is none.
///
/// # Panics
/// If the count does not come to rest.
pub fn settled_fds(pid: u32) -> usize {
    let (mut count, mut since) = (open_fds(pid), Instant::now());
    let settled = crate::wait_for(Duration::from_secs(30), || {
        let now = open_fds(pid);
        if now != count {
            (count, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(now)
    });
    settled.expect("the number of open fds comes to rest")
}
