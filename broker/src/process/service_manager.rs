//! Notifications to the service manager (systemd's sd_notify protocol).
//!
//! Contract: without `NOTIFY_SOCKET` in the environment nothing is sent. The socket is connected
//! while the process still has the rights to, and a notification that cannot be delivered is
//! dropped: no stream depends on it.

use ringweir_proto::os::clock;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The connection to the service manager, if there is one.
#[derive(Default)]
pub struct ServiceManager {
    socket: Option<Arc<UnixDatagram>>,
    /// Whether the manager stores descriptors for the next process of this service.
    stores_descriptors: bool,
    /// Interval of the watchdog notifications, and when the next one is due.
    watchdog: Option<(Duration, Instant)>,
}

impl ServiceManager {
    /// Connects to the socket that `NOTIFY_SOCKET` names.
    ///
    /// # Errors
    /// If it cannot be reached: the manager would wait in vain for the service to become ready.
    pub fn connect() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let connect = || -> std::io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            match name.as_bytes().split_first() {
                Some((b'@', rest)) => {
                    socket.connect_addr(&SocketAddr::from_abstract_name(rest)?)?
                }
                _ => socket.connect(&name)?,
            }
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = match connect() {
            Ok(socket) => socket,
            // Inherited from a service that has ended, for example through tmux or cron. No stream
            // depends on it.
            Err(e) => {
                let name = name.display();
                tracing::warn!("NOTIFY_SOCKET={name}: {e}: no service manager is notified");
                return Self::default();
            }
        };
        let number = |key| std::env::var(key).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // Twice as often as the manager demands.
        let every = number("WATCHDOG_USEC")
            .filter(|usec| ours && *usec > 0)
            .map(|usec| Duration::from_micros(usec) / 2);
        let stores_descriptors = number("FDSTORE").is_some_and(|most| most > 0);
        Self {
            socket: Some(socket.into()),
            stores_descriptors,
            watchdog: every.map(|every| (every, Instant::now())),
        }
    }

    /// The socket to send descriptors to, if the manager stores them.
    pub fn fd_store_socket(&self) -> Option<Arc<UnixDatagram>> {
        self.socket.clone().filter(|_| self.stores_descriptors)
    }

    /// Reports that the service is ready, with a status line.
    pub fn notify_ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that a reload has begun.
    pub fn notify_reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_ns() / 1000));
    }

    /// Reports that the service is stopping.
    pub fn notify_stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Sends a watchdog notification if one is due.
    pub fn notify_watchdog(&mut self, now: Instant) {
        if let Some((every, due)) = &mut self.watchdog
            && now >= *due
        {
            *due = now + *every;
            self.send("WATCHDOG=1");
        }
    }

    /// Sends lines of `KEY=value`.
    fn send(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // Not delivered: the manager does not listen at the moment. Nothing depends on it.
            let _undelivered = socket.send(state.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_notifications_come_when_due_and_only_with_a_manager() {
        let mut manager = ServiceManager::default();
        manager.notify_ready("x");
        manager.notify_watchdog(Instant::now());
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let watchdog = Some((Duration::from_secs(1), now));
        let mut manager =
            ServiceManager { socket: Some(ours.into()), stores_descriptors: false, watchdog };
        let received = || {
            let mut room = [0; 64];
            theirs.recv(&mut room).ok().map(|n| String::from_utf8_lossy(&room[..n]).into_owned())
        };
        manager.notify_watchdog(now);
        manager.notify_watchdog(now + Duration::from_millis(500));
        assert_eq!(
            (received().as_deref(), received()),
            (Some("WATCHDOG=1"), None),
            "not before it is due again"
        );
        manager.notify_watchdog(now + Duration::from_secs(1));
        manager.notify_ready("2 streams");
        assert_eq!(
            (received().as_deref(), received().as_deref()),
            (Some("WATCHDOG=1"), Some("READY=1\nSTATUS=2 streams"))
        );
    }
}
