//! Conversations with the control socket: requests of all kinds, and whether the broker's answer is
//! one that it may give.

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use ringweir_proto::control::{AttachRequest, DetachRequest, MESSAGE_MAX, Mode, Reply, Request};
use ringweir_proto::os::socket;
use ringweir_proto::ring;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many conversations had each outcome.
pub type Outcomes = BTreeMap<String, u64>;

/// "attached 3, refused 5".
pub fn list(counts: &Outcomes) -> String {
    let words: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    words.join(", ")
}

/// A client that makes one conversation after the other.
pub struct Client<'p> {
    path: &'p Path,
    random: Rng,
    pub outcomes: Outcomes,
}

impl<'p> Client<'p> {
    pub fn new(path: &'p Path, seed: u64) -> Self {
        Self { path, random: Rng::with_seed(seed), outcomes: Outcomes::new() }
    }

    pub fn converse(
        &mut self,
        count: u64,
        done: &AtomicU64,
        over: &AtomicBool,
    ) -> anyhow::Result<()> {
        let null = File::open("/dev/null")?;
        for n in 0..count {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let outcome = self.one(&null).with_context(|| format!("conversation {n}"))?;
            *self.outcomes.entry(outcome).or_default() += 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One conversation; returns its outcome.
    fn one(&mut self, null: &File) -> anyhow::Result<String> {
        let connection = socket::connect(self.path)?;
        let messages = if self.random.u8(..8) == 0 { self.random.usize(0..4) } else { 1 };
        for _ in 0..messages {
            let message = self.message();
            let brings =
                if self.random.u8(..16) == 0 { self.random.usize(1..=socket::FDS_MAX) } else { 0 };
            let fds = vec![null.as_fd(); brings];
            match socket::send(&connection, &message, &fds) {
                // The broker has hung up already.
                Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
                // The broker has asked the kernel to let no descriptors through.
                Err(Errno::PERM) if brings > 0 => {
                    return Ok("descriptors refused by the kernel".into());
                }
                Err(e) => bail!("sending {} bytes: {e}", message.len()),
            }
        }
        if messages == 0 || self.random.u8(..32) == 0 {
            return Ok("abandoned".into());
        }
        for _ in 0..2 {
            match socket::receive(&connection) {
                Ok(packet) if packet.bytes.is_empty() => return Ok("hung up".into()),
                Ok(packet) => {
                    let fds = packet.fds.len();
                    let reply =
                        Reply::decode(&packet.bytes).context("its answer cannot be decoded")?;
                    return Ok(match reply {
                        Reply::Attached(_) if fds == 4 => "attached".into(),
                        Reply::Viewing if fds == 1 => "watching".into(),
                        _ if fds > 0 => bail!("{fds} descriptors beside {reply:?}"),
                        Reply::Refused(refusal) => {
                            ensure!(
                                !refusal.text.is_empty(),
                                "refused without a reason: {:?}",
                                refusal.reason
                            );
                            format!("refused ({:?})", refusal.reason)
                        }
                        Reply::Described(_) | Reply::Latency(_) => "answered".into(),
                        Reply::Reloaded(_) => "reloaded".into(),
                        other => bail!("unexpected answer {other:?}"),
                    });
                }
                // It closed with our message unread: reported once, then comes its answer.
                Err(Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => bail!("no answer for {} s", socket::ANSWER.as_secs()),
                Err(e) => bail!("receiving: {e}"),
            }
        }
        Ok("hung up".into())
    }

    fn message(&mut self) -> Vec<u8> {
        let mut bytes = match self.random.u8(..16) {
            0 => {
                let len = self.random.usize(1..200);
                std::iter::repeat_with(|| self.random.u8(..)).take(len).collect()
            }
            1 => Reply::refuse(ringweir_proto::control::Reason::Full, "you are full").encode(),
            _ => self.request().encode(),
        };
        if self.random.bool() {
            return bytes;
        }
        for _ in 0..self.random.usize(1..5) {
            let at = self.random.usize(..bytes.len().max(1)).min(bytes.len());
            match self.random.u8(..7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.random.u8(..8),
                1 if at < bytes.len() => {
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.random.usize(..5)]
                }
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.random.u8(..)),
                4 => bytes.extend_from_within(at..),
                5 => {
                    let whole = self.random.usize(..=MESSAGE_MAX + 100);
                    bytes.resize(whole.max(1), self.random.u8(..));
                }
                _ => {
                    // Lengths and numbers.
                    let word = [u64::MAX, 1 << 63, 1 << 32, u64::from(u32::MAX), 4096]
                        [self.random.usize(..5)];
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
                }
            }
        }
        // An empty message would mean the end.
        if bytes.is_empty() { vec![0] } else { bytes }
    }

    fn request(&mut self) -> Request {
        let index = self.random.u32(..) >> self.random.u32(..32);
        match self.random.u8(..9) {
            0 => Request::View,
            1 => Request::Describe,
            2 => Request::Latency { index },
            3 => Request::DrainGaps,
            4 => Request::Reload,
            5 => Request::Detach(DetachRequest { index, attached_realtime: self.random.u64(..) }),
            _ => {
                let label = std::iter::repeat_with(|| self.random.char(..)).take(20).collect();
                let seq = self.random.u64(..) >> self.random.u32(..64);
                let starts = [ring::Start::Oldest, ring::Start::Latest, ring::Start::Seq(seq)];
                let start = starts[self.random.usize(..3)];
                let mode = if self.random.bool() { Mode::Lossy } else { Mode::Lossless { start } };
                Request::Attach(AttachRequest { label, mode, parks: self.random.bool() })
            }
        }
    }
}
