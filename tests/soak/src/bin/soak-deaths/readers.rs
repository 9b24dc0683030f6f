//! The readers: permanent ones, and ones that are killed, stopped or ended, and replaced.

use crate::account::{Progress, SoakAccount};
use crate::broker::{Broker, PATIENCE, STREAMS};
use crate::reader::Kind;
use anyhow::{Context, ensure};
use ringweir_cli::quantity::Span;
use ringweir_harness::{Environment, Process, wait_for};
use rustix::process::Signal;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Number of readers that are never killed: for each stream one that keeps up and one that pauses.
pub const PERMANENT: usize = 4;

struct Member {
    process: Process,
    stream: usize,
    kind: Kind,
    account: PathBuf,
    /// It was stopped for a while, so its times do not count.
    was_stopped: bool,
    /// When it is continued.
    resumes: Option<Instant>,
}

/// How many readers were started, killed, stopped and ended.
#[derive(Default)]
pub struct Counts {
    pub started: u64,
    pub killed: u64,
    pub stopped: u64,
    pub left: u64,
}

pub struct Readers<'s> {
    env: &'s Environment,
    members: Vec<Member>,
    pub account: [SoakAccount; 2],
    pub counts: Counts,
    /// The longest time that a permanent reader that does not pause received nothing.
    pub longest: Duration,
    patience: Span,
    /// The permanent reader of the first stream that pauses forgets a gap.
    miscount: bool,
}

impl<'s> Readers<'s> {
    pub fn new(env: &'s Environment, patience: Span, miscount: bool) -> Self {
        Self {
            env,
            members: Vec::new(),
            account: Default::default(),
            counts: Counts::default(),
            longest: Duration::ZERO,
            patience,
            miscount,
        }
    }

    /// Starts one more reader. Its index decides its stream and its kind.
    pub fn add(&mut self, broker: &Broker) -> anyhow::Result<()> {
        let member = self.start(self.members.len(), broker)?;
        self.members.push(member);
        Ok(())
    }

    fn start(&mut self, place: usize, broker: &Broker) -> anyhow::Result<Member> {
        let stream = place % STREAMS.len();
        let turn = if place < PERMANENT { place } else { self.counts.started as usize };
        let kind = match place {
            2 | 3 => Kind::Pausing,
            _ => Kind::ALL[(turn / STREAMS.len()) % Kind::ALL.len()],
        };
        let account = self.env.path(&format!("account{}", self.counts.started));
        let mut command = self.env.command("soak-deaths");
        let kind_word = match kind {
            Kind::Prompt => "prompt",
            Kind::InPlace => "in-place",
            Kind::Pausing => "pausing",
            Kind::Lossless => "lossless",
            Kind::Forking => "forking",
        };
        let numbers = ["generation", "sender"][stream];
        command.args([
            "be-reader",
            broker.socket(stream),
            "--kind",
            kind_word,
            "--numbers",
            numbers,
            "--patience",
            &self.patience.to_string(),
        ]);
        if self.miscount && place == 2 {
            command.arg("--miscount");
        }
        command.stdout(File::create(&account)?);
        self.counts.started += 1;
        let process = self.env.start(command);
        Ok(Member { process, stream, kind, account, was_stopped: false, resumes: None })
    }

    /// Waits until every reader reports that it is attached.
    pub fn all_attached(&self) -> anyhow::Result<()> {
        for member in &self.members {
            let attached =
                || std::fs::metadata(&member.account).is_ok_and(|m| m.len() > 0).then_some(());
            let said = || member.process.stderr();
            wait_for(PATIENCE, attached)
                .with_context(|| format!("a reader is not attached: {}", said()))?;
        }
        Ok(())
    }

    /// Stops, ends or kills one of the readers that are not permanent.
    pub fn disturb(&mut self, random: &mut fastrand::Rng, broker: &Broker) -> anyhow::Result<()> {
        let place = random.usize(PERMANENT..self.members.len());
        match random.u8(..10) {
            0 if self.members[place].resumes.is_none() => {
                let member = &mut self.members[place];
                member.process.stop();
                member.was_stopped = true;
                member.resumes =
                    Some(Instant::now() + Duration::from_millis(random.u64(100..3000)));
                self.counts.stopped += 1;
            }
            1 => {
                let next = self.start(place, broker)?;
                let member = std::mem::replace(&mut self.members[place], next);
                self.leave(member)?;
            }
            _ => {
                let next = self.start(place, broker)?;
                let mut member = std::mem::replace(&mut self.members[place], next);
                ensure!(
                    member.process.ended().is_none(),
                    "a reader ended by itself: {}",
                    member.process.stderr()
                );
                member.process.kill();
                self.counts.killed += 1;
                self.read_account(member, true)?;
            }
        }
        Ok(())
    }

    /// Continues readers that were stopped for long enough; fails if a reader found a fault.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if member.resumes.is_some_and(|at| Instant::now() >= at) {
                member.process.signal(Signal::CONT);
                member.resumes = None;
            }
            if let Some(status) = member.process.ended() {
                let (stream, said) = (STREAMS[member.stream], member.process.stderr());
                anyhow::bail!("reader of {stream} ended ({status}): {}", said.trim());
            }
        }
        Ok(())
    }

    /// Ends all readers but the permanent ones.
    pub fn end_others(&mut self) -> anyhow::Result<()> {
        for member in self.members.split_off(PERMANENT) {
            self.leave(member)?;
        }
        Ok(())
    }

    fn leave(&mut self, mut member: Member) -> anyhow::Result<()> {
        member.process.signal(Signal::CONT);
        // Before it is attached the signal may kill it.
        let attached = |account| std::fs::metadata(account).is_ok_and(|m| m.len() > 0);
        wait_for(PATIENCE, || {
            (attached(&member.account) || member.process.ended().is_some()).then_some(())
        });
        member.process.signal(Signal::TERM);
        self.finish(member)?;
        self.counts.left += 1;
        Ok(())
    }

    fn finish(&mut self, mut member: Member) -> anyhow::Result<Progress> {
        let status = member.process.wait();
        let said = member.process.stderr();
        ensure!(
            status.success(),
            "reader of {} ended ({status}): {}",
            STREAMS[member.stream],
            said.trim()
        );
        self.read_account(member, false)
    }

    fn read_account(&mut self, member: Member, killed: bool) -> anyhow::Result<Progress> {
        let timed = !member.was_stopped && member.kind != Kind::Pausing;
        let progress = self.account[member.stream].add(&member.account, killed, timed)?;
        std::fs::remove_file(&member.account)?;
        Ok(progress)
    }

    /// After the end of the streams: each permanent reader received every restart and read to the
    /// end.
    pub fn close(&mut self, published: [u64; 2], restarts: [u64; 2]) -> anyhow::Result<()> {
        for member in std::mem::take(&mut self.members) {
            let (name, published) = (STREAMS[member.stream], published[member.stream]);
            let (restarts, pauses) = (restarts[member.stream], member.kind == Kind::Pausing);
            let progress = self.finish(member)?;
            ensure!(
                progress.left && progress.cursor == published,
                "{name}: {published} published, but a permanent reader ended at {}",
                progress.cursor
            );
            ensure!(
                progress.restarts == restarts,
                "{name}: {restarts} restarts, but a permanent reader received {}",
                progress.restarts
            );
            if !pauses {
                self.longest = self.longest.max(progress.longest);
            }
        }
        Ok(())
    }
}
