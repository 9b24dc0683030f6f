//! The clocks, in nanoseconds (u64): monotonic for ages and lag, realtime for dates, and the
//! processor time of a thread.
//!
//! Contract: all processes of one boot that exchange times read the same clocks, also from
//! different time namespaces (a container with `--time-offset`, `unshare -T`).

#![allow(unsafe_code)]

use std::sync::OnceLock;

/// This calls libc, not rustix: rustix looks for the vDSO, which valgrind hides, and crashes under
/// valgrind.
fn read(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a local timespec that outlives the call, and the kernel writes exactly one.
    let rc = unsafe { libc::clock_gettime(clock, &mut t) };
    assert_eq!(rc, 0, "the kernel has these clocks");
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// CLOCK_MONOTONIC of the machine's first time namespace: the same in all processes of one boot.
#[inline]
pub fn monotonic_ns() -> u64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = *OFFSET.get_or_init(namespace_offset);
    read(libc::CLOCK_MONOTONIC).wrapping_sub(offset.cast_unsigned())
}

/// By how many ns CLOCK_MONOTONIC of this process is ahead of that of the first time namespace. 0
/// without /proc.
fn namespace_offset() -> i64 {
    // The file shows the namespace of new children. After `unshare` without `exec` that is not the
    // process's own, and its own is almost always the first one.
    let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    if link("time") != link("time_for_children") {
        return 0;
    }
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    monotonic_offset(&text).unwrap_or(0)
}

/// From the lines `CLOCK SECONDS NANOSECONDS`.
fn monotonic_offset(text: &str) -> Option<i64> {
    let numbers = text.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = numbers.split_whitespace().map(str::parse::<i64>);
    let (seconds, ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(ns)
}

/// CLOCK_REALTIME.
#[inline]
pub fn realtime_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// Processor time of the calling thread. A system call, unlike the others.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The kernel's boot id; zero without /proc.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    for (byte, digits) in id.iter_mut().zip(hex.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or("0");
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::monotonic_offset;

    /// Control: what other systems may have there instead.
    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let file = "monotonic      86400         5\nboottime           7         0\n";
        assert_eq!(monotonic_offset(file), Some(86_400_000_000_005));
        assert_eq!(monotonic_offset("monotonic  -2  500000000\n"), Some(-1_500_000_000));
        for other in ["", "boottime 7 0\n", "monotonic\n", "monotonic x 0\n"] {
            assert_eq!(monotonic_offset(other), None, "{other:?}");
        }
    }
}
