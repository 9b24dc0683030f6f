//! The configuration of one stream: the same keys on the command line and in the TOML file.
//!
//! Contract: every key has a type when it is parsed. An unknown key, a wrong value or a
//! contradiction is refused with its name, and in a file with its line, before anything is made.

use super::access::{Access, List};
use super::lossless_budget::LosslessBudget;
use super::names;
use clap::Args;
use ringweir_cli::quantity::{Bytes, Extent, Rate, Span};
use ringweir_proto::layout::READERS_MAX;
use ringweir_proto::os::backing::Memory;
use ringweir_proto::os::users;
use serde::{Deserialize, Deserializer};
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

    /// Room for payload, if not what --depth implies: bytes, datagrams or time
    #[arg(long, value_name = "EXTENT")]
    #[serde(default, deserialize_with = "text")]
    pub capacity: Option<Extent>,

    /// Largest datagram; up to 16MiB [default: 64KiB; with packet: 65554, a frame around a whole IP
    /// packet]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub max_datagram: Option<Bytes>,

    /// Rate the stream is sized for, e.g. 350MB/s or 976/s; converts seconds into bytes
    #[arg(long)]
    #[serde(default, deserialize_with = "text")]
    pub rate: Option<Rate>,

    /// Usual size of a datagram; converts bytes into slots [default: 1KiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub datagram_size: Option<Bytes>,

    /// Most readers at the same time, up to 4096
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

    /// Additional users that may attach (number or name, repeatable)
    #[arg(long, value_name = "UID", value_parser = names::user)]
    #[serde(default, deserialize_with = "names::users")]
    pub allow_uid: Vec<u32>,

    /// Additional groups whose members may attach (number or name, repeatable)
    #[arg(long, value_name = "GID", value_parser = names::group)]
    #[serde(default, deserialize_with = "names::groups")]
    pub allow_gid: Vec<u32>,

    /// Users that may view statistics, but not attach (number or name, repeatable)
    #[arg(long, value_name = "UID", value_parser = names::user)]
    #[serde(default, deserialize_with = "names::users")]
    pub watch_uid: Vec<u32>,

    /// Groups whose members may view statistics, but not attach (number or name, repeatable)
    #[arg(long, value_name = "GID", value_parser = names::group)]
    #[serde(default, deserialize_with = "names::groups")]
    pub watch_gid: Vec<u32>,

    /// Users that may detach readers, like root and the broker's user (number or name, repeatable)
    #[arg(long, value_name = "UID", value_parser = names::user)]
    #[serde(default, deserialize_with = "names::users")]
    pub admin_uid: Vec<u32>,

    /// Groups whose members may detach readers (number or name, repeatable)
    #[arg(long, value_name = "GID", value_parser = names::group)]
    #[serde(default, deserialize_with = "names::groups")]
    pub admin_gid: Vec<u32>,

    /// Most readers of one user at the same time; no limit for root and the broker's user [default:
    /// --readers-max]
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub readers_per_user: Option<u32>,

    /// Let readers attach lossless, each with this budget: how many bytes it may be behind before
    /// the stream waits for it [default: the whole ring], and how long the stream waits in all,
    /// e.g. 250ms, 64MiB,2s or forever [default: the stream waits for no reader]
    #[arg(long, value_name = "[BYTES,]TIME")]
    #[serde(default, deserialize_with = "text")]
    pub lossless: Option<LosslessBudget>,

    /// Metadata for readers, e.g. channels=8 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(default)]
    pub meta: Vec<String>,

    /// Memory of the ring: shm (named, in /dev/shm) or memfd (sealed: only this broker can write
    /// it)
    #[arg(long, value_name = "KIND", default_value = "shm")]
    #[serde(default, deserialize_with = "text_or_default")]
    pub memory: Memory,

    /// Use huge pages as far as the kernel has some; the start message says which pages it got
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

    /// Read nothing from the source until this many readers are attached
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    pub wait_readers: u32,

    /// Keep the stream this long after its source has ended, so that readers can still attach (or
    /// "forever")
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
    /// This long.
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

impl StreamConfig {
    /// A stream with this name, and everything else as it is by default.
    pub fn named(name: &str, source: &str) -> Self {
        let [allow_uid, allow_gid, watch_uid, watch_gid, admin_uid, admin_gid] =
            [const { Vec::new() }; 6];
        Self {
            name: name.into(),
            source: source.into(),
            depth: None,
            capacity: None,
            max_datagram: None,
            rate: None,
            datagram_size: None,
            readers_max: default_readers(),
            socket_mode: None,
            group: None,
            allow_uid,
            allow_gid,
            watch_uid,
            watch_gid,
            admin_uid,
            admin_gid,
            readers_per_user: None,
            lossless: None,
            meta: Vec::new(),
            memory: Memory::default(),
            hugepages: false,
            spin: false,
            cpu: None,
            wait_readers: 0,
            linger: Linger::No,
        }
    }

    /// Checks what the types do not: name, numbers, lists.
    pub fn check(&self) -> anyhow::Result<()> {
        ringweir_proto::os::paths::check_name(&self.name)?;
        anyhow::ensure!(
            (1..=READERS_MAX).contains(&self.readers_max),
            "--readers-max {}: must be 1 to {READERS_MAX}",
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
            "--readers-per-user 0: no reader could attach; use 1 or more"
        );
        self.mode()?;
        // The description of a stream is one control message. A pair takes 16 bytes beside its
        // text.
        let metadata: usize =
            self.metadata()?.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
        anyhow::ensure!(
            metadata <= 2500,
            "--meta: too long ({metadata} bytes, counting 16 for each pair; at most 2500)"
        );
        Ok(())
    }

    /// The access rights, with the socket's group `gid`.
    pub fn access(&self, gid: Option<u32>) -> Access {
        let list = |uids: &[u32], gids: &[u32]| List { uids: uids.into(), gids: gids.into() };
        Access {
            owner: rustix::process::geteuid().as_raw(),
            group: gid,
            attach: list(&self.allow_uid, &self.allow_gid),
            view: list(&self.watch_uid, &self.watch_gid),
            administer: list(&self.admin_uid, &self.admin_gid),
            strangers: users::strangers(),
        }
    }

    /// The socket's mode. With access lists, all users can connect: the listed users must be able
    /// to, and others are refused by their credentials.
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
        names::group(group)
            .map(Some)
            .map_err(|e| anyhow::anyhow!("--group {group:?}: {e}; or create it (groupadd {group})"))
    }
}
