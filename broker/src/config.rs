//! What a stream is told to be: the same keys on the command line and in the TOML file.
//!
//! Contract: every key is typed where it is read; an unknown key, a wrong value or a contradiction
//! is refused with its name (and line, in a file) before anything is made.

use crate::access::{Access, List};
use crate::back_pressure::Allowance;
use clap::Args;
use ringweir_cli::quantity::{Bytes, Extent, Rate, Span};
use ringweir_proto::os::backing::Memory;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One stream. On the command line: `--key value`; in the file: `key = value` under `[[stream]]`.
#[derive(Args, Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StreamConfig {
    /// Name of the stream: what readers attach to
    #[arg(long)]
    pub name: String,

    /// Where datagrams come from, e.g. gen:rate=1MB/s or udp:0.0.0.0:5000 (see `ringd sources`)
    #[arg(long)]
    pub source: String,

    /// How much history: slots (16384), bytes (64MiB) or time (3s, at --rate)
    #[arg(long, value_name = "EXTENT")]
    #[serde(default, deserialize_with = "text")]
    pub depth: Option<Extent>,

    /// Payload room, if not what --depth implies: bytes, or datagrams or time
    #[arg(long, value_name = "EXTENT")]
    #[serde(default, deserialize_with = "text")]
    pub capacity: Option<Extent>,

    /// Largest datagram; up to 16MiB [default: 64KiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub max_datagram: Option<Bytes>,

    /// Rate the stream is sized for, e.g. 350MB/s or 976/s; turns seconds into bytes
    #[arg(long)]
    #[serde(default, deserialize_with = "text")]
    pub rate: Option<Rate>,

    /// Usual size of a datagram; turns bytes into slots [default: 1KiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub datagram_size: Option<Bytes>,

    /// Most readers at a time, up to 4096
    #[arg(long, value_name = "N", default_value_t = default_readers())]
    #[serde(default = "default_readers")]
    pub readers_max: u32,

    /// Permissions of the control socket, octal [default: 0660, or 0666 with --allow-…, --watch-…
    /// or --admin-…]
    #[arg(long, value_name = "MODE")]
    #[serde(default)]
    pub socket_mode: Option<String>,

    /// Group of the control socket; its members may attach (name or number)
    #[arg(long)]
    #[serde(default)]
    pub group: Option<String>,

    /// Further users that may attach (number, repeatable)
    #[arg(long, value_name = "UID")]
    #[serde(default)]
    pub allow_uid: Vec<u32>,

    /// Further groups whose members may attach (number, repeatable)
    #[arg(long, value_name = "GID")]
    #[serde(default)]
    pub allow_gid: Vec<u32>,

    /// Users that may look at statistics, but not attach (number, repeatable)
    #[arg(long, value_name = "UID")]
    #[serde(default)]
    pub watch_uid: Vec<u32>,

    /// Groups whose members may look at statistics, but not attach (number, repeatable)
    #[arg(long, value_name = "GID")]
    #[serde(default)]
    pub watch_gid: Vec<u32>,

    /// Users that may detach readers, as root and the broker's user may (number, repeatable)
    #[arg(long, value_name = "UID")]
    #[serde(default)]
    pub admin_uid: Vec<u32>,

    /// Groups whose members may detach readers (number, repeatable)
    #[arg(long, value_name = "GID")]
    #[serde(default)]
    pub admin_gid: Vec<u32>,

    /// Most readers of one user at a time; root and the broker's user have no such limit [default:
    /// --readers-max]
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub readers_per_user: Option<u32>,

    /// Let readers attach losslessly, each with this budget: bytes that the stream may be ahead of
    /// it [default: the whole ring] and time for which it may hold the stream back, e.g. 250ms,
    /// 64MiB,2s or forever [default: no reader is waited for]
    #[arg(long, value_name = "[BYTES,]TIME")]
    #[serde(default, deserialize_with = "text")]
    pub lossless: Option<Allowance>,

    /// Metadata for readers, e.g. channels=8 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(default)]
    pub meta: Vec<String>,

    /// What the ring is kept in: shm (named, in /dev/shm) or memfd (sealed: no process can write it
    /// but this broker)
    #[arg(long, value_name = "KIND", default_value = "shm")]
    #[serde(default, deserialize_with = "text_or_default")]
    pub memory: Memory,

    /// Keep the ring in huge pages as far as the kernel has some; says what it got
    #[arg(long)]
    #[serde(default)]
    pub hugepages: bool,

    /// Poll the source without sleeping: lowest latency, one whole processor
    #[arg(long)]
    #[serde(default)]
    pub spin: bool,

    /// Processor the pump runs on
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub cpu: Option<usize>,

    /// Take nothing in until so many readers are attached
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    pub wait_readers: u32,

    /// Stay so long after the source has ended, so that readers can still attach (or "forever")
    #[arg(long, value_name = "TIME", default_value = "0s")]
    #[serde(default, deserialize_with = "text_or_default")]
    pub linger: Linger,
}

