//! The network interface of a `udp:` source: the one that its socket is bound to, or on which its
//! group is joined.
//!
//! Contract: the interface is followed by its name (see [`LinkWatch`]). When it is gone, that is
//! reported, and what was joined on it is left. When an interface has the name again, the socket is
//! bound to it, or the group joined on it, whatever its index is. If the route chose the
//! interface, its name is followed all the same; while it is gone, the group is joined where the
//! route leads, if there is one.
//!
//! Without CAP_NET_RAW a socket can change its interface only by being bound to none in between.
//! In those microseconds it receives from every interface.

use super::super::contract::SourceError;
use super::super::socket::{get_words, interface, set_option};
use crate::intake::for_sources::Intake;
use crate::process::sandbox::needs::Needs;
use ringweir_proto::os::links::{LinkNews, LinkWatch, RouteQuery};
use rustix::io::Errno;
use rustix::net::{netdevice, sockopt};
use rustix::thread::CapabilitySet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

/// Shortest time between two looks for messages of the kernel: a busy source must not look in
/// every round.
const LOOK_NS: u64 = 1_000_000;
/// How often joining is tried again, and the route asked for.
const RETRY_NS: u64 = 1_000_000_000;

/// An interface that may disappear and come back.
pub(super) struct Interface {
    watch: LinkWatch,
    group: Option<IpAddr>,
    /// The route chose the interface.
    routes: Option<RouteQuery>,
    /// Where the group is joined, or what the socket is bound to: an index, 0 for nothing.
    on: u32,
    /// The last attempt failed, which was reported.
    failed: bool,
    /// When to look next, CLOCK_MONOTONIC ns.
    look_at: u64,
    /// When to try next, if something is to be done.
    retry_at: u64,
}

impl Interface {
    /// Follows the interface called `name`.
    pub(super) fn named(fd: BorrowedFd<'_>, name: &str) -> Result<Self, SourceError> {
        // The error lists the interfaces that exist.
        interface(fd, name)?;
        let watch = LinkWatch::new(name).map_err(SourceError::new)?;
        let on = watch.index();
        let (group, routes, failed) = (None, None, false);
        Ok(Self { watch, group, routes, on, failed, look_at: 0, retry_at: 0 })
    }

    /// Follows the interface to which the route to `group` leads. `None`: the kernel tells none.
    pub(super) fn routed(fd: BorrowedFd<'_>, group: IpAddr) -> Result<Option<Self>, SourceError> {
        let routes = RouteQuery::new().map_err(SourceError::new)?;
        let index = routes.interface_to(group);
        let Some(name) = index.and_then(|index| netdevice::index_to_name(fd, index).ok()) else {
            return Ok(None);
        };
        Ok(Some(Self { routes: Some(routes), ..Self::named(fd, &name)? }))
    }

    pub(super) fn name(&self) -> &str {
        self.watch.name()
    }

    pub(super) fn index(&self) -> u32 {
        self.on
    }

    /// `group` has been joined on it.
    pub(super) fn joined(&mut self, group: IpAddr) {
        self.group = Some(group);
    }

    /// Looks for news, and does what has to be done.
    pub(super) fn look(&mut self, fd: BorrowedFd<'_>, intake: &mut Intake) {
        let now = intake.now();
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_NS;
        let mut known = true;
        match self.watch.look() {
            LinkNews::Same => {}
            LinkNews::Renamed(new) => {
                let name = self.watch.name();
                intake.fault(format_args!(
                    "udp: interface {name} is called {new} now; the socket stays with it until \
                    another one is called {name}"
                ));
            }
            LinkNews::Gone => {
                self.leave(fd);
                self.retry_at = now;
                let name = self.watch.name();
                match self.group {
                    Some(group) => intake.fault(format_args!(
                        "udp: interface {name} is gone; {group} is joined again when it is back"
                    )),
                    None => intake.fault(format_args!(
                        "udp: interface {name} is gone; the socket is bound to it again when it \
                        is back"
                    )),
                }
            }
            news @ (LinkNews::Another(_) | LinkNews::Unsure(_)) => {
                known = matches!(news, LinkNews::Another(_));
                self.leave(fd);
                self.retry_at = now;
            }
        }
        if self.until().is_some_and(|until| now >= until) {
            self.retry_at = now + RETRY_NS;
            self.enter(fd, intake, known);
        }
    }

