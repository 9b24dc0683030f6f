//! Network namespaces for tests: two of them, joined by a wire on which only the test sends.
//!
//! Contract: a namespace has no name. The kernel removes it and its interfaces with the last fd and
//! process, however the test ends. Interfaces have fixed addresses and know their neighbour's (no
//! ARP), and IPv6 is off (no router solicitations), so the counters of an idle wire do not change.

#![allow(unsafe_code)]

use rustix::thread::{CpuSet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// Makes one, in which only loopback is up.
    ///
    /// # Errors
    /// If this process may not make one.
    pub fn new() -> io::Result<Self> {
        let made = || {
            // SAFETY: changes the network namespace of this thread only, and no file descriptor.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            for of in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6");
                if std::path::Path::new(&path).exists() {
                    std::fs::write(path, "1")?;
                }
            }
            File::open("/proc/thread-self/ns/net")
        };
        let file = std::thread::scope(|scope| scope.spawn(made).join()).expect("no panic")?;
        let namespace = Self(Arc::new(file));
        namespace.shell("ip link set lo up");
        Ok(namespace)
    }

    /// Makes `command` run in it.
    pub fn enter<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let namespace = self.0.clone();
        // SAFETY: one system call between fork and exec, with an fd that the closure keeps open.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)
            })
        }
    }

    /// Runs `act` in it, on a separate thread. Sockets made there stay in it.
    pub fn within<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        let in_it = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("setns");
            act()
        };
        std::thread::scope(|scope| scope.spawn(in_it).join())
            .unwrap_or_else(|e| std::panic::resume_unwind(e))
    }

    /// Runs shell lines in it; returns what they print.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn shell(&self, lines: &str) -> String {
        let done = self.enter(Command::new("sh").args(["-ec", lines])).output().expect("sh");
        assert!(done.status.success(), "{lines}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// A path that `ip` accepts as its name while this process runs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Counters of one of its interfaces.
    pub fn counters(&self, interface: &str) -> Counters {
        let text = self.shell(&format!("ip -s -j link show dev {interface}"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON of ip");
        let of = |way: &str, what: &str| {
            json[0]["stats64"][way][what]
                .as_u64()
                .unwrap_or_else(|| panic!("no {way} {what} in {text}"))
        };
        Counters {
            received: of("rx", "packets"),
            sent: of("tx", "packets"),
            unsent: of("tx", "dropped"),
        }
    }
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came in.
    pub received: u64,
    /// Packets that the other end took.
    pub sent: u64,
    /// Packets that the other end had no room for. A capture on this interface sees them go out all
    /// the same.
    pub unsent: u64,
}

impl Counters {
    /// Packets that a complete capture has seen since `earlier`.
    pub fn seen_since(&self, earlier: &Self) -> u64 {
        (self.received - earlier.received)
            + (self.sent - earlier.sent)
            + (self.unsent - earlier.unsent)
    }
}

/// Two namespaces and a wire: `va` ([`Wire::FAR`]) in the one, `vb` ([`Wire::NEAR`]) in the other.
/// MTU and offloads are the kernel's defaults.
pub struct Wire {
    /// Where packets come from.
    pub far: Namespace,
    /// Where they are captured.
    pub near: Namespace,
}

impl Wire {
    /// Address of `va`.
    pub const FAR: &str = "10.77.0.1";
    /// Address of `vb`.
    pub const NEAR: &str = "10.77.0.2";

    /// Makes the namespaces and the wire.
    ///
    /// # Errors
    /// If this process may not make namespaces.
    pub fn new() -> io::Result<Self> {
        let wire = Self { far: Namespace::new()?, near: Namespace::new()? };
        wire.plug();
        Ok(wire)
    }

    /// Makes the interfaces. It may be called again after they were deleted.
    pub fn plug(&self) {
        let (far, near) = (Self::FAR, Self::NEAR);
        let (va, vb) = ("02:00:00:00:77:01", "02:00:00:00:77:02");
        self.near.shell(&format!(
            "ip link add vb address {vb} type veth peer name va address {va} netns {}; ip address \
            add {near}/24 dev vb; \
             ip neighbour add {far} lladdr {va} dev vb nud permanent; ip link set vb up",
            self.far.path()
        ));
        self.far.shell(&format!(
            "ip address add {far}/24 dev va; ip neighbour add {near} lladdr {vb} dev va nud \
            permanent; ip link set va up"
        ));
    }
}

/// Makes a wire, or returns why such tests cannot run here: rights are missing, or `ip`, or one of
/// `programs`.
///
/// # Errors
/// The reason.
pub fn missing(programs: &[&str]) -> Result<Wire, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    for program in ["ip"].iter().chain(programs) {
        if !dirs.iter().any(|dir| dir.join(program).is_file()) {
            return Err(format!("there is no program {program:?} in PATH"));
        }
    }
    Wire::new().map_err(|e| format!("network namespaces need root (CAP_SYS_ADMIN): {e}"))
}

/// Makes `command` run on one processor, always the same one. Packets that are sent on it are also
/// received on it, one by one, so that two captures have the same order.
pub fn pin(command: &mut Command) -> &mut Command {
    let allowed = rustix::thread::sched_getaffinity(None).expect("sched_getaffinity");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a processor");
    let mut one = CpuSet::new();
    one.set(first);
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::sched_setaffinity(None, &one).map_err(io::Error::from)
        })
    }
}