/// How long a stream stays after its source has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linger {
    /// Not at all.
    #[default]
    No,
    /// So long.
    For(Span),
    /// Until the broker is stopped.
    Forever,
}

impl FromStr for Linger {
    type Err = ringweir_cli::quantity::QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let span: Span = text.parse()?;
        Ok(if span.0.is_zero() { Self::No } else { Self::For(span) })
    }
}

fn default_readers() -> u32 {
    64
}

fn parse_text<T: FromStr<Err: std::fmt::Display>>(value: toml::Value) -> Result<T, String> {
    let text = match value {
        toml::Value::String(s) => s,
        toml::Value::Integer(n) => n.to_string(),
        other => return Err(format!("expected text or a number, got {}", other.type_str())),
    };
    text.parse().map_err(|e: T::Err| e.to_string())
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    parse_text(toml::Value::deserialize(from)?).map(Some).map_err(serde::de::Error::custom)
}

fn text_or_default<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<T, D::Error> {
    parse_text(toml::Value::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// A configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileConfig {
    /// Where sockets are made; `--run-dir` wins.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// What streams that a reload adds may need beside what the others do: kinds of source, and
    /// directories of their files.
    #[serde(default)]
    pub later: Vec<String>,
    /// The streams.
    #[serde(rename = "stream", default)]
    pub streams: Vec<StreamConfig>,
}

impl FileConfig {
    /// Reads and checks a file; errors carry the path, and line and key where there are any.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let content = std::fs::read_to_string(path)
            .map_err(|e| anyhow::anyhow!("cannot read {shown}: {e}"))?;
        Self::parse(&content).map_err(|e| anyhow::anyhow!("{shown}: {e}"))
    }

    fn parse(content: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(content)?;
        anyhow::ensure!(!config.streams.is_empty(), "no [[stream]] in it: nothing to serve");
        for (i, stream) in config.streams.iter().enumerate() {
            let twice = config.streams[..i].iter().any(|s| s.name == stream.name);
            anyhow::ensure!(!twice, "stream {:?} is there twice", stream.name);
        }
        Ok(config)
    }
}

impl StreamConfig {
    /// Checks what types cannot: name, numbers, lists.
    pub fn check(&self) -> anyhow::Result<()> {
        ringweir_proto::os::paths::check_name(&self.name)?;
        anyhow::ensure!(
            (1..=4096).contains(&self.readers_max),
            "--readers-max {}: must be 1 to 4096",
            self.readers_max
        );
        anyhow::ensure!(
            self.wait_readers <= self.readers_max,
            "--wait-readers {} can never be reached with --readers-max {}",
            self.wait_readers,
            self.readers_max
        );
        anyhow::ensure!(
            self.readers_per_user != Some(0),
            "--readers-per-user 0: nobody could attach; say 1 or more"
        );
        self.mode()?;
        // The description of a stream is one control message: a pair takes 16 bytes beside its
        // text.
        let metadata: usize =
            self.metadata()?.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
        anyhow::ensure!(
            metadata <= 2500,
            "--meta: too much of it ({metadata} bytes with 16 a pair, at most 2500)"
        );
        Ok(())
    }

    /// Who may do what, with the socket's group `gid`.
    pub fn access(&self, gid: Option<u32>) -> Access {
        let list = |uids: &[u32], gids: &[u32]| List { uids: uids.into(), gids: gids.into() };
        Access {
            owner: rustix::process::geteuid().as_raw(),
            group: gid,
            attach: list(&self.allow_uid, &self.allow_gid),
            watch: list(&self.watch_uid, &self.watch_gid),
            administer: list(&self.admin_uid, &self.admin_gid),
        }
    }