    /// When something is to be tried next. `None`: the next news decide.
    pub(super) fn until(&self) -> Option<u64> {
        let settled = self.on == self.watch.index() && (self.on != 0 || self.routes.is_none());
        (!settled).then_some(self.retry_at)
    }

    /// Binds or joins again. It is reported if it is `known` that something has changed.
    fn enter(&mut self, fd: BorrowedFd<'_>, intake: &mut Intake, known: bool) {
        let meanwhile = || self.routes.as_ref()?.interface_to(self.group?);
        let index = match self.watch.index() {
            0 => meanwhile().unwrap_or(0),
            index => index,
        };
        if index == self.on {
            return;
        }
        self.leave(fd);
        if index == 0 {
            return;
        }
        let name = self.watch.name();
        let entered = rebind(fd, index)
            .and_then(|()| self.group.map_or(Ok(()), |group| join(fd, group, index)));
        match (entered, self.group) {
            (Ok(()), group) => {
                (self.on, self.failed) = (index, false);
                match group {
                    Some(group) if index != self.watch.index() => intake.fault(format_args!(
                        "udp: {group} is joined on the interface with index {index}, to which the \
                        route leads, until {name} is back"
                    )),
                    Some(group) if known => intake
                        .fault(format_args!("udp: interface {name} is back, {group} joined again")),
                    None if known => intake.fault(format_args!(
                        "udp: interface {name} is back, the socket is bound to it again"
                    )),
                    _ => {}
                }
            }
            (Err(_), _) if std::mem::replace(&mut self.failed, true) => {}
            (Err(e), Some(group)) => intake.fault(format_args!(
                "udp: joining {group} on {name}: {e}; tried again every second"
            )),
            (Err(e), None) => intake.fault(format_args!(
                "udp: interface {name} is back, but binding to it needs CAP_NET_RAW: {e}; tried \
                again every second"
            )),
        }
    }

    /// Leaves the group where it was joined. The kernel keeps a membership on an interface that is
    /// gone, and refuses a second one with the same index.
    fn leave(&mut self, fd: BorrowedFd<'_>) {
        let on = std::mem::take(&mut self.on);
        let _gone = match self.group {
            Some(IpAddr::V4(group)) if on != 0 => {
                let any = Ipv4Addr::UNSPECIFIED;
                sockopt::set_ip_drop_membership_with_ifindex(fd, &group, &any, on)
            }
            Some(IpAddr::V6(group)) if on != 0 => sockopt::set_ipv6_drop_membership(fd, &group, on),
            _ => Ok(()),
        };
    }

    /// What it needs, if the socket is `bound` to the interface.
    pub(super) fn needs(&self, fd: BorrowedFd<'_>) -> Needs {
        let bound = bound_to(fd) != 0;
        let capabilities = if bound { CapabilitySet::NET_RAW } else { CapabilitySet::empty() };
        Needs { capabilities, connect: bound, ..Needs::default() }
    }
}

impl AsFd for Interface {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// Joins `group` on the interface with this index; 0: where the route leads.
pub(super) fn join(fd: BorrowedFd<'_>, group: IpAddr, index: u32) -> Result<(), Errno> {
    match group {
        IpAddr::V4(group) => {
            let any = Ipv4Addr::UNSPECIFIED;
            sockopt::set_ip_add_membership_with_ifindex(fd, &group, &any, index)
        }
        IpAddr::V6(group) => sockopt::set_ipv6_add_membership(fd, &group, index),
    }
}

/// Binds the socket to the interface with this index.
pub(super) fn bind_to(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &index)
}

/// The index of the interface that the socket is bound to, 0 if it is bound to none. An IPv6
/// socket with a link-local address is bound to that address's interface.
fn bound_to(fd: BorrowedFd<'_>) -> u32 {
    get_words::<1>(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).map_or(0, |[index]| index)
}

/// Binds the socket to another interface, if it is bound to one.
fn rebind(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    let now = bound_to(fd);
    if now == 0 || now == index {
        return Ok(());
    }
    let errno = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    match bind_to(fd, index).map_err(errno) {
        Err(Errno::PERM) => {
            // Any process may bind a socket that is bound to none, and dissolving a connection
            // that does not exist also unbinds it. Port and address stay.
            rustix::net::connect_unspec(fd)?;
            bind_to(fd, index).map_err(errno)
        }
        outcome => outcome,
    }
}
