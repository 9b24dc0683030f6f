//! Reloading the configuration file: what changes, and what that may need.
//!
//! Contract: a stream that is no longer in the file ends, and one that is new begins. A stream that
//! is unchanged is not touched, neither its pump nor its readers. A stream whose keys have changed
//! is not touched either, and is reported. The process is confined by then: what new streams may
//! need beyond the kinds of source in the file is listed in its `later`.

use crate::process::sandbox::needs::{Needs, directory_of};
use crate::setup::config::StreamConfig;
use crate::setup::config_file::FileConfig;
use crate::source::kinds::SOURCES;
use crate::stream::builder::Host;
use rustix::thread::CapabilitySet;
use std::path::PathBuf;

/// The configuration file, and what streams that it adds are started with.
pub struct Reload {
    file: PathBuf,
    host: Host,
    /// Kinds of source that the process kept the rights for.
    kinds: Vec<String>,
}

/// One change of a reload.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// The stream with this name ends.
    End(String),
    /// This stream begins.
    Begin(Box<StreamConfig>),
    /// The keys of this stream have changed.
    Differs(String),
}

impl Reload {
    /// For `file`, with streams started by `host`.
    pub fn new(file: PathBuf, host: Host) -> Self {
        Self { file, host, kinds: Vec::new() }
    }

    /// Reads the file again, and compares it with the `running` streams. Streams to end come first.
    pub fn changes(&self, running: &[&StreamConfig]) -> anyhow::Result<Vec<Change>> {
        Ok(changes(running, FileConfig::read(&self.file)?.streams))
    }

    /// Whether the process has given up what this stream's kind of source needs.
    ///
    /// # Errors
    /// What to do about it.
    pub fn permits(&self, stream: &StreamConfig) -> anyhow::Result<()> {
        let kind = kind_of(&stream.source);
        anyhow::ensure!(
            kind != STARTS_PROGRAMS || self.host.may_start_programs(),
            "source {:?}: ringd starts programs only before it gives up its rights: restart it to \
            add this stream",
            stream.source
        );
        anyhow::ensure!(
            !RESTRICTED.contains(&kind) || self.kinds.iter().any(|k| k == kind),
            "source {:?}: no stream of the file was of the kind {kind:?} when ringd started, so it \
            gave up what that needs: add later = [{kind:?}] to the file and restart ringd",
            stream.source
        );
        Ok(())
    }

    /// What streams are started with.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// What the control thread needs in order to start streams later.
    pub fn needs(&mut self, streams: &[StreamConfig], later: &[String]) -> anyhow::Result<Needs> {
        let mut needs = Needs {
            read: [
                directory_of(&self.file),
                "/etc/group".into(),
                "/etc/passwd".into(),
                "/proc".into(),
            ]
            .into(),
            make: vec![self.host.run_dir().into(), "/dev/shm".into()],
            families: vec![libc::AF_UNIX],
            // To lock rings in memory, and to give sockets to groups.
            capabilities: CapabilitySet::IPC_LOCK | CapabilitySet::CHOWN,
            ..Needs::default()
        };
        if self.host.stores_rings() {
            needs.capabilities |= CapabilitySet::LINUX_IMMUTABLE;
        }
        if self.host.class().is_realtime() {
            needs.capabilities |= CapabilitySet::SYS_NICE;
        }
        let kinds = streams.iter().map(|s| kind_of(&s.source));
        for word in kinds.chain(later.iter().map(String::as_str)) {
            self.kinds.push(word.into());
            let (families, capabilities): (&[i32], _) = match word {
                path if path.starts_with('/') => {
                    needs.make.push(path.into());
                    continue;
                }
                // Both follow their interface with messages of the kernel.
                "udp" => (
                    &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
                    CapabilitySet::NET_BIND_SERVICE,
                ),
                "packet" => (&[libc::AF_PACKET, libc::AF_NETLINK], CapabilitySet::NET_RAW),
                "netlink" => (&[libc::AF_NETLINK], CapabilitySet::empty()),
                kind if SOURCES.iter().any(|k| k.name == kind) => continue,
                _ => anyhow::bail!(
                    "later: {word:?} is neither a kind of source (see ringd sources) nor an \
                    absolute directory"
                ),
            };
            needs.families.extend(families);
            needs.capabilities |= capabilities;
        }
        needs.families.sort_unstable();
        needs.families.dedup();
        Ok(needs)
    }
}

/// Kinds of source that need rights which are given up after the start.
const RESTRICTED: [&str; 3] = ["udp", "packet", "netlink"];

/// The kind of source that no confined process can open.
const STARTS_PROGRAMS: &str = "exec";

fn kind_of(source: &str) -> &str {
    source.split(':').next().unwrap_or_default()
}

fn changes(running: &[&StreamConfig], file: Vec<StreamConfig>) -> Vec<Change> {
    let gone = running.iter().filter(|r| !file.iter().any(|f| f.name == r.name));
    let mut all: Vec<_> = gone.map(|r| Change::End(r.name.clone())).collect();
    for stream in file {
        match running.iter().find(|r| r.name == stream.name) {
            None => all.push(Change::Begin(Box::new(stream))),
            Some(same) if **same == stream => {}
            Some(_) => all.push(Change::Differs(stream.name)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FileConfig {
        toml::from_str(text).unwrap()
    }

    fn stream(name: &str, rest: &str) -> String {
        format!("[[stream]]\nname = '{name}'\nsource = 'gen:'\n{rest}\n")
    }

    #[test]
    fn only_differences_are_changes() {
        let before = file(&(stream("a", "") + &stream("b", "") + &stream("c", "")));
        let running: Vec<_> = before.streams.iter().collect();
        assert_eq!(changes(&running, before.streams.clone()), []);
        let after = file(&(stream("d", "") + &stream("a", "") + &stream("c", "readers-max = 3")));
        let found = changes(&running, after.streams.clone());
        let begins = Change::Begin(Box::new(after.streams[0].clone()));
        assert_eq!(found, [Change::End("b".into()), begins, Change::Differs("c".into())]);
    }

    #[test]
    fn later_adds_kinds_of_source_and_directories() {
        let host = Host::new("/run/x".into(), crate::process::sandbox::Sandbox::On);
        let mut reload = Reload::new("/etc/ringweir/a.toml".into(), host);
        let streams = file(&stream("a", "")).streams;
        let plain = reload.needs(&streams, &[]).unwrap();
        assert_eq!(plain.families, [libc::AF_UNIX]);
        assert!(!plain.capabilities.contains(CapabilitySet::NET_RAW));
        let later = ["packet".into(), "udp".into(), "file".into(), "/dev".into()];
        let more = reload.needs(&streams, &later).unwrap();
        assert_eq!(
            more.families,
            [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET]
        );
        assert!(
            more.capabilities.contains(CapabilitySet::NET_RAW)
                && more.make.contains(&"/dev".into())
        );
        let wrong = reload.needs(&streams, &["pakcet".into()]).unwrap_err().to_string();
        assert!(wrong.contains("\"pakcet\""), "{wrong}");
    }
}