    /// The socket's mode. Whom the lists name must be able to connect; whoever else does is refused
    /// by its credentials.
    pub fn mode(&self) -> anyhow::Result<u32> {
        let Some(text) = &self.socket_mode else {
            let lists = [
                &self.allow_uid,
                &self.allow_gid,
                &self.watch_uid,
                &self.watch_gid,
                &self.admin_uid,
                &self.admin_gid,
            ];
            return Ok(if lists.iter().any(|list| !list.is_empty()) { 0o666 } else { 0o660 });
        };
        match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o111 == 0 => Ok(mode),
            _ => anyhow::bail!("--socket-mode {text:?}: expected octal permissions such as 0660"),
        }
    }

    /// The metadata as pairs.
    pub fn metadata(&self) -> anyhow::Result<Vec<(String, String)>> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
            _ => anyhow::bail!("--meta {text:?}: expected KEY=VALUE"),
        };
        self.meta.iter().map(pair).collect()
    }

    /// The socket's group as a number.
    pub fn gid(&self) -> anyhow::Result<Option<u32>> {
        let Some(group) = &self.group else { return Ok(None) };
        if let Ok(gid) = group.parse() {
            return Ok(Some(gid));
        }
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let found = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
        });
        found.map(Some).ok_or_else(|| {
            anyhow::anyhow!(
                "--group {group:?}: no such group in /etc/group; make it (groupadd {group}) or \
                give \
                a number"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "run-dir = '/tmp/x'\n[[stream]]\nname = 'a'\nsource = 'gen:'\ndepth = \
        '3s'\nrate = '1MB/s'\nmax-datagram = 1500\nmeta = ['channels=8']\n[[stream]]\nname = \
        'b'\nsource = 'gen:'\nlinger = 'forever'\n";

    #[test]
    fn a_file_with_every_kind_of_value() {
        let config = FileConfig::parse(GOOD).unwrap();
        let [a, b] = &config.streams[..] else { panic!("two streams") };
        assert_eq!(a.depth, Some(Extent::Seconds(3.0)));
        assert_eq!(
            (a.max_datagram, a.readers_max, a.mode().unwrap()),
            (Some(Bytes(1500)), 64, 0o660)
        );
        assert_eq!(a.metadata().unwrap(), [("channels".to_string(), "8".to_string())]);
        assert_eq!((b.linger, b.depth), (Linger::Forever, None));
        a.check().unwrap();
        let listed = StreamConfig { admin_gid: vec![7], ..a.clone() };
        assert_eq!((listed.mode().unwrap(), listed.access(None).administer.gids), (0o666, vec![7]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (bad, says) in [
            (GOOD.replace("depth", "detph"), vec!["detph", "line 5"]),
            (GOOD.replace("'3s'", "'3 parsecs'"), vec!["parsecs", "line 5"]),
            (GOOD.replace("'b'", "'a'"), vec!["\"a\" is there twice"]),
            ("".into(), vec!["no [[stream]]"]),
            (GOOD.replace("1500", "true"), vec!["boolean"]),
        ] {
            let error = format!("{:#}", FileConfig::parse(&bad).unwrap_err());
            assert!(says.iter().all(|s| error.contains(s)), "{error}");
        }
        let base = FileConfig::parse(GOOD).unwrap().streams.remove(0);
        for (change, says) in [
            (StreamConfig { name: "a b".into(), ..base.clone() }, "\"a b\""),
            (StreamConfig { readers_max: 0, ..base.clone() }, "--readers-max 0"),
            (StreamConfig { wait_readers: 65, ..base.clone() }, "--wait-readers 65"),
            (StreamConfig { readers_per_user: Some(0), ..base.clone() }, "--readers-per-user 0"),
            (StreamConfig { socket_mode: Some("0999".into()), ..base.clone() }, "0999"),
            (StreamConfig { meta: vec!["x".into()], ..base.clone() }, "KEY=VALUE"),
        ] {
            let error = change.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = StreamConfig { group: Some("nosuchgroup".into()), ..base }
            .gid()
            .unwrap_err()
            .to_string();
        assert!(error.contains("groupadd nosuchgroup"), "{error}");
    }
}
