//! Times of day for people, in local time.

#![allow(unsafe_code)]

/// "12:41:07" for a moment of the last day, else "2026-05-09 12:41:07"; both are ns since 1970.
pub fn moment(then: u64, now: u64) -> String {
    const DAY: u64 = 86_400_000_000_000;
    let Some((date, clock)) = local(then) else {
        return format!("{} s since 1970", then / 1_000_000_000);
    };
    if now.abs_diff(then) < DAY { clock } else { format!("{date} {clock}") }
}

/// "2026-05-09 12:41:07"; ns since 1970.
pub fn full(then: u64) -> String {
    moment(then, u64::MAX)
}

fn local(ns: u64) -> Option<(String, String)> {
    let seconds = (ns / 1_000_000_000) as libc::time_t;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: `seconds` and `parts` are live locals of the types that localtime_r reads and writes.
    let done = unsafe { libc::localtime_r(&raw const seconds, parts.as_mut_ptr()) };
    if done.is_null() {
        return None;
    }
    // SAFETY: localtime_r did not return null, so it has filled in the whole struct.
    let t = unsafe { parts.assume_init() };
    let date = format!("{:04}-{:02}-{:02}", i64::from(t.tm_year) + 1900, t.tm_mon + 1, t.tm_mday);
    Some((date, format!("{:02}:{:02}:{:02}", t.tm_hour, t.tm_min, t.tm_sec)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_moment_long_ago_has_its_date() {
        let now = 1_800_000_000_000_000_000;
        assert_eq!(super::moment(now - 5, now).len(), "12:41:07".len());
        assert_eq!(super::moment(now / 2, now).len(), "1998-07-09 16:00:00".len());
        assert!(super::full(now).starts_with("2027-01-1"));
    }
}
