//! Network interfaces, followed by their name with the kernel's own messages (rtnetlink).
//!
//! Contract: an index does not identify an interface. One that is deleted and made again, or that
//! is moved to another network namespace and back, may get its old index, but nothing that was
//! bound to it or joined on it works any more. [`LinkWatch`] sees every removal, however short it
//! was. An interface that is renamed stays the same one until another interface has its name.
//! Nothing here waits.

use super::OsError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netdevice, recv, send,
    socket_with,
};
use std::net::IpAddr;

/// The group of messages about interfaces, as a bit of the address.
const LINK_GROUP: u32 = libc::RTMGRP_LINK as u32;
/// Room for a message. What is read of one is at its beginning.
const ROOM: usize = 8 << 10;
/// Length of the header of a message, and of what follows it in messages about interfaces and
/// about routes.
const HEADER: usize = 16;
const LINK: usize = 16;
const ROUTE_LEN: usize = 12;

/// What has become of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// Nothing new.
    Same,
    /// It is gone, and no other interface has its name.
    Gone,
    /// An interface with this index has the name, and it is another one than before, even if the
    /// index is the same.
    Another(u32),
    /// Messages of the kernel were lost: the interface that has the name, with this index, may be
    /// the same as before or another one.
    Unsure(u32),
    /// It has a new name. No other interface has the old one.
    Renamed(String),
}

/// Follows an interface by its name.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    name: String,
    /// 0: no interface has the name.
    index: u32,
    renamed: bool,
}

impl LinkWatch {
    /// Follows the interface called `name`, in the network namespace of the calling thread.
    pub fn new(name: &str) -> Result<Self, OsError> {
        let what = || format!("watching interface {name}");
        // First the messages, then the index, so that nothing is missed between.
        let socket = netlink().map_err(OsError::at(what()))?;
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP)).map_err(OsError::at(what()))?;
        let index = index_of(&socket, name);
        Ok(Self { socket, name: name.to_owned(), index, renamed: false })
    }

    /// The name that is followed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index of the interface, 0 if there is none.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What is new since the last call. This takes a system call even if nothing is.
    pub fn look(&mut self) -> LinkNews {
        let (mut removed, mut unsure, mut heard, mut new_name) = (false, false, false, None);
        let mut room = [0; ROOM];
        loop {
            let len = match recv(&self.socket, &mut room[..], RecvFlags::DONTWAIT) {
                Ok((_, len)) => len.min(ROOM),
                Err(Errno::INTR) => continue,
                // Messages did not fit: any interface may have gone and come.
                Err(Errno::NOBUFS) => {
                    unsure = true;
                    continue;
                }
                Err(_) => break,
            };
            heard = true;
            for (kind, body) in messages(&room[..len]) {
                let Some((0, index)) = link(body) else { continue };
                if index != self.index {
                } else if kind == libc::RTM_DELLINK {
                    removed = true;
                } else if let Some(name) = name_in(body) {
                    new_name = Some(name);
                }
            }
        }
        if !heard && !unsure {
            return LinkNews::Same;
        }
        let before = self.index;
        match index_of(&self.socket, &self.name) {
            0 if before == 0 => LinkNews::Same,
            // On its way out of the namespace it has no name any more, but still tells it.
            0 if !removed && !unsure => match new_name.filter(|name| *name != self.name) {
                Some(name) if !std::mem::replace(&mut self.renamed, true) => {
                    LinkNews::Renamed(name)
                }
                _ => LinkNews::Same,
            },
            0 => {
                (self.index, self.renamed) = (0, false);
                LinkNews::Gone
            }
            index => {
                (self.index, self.renamed) = (index, false);
                if index != before || removed {
                    LinkNews::Another(index)
                } else if unsure {
                    LinkNews::Unsure(index)
                } else {
                    LinkNews::Same
                }
            }
        }
    }
}

impl AsFd for LinkWatch {
    /// Readable when [`Self::look`] may have news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket with which the kernel is asked for routes.
#[derive(Debug)]
pub struct RouteQuery(OwnedFd);

impl RouteQuery {
    /// Opens it, in the network namespace of the calling thread.
    pub fn new() -> Result<Self, OsError> {
        Ok(Self(netlink().map_err(OsError::at("asking for a route"))?))
    }

