//! Checks of what may delay the pump: throttling, control groups, affinity, frequency, clocks.

use super::cgroup::limits;
use super::finding::{Found, fail, ok, warn};
use crate::machine::Machine;

/// Since this release the "fair server" replaces throttling.
const FAIR_SERVER: (u32, u32) = (6, 12);

fn release(m: &Machine) -> Option<(u32, u32)> {
    let text = m.text("/proc/sys/kernel/osrelease")?;
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn throttling(m: &Machine) -> Vec<Found> {
    let path = "/proc/sys/kernel/sched_rt_runtime_us";
    let period: i64 = m.number("/proc/sys/kernel/sched_rt_period_us").unwrap_or(1_000_000);
    let Some(runtime) = m.number::<i64>(path) else {
        return vec![ok("this kernel does not throttle real-time threads")];
    };
    if runtime < 0 || runtime >= period {
        return vec![ok(format!(
            "real-time threads are not throttled (kernel.sched_rt_runtime_us = {runtime})"
        ))];
    }
    // Newer kernels throttle only where control groups limit real time. Elsewhere the fair server
    // runs ordinary threads.
    let by_group = !limits(m, "cpu", "cpu.rt_runtime_us", "cpu.rt_runtime_us").is_empty();
    if release(m).is_some_and(|r| r >= FAIR_SERVER) && !by_group {
        let server = "/sys/kernel/debug/sched/fair_server";
        let cpus = m.names(server);
        let serves = |cpu: &String| {
            m.number::<u64>(&format!("{server}/{cpu}/runtime")).is_none_or(|ns| ns > 0)
        };
        if !cpus.is_empty() && !cpus.iter().any(serves) {
            return vec![ok("real-time threads are not throttled (the fair servers are off)")];
        }
        return vec![warn(
            "starving ordinary threads get 50 ms of each second (fair server): ringd --spin at \
            real time may stall that long; without --spin it does not matter",
            format!("{}sh -c 'for f in {server}/cpu*/runtime; do echo 0 > $f; done'", m.sudo()),
        )];
    }
    let stall = (period - runtime) as f64 * 1e3 / period as f64;
    vec![warn(
        format!(
            "real-time throttling is on (kernel.sched_rt_runtime_us = {runtime}): ringd --spin at \
            real time may stall \
             {stall:.0} ms in each second; without --spin it does not matter"
        ),
        format!("{}sysctl -w kernel.sched_rt_runtime_us=-1", m.sudo()),
    )]
}

pub(super) fn real_time_group(m: &Machine) -> Vec<Found> {
    let groups = limits(m, "cpu", "cpu.rt_runtime_us", "cpu.rt.max");
    let Some(first) = groups.iter().find(|l| !l.v2) else {
        return vec![ok("no control group limits real time")];
    };
    if first.value != "0" {
        return vec![ok(format!(
            "the control group allows {} µs of real time per period",
            first.value
        ))];
    }
    vec![fail(
        format!("{} is 0: chrt -f is refused in this control group, even for root", first.path),
        m.write_line("950000", &first.path),
    )]
}

pub(super) fn cpu_limit(m: &Machine) -> Vec<Found> {
    for limit in limits(m, "cpu", "cpu.cfs_quota_us", "cpu.max") {
        let (quota, period) = match limit.value.split_once(' ') {
            Some((quota, period)) => (quota.to_owned(), period.to_owned()),
            None => {
                let period =
                    m.text(&format!("{}/cpu.cfs_period_us", limit.dir)).unwrap_or_default();
                (limit.value.clone(), period)
            }
        };
        let (Ok(quota), Ok(period)) = (quota.parse::<f64>(), period.parse::<f64>()) else {
            continue;
        };
        if quota <= 0.0 || period <= 0.0 {
            continue;
        }
        let text = format!(
            "{} allows {:.2} processors: when that is used up, ordinary threads are stopped for \
            the rest of each {:.0} ms",
            limit.path,
            quota / period,
            period / 1e3
        );
        let fix = if limit.v2 {
            m.write_line("max", &limit.path)
        } else {
            m.write_line("-1", &limit.path)
        };
        return vec![warn(text, fix)];
    }
    vec![ok("no control group limits processor time")]
}

/// The number of processors in a list such as 0-3,8.
fn count(list: &str) -> usize {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?))
    };
    list.split(',').filter_map(range).map(|(first, last)| (last + 1).saturating_sub(first)).sum()
}

