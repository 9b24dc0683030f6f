//! Times of day for people, in local time.
//!
//! Contract: local time is what `TZ` or else /etc/localtime says, with the time-zone database of
//! the system; where there is none, it is UTC. No time is an error.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::sync::LazyLock;

/// Read once: a long-running `ringstat -w` does not open files for each line.
static ZONE: LazyLock<TimeZone> = LazyLock::new(TimeZone::system);

/// "12:41:07" for a moment of the last day, else "2026-05-09 12:41:07"; both are ns since 1970.
pub fn moment(then: u64, now: u64) -> String {
    moment_in(then, now, &ZONE)
}

/// "2026-05-09 12:41:07"; ns since 1970.
pub fn full(then: u64) -> String {
    moment(then, u64::MAX)
}

fn moment_in(then: u64, now: u64, zone: &TimeZone) -> String {
    const DAY: u64 = 86_400_000_000_000;
    let Ok(timestamp) = Timestamp::from_nanosecond(then.into()) else {
        return format!("{} s since 1970", then / 1_000_000_000);
    };
    let format = if now.abs_diff(then) < DAY { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    timestamp.to_zoned_datetime(zone.clone()).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_moment_long_ago_has_its_date() {
        let now = 1_800_000_000 * SECOND;
        assert_eq!(moment(now - 5, now).len(), "12:41:07".len());
        assert_eq!(moment(now / 2, now).len(), "1998-07-09 16:00:00".len());
        assert!(full(now).starts_with("2027-01-1"));
    }

    /// On both sides of a change of the clocks. Control: UTC has none.
    #[test]
    fn local_time_follows_the_rules_of_its_zone() {
        // 2026-03-29 01:00 UTC, when clocks in Berlin go from 02:00 to 03:00.
        let change = 1_774_746_000 * SECOND;
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (zone, before, after) in
            [(berlin, "01:59:59", "03:00:00"), (TimeZone::UTC, "00:59:59", "01:00:00")]
        {
            assert_eq!(moment_in(change - SECOND, change, &zone), before);
            assert_eq!(moment_in(change, change, &zone), after);
            assert_eq!(moment_in(change, u64::MAX, &zone), format!("2026-03-29 {after}"));
        }
        // The last moment that a u64 holds.
        assert_eq!(moment_in(u64::MAX, 0, &TimeZone::UTC), "2554-07-21 23:34:33");
    }
}
