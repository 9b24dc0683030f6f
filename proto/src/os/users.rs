//! Which user a number stands for.
//!
//! Contract: in a user namespace that does not map every user, the kernel reports all unmapped
//! users, who are strangers to each other, under one number, the *overflow uid* (65534, also the
//! number of `nobody`); likewise groups. There that number stands for nobody in particular: not for
//! this process and for no entry of a list.

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

static STRANGER: LazyLock<(Option<u32>, Option<u32>)> =
    LazyLock::new(|| (stranger(Kind::Uid), stranger(Kind::Gid)));

/// Whether `uid` may stand for any user that has no number here.
pub fn is_stranger(uid: u32) -> bool {
    STRANGER.0 == Some(uid)
}

/// The same for a group.
pub fn is_strange_group(gid: u32) -> bool {
    STRANGER.1 == Some(gid)
}

/// Whether `uid` is certainly the user of this process.
pub fn is_me(uid: u32) -> bool {
    !is_stranger(uid) && uid == rustix::process::geteuid().as_raw()
}

/// Why a file of `uid`, for which [`is_me`] is false, is not taken for one's own.
pub fn why_not_mine(uid: u32) -> String {
    if is_stranger(uid) {
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
}
