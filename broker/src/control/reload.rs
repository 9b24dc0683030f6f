//! Streams that come and go while others run: the file is read again.
//!
//! Contract: a stream that is not in the file any more ends, one that is new begins, and one that
//! is there as before is not touched, neither its pump nor its readers; nor is one whose keys have
//! changed, which is said. A file that is not sound, or a stream that cannot start, changes nothing
//! of the others. Runs on the control thread, which answers nobody while a ring is made. It is shut
//! in by then: what new streams may need beyond the kinds of source in the file is in its `later`.

use super::answer::{admit, shorten};
use super::{Control, refuse, reply};
use crate::access::Right;
use crate::config::{FileConfig, StreamConfig};
use crate::sandbox::Needs;
use crate::stream::{Host, Stream};
use anyhow::Context;
use ringweir_proto::control::{Outcome, Reason, Reloaded, Reply, StreamChange};
use rustix::thread::CapabilitySet;
use std::path::PathBuf;

/// What to do if a stream that comes later wants what was given up.
const LATER: &str = "a kind of source or a directory that was not there at the start is named in \
    the file by \
                     later = [\"packet\", \"/dev\"], before the start";

/// What a reload goes by.
pub struct Reload {
    file: PathBuf,
    /// For the streams it starts.
    pub host: Host,
}

/// One change.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// The stream of that name is to end.
    End(String),
    /// This one is to begin.
    Begin(Box<StreamConfig>),
    /// The file says something else of this one than what it is.
    Differs(String),
}

impl Reload {
    /// By `file`, for streams started by `host`.
    pub fn new(file: PathBuf, host: Host) -> Self {
        Self { file, host }
    }

    /// Reads the file again; what is to change of `running`, ends first.
    pub fn changes(&self, running: &[&StreamConfig]) -> anyhow::Result<Vec<Change>> {
        Ok(changes(running, FileConfig::read(&self.file)?.streams))
    }

