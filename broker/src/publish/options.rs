//! The options of a stream that a program serves.

use super::error::StartError;
use crate::setup::config::StreamConfig;
use crate::setup::lossless_budget::LosslessBudget;
use ringweir_cli::quantity::{Bytes, Extent};
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::paths;
use ringweir_proto::ring::Budget;
use std::path::PathBuf;
use std::time::Duration;

/// A stream to be served: its name, the sizes of its ring, and who may do what.
///
/// What is not set is as with `ringd run`: 8 MiB, 16384 slots, datagrams of up to 64 KiB, 64
/// readers, and access for the same user and root only.
///
/// Two streams of the same name in one run directory cannot be served at the same time. If the
/// program died, its next start with the same options adopts the ring: readers read on, and get one
/// notice of the restart.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub(super) config: StreamConfig,
    pub(super) run_dir: Option<PathBuf>,
}

impl StreamOptions {
    /// A stream with this name: what readers attach to. Letters, digits, `.`, `-` and `_`.
    pub fn new(name: &str) -> Self {
        Self { config: StreamConfig::named(name, "a program"), run_dir: None }
    }

    /// Room for payload, bytes: at least four of the largest datagrams, at most 1 TiB.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.config.capacity = Some(Extent::Bytes(bytes));
        self
    }

    /// How many datagrams the ring remembers, at least: up to about 60 million. If only this or the
    /// capacity is set, the other follows from the usual size of a datagram
    /// ([`Self::usual_datagram`]).
    pub fn depth(mut self, datagrams: u64) -> Self {
        self.config.depth = Some(Extent::Datagrams(datagrams));
        self
    }

    /// The usual size of a datagram, bytes; 1 KiB by default. Converts capacity into depth and
    /// back.
    pub fn usual_datagram(mut self, bytes: u64) -> Self {
        self.config.datagram_size = Some(Bytes(bytes));
        self
    }

    /// The largest datagram, bytes: up to 16 MiB.
    pub fn max_datagram(mut self, bytes: u64) -> Self {
        self.config.max_datagram = Some(Bytes(bytes));
        self
    }

    /// Most readers at the same time: 1 to 4096.
    pub fn readers_max(mut self, most: u32) -> Self {
        self.config.readers_max = most;
        self
    }

    /// Lets readers attach lossless. The stream waits for a lossless reader that is more than
    /// `bytes` behind (`None`: that has filled the ring), for `time` in all (`None`: for ever), and
    /// then continues without it. By default the stream waits for no reader.
    pub fn lossless(mut self, bytes: Option<u64>, time: Option<Duration>) -> Self {
        let time_ns = time.map_or(u64::MAX, |time| time.as_nanos().try_into().unwrap_or(u64::MAX));
        let bytes = bytes.unwrap_or(u64::MAX);
        self.config.lossless = Some(LosslessBudget(Budget { bytes, time_ns }));
        self
    }

    /// Metadata for readers, such as `("channels", "8")`. May be called several times.
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.config.meta.push(format!("{key}={value}"));
        self
    }

    /// Makes the ring a sealed memfd, which has no name in /dev/shm and which no other process can
    /// open for writing. It cannot be adopted after the program's death. Unlike `ringd`, this does
    /// not keep other processes of the same user from tracing this one.
    pub fn memfd(mut self) -> Self {
        self.config.memory = Memory::Memfd;
        self
    }

    /// Uses huge pages as far as the kernel has some.
    pub fn huge_pages(mut self) -> Self {
        self.config.hugepages = true;
        self
    }

    /// For a stream with a source: polls the source without sleeping. Lowest latency, one whole
    /// processor.
    pub fn spin(mut self) -> Self {
        self.config.spin = true;
        self
    }

    /// For a stream with a source: the processor that its pump runs on.
    pub fn cpu(mut self, number: usize) -> Self {
        self.config.cpu = Some(number);
        self
    }

    /// For a stream with a source: reads nothing from the source until this many readers are
    /// attached.
    pub fn wait_readers(mut self, count: u32) -> Self {
        self.config.wait_readers = count;
        self
    }

    /// Lets members of this group attach (name or number).
    pub fn group(mut self, group: &str) -> Self {
        self.config.group = Some(group.into());
        self
    }

    /// Lets this user attach, beside the program's own user and root. May be called several times.
    pub fn allow_user(mut self, uid: u32) -> Self {
        self.config.allow_uid.push(uid);
        self
    }

    /// The directory of the control socket. By default `$RINGWEIR_DIR`, `$XDG_RUNTIME_DIR/ringweir`
    /// or `/run/ringweir`, where readers look for it.
    pub fn run_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.run_dir = Some(directory.into());
        self
    }

    /// The run directory, made if it is not there.
    pub(super) fn make_run_dir(&self) -> Result<PathBuf, StartError> {
        paths::make_run_dir(self.run_dir.as_deref())
            .map_err(|e| StartError::new(&self.config.name, &e.into()))
    }
}
