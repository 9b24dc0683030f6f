//! Who may attach: decided by the kernel's word on the peer, not by anything the peer says.
//!
//! Contract: allowed are root, the broker's own user, members of the socket's group, and whoever the stream's lists name.

use ringweir_proto::os::socket::Peer;

/// One stream's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// User that runs the broker.
    pub owner: u32,
    /// Group of the socket, if one was set.
    pub group: Option<u32>,
    /// Further users.
    pub uids: Vec<u32>,
    /// Further groups.
    pub gids: Vec<u32>,
}

impl Access {
    /// Whether `peer` may attach; if not, what to tell it.
    pub fn check(&self, peer: &Peer) -> Result<(), String> {
        let member = |gid: &u32| peer.gid == *gid || peer.groups.contains(gid);
        let allowed = peer.uid == 0
            || peer.uid == self.owner
            || self.uids.contains(&peer.uid)
            || self.group.iter().chain(&self.gids).any(member);
        if allowed {
            return Ok(());
        }
        Err(format!(
            "uid {} may not attach: it is not the broker's user ({}), not on the stream's lists and not in its group; \
             start ringd with --allow-uid {} or --group GROUP",
            peer.uid, self.owner, peer.uid
        ))
    }
}

impl Access {
    /// Whether `peer` may send readers away; if not, what to tell it.
    pub fn check_detach(&self, peer: &Peer) -> Result<(), String> {
        if peer.uid == 0 || peer.uid == self.owner {
            return Ok(());
        }
        Err(format!(
            "uid {} may not detach readers: that is for the broker's user ({}) and root; use sudo ringctl detach",
            peer.uid, self.owner
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { pid: 1, uid, gid, groups: groups.into() }
    }

    #[test]
    fn owner_root_group_and_lists_get_in_and_nobody_else() {
        let access = Access { owner: 1000, group: Some(50), uids: vec![7], gids: vec![60] };
        for good in [
            peer(0, 0, &[]),
            peer(1000, 9, &[]),
            peer(5, 50, &[]),
            peer(5, 9, &[1, 50]),
            peer(7, 9, &[]),
            peer(5, 9, &[60]),
        ] {
            assert_eq!(access.check(&good), Ok(()), "{good:?}");
        }
        let refused = access.check(&peer(1001, 1000, &[1, 2])).unwrap_err();
        assert!(refused.contains("1001") && refused.contains("--allow-uid"), "{refused}");
        // Who may attach may not send others away.
        for (uid, may) in [(0, true), (1000, true), (7, false), (5, false)] {
            assert_eq!(access.check_detach(&peer(uid, 50, &[60])).is_ok(), may, "{uid}");
        }
        // No group set: gid 0 of an unset group must not be a way in.
        assert!(Access { owner: 1000, ..Access::default() }.check(&peer(5, 0, &[0])).is_err());
    }
}
