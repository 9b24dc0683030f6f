//! Shared by the unit tests of sources: an intake into a ring on the heap, and a reader that checks
//! the account.

#![allow(unsafe_code)]

use super::contract::{Fill, Source};
use crate::intake::for_pump::PumpIntake;
use crate::intake::notice::{self, NoticeReceiver};
use ringweir_proto::layout::Geometry;
use ringweir_proto::ring::{
    Cause, Layer, LinkType, Publisher, Resume, RingMemory, RingReader, Start, Step, WritableRing,
};
use ringweir_proto::stats::{PumpCounter, Snapshot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;

/// One datagram as a reader got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub original_len: usize,
    pub channel: u16,
    pub source_time: u64,
    /// Losses reported just before this datagram.
    pub lost_before: Vec<(Layer, u64, bool)>,
}

/// A ring with both ends.
pub struct Bench {
    pub intake: PumpIntake,
    notices: NoticeReceiver,
    reader: RingReader,
    /// The device was reported as gone before these seqs.
    pub gone: Vec<u64>,
    memory: Arc<RingMemory>,
    /// The time of the next round, CLOCK_MONOTONIC ns.
    pub now: u64,
    /// Whether the source may fail; it panics otherwise.
    pub may_fail: bool,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Bench {
    /// A ring of 4096 slots.
    pub fn new(capacity: u64, max_datagram: u64) -> Self {
        let geometry = Geometry::new(4096, capacity, max_datagram).unwrap();
        let ring = WritableRing::on_heap(geometry);
        let memory = ring.memory().clone();
        let (notices, receiver) = notice::queue();
        let intake = PumpIntake::new(Publisher::new(ring), notices);
        let reader = RingReader::new(memory.clone(), Start::Oldest, Resume::Oldest);
        Self {
            intake,
            notices: receiver,
            reader,
            gone: Vec::new(),
            memory,
            now: 1,
            may_fail: false,
            failure: None,
        }
    }

    /// One round as the pump runs it.
    pub fn round(&mut self, source: &mut dyn Source) -> Fill {
        self.intake.begin(self.now);
        let fill = match source.fill(self.intake.for_source()) {
            Ok(fill) => fill,
            Err(e) if self.may_fail => {
                self.failure = Some(e.to_string());
                Fill::Ended
            }
            Err(e) => panic!("{e}"),
        };
        self.intake.flush();
        fill
    }

    /// Runs rounds until the source is idle or has ended, and reads everything after each. Returns
    /// what came, and how the last round ended.
    pub fn run(&mut self, source: &mut dyn Source) -> (Vec<Got>, Fill) {
        let mut all = Vec::new();
        loop {
            let fill = self.round(source);
            all.extend(self.read());
            if fill != Fill::Took {
                return (all, fill);
            }
        }
    }

    /// Like [`Self::run`], but waits for the end of an idle source, for at most a second each time:
    /// another test that starts a process may hold the writing end of a pipe open for a moment.
    pub fn run_to_end(&mut self, source: &mut dyn Source) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let (got, fill) = self.run(source);
            all.extend(got);
            if fill == Fill::Ended {
                return all;
            }
            assert!(wait(source, 1000), "idle and not ended");
        }
    }

    /// Everything readable now.
    pub fn read(&mut self) -> Vec<Got> {
        let (mut all, mut lost_before) = (Vec::new(), Vec::new());
        loop {
            match self.reader.step().unwrap() {
                Step::Restarted(_) => panic!("nothing restarted"),
                Step::Empty | Step::Ended => break,
                Step::Gap(gap) => match gap.cause {
                    Cause::Lapped => panic!("the test's ring is too small: {gap:?}"),
                    Cause::Upstream { layer, exact } => lost_before.push((layer, gap.count, exact)),
                    Cause::SourceGone => self.gone.push(gap.first),
                },
                Step::Datagram(d) => {
                    let mut bytes = vec![0; d.len];
                    self.reader.copy_out(&d, 0, &mut bytes);
                    all.push(Got {
                        bytes,
                        original_len: d.original_len,
                        channel: d.channel,
                        source_time: d.source_time,
                        lost_before: std::mem::take(&mut lost_before),
                    });
                }
            }
        }
        all
    }

    /// A counter of the pump.
    pub fn count(&self, counter: PumpCounter) -> u64 {
        let mut snapshot = Snapshot::new("test", "test");
        snapshot.take_pump(&self.memory);
        snapshot.pump(counter)
    }

    /// What the datagrams are in a capture.
    pub fn link_type(&self) -> LinkType {
        self.memory.link_type()
    }

    /// The notices so far.
    pub fn notices(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.pop().ok()).map(|n| n.to_string()).collect()
    }
}

/// Waits until `source` is readable, for at most `ms`. Returns whether it is.
pub fn wait(source: &dyn Source, ms: i64) -> bool {
    let fd = source.wait_for().readable.expect("a source that can be polled");
    let patience = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)) != Ok(0)
}

/// The bytes of every datagram.
pub fn bytes_of(got: &[Got]) -> Vec<&[u8]> {
    got.iter().map(|g| g.bytes.as_slice()).collect()
}

/// Runs `test` in a new network namespace after the shell lines in `setup`. Skips the test if the
/// rights or programs for it are missing. The namespace ends with the test.
pub fn in_namespace(setup: &str, test: impl FnOnce() + Send) {
    if !ringweir_needs::needs_network_namespaces() {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: CLONE_NEWNET gives the calling thread, and no other, a new network namespace;
            // the call follows no pointer.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "unshare: {}", std::io::Error::last_os_error());
            shell(setup);
            test();
        });
    });
}

/// Runs shell lines, in the network namespace of the calling thread.
pub fn shell(lines: &str) {
    let done = std::process::Command::new("sh").args(["-ec", lines]).status().expect("sh");
    assert!(done.success(), "{lines}");
}
