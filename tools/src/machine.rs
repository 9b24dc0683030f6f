//! The machine as `ringctl doctor` and `ringctl devices` see it: files below one root, and the
//! limits and capabilities of this process.
//!
//! Contract: only reads. A file that does not exist or cannot be read is `None`, never a value.

use ringweir_proto::layout::Geometry;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bits of capabilities(7).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysNice = 23,
}

/// A machine, as this process finds it.
pub(crate) struct Machine {
    root: PathBuf,
    /// Bytes of the rings of one broker.
    pub ring: u64,
    /// Readers at a time.
    pub readers: u64,
    /// Whether the rings will use huge pages.
    pub hugepages: bool,
    /// Effective user.
    pub uid: u32,
    status: String,
    limits: String,
}

impl Machine {
    pub fn new(root: &Path, ring: Option<u64>, readers: u64, hugepages: bool) -> Self {
        let default = || Geometry::new(16 << 10, 8 << 20, 64 << 10).map_or(0, |g| g.footprint());
        let mut machine = Self {
            root: root.into(),
            ring: ring.unwrap_or_else(default),
            readers,
            hugepages,
            uid: rustix::process::geteuid().as_raw(),
            status: String::new(),
            limits: String::new(),
        };
        machine.status = machine.text("/proc/self/status").unwrap_or_default();
        machine.limits = machine.text("/proc/self/limits").unwrap_or_default();
        machine
    }

    /// Where a path of the machine is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Content of a file, without blanks around it.
    pub fn text(&self, path: &str) -> Option<String> {
        std::fs::read(self.at(path)).ok().map(|b| String::from_utf8_lossy(&b).trim().to_owned())
    }

    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Names in a directory, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The name that /etc/group or /etc/passwd (`file`) gives to `id`, and the rest of its line.
    pub fn called(&self, file: &str, id: u32) -> Option<(String, String)> {
        let all = self.text(file)?;
        all.lines().find_map(|line| {
            let mut fields = line.splitn(4, ':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id))
                .then(|| (name.to_owned(), fields.next().unwrap_or_default().to_owned()))
        })
    }

    /// A line of /proc/self/status.
    pub fn status(&self, key: &str) -> Option<&str> {
        self.status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }

    pub fn capable(&self, of: Capability) -> bool {
        let bits = self.status("CapEff").and_then(|t| u64::from_str_radix(t, 16).ok());
        bits.is_some_and(|b| b >> of as u64 & 1 == 1)
    }

    /// Soft and hard limit by its name in /proc/self/limits; unlimited is `u64::MAX`.
    pub fn limit(&self, name: &str) -> Option<(u64, u64)> {
        let line = self.limits.lines().find_map(|l| l.strip_prefix(name))?;
        let mut values = line
            .split_whitespace()
            .map(|v| if v == "unlimited" { Ok(u64::MAX) } else { v.parse() });
        Some((values.next()?.ok()?, values.next()?.ok()?))
    }

    /// Where the shell finds a program.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
    }

    /// What to put in front of a command for root.
    pub fn sudo(&self) -> &'static str {
        if self.uid == 0 { "" } else { "sudo " }
    }

    /// The command that writes `value` into the file `path`.
    pub fn write_line(&self, value: &str, path: &str) -> String {
        if self.uid == 0 && !path.contains('*') {
            return format!("echo {value} > {path}");
        }
        format!("echo {value} | {}tee {path}", self.sudo())
    }
}
