//! Who may do what with a stream: decided by the kernel's word on the peer, not by anything the
//! peer says.
//!
//! Contract: root and the broker's own user may do everything; members of the socket's group and
//! whoever the stream's lists for attaching name may attach; whoever a list names for anything may
//! look at statistics, which show who reads and how well, but no payload. Nobody else gets an
//! answer beyond why not.

use ringweir_proto::os::socket::Peer;

/// What a peer may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To see statistics and the configuration.
    Watch,
    /// To become a reader.
    Attach,
    /// To send readers away.
    Administer,
    /// To have the broker itself do otherwise.
    Own,
}

/// Users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups, whose members are meant, by their first group or any other.
    pub gids: Vec<u32>,
}

impl List {
    fn names(&self, peer: &Peer) -> bool {
        self.uids.contains(&peer.uid) || self.gids.iter().any(|gid| is_member(peer, *gid))
    }
}

fn is_member(peer: &Peer, gid: u32) -> bool {
    peer.gid == gid || peer.groups.contains(&gid)
}

/// One stream's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// User that runs the broker.
    pub owner: u32,
    /// Group of the socket, if one was set.
    pub group: Option<u32>,
    /// Who may attach beside these.
    pub attach: List,
    /// Who may look at statistics and no more.
    pub watch: List,
    /// Who may send readers away, and look.
    pub administer: List,
}

impl Access {
    /// Whether `uid` is one to whom no limit applies: it could stop the broker.
    pub fn is_master(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner
    }

    /// Whether `peer` may; if not, what to tell it.
    pub fn check(&self, peer: &Peer, right: Right) -> Result<(), String> {
        if self.is_master(peer.uid) || self.may(peer, right) {
            return Ok(());
        }
        let (uid, owner) = (peer.uid, self.owner);
        Err(match right {
            Right::Watch | Right::Attach => {
                let looks = self.may(peer, Right::Watch);
                let what =
                    if looks { "may look at statistics but not attach" } else { "may not attach" };
                format!(
                    "uid {uid} {what}: it is not the broker's user ({owner}), not on the stream's \
                    lists and not in its group; \
                     start ringd with --allow-uid {uid} or --group GROUP"
                )
            }
            Right::Administer => format!(
                "uid {uid} may not detach readers: that is for the broker's user ({owner}), root, \
                and whom ringd was started \
                 with by --admin-uid or --admin-gid; use sudo ringctl detach"
            ),
            Right::Own => format!(
                "uid {uid} may not have this broker reload: that is for the broker's user \
                ({owner}) \
                and root; use sudo ringctl reload"
            ),
        })
    }

    fn may(&self, peer: &Peer, right: Right) -> bool {
        let attach =
            || self.attach.names(peer) || self.group.is_some_and(|group| is_member(peer, group));
        match right {
            Right::Attach => attach(),
            Right::Administer => self.administer.names(peer),
            Right::Own => false,
            Right::Watch => attach() || self.watch.names(peer) || self.administer.names(peer),
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
    fn each_list_gives_its_right_and_no_other() {
        let lists = (list(7, 60), list(8, 61), list(9, 62));
        let access = Access {
            owner: 1000,
            group: Some(50),
            attach: lists.0,
            watch: lists.1,
            administer: lists.2,
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
            let found = [Right::Watch, Right::Attach, Right::Administer, Right::Own]
                .map(|right| access.check(&who, right).is_ok());
            assert_eq!(found, rights, "{who:?}");
        }
        let refused = |right| access.check(&peer(1001, 1, &[]), right).unwrap_err();
        assert!(
            refused(Right::Attach).contains("1001 may not attach")
                && refused(Right::Attach).contains("--allow-uid")
        );
        assert!(refused(Right::Administer).contains("--admin-uid"));
        let looks = access.check(&peer(8, 1, &[]), Right::Attach).unwrap_err();
        assert!(looks.contains("may look at statistics but not attach"), "{looks}");
        // No group set: gid 0 of an unset group must not be a way in.
        let alone = Access { owner: 1000, ..Access::default() };
        assert!(alone.check(&peer(5, 0, &[0]), Right::Watch).is_err());
    }
}
