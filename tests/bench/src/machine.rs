//! Facts about the machine of a run, and about other load on it.

use serde_json::{Value, json};
use std::process::Command;
use std::time::Instant;

fn first_line(command: &str) -> String {
    let out =
        Command::new("sh").args(["-c", command]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_string()
}

/// The machine, the sources and the command line, as the first record of a file.
pub fn describe() -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = cpuinfo
            .lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split_once(": "));
        line.map_or(String::new(), |(_, value)| value.trim().to_string())
    };
    let governor = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let dirty = if first_line("git status --porcelain --untracked-files=no").is_empty() {
        ""
    } else {
        " (changed)"
    };
    json!({
        "kind": "machine",
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "l3": first_line("lscpu | sed -n 's/^L3 cache: *//p'"),
        "kernel": first_line("uname -sr"),
        "governor": governor.map_or("none shown".to_string(), |g| g.trim().to_string()),
        "virtual": field("flags").split(' ').any(|flag| flag == "hypervisor"),
        "commit": first_line("git rev-parse --short=12 HEAD") + dirty,
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "command": std::env::args().collect::<Vec<_>>().join(" "),
        "time": first_line("date -u +%FT%TZ"),
    })
}

/// Processor time of all threads of a process, ns; 0 once it has ended.
pub fn process_ns(pid: u32) -> u64 {
    threads(pid).iter().map(|(_, ns)| ns).sum()
}

/// Threads of a process: name and processor time in ns (the scheduler's own count, no ticks).
pub fn threads(pid: u32) -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let one = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let used = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((name.trim().to_string(), used.split(' ').next()?.parse().ok()?))
    };
    tasks.filter_map(one).collect()
}

/// Unit of /proc/stat: part of the kernel's interface.
const TICKS_PER_S: f64 = 100.0;

/// Processor time the whole machine has spent busy, s.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq
    let busy = |i: usize| ticks.get(i).copied().unwrap_or(0.0);
    (busy(0) + busy(1) + busy(2) + busy(5) + busy(6)) / TICKS_PER_S
}

/// Processor time so far.
pub struct Load {
    at: Instant,
    publisher: u64,
    readers: u64,
    own: u64,
    busy: f64,
}

/// Processor time between two moments, s.
pub struct Spent {
    /// Wall time.
    pub seconds: f64,
    /// All threads of the publisher.
    pub publisher: f64,
    /// All readers.
    pub readers: f64,
    /// All other processes, without the bench itself.
    pub others: f64,
}

impl Load {
    /// The processor time up to now.
    pub fn now(publisher: u32, readers: &[u32]) -> Self {
        Self {
            at: Instant::now(),
            publisher: process_ns(publisher),
            readers: readers.iter().map(|pid| process_ns(*pid)).sum(),
            own: process_ns(std::process::id()),
            busy: busy(),
        }
    }

    /// What was spent since `earlier`.
    pub fn since(&self, earlier: &Self) -> Spent {
        let seconds = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e9;
        let publisher = seconds(self.publisher, earlier.publisher);
        let readers = seconds(self.readers, earlier.readers);
        let ours = publisher + readers + seconds(self.own, earlier.own);
        Spent {
            seconds: (self.at - earlier.at).as_secs_f64(),
            publisher,
            readers,
            others: (self.busy - earlier.busy - ours).max(0.0),
        }
    }
}
