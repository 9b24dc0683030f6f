//! All kinds of source, and opening one by its name.

use super::contract::{OpenFor, Source, SourceError, SourceKind};
use super::{chardev, device, exec, file, r#gen, netlink, packet, ring, stdin, udp, unix};

/// All kinds of source.
pub const SOURCES: &[SourceKind] = &[
    r#gen::KIND,
    udp::KIND,
    packet::KIND,
    unix::KIND,
    netlink::KIND,
    chardev::KIND,
    device::SHIM,
    device::UIO,
    device::FIFO,
    stdin::KIND,
    file::KIND,
    exec::KIND,
    ring::KIND,
];

/// Whether opening a source of this kind reaches nothing outside of this process.
pub fn opens_nothing(kind: &str) -> bool {
    kind == r#gen::KIND.name
}

/// Whether a source of this kind may know its rate once it is open: a device says it.
pub fn may_know_rate(kind: &str) -> bool {
    [device::SHIM, device::UIO, device::FIFO].iter().any(|k| k.name == kind)
}

/// Opens `spec`, `NAME[:ARGUMENT]`.
pub fn open(spec: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let (name, argument) = spec.split_once(':').unwrap_or((spec, ""));
    let Some(kind) = SOURCES.iter().find(|k| k.name == name) else {
        let usages: Vec<_> = SOURCES.iter().map(|k| k.usage).collect();
        return Err(SourceError(format!("no source {name:?}; there are: {}", usages.join("  "))));
    };
    (kind.open)(argument, stream)
        .map_err(|e| SourceError(format!("source {spec:?}: {e} (usage: {})", kind.usage)))
}

/// The largest datagram that the ring of this source takes, unless another size is configured.
pub fn usual_longest(spec: &str) -> u64 {
    match spec.split_once(':') {
        Some((name, _)) if name == packet::KIND.name => packet::LONGEST,
        _ => 64 << 10,
    }
}
