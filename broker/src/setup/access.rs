//! Which peer may do what with a stream. It is decided by the credentials that the kernel reports,
//! not by anything the peer sends.
//!
//! Contract: root and the broker's own user may do everything. Members of the socket's group, and
//! users and groups on the stream's attach lists, may attach. Users and groups on any list may view
//! statistics, which show the readers and their figures but no payload. All others get only the
//! reason for the refusal. A number that stands for strangers (`os/users.rs`) is on no list and is
//! not the broker's user.

use ringweir_proto::os::socket::Peer;
use ringweir_proto::os::users::Strangers;

/// What a peer may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To view statistics and the configuration.
    View,
    /// To become a reader.
    Attach,
    /// To detach readers.
    Administer,
    /// To make the broker reload its configuration.
    Reload,
}

/// Users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups. A peer is a member by its primary group or by a supplementary one.
    pub gids: Vec<u32>,
}

impl List {
    fn contains(&self, peer: &Peer, strangers: Strangers) -> bool {
        strangers.uid != Some(peer.uid) && self.uids.contains(&peer.uid)
            || self.gids.iter().any(|gid| is_member(peer, *gid, strangers))
    }
}

fn is_member(peer: &Peer, gid: u32, strangers: Strangers) -> bool {
    strangers.gid != Some(gid) && (peer.gid == gid || peer.groups.contains(&gid))
}

/// The access lists of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// User that runs the broker.
    pub owner: u32,
    /// Group of the socket, if one was set.
    pub group: Option<u32>,
    /// Further peers that may attach.
    pub attach: List,
    /// Peers that may view statistics but not attach.
    pub view: List,
    /// Peers that may detach readers and view statistics.
    pub administer: List,
    /// The numbers that stand for no user and no group in particular.
    pub strangers: Strangers,
}

impl Access {
    /// Whether no limit applies to `uid`: it could stop the broker anyway.
    pub fn is_unlimited(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner && self.strangers.uid != Some(uid)
    }

    /// Checks that `peer` has a right. The error is the text for the peer.
    pub fn check(&self, peer: &Peer, right: Right) -> Result<(), String> {
        if self.is_unlimited(peer.uid) || self.may(peer, right) {
            return Ok(());
        }
        let (uid, owner) = (peer.uid, self.owner);
        if self.strangers.uid == Some(uid) {
            return Err(format!(
                "uid {uid} stands for every user that the broker's user namespace does not map, so \
                it has no rights by that number: map your user there (uid_map), or join a group \
                that is mapped and on the stream's lists"
            ));
        }
        Err(match right {
            Right::View | Right::Attach => {
                let views = self.may(peer, Right::View);
                let what =
                    if views { "may view statistics but not attach" } else { "may not attach" };
                format!(
                    "uid {uid} {what}: it is not the broker's user ({owner}), not on the stream's \
                    access lists and not in its group; start ringd with --allow-uid {uid} or \
                    --group GROUP"
                )
            }
            Right::Administer => format!(
                "uid {uid} may not detach readers: only the broker's user ({owner}), root and \
                those in --admin-uid or --admin-gid of ringd may; use sudo ringctl detach"
            ),
            Right::Reload => format!(
                "uid {uid} may not reload this broker: only the broker's user ({owner}) and root \
                may; use sudo ringctl reload"
            ),
        })
    }

    fn may(&self, peer: &Peer, right: Right) -> bool {
        let on = |list: &List| list.contains(peer, self.strangers);
        let in_group = || self.group.is_some_and(|group| is_member(peer, group, self.strangers));
        let attach = || on(&self.attach) || in_group();
        match right {
            Right::Attach => attach(),
            Right::Administer => on(&self.administer),
            Right::Reload => false,
            Right::View => attach() || on(&self.view) || on(&self.administer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { pid: 1, uid, gid, groups: groups.into() }
    }

    fn list(uid: u32, gid: u32) -> List {
        List { uids: vec![uid], gids: vec![gid] }
    }

    #[test]
    fn each_list_gives_its_own_right_only() {
        let lists = (list(7, 60), list(8, 61), list(9, 62));
        let access = Access {
            owner: 1000,
            group: Some(50),
            attach: lists.0,
            view: lists.1,
            administer: lists.2,
            strangers: Strangers::default(),
        };
        for (who, rights) in [
            (peer(0, 0, &[]), [true, true, true, true]),
            (peer(1000, 9, &[]), [true, true, true, true]),
            (peer(5, 50, &[]), [true, true, false, false]),
            (peer(5, 9, &[1, 50]), [true, true, false, false]),
            (peer(7, 9, &[]), [true, true, false, false]),
            (peer(5, 9, &[60]), [true, true, false, false]),
            (peer(8, 9, &[]), [true, false, false, false]),
            (peer(5, 61, &[]), [true, false, false, false]),
            (peer(9, 9, &[]), [true, false, true, false]),
            (peer(5, 9, &[62]), [true, false, true, false]),
            (peer(1001, 1000, &[1, 2]), [false, false, false, false]),
        ] {
            let found = [Right::View, Right::Attach, Right::Administer, Right::Reload]
                .map(|right| access.check(&who, right).is_ok());
            assert_eq!(found, rights, "{who:?}");
        }
        let refused = |right| access.check(&peer(1001, 1, &[]), right).unwrap_err();
        assert!(
            refused(Right::Attach).contains("1001 may not attach")
                && refused(Right::Attach).contains("--allow-uid")
        );
        assert!(refused(Right::Administer).contains("--admin-uid"));
        let views = access.check(&peer(8, 1, &[]), Right::Attach).unwrap_err();
        assert!(views.contains("may view statistics but not attach"), "{views}");
        // No group set: gid 0 must not match the unset group.
        let alone = Access { owner: 1000, ..Access::default() };
        assert!(alone.check(&peer(5, 0, &[0]), Right::View).is_err());
    }
    /// A broker in a user namespace that runs as the number for unmapped users, or has that number
    /// on a list, takes no stranger for itself or for a listed user. Controls: outside a namespace
    /// the number is a user's, and in it the other numbers and root are.
    #[test]
    fn a_stranger_is_nobody_in_particular() {
        let nobody = List { uids: vec![65534], gids: vec![65534] };
        let mut access = Access {
            owner: 65534,
            group: Some(65534),
            attach: List { uids: vec![65534, 7], gids: vec![65534, 60] },
            view: nobody.clone(),
            administer: nobody,
            ..Access::default()
        };
        let rights = [Right::View, Right::Attach, Right::Administer, Right::Reload];
        let of = |access: &Access, peer: &Peer| rights.map(|r| access.check(peer, r).is_ok());
        let stranger = peer(65534, 65534, &[65534]);
        assert!(access.is_unlimited(65534));
        assert_eq!(of(&access, &stranger), [true; 4], "control");
        access.strangers = Strangers { uid: Some(65534), gid: Some(65534) };
        assert!(!access.is_unlimited(65534) && access.is_unlimited(0));
        assert_eq!(of(&access, &stranger), [false; 4]);
        for known in [peer(7, 65534, &[]), peer(65534, 60, &[])] {
            assert_eq!(of(&access, &known), [true, true, false, false], "{known:?}");
        }
    }
}
