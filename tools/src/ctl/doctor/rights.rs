//! Checks of what this user may do: lock memory, run at real time, open files, capture packets, use
//! large socket buffers.

use super::finding::{Found, ok, warn};
use crate::machine::{Capability, Machine};
use ringweir_cli::quantity::Bytes;
use std::path::Path;

/// Priority of the broker in the documentation.
const PRIORITY: u64 = 60;
/// What a `udp:` source asks for.
const RECEIVE_BUFFER: u64 = 8 << 20;

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { Bytes(limit).to_string() }
}

pub(super) fn locked_memory(m: &Machine) -> Vec<Found> {
    // Reader pages and statistics are locked besides the ring.
    let need = m.ring + (m.readers + 64) * 4096;
    if m.capable(Capability::IpcLock) {
        return vec![ok(format!(
            "may lock the {} that its rings take (CAP_IPC_LOCK)",
            Bytes(need)
        ))];
    }
    let Some((soft, hard)) = m.limit("Max locked memory") else {
        return vec![warn("the limit of locked memory cannot be read", "mount -t proc proc /proc")];
    };
    if soft >= need {
        return vec![ok(format!("may lock {}; its rings take {}", shown(soft), Bytes(need)))];
    }
    let text = format!(
        "may lock only {}, but its rings take {}: they can be swapped out, and the pump then waits \
        for the disk",
        shown(soft),
        Bytes(need)
    );
    let fix = if hard >= need {
        format!("ulimit -l {}", need.div_ceil(1024))
    } else {
        // For the shell; for a service it is LimitMEMLOCK=.
        format!("{}prlimit --pid $$ --memlock={need}:{need}", m.sudo())
    };
    vec![warn(text, fix)]
}

pub(super) fn real_time(m: &Machine) -> Vec<Found> {
    if m.capable(Capability::SysNice) {
        return vec![ok("may run at real time (CAP_SYS_NICE)")];
    }
    let Some((soft, hard)) = m.limit("Max realtime priority") else {
        return vec![warn(
            "the limit of real-time priority cannot be read",
            "mount -t proc proc /proc",
        )];
    };
    if soft >= PRIORITY {
        return vec![ok(format!("may run at real-time priorities up to {soft}"))];
    }
    let text = format!(
        "`chrt -f {PRIORITY} ringd …` is refused (highest real-time priority: {soft}): a busy \
        machine delays the pump"
    );
    let fix = if hard >= PRIORITY {
        format!("ulimit -r {PRIORITY}")
    } else {
        format!("{}prlimit --pid $$ --rtprio={PRIORITY}:{PRIORITY}", m.sudo())
    };
    vec![warn(text, fix)]
}

pub(super) fn open_files(m: &Machine) -> Vec<Found> {
    // For each reader its socket, page, and three events; the descriptors of broker and stream; the
    // connections of viewers, of handshaking clients, and of those that have not read their answer.
    // ringd raises its soft limit to the hard one.
    let need = m.readers * 5 + 32 + 1280;
    match m.limit("Max open files") {
        Some((_, hard)) if hard >= need => {
            vec![ok(format!("may open {hard} files; {} readers take {need}", m.readers))]
        }
        Some((_, hard)) => vec![warn(
            format!(
                "may open only {hard} files, but {} readers take {need}: the last readers are \
                refused",
                m.readers
            ),
            format!("{}prlimit --pid $$ --nofile={need}:{need}", m.sudo()),
        )],
        None => vec![warn("the limit of open files cannot be read", "mount -t proc proc /proc")],
    }
}

/// Whether a program gets a capability from its file: `struct vfs_cap_data`, whose second word
/// holds the permitted ones.
fn has_file_capability(path: &Path, of: Capability) -> bool {
    let mut data = [0; 24];
    let Ok(len) = rustix::fs::getxattr(path, "security.capability", &mut data) else {
        return false;
    };
    let permitted =
        data[..len].get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    permitted >> of as u32 & 1 == 1
}

pub(super) fn packet_capture(m: &Machine) -> Vec<Found> {
    if m.capable(Capability::NetRaw) {
        return vec![ok("may capture packets (CAP_NET_RAW)")];
    }
    if let Some(ringd) = m.program("ringd").filter(|p| has_file_capability(p, Capability::NetRaw)) {
        return vec![ok(format!("{} may capture packets (file capability)", ringd.display()))];
    }
    vec![warn(
        "no CAP_NET_RAW: sources of kind packet: are refused; all others work",
        format!("{}setcap cap_net_raw+ep \"$(command -v ringd)\"", m.sudo()),
    )]
}

pub(super) fn receive_buffers(m: &Machine) -> Vec<Found> {
    if m.capable(Capability::NetAdmin) {
        return vec![ok(
            "sources of kind udp: get the receive buffer they ask for (CAP_NET_ADMIN)",
        )];
    }
    let path = "/proc/sys/net/core/rmem_max";
    match m.number::<u64>(path) {
        Some(most) if most >= RECEIVE_BUFFER => {
            vec![ok(format!("receive buffers of up to {} are allowed", Bytes(most)))]
        }
        Some(most) => vec![warn(
            format!(
                "sources of kind udp: ask for a receive buffer of {1} and get {0}: the kernel \
                drops bursts (and counts them)",
                Bytes(most),
                Bytes(RECEIVE_BUFFER)
            ),
            format!("{}sysctl -w net.core.rmem_max={RECEIVE_BUFFER}", m.sudo()),
        )],
        // Only the first network namespace shows it.
        None => vec![ok("this network namespace does not show the limit of receive buffers")],
    }
}