    /// What the control thread needs for it beside what it needs anyway.
    pub fn needs(&self, streams: &[StreamConfig], later: &[String]) -> anyhow::Result<Needs> {
        let mut needs = Needs {
            read: [crate::sandbox::directory_of(&self.file), "/etc/group".into(), "/proc".into()]
                .into(),
            make: vec![self.host.run_dir.clone(), "/dev/shm".into()],
            families: vec![libc::AF_UNIX],
            // Their rings are locked, their sockets given to groups.
            capabilities: CapabilitySet::IPC_LOCK | CapabilitySet::CHOWN,
            ..Needs::default()
        };
        if self.host.store.is_open() {
            needs.capabilities |= CapabilitySet::LINUX_IMMUTABLE;
        }
        if self.host.class.is_realtime() {
            needs.capabilities |= CapabilitySet::SYS_NICE;
        }
        let kinds = streams.iter().map(|s| s.source.split(':').next().unwrap_or_default());
        for word in kinds.chain(later.iter().map(String::as_str)) {
            let (families, capabilities): (&[i32], _) = match word {
                path if path.starts_with('/') => {
                    needs.make.push(path.into());
                    continue;
                }
                "udp" => (&[libc::AF_INET, libc::AF_INET6], CapabilitySet::NET_BIND_SERVICE),
                "packet" => (&[libc::AF_PACKET], CapabilitySet::NET_RAW),
                "netlink" => (&[libc::AF_NETLINK], CapabilitySet::empty()),
                kind if crate::source::SOURCES.iter().any(|k| k.name == kind) => continue,
                _ => anyhow::bail!(
                    "later: {word:?} is neither a kind of source (ringd sources) nor a directory \
                    that begins with /"
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

impl Control {
    /// Connection `n` asks that the file be read again. Answered when that is done, though its own
    /// stream may be gone by then.
    pub(super) fn ask_to_reload(&mut self, n: u64) {
        let asking = &self.connections[&n];
        let Some(stream) = self.streams[asking.stream].as_mut() else { return };
        let Some(peer) = admit(stream, &asking.fd, Right::Own) else { return self.hang_up(n) };
        if self.reload.is_none() {
            let text = "its broker was started without --config: there is no file to read again";
            refuse(&asking.fd, Reason::File, text);
            return self.hang_up(n);
        }
        tracing::info!("reload: asked for by pid {}, uid {}", peer.pid, peer.uid);
        self.asked = true;
        self.asking.extend(self.connections.remove(&n).map(|connection| connection.fd));
    }

    /// Reads the file again, does what it says, and tells those who asked.
    pub(super) fn reload(&mut self) {
        self.signals.take_reload();
        self.manager.reloading();
        let answer = match self.changes() {
            Ok(changes) => Reply::Reloaded(Reloaded::of(
                changes.into_iter().map(|change| self.make(change)).collect(),
            )),
            Err(e) => {
                let text = format!("{e:#}; nothing was changed");
                tracing::error!("{text}");
                Reply::refuse(Reason::File, shorten(&text))
            }
        };
        self.manager.ready(&self.status());
        for asking in self.asking.drain(..) {
            reply(&asking, &answer, &[]);
        }
    }

    fn changes(&self) -> anyhow::Result<Vec<Change>> {
        let running: Vec<_> = self.streams.iter().flatten().map(|s| &s.config).collect();
        self.reload.as_ref().map_or(Ok(Vec::new()), |reload| reload.changes(&running))
    }

    /// Makes one change.
    fn make(&mut self, change: Change) -> StreamChange {
        let (stream, outcome, text) = match change {
            Change::End(name) => {
                tracing::info!("{name}: is not in the file any more");
                let place = self
                    .streams
                    .iter()
                    .position(|s| s.as_ref().is_some_and(|s| s.config.name == name));
                if let Some(i) = place {
                    self.streams[i].iter().for_each(|s| s.pump().stop());
                    self.pump_ended(i);
                    self.remove(i);
                }
                (name, Outcome::Ended, String::new())
            }
            Change::Begin(config) => match self.begin(&config) {
                Ok(()) => (config.name, Outcome::Begun, String::new()),
                Err(e) => {
                    let (name, text) = (&config.name, format!("{e:#}"));
                    tracing::error!("stream {name:?}: {text}; others go on ({LATER})");
                    (config.name, Outcome::Failed, text)
                }
            },
            Change::Differs(name) => {
                let text = "what changed of it takes a restart";
                tracing::warn!("{name}: stays as it is: {text}");
                (name, Outcome::Stays, text.into())
            }
        };
        StreamChange { stream, outcome, text: shorten(&text) }
    }

    fn begin(&mut self, config: &StreamConfig) -> anyhow::Result<()> {
        let reload = self.reload.as_mut().context("there is no file")?;
        let stream = Stream::start(config, &mut reload.host)?;
        tracing::info!("{}", stream.summary);
        Ok(self.add(stream)?)
    }
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
    fn only_what_differs_is_a_change() {
        let before = file(&(stream("a", "") + &stream("b", "") + &stream("c", "")));
        let running: Vec<_> = before.streams.iter().collect();
        assert_eq!(changes(&running, before.streams.clone()), []);
        let after = file(&(stream("d", "") + &stream("a", "") + &stream("c", "readers-max = 3")));
        let found = changes(&running, after.streams.clone());
        let begins = Change::Begin(Box::new(after.streams[0].clone()));
        assert_eq!(found, [Change::End("b".into()), begins, Change::Differs("c".into())]);
    }

    #[test]
    fn later_says_what_else_may_come() {
        let host = Host::new("/run/x".into(), crate::sandbox::Sandbox::On);
        let reload = Reload::new("/etc/ringweir/a.toml".into(), host);
        let streams = file(&stream("a", "")).streams;
        let plain = reload.needs(&streams, &[]).unwrap();
        assert_eq!(plain.families, [libc::AF_UNIX]);
        assert!(!plain.capabilities.contains(CapabilitySet::NET_RAW));
        let later = ["packet".into(), "udp".into(), "file".into(), "/dev".into()];
        let more = reload.needs(&streams, &later).unwrap();
        assert_eq!(more.families, [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_PACKET]);
        assert!(
            more.capabilities.contains(CapabilitySet::NET_RAW)
                && more.make.contains(&"/dev".into())
        );
        let wrong = reload.needs(&streams, &["pakcet".into()]).unwrap_err().to_string();
        assert!(wrong.contains("\"pakcet\""), "{wrong}");
    }
}