pub(super) fn processors(m: &Machine) -> Vec<Found> {
    let allowed = m.status("Cpus_allowed_list").unwrap_or_default();
    let online = m.text("/sys/devices/system/cpu/online").unwrap_or_default();
    match (count(allowed), count(&online)) {
        (0, _) => vec![ok("the allowed processors are not known")],
        (1, online) if online > 1 => vec![warn(
            format!("may use only processor {allowed} of {online}: pump and readers share it"),
            format!(
                "taskset -pc {} $$",
                m.text("/sys/devices/system/cpu/online").unwrap_or_default()
            ),
        )],
        (1, _) => vec![ok("the machine has one processor: pump and readers share it")],
        (n, online) => vec![ok(format!("may use {n} of {online} processors ({allowed})"))],
    }
}

pub(super) fn governor(m: &Machine) -> Vec<Found> {
    let cpus = "/sys/devices/system/cpu";
    let is_cpu = |n: &String| {
        n.strip_prefix("cpu")
            .is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    };
    let slow: Vec<(String, String)> = m
        .names(cpus)
        .into_iter()
        .filter(is_cpu)
        .filter_map(|cpu| Some((m.text(&format!("{cpus}/{cpu}/cpufreq/scaling_governor"))?, cpu)))
        .filter(|(governor, _)| governor != "performance")
        .collect();
    let Some((governor, cpu)) = slow.first() else {
        return vec![ok("no processor changes its frequency with the load")];
    };
    vec![warn(
        format!(
            "{cpu} and {} others use the governor {governor}: the first datagrams after a pause \
            take longer",
            slow.len() - 1
        ),
        m.write_line("performance", &format!("{cpus}/cpu*/cpufreq/scaling_governor")),
    )]
}

pub(super) fn clock(m: &Machine) -> Vec<Found> {
    let dir = "/sys/devices/system/clocksource/clocksource0";
    let Some(current) = m.text(&format!("{dir}/current_clocksource")) else {
        return vec![ok("the clock source is not known")];
    };
    if !["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"].contains(&current.as_str()) {
        return vec![ok(format!("clock source {current} is read without a system call"))];
    }
    let text = format!(
        "clock source {current}: reading the clock is a slow system call, one for each datagram"
    );
    let available = m.text(&format!("{dir}/available_clocksource")).unwrap_or_default();
    let fix = match available.split_whitespace().any(|c| c == "tsc") {
        true => m.write_line("tsc", &format!("{dir}/current_clocksource")),
        // Needs a restart: the kernel rejected it at boot.
        false => format!("{}grubby --update-kernel=ALL --args=tsc=reliable", m.sudo()),
    };
    vec![warn(text, fix)]
}

pub(super) fn preemption(m: &Machine) -> Vec<Found> {
    let version = m.text("/proc/sys/kernel/version").unwrap_or_default();
    if m.text("/sys/kernel/realtime").as_deref() == Some("1") || version.contains("PREEMPT_RT") {
        return vec![ok("real-time kernel (PREEMPT_RT)")];
    }
    vec![ok(
        "no real-time kernel: good for delays down to about a millisecond; for less, boot a kernel \
        with PREEMPT_RT",
    )]
}

#[cfg(test)]
mod tests {
    #[test]
    fn processors_in_a_list_are_counted() {
        for (list, n) in [("0", 1), ("0-3", 4), ("0-3,8,10-11", 7), ("", 0), ("x", 0)] {
            assert_eq!(super::count(list), n, "{list}");
        }
    }
}
