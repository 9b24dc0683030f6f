//! Which user a number stands for.
//!
//! Contract: in a user namespace that does not map every user, the kernel reports all unmapped
//! users, who are strangers to each other, under one number, the *overflow uid* (65534, also the
//! number of `nobody`); likewise groups. There that number stands for nobody in particular: not for
//! this process and for no entry of a list. And one person can be many users: a user namespace may
//! have a range of 65536 further uids (`/etc/subuid`).

use std::sync::LazyLock;

/// A kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uid,
    Gid,
}

/// The number for strangers, if there can be any.
fn stranger(kind: Kind) -> Option<u32> {
    let (map, overflow) = match kind {
        Kind::Uid => ("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
        Kind::Gid => ("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
    };
    // Without /proc nothing is known. Outside a namespace, which is usual, the number is a user's.
    if std::fs::read_to_string(map).map_or(true, |map| maps_all(&map)) {
        return None;
    }
    let number = std::fs::read_to_string(overflow).ok();
    Some(number.and_then(|n| n.trim().parse().ok()).unwrap_or(65534))
}

/// Whether a map of `/proc/self/uid_map` leaves out no number; -1 is none.
fn maps_all(map: &str) -> bool {
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    map.lines().filter_map(count).sum::<u64>() >= u64::from(u32::MAX)
}

/// The numbers that stand for strangers in this process's user namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// Unmapped users.
    pub uid: Option<u32>,
    /// Unmapped groups.
    pub gid: Option<u32>,
}

/// Those of this process. They are found out at the first call, which reads /proc.
pub fn strangers() -> Strangers {
    static FOUND: LazyLock<Strangers> =
        LazyLock::new(|| Strangers { uid: stranger(Kind::Uid), gid: stranger(Kind::Gid) });
    *FOUND
}

/// From this number on, uids may be a person's further ones; below are accounts.
const FURTHER: u32 = 65536;
/// How many further uids a person usually has, in a row.
const RANGE: u32 = 65536;

/// Whether two uids may belong to one person. Users of a directory service whose numbers are as
/// close look the same, so what is decided with this must leave them enough.
pub fn may_be_one_person(a: u32, b: u32) -> bool {
    a == b || a.min(b) >= FURTHER && a.abs_diff(b) < RANGE
}

/// Which range of further uids `uid` is in, if any. A person's range may touch two of these.
pub fn range_of(uid: u32) -> Option<u32> {
    (uid >= FURTHER).then_some(uid / RANGE)
}

/// Whether `uid` is certainly the user of this process.
pub fn is_me(uid: u32) -> bool {
    strangers().uid != Some(uid) && uid == rustix::process::geteuid().as_raw()
}

/// Why a file of `uid`, for which [`is_me`] is false, is not taken for one's own.
pub fn why_not_mine(uid: u32) -> String {
    if strangers().uid == Some(uid) {
        return format!(
            "it belongs to uid {uid}, which stands for every user that this user namespace does \
            not map: map them, or run ringd as another user"
        );
    }
    format!("it belongs to uid {uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_leaves_users_out_is_found() {
        assert!(maps_all("         0          0 4294967295\n"), "the usual one");
        assert!(maps_all("0 0 1000\n1000 1000 4294966295\n"), "all of it in two parts");
        for part in ["0 1000 1\n", "0 1000 1\n1 100000 65536\n", "0 100000 4294867295\n", ""] {
            assert!(!maps_all(part), "{part:?}");
        }
    }

    #[test]
    fn further_uids_of_one_range_may_be_one_person() {
        for (a, b, one) in [
            (1000, 1000, true),
            (1000, 1001, false),
            (65534, 65536, false),
            (100_000, 165_535, true),
            (100_000, 165_536, false),
            (u32::MAX, u32::MAX - 1, true),
            (0, u32::MAX, false),
        ] {
            assert_eq!((may_be_one_person(a, b), may_be_one_person(b, a)), (one, one), "{a} {b}");
        }
        assert_eq!(
            (range_of(65535), range_of(100_000), range_of(165_535)),
            (None, Some(1), Some(2))
        );
    }
}