    /// The interface through which datagrams to `to` leave this machine: its index. `None`: there
    /// is no route.
    pub fn interface_to(&self, to: IpAddr) -> Option<u32> {
        let (family, address) = match to {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
        };
        let attribute = 4 + address.len();
        let mut request = vec![0; HEADER + ROUTE_LEN];
        request[..4].copy_from_slice(&((HEADER + ROUTE_LEN + attribute) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        (request[HEADER], request[HEADER + 1]) = (family as u8, address.len() as u8 * 8);
        request.extend((attribute as u16).to_ne_bytes());
        request.extend(libc::RTA_DST.to_ne_bytes());
        request.extend(address);
        let mut room = [0; ROOM];
        // An answer that was not read must not be taken for this one.
        while recv(&self.0, &mut room[..], RecvFlags::DONTWAIT).is_ok() {}
        send(&self.0, &request, SendFlags::NOSIGNAL).ok()?;
        // The kernel answers while it takes the request.
        let (_, len) = recv(&self.0, &mut room[..], RecvFlags::DONTWAIT).ok()?;
        let (_, body) =
            messages(&room[..len.min(ROOM)]).find(|(kind, _)| *kind == libc::RTM_NEWROUTE)?;
        let oif = attributes(body.get(ROUTE_LEN..)?).find(|(kind, _)| *kind == libc::RTA_OIF)?;
        oif.1.first_chunk().map(|index| u32::from_ne_bytes(*index))
    }
}

fn netlink() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is number 0, NETLINK_ROUTE.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
}

/// The index of the interface that has this name, 0 if there is none.
fn index_of(fd: &OwnedFd, name: &str) -> u32 {
    netdevice::name_to_index(fd, name).unwrap_or(0)
}

/// The messages in a datagram of netlink: kind and what follows the header. One whose length
/// cannot be right ends them.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let whole = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        // A message that is longer than the room is cut.
        let body = rest.get(HEADER..whole.min(rest.len()))?;
        rest = rest.get(whole.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message: kind and value. One whose length cannot be right ends them.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let whole = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..whole)?;
        rest = rest.get(whole.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Family and index in a message about an interface. Only family 0 is about the interface itself:
/// a bridge reports the removal of a port in the same way.
fn link(body: &[u8]) -> Option<(u8, u32)> {
    Some((*body.first()?, u32::from_ne_bytes(*body.get(4..)?.first_chunk()?)))
}

/// The name in a message about an interface.
fn name_in(body: &[u8]) -> Option<String> {
    let (_, name) = attributes(body.get(LINK..)?).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about an interface, with its name.
    fn message(kind: u16, family: u8, index: u32, name: &[u8]) -> Vec<u8> {
        let whole = (HEADER + LINK + 4 + name.len()) as u32;
        let mut bytes = vec![0; HEADER + LINK];
        bytes[..4].copy_from_slice(&whole.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[HEADER] = family;
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        bytes.extend((4 + name.len() as u16).to_ne_bytes());
        bytes.extend(libc::IFLA_IFNAME.to_ne_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_read_and_bad_lengths_end_them() {
        let two = [
            message(libc::RTM_NEWLINK, 0, 7, b"eth0\0"),
            message(libc::RTM_DELLINK, 7, 8, b"a-bridge\0"),
        ];
        let both = two.concat();
        let seen: Vec<_> =
            messages(&both).map(|(kind, body)| (kind, link(body), name_in(body))).collect();
        assert_eq!(
            seen,
            [
                (libc::RTM_NEWLINK, Some((0, 7)), Some("eth0".into())),
                (libc::RTM_DELLINK, Some((7, 8)), Some("a-bridge".into())),
            ]
        );
        for len in 0..both.len() {
            for (_, body) in messages(&both[..len]) {
                let _whatever = (link(body), name_in(body));
            }
        }
        for lie in [0_u32, 1, 15, u32::MAX - 2, u32::MAX] {
            let mut bad = both.clone();
            bad[..4].copy_from_slice(&lie.to_ne_bytes());
            assert!(messages(&bad).count() <= 1, "{lie}");
        }
    }

    #[test]
    fn what_exists_is_found_and_what_does_not_is_not() {
        let mut watch = LinkWatch::new("lo").unwrap();
        assert!(watch.index() > 0);
        assert_eq!(watch.look(), LinkNews::Same);
        assert_eq!(watch.name(), "lo");
        assert_eq!(LinkWatch::new("nosuch0").unwrap().index(), 0);
        // The machine's own addresses are reached through the loopback.
        let routes = RouteQuery::new().unwrap();
        for _ in 0..3 {
            assert_eq!(routes.interface_to("127.0.0.1".parse().unwrap()), Some(watch.index()));
        }
    }
}
